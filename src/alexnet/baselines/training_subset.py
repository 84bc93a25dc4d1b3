"""Which images a baseline learns from, and which it is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import PreparedData, Split
from alexnet.data.shards import LazyImages, StoredImages, UnreadableSample
from alexnet.errors import RequestError
from alexnet.runs.baseline_recipe import ProtocolSettings

REST = "rest"
"""Name of the split of training images that were not drawn."""


class ChosenImages(LazyImages):
    """Some images of a store, as an array of them.

    Args:
        images: (N, S, S, 3).
        chosen: (n,), which of them.
    """

    def __init__(self, images: StoredImages, chosen: NDArray[np.int64]) -> None:
        self._images = images
        self._chosen = chosen
        self.shape = (len(chosen), *images.shape[1:])

    def decode(self, image: int) -> NDArray[np.uint8]:
        """The pixels of an image, uint8 (S, S, 3)."""
        try:
            return np.asarray(self._images[int(self._chosen[image])])
        except UnreadableSample as error:
            raise UnreadableSample(str(error), image) from error


@dataclass(frozen=True)
class ChosenKeys(Sequence[str]):
    """The keys of some images."""

    keys: Sequence[str]
    chosen: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return self.keys[int(self.chosen[index])]


def chosen_split(split: Split, chosen: NDArray[np.int64], name: str) -> Split:
    """The images `chosen` of a split as a split of their own."""
    return Split(name, ChosenImages(split.images, chosen), split.labels[chosen], ChosenKeys(split.keys, chosen))


def drawn_images(labels: NDArray[np.int64], per_class: int, seed: int) -> NDArray[np.int64]:
    """`per_class` images of each class, drawn without replacement, in order, (n,); 0 is all that have a label.

    A class that has fewer gives all of them.

    Raises:
        RequestError: no class has so many.
    """
    known = np.flatnonzero(labels >= 0)
    if not per_class:
        return known
    largest = int(np.bincount(labels[known]).max(initial=0))
    if per_class > largest:
        raise RequestError(
            f"--per-class is {per_class}, and the largest class has {largest} training images; allowed is up to that, "
            "or 0 (all)"
        )
    order = known[np.random.Generator(np.random.Philox(seed)).permutation(len(known))]
    of_class = [order[labels[order] == one][:per_class] for one in np.unique(labels[known])]
    return np.sort(np.concatenate(of_class))


def training_images(data: PreparedData, protocol: ProtocolSettings) -> Split:
    """The images to learn from.

    Raises:
        RequestError: there are none, some have no label, or all are of one class.
    """
    split = data.splits.get("train")
    if split is None or len(split) == 0:
        raise RequestError(f"{data.folder} has no training images; prepare a set with a training split")
    lacking = int(np.count_nonzero(split.labels < 0))
    if lacking:
        raise RequestError(
            f"{lacking:,} of {len(split):,} training images of {data.folder} have no label; a classifier learns from "
            "labels: prepare the set again with them"
        )
    num_classes = len(np.unique(split.labels))
    if num_classes < 2:
        raise RequestError(f"{data.folder} has training images of {num_classes} class; a classifier needs 2 or more")
    return chosen_split(split, drawn_images(split.labels, protocol.per_class, protocol.seed), "train")


def with_rest(data: PreparedData, protocol: ProtocolSettings) -> PreparedData:
    """The data set with one more split, `rest`: the training images that were not drawn.

    Raises:
        RequestError: all were drawn.
    """
    split = data.splits["train"]
    drawn = drawn_images(split.labels, protocol.per_class, protocol.seed)
    rest = np.setdiff1d(np.arange(len(split)), drawn)
    if len(rest) == 0:
        raise RequestError(
            f"no class of {data.folder} has more than {protocol.per_class} training images, so nothing is left to "
            "measure on; draw fewer, or leave --protocol.measure rest away"
        )
    return replace(data, splits={**data.splits, REST: chosen_split(split, rest, REST)})
