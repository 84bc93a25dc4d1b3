"""From a recipe to channels that have learned: descriptors, what is learned of a sample of them, and the encoder."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.baseline_model import Channel, read_estimators, write_estimators
from alexnet.baselines.chunked_map import in_pieces
from alexnet.baselines.descriptor_pca import DescriptorPca
from alexnet.baselines.descriptors import DenseDescriptors, DescriptorSet
from alexnet.baselines.dictionary_encoders import LocalityCodes, SparseCodes
from alexnet.baselines.feature_cache import settings_checksum
from alexnet.baselines.fisher_vectors import BagOfWords, FisherVectors, MixtureEncoder
from alexnet.baselines.spatial_pyramid import num_regions, parse_pyramid
from alexnet.data.dataset import Split
from alexnet.runs.baseline_recipe import CODINGS, DESCRIPTORS, BaselineRecipe, CodingSettings, FisherSettings, listed

PIECE = 4
"""Images one thread works on."""
LEAST_IMAGES = 1000
DESCRIPTORS_OF_IMAGE = 100
"""The sample takes about so many of each of its images, or fewer of `LEAST_IMAGES`."""
VOCABULARY = "vocabulary.safetensors"


def channels_of(recipe: BaselineRecipe) -> tuple[Channel, ...]:
    """The channels of a recipe, which have not learned yet."""
    encoder, seed = recipe.encoder, recipe.protocol.seed
    kinds = listed("descriptors.kinds", recipe.descriptors.kinds, DESCRIPTORS)
    if isinstance(encoder, FisherSettings):
        form = FisherVectors if encoder.form == "fisher" else BagOfWords
        return tuple(
            Channel(
                kind,
                (
                    _descriptors(recipe, kind, 0),
                    DescriptorPca(encoder.dimensions),
                    form(encoder.components, pyramid=encoder.pyramid, seed=seed),
                ),
            )
            for kind in kinds
        )
    return tuple(
        Channel(
            f"{kind}-{coding}",
            (_descriptors(recipe, kind, encoder.limit if coding == "l1" else 0), _coder(encoder, coding, seed)),
        )
        for kind in kinds
        for coding in listed("encoder.codings", encoder.codings, CODINGS)
    )


def _descriptors(recipe: BaselineRecipe, kind: str, limit: int) -> DenseDescriptors:
    settings = {name: value for name, value in asdict(recipe.descriptors).items() if name != "kinds"}
    return DenseDescriptors(kind, limit=limit, seed=recipe.protocol.seed, **settings)


def _coder(encoder: CodingSettings, coding: str, seed: int) -> LocalityCodes | SparseCodes:
    if coding == "locality":
        return LocalityCodes(encoder.atoms, neighbors=encoder.neighbors, pyramid=encoder.pyramid, seed=seed)
    return SparseCodes(encoder.atoms, penalty=encoder.penalty, pyramid=encoder.pyramid, seed=seed)


def vocabulary_checksum(recipe: BaselineRecipe, channel: Channel, data_checksum: str) -> str:
    """What the learned part of a channel follows from: the form and the pyramid of the encoder are none of it."""
    encoder = channel.steps[-1]
    # The limit on coded descriptors says nothing of those that a vocabulary is learned from.
    params = {name: value for name, value in channel.steps[0].get_params().items() if name != "limit"}
    learned = {name: value for name, value in encoder.get_params().items() if name not in ("pyramid", "neighbors")}
    return settings_checksum(
        {
            "data": data_checksum,
            "per_class": recipe.protocol.per_class,
            "seed": recipe.protocol.seed,
            "sample": recipe.encoder.sample,
            "descriptors": params,
            "projection": [step.get_params() for step in channel.steps[1:-1]],
            "vocabulary": "mixture" if isinstance(encoder, MixtureEncoder) else type(encoder).__name__,
            "learned": learned,
        }
    )


def features_checksum(recipe: BaselineRecipe, channel: Channel, data_checksum: str) -> str:
    """What the rows of a channel follow from."""
    steps = [{"class": type(one).__name__, **one.get_params()} for one in channel.steps]
    return settings_checksum({"vocabulary": vocabulary_checksum(recipe, channel, data_checksum), "steps": steps})


def learn(
    recipe: BaselineRecipe,
    channel: Channel,
    split: Split,
    folder: Path,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Let a channel learn from a sample of the split's descriptors, or read what it has learned before.

    Args:
        folder: where the result is kept, or lies already.

    Returns:
        Images it looked at; 0 where it has learned before.

    Raises:
        RequestError: too few descriptors for the settings.
    """
    path = folder / VOCABULARY
    if path.is_file():
        known, _ = read_estimators(path)
        for number, step in enumerate(channel.steps):
            _take(step, known.get(str(number)))
        return 0
    sets = sampled_descriptors(channel.steps[0], split, recipe, workers, progress)
    for step in channel.steps[1:-1]:
        sets = step.fit(sets).transform(sets)
    channel.steps[-1].fit(sets)
    write_estimators(path, {str(number): step for number, step in enumerate(channel.steps)}, {})
    return num_sampled(split, recipe)


def _take(step: Any, known: Any) -> None:
    for attribute in getattr(step, "arrays", ()):
        setattr(step, attribute, getattr(known, attribute))


def sampled_descriptors(
    describe: DenseDescriptors,
    split: Split,
    recipe: BaselineRecipe,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[DescriptorSet]:
    """Descriptors of some of the split's images, drawn with the seed: at most `encoder.sample` of them."""
    most, num_images = recipe.encoder.sample, num_sampled(split, recipe)
    generator = np.random.Generator(np.random.Philox(recipe.protocol.seed))
    chosen = np.sort(generator.permutation(len(split))[:num_images])
    params: Mapping[str, Any] = {**describe.get_params(), "limit": math.ceil(most / num_images)}

    def work(first: int, last: int) -> list[DescriptorSet]:
        # Each piece draws its own places, or the whole sample would see the same ones.
        drawing = DenseDescriptors(**{**params, "seed": recipe.protocol.seed + first})
        return drawing.transform(split.images[chosen[first:last]])

    sets: list[DescriptorSet] = []
    for stop, found in in_pieces(work, 0, num_images, PIECE, workers):
        sets += [DescriptorSet(np.array(one.values), one.places) for one in found]
        if progress is not None:
            progress(stop, num_images)
    return sets


def num_sampled(split: Split, recipe: BaselineRecipe) -> int:
    """Images of the split from which descriptors are sampled."""
    return min(len(split), max(LEAST_IMAGES, recipe.encoder.sample // DESCRIPTORS_OF_IMAGE))


def row_width(channel: Channel) -> int:
    """Length of a channel's rows, after it has learned."""
    encoder = channel.steps[-1]
    regions = num_regions(parse_pyramid(encoder.pyramid))
    if isinstance(encoder, FisherVectors):
        return regions * 2 * encoder.means_.size
    return regions * (encoder.components if isinstance(encoder, BagOfWords) else encoder.atoms)


def rows_of(channel: Channel, split: Split) -> Callable[[int, int], NDArray[np.float32]]:
    """A function that makes the rows of images `first` .. `last` - 1 of a split."""
    return lambda first, last: channel.rows(np.asarray(split.images[first:last]))
