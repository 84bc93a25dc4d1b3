"""The learned part of a channel: PCA and mixture or dictionary, fitted to a sample of descriptors."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alexnet.baselines.channels import Channel
from alexnet.baselines.chunked_map import map_chunks
from alexnet.baselines.descriptors import IMAGES_PER_BATCH, DenseDescriptors, DescriptorSet
from alexnet.baselines.estimator_files import copy_fitted, estimator_settings, read_estimators, write_estimators
from alexnet.baselines.feature_cache import settings_checksum
from alexnet.baselines.fisher_vectors import MixtureEncoder
from alexnet.data.dataset import Split
from alexnet.data.whole_photographs import read_photographs
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.storage.typed_files import DamagedFile, damaged

_logger = logging.getLogger(__name__)

MIN_IMAGES = 1000
DESCRIPTORS_PER_IMAGE = 100
"""The sample takes about this many of each image, or fewer from `MIN_IMAGES` images."""
FILE = "vocabulary.safetensors"


def vocabulary_checksum(recipe: BaselineRecipe, channel: Channel, data_checksum: str) -> str:
    """A checksum of all that determines a channel's vocabulary, which different encodings may share."""
    descriptors, *_, encoder = (estimator_settings(step)["settings"] for step in channel.steps)
    del descriptors["max_descriptors"], encoder["pyramid"]  # they apply to encoding alone, as do neighbors
    encoder.pop("neighbors", None)
    return settings_checksum(
        {
            "data": data_checksum,
            "per_class": recipe.protocol.per_class,
            "seed": recipe.protocol.seed,
            "sample_size": recipe.encoder.sample_size,
            "descriptors": descriptors,
            "pca": [estimator_settings(step) for step in channel.steps[1:-1]],
            "vocabulary": (
                "mixture"
                if isinstance(channel.encoder, MixtureEncoder)
                else estimator_settings(channel.encoder)["type"]
            ),
            "encoder": encoder,
        }
    )


def features_checksum(recipe: BaselineRecipe, channel: Channel, data_checksum: str) -> str:
    """A checksum of all that determines a channel's features."""
    return settings_checksum(
        {
            "vocabulary": vocabulary_checksum(recipe, channel, data_checksum),
            "steps": [estimator_settings(step) for step in channel.steps],
        }
    )


def fit_vocabulary(
    recipe: BaselineRecipe,
    channel: Channel,
    split: Split,
    folder: Path,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Fit a channel to a sample of the split's descriptors, or read the vocabulary from `folder`.

    Args:
        folder: where the vocabulary is stored.
        progress: called with (images done, images in all).

    Returns:
        Images that were sampled; 0 where the vocabulary was read.

    Raises:
        RequestError: too few descriptors for the settings.
    """
    path = folder / FILE
    if path.is_file() and _read_vocabulary(path, channel):
        return 0
    sets = sample_descriptors(channel.steps[0], split, recipe, workers, progress)
    for step in channel.steps[1:-1]:
        sets = step.fit_transform(sets)
    channel.encoder.fit(sets)
    write_estimators(path, {str(number): step for number, step in enumerate(channel.steps)}, {})
    return _num_sampled_images(split, recipe)


def _read_vocabulary(path: Path, channel: Channel) -> bool:
    """Give the channel what the file holds; False, with a warning, if the file is damaged."""
    try:
        fitted, _ = read_estimators(path)
        if missing := {str(number) for number in range(len(channel.steps))} - fitted.keys():
            raise damaged(path, f"it lacks step {min(missing)}", "it is fitted again")
    except DamagedFile as error:
        _logger.warning(f"{error}; the vocabulary is fitted again")
        return False
    for number, step in enumerate(channel.steps):
        copy_fitted(fitted[str(number)], step)
    return True


def sample_descriptors(
    descriptors: DenseDescriptors,
    split: Split,
    recipe: BaselineRecipe,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[DescriptorSet]:
    """Descriptors of some of the split's images, drawn with the seed: about `encoder.sample_size` of them."""
    num_images = _num_sampled_images(split, recipe)
    generator = np.random.Generator(np.random.Philox(recipe.protocol.seed))
    drawn = np.sort(generator.permutation(len(split))[:num_images])
    parameters = descriptors.get_params() | {"max_descriptors": math.ceil(recipe.encoder.sample_size / num_images)}

    def describe(first: int, last: int) -> list[DescriptorSet]:
        # A seed for each chunk, or all images of the sample would be described at the same positions.
        sampler = DenseDescriptors(**{**parameters, "seed": recipe.protocol.seed + first})
        return sampler.transform(read_photographs(split.images, drawn[first:last].tolist()))

    sets: list[DescriptorSet] = []
    for stop, found in map_chunks(describe, num_images, IMAGES_PER_BATCH, workers=workers):
        sets += [DescriptorSet(np.array(one.values), one.positions) for one in found]
        if progress is not None:
            progress(stop, num_images)
    return sets


def _num_sampled_images(split: Split, recipe: BaselineRecipe) -> int:
    return min(len(split), max(MIN_IMAGES, recipe.encoder.sample_size // DESCRIPTORS_PER_IMAGE))
