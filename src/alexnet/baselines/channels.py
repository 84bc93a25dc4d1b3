"""The channels of a recipe: each turns images into features by one kind of descriptor in one encoding."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.descriptor_pca import DescriptorPCA
from alexnet.baselines.descriptors import DenseDescriptors, Images
from alexnet.baselines.dictionary_encoders import DictionaryEncoder, LocalityEncoder, SparseEncoder
from alexnet.baselines.fisher_vectors import BagOfWordsEncoder, FisherVectorEncoder
from alexnet.runs.baseline_recipe import (
    CODINGS,
    DESCRIPTORS,
    BaselineRecipe,
    CodingSettings,
    FisherSettings,
    parse_choices,
)


@dataclass(frozen=True, eq=False)
class Channel:
    """A chain of estimators from images to features."""

    name: str
    """Such as `sift` or `patterns-locality`."""
    steps: tuple[Any, ...]
    """Estimators: `DenseDescriptors`, `DescriptorPCA` where the encoding needs it, and an encoder."""

    @property
    def encoder(self) -> Any:
        """The last step, which has `num_features`."""
        return self.steps[-1]

    def transform(self, images: Sequence[Images]) -> NDArray[np.float32]:
        """Features of N images, each uint8 (H, W, 3): float32 (N, D), rounded to float16 as the feature cache does."""
        result: Any = images
        for step in self.steps:
            result = step.transform(result)
        rounded: NDArray[np.float32] = np.asarray(result, np.float16).astype(np.float32)
        return rounded


def build_channels(recipe: BaselineRecipe) -> tuple[Channel, ...]:
    """The unfitted channels of a recipe."""
    encoder, seed = recipe.encoder, recipe.protocol.seed
    kinds = parse_choices("descriptors.kinds", recipe.descriptors.kinds, DESCRIPTORS)
    channels = []
    if isinstance(encoder, FisherSettings):
        encoder_type = FisherVectorEncoder if encoder.kind == "fisher" else BagOfWordsEncoder
        for kind in kinds:
            fisher = encoder_type(encoder.components, pyramid=encoder.pyramid, seed=seed)
            channels.append(
                Channel(kind, (_build_descriptors(recipe, kind), DescriptorPCA(encoder.dimensions), fisher))
            )
        return tuple(channels)
    for kind in kinds:
        for coding in parse_choices("encoder.codings", encoder.codings, CODINGS):
            descriptors = _build_descriptors(recipe, kind, encoder.max_descriptors if coding == "l1" else 0)
            channels.append(
                Channel(f"{kind}-{coding}", (descriptors, _build_dictionary_encoder(encoder, coding, seed)))
            )
    return tuple(channels)


def _build_descriptors(recipe: BaselineRecipe, kind: str, max_descriptors: int = 0) -> DenseDescriptors:
    settings = {name: value for name, value in asdict(recipe.descriptors).items() if name != "kinds"}
    return DenseDescriptors(kind, max_descriptors=max_descriptors, seed=recipe.protocol.seed, **settings)


def _build_dictionary_encoder(encoder: CodingSettings, coding: str, seed: int) -> DictionaryEncoder:
    if coding == "locality":
        return LocalityEncoder(encoder.atoms, neighbors=encoder.neighbors, pyramid=encoder.pyramid, seed=seed)
    return SparseEncoder(encoder.atoms, l1_penalty=encoder.l1_penalty, pyramid=encoder.pyramid, seed=seed)
