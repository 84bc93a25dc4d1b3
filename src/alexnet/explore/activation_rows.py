"""Activations as rows to compare: a row per image, in float64, block by block."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alexnet.errors import RequestError
from alexnet.explore.feature_reader import Features

BLOCK_BYTES = 1 << 27
"""Of a block of rows in float64."""
MOST_BLOCK_ROWS = 4096
"""So that the products of two blocks' rows are of that size, too."""


class ActivationRows:
    """Activations (N, ...) of N images as rows of D numbers; those of a layer with positions are flattened.

    Raises:
        RequestError: not an array of real numbers with one row per image and at least one number per row.
    """

    def __init__(self, activations: ArrayLike, name: str = "the activations") -> None:
        array = np.asanyarray(activations)  # a memory-mapped file stays one
        if array.ndim < 2 or array.size == 0 or array.dtype.kind not in "fiu":
            raise RequestError(
                f"{name} are an array of {array.dtype} {array.shape}; allowed are real numbers, (N, ...), a row per "
                "image"
            )
        self._rows: NDArray[Any] = array.reshape(len(array), -1)
        self.name = name
        self.num_images, self.num_values = self._rows.shape

    def __len__(self) -> int:
        return self.num_images

    def block(self, rows: slice) -> NDArray[np.float64]:
        """Some rows, float64 (n, D).

        Raises:
            RequestError: they are not finite.
        """
        found = self._rows[rows].astype(np.float64)
        if not np.isfinite(found).all():
            raise RequestError(f"{self.name} of images {rows.start} to {rows.stop - 1} are not finite; leave them out")
        return found

    def in_memory(self) -> NDArray[np.float32]:
        """All rows, float32 (N, D).

        Raises:
            RequestError: they are not finite.
        """
        found = np.ascontiguousarray(self._rows, np.float32)
        if not np.isfinite(found).all():
            raise RequestError(f"{self.name} are not finite; leave out those images")
        return found

    def mean(self) -> NDArray[np.float64]:
        """(D,): of all images."""
        total = np.zeros(self.num_values)
        for rows in row_blocks(self):
            total += self.block(rows).sum(axis=0)
        return total / self.num_images


def row_blocks(*several: ActivationRows) -> list[slice]:
    """Slices of rows that cover all images of activations of the same images, each of at least one row.

    A block of each takes at most `BLOCK_BYTES`.
    """
    step = max(1, min(MOST_BLOCK_ROWS, BLOCK_BYTES // (8 * max(rows.num_values for rows in several))))
    num = several[0].num_images
    return [slice(first, min(first + step, num)) for first in range(0, num, step)]


def require_same_images(first: Features, *others: Features) -> None:
    """Check that folders of features hold the same images in the same order.

    Raises:
        RequestError: they do not.
    """
    for other in others:
        if other.paths != first.paths:
            raise RequestError(
                f"{first.folder} and {other.folder} have different images; write them with one command: alexnet "
                "features RUN RUN --out FOLDER"
            )


def require_equal_lengths(what: str, lengths: Sequence[int]) -> None:
    """Check that several arrays are of the same images, as far as their number tells.

    Raises:
        RequestError: they are not.
    """
    if len(set(lengths)) > 1:
        raise RequestError(f"{what} are of {' and '.join(f'{one:,}' for one in lengths)} images; name the same images")
