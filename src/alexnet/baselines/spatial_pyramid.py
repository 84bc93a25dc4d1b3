"""A spatial pyramid: the image as a whole, and cut into rows and columns. S. Lazebnik et al., CVPR 2006."""

import re

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError

Levels = tuple[tuple[int, int], ...]


def parse_pyramid(text: str) -> Levels:
    """`1x1,3x1` as ((1, 1), (3, 1)): rows x columns of each level.

    Raises:
        RequestError: it is not of that form.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d?)x([1-9]\d?)\s*", part)
        if match is None:
            raise RequestError(
                f"pyramid {text!r} is not understood; allowed are levels of rows x columns with commas, as in 1x1,3x1"
            )
        found.append((int(match[1]), int(match[2])))
    return tuple(found)


def num_regions(levels: Levels) -> int:
    """Regions of all levels together."""
    return sum(rows * columns for rows, columns in levels)


def region_of(places: NDArray[np.float32], levels: Levels) -> NDArray[np.int64]:
    """The region in which each place lies on each level, counted through all levels, int64 (levels, n).

    Args:
        places: (n, 2), row and column, fractions 0..1; regions go from their upper and left edge up to, not
            including, the next.
    """
    regions = np.empty((len(levels), len(places)), np.int64)
    first = 0
    for number, (rows, columns) in enumerate(levels):
        row = np.clip((places[:, 0] * rows).astype(np.int64), 0, rows - 1)
        column = np.clip((places[:, 1] * columns).astype(np.int64), 0, columns - 1)
        regions[number] = first + row * columns + column
        first += rows * columns
    return regions
