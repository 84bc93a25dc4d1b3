"""Whole photographs: the images of a data set prepared with `--fit pad`, without their borders."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import PreparedData
from alexnet.data.decode import padded_region
from alexnet.data.shards import LazyImages, StoredImages


class PaddedImages(LazyImages):
    """Images whose borders are known.

    Args:
        images: (N, S, S, 3), made square with the fit `pad`.
        sizes: int32 (N, 2), height and width of the originals.
    """

    def __init__(self, images: StoredImages, sizes: NDArray[np.int32]) -> None:
        self.shape = images.shape
        self._images = images
        self._sizes = sizes

    def decode(self, image: int) -> NDArray[np.uint8]:
        """The pixels of an image with its borders, uint8 (S, S, 3)."""
        return np.asarray(self._images[image])

    def photograph(self, image: int) -> NDArray[np.uint8]:
        """The pixels of an image without its borders, uint8 (h, w, 3), the longer side S."""
        height, width = self._sizes[image].tolist()
        return self.decode(image)[padded_region(height, width, self.shape[1])]


def with_known_borders(data: PreparedData) -> PreparedData:
    """The data set, whose images know their borders if it was prepared with `--fit pad`; others have none."""
    if data.fit != "pad":
        return data
    splits = {
        name: replace(split, images=PaddedImages(split.images, data.original_sizes(name)))
        for name, split in data.splits.items()
    }
    return replace(data, splits=splits)


def read_photographs(images: StoredImages, which: Iterable[int]) -> list[NDArray[np.uint8]]:
    """Some photographs of a split, each uint8 (h, w, 3), without borders where those are known.

    Raises:
        UnreadableSample: one cannot be read.
    """
    if isinstance(images, np.ndarray):
        return [images[one] for one in which]
    return [images.photograph(one) for one in which]
