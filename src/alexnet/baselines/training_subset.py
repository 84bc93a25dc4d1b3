"""The images that a baseline is trained on, and the remaining ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import PreparedData, Split
from alexnet.data.shards import LazyImages, StoredImages, UnreadableSample
from alexnet.data.whole_photographs import read_photographs
from alexnet.errors import RequestError
from alexnet.runs.baseline_recipe import ProtocolSettings

REST = "rest"
"""Name of the split of training images that were not drawn."""


class ImageSubset(LazyImages):
    """Some images of a store, as an array of them.

    Args:
        images: (N, S, S, 3).
        indices: (n,), of the images.
    """

    def __init__(self, images: StoredImages, indices: NDArray[np.int64]) -> None:
        self._images = images
        self._indices = indices
        self.shape = (len(indices), *images.shape[1:])

    def decode(self, image: int) -> NDArray[np.uint8]:
        """The pixels of an image, uint8 (S, S, 3)."""
        with self._renumbered(image) as stored:
            return np.asarray(self._images[stored])

    def photograph(self, image: int) -> NDArray[np.uint8]:
        """What an image shows, see `LazyImages.photograph`."""
        with self._renumbered(image) as stored:
            return read_photographs(self._images, [stored])[0]

    @contextmanager
    def _renumbered(self, image: int) -> Iterator[int]:
        """The index of an image in the store; errors in the context name the image's own."""
        try:
            yield int(self._indices[image])
        except UnreadableSample as error:
            raise UnreadableSample(str(error), image) from error


@dataclass(frozen=True)
class KeySubset(Sequence[str]):
    """The keys of some images."""

    keys: Sequence[str]
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return self.keys[int(self.indices[index])]


def subset_split(split: Split, indices: NDArray[np.int64], name: str) -> Split:
    """Some images of a split as a split named `name`."""
    return Split(name, ImageSubset(split.images, indices), split.labels[indices], KeySubset(split.keys, indices))


def draw_per_class(labels: NDArray[np.int64], per_class: int, seed: int) -> NDArray[np.int64]:
    """Indices of `per_class` images of each class, drawn without replacement, ascending, (n,); 0 is all with a label.

    A class with fewer images contributes all of them.

    Raises:
        RequestError: no class has so many.
    """
    labeled = np.flatnonzero(labels >= 0)
    if not per_class:
        return labeled
    largest = int(np.bincount(labels[labeled]).max(initial=0))
    if per_class > largest:
        raise RequestError(
            f"--per-class is {per_class}, but the largest class has {largest} training images; allowed is 1 to "
            f"{largest}, or 0 (all)"
        )
    order = labeled[np.random.Generator(np.random.Philox(seed)).permutation(len(labeled))]
    return np.sort(np.concatenate([order[labels[order] == one][:per_class] for one in np.unique(labels[labeled])]))


def training_split(data: PreparedData, protocol: ProtocolSettings) -> Split:
    """The images to train on.

    Raises:
        RequestError: there are none, some have no label, or all are of one class.
    """
    split = data.splits.get("train")
    if split is None or len(split) == 0:
        raise RequestError(f"{data.folder} has no training images; prepare a set with a training split")
    unlabeled = int(np.count_nonzero(split.labels < 0))
    if unlabeled:
        raise RequestError(
            f"{unlabeled:,} of {len(split):,} training images of {data.folder} have no label, which a classifier "
            "needs; prepare the set again with labels"
        )
    num_classes = len(np.unique(split.labels))
    if num_classes < 2:
        raise RequestError(f"{data.folder} has training images of {num_classes} class; a classifier needs 2 or more")
    return subset_split(split, draw_per_class(split.labels, protocol.per_class, protocol.seed), "train")


def with_rest_split(data: PreparedData, protocol: ProtocolSettings) -> PreparedData:
    """The data set with one more split, `rest`: the training images that were not drawn.

    Raises:
        RequestError: all were drawn.
    """
    split = data.splits["train"]
    drawn = draw_per_class(split.labels, protocol.per_class, protocol.seed)
    rest = np.setdiff1d(np.arange(len(split)), drawn)
    if len(rest) == 0:
        raise RequestError(
            f"no class of {data.folder} has more than {protocol.per_class} training images, so nothing is left to "
            "evaluate on; lower --per-class, or omit --protocol.evaluate_on rest"
        )
    return replace(data, splits={**data.splits, REST: subset_split(split, rest, REST)})
