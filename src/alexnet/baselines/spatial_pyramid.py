"""Spatial pyramids: the whole image, and the image cut into rows and columns. S. Lazebnik et al., CVPR 2006."""

import re

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError

Levels = tuple[tuple[int, int], ...]
"""Rows and columns of each level."""


def parse_pyramid(text: str) -> Levels:
    """Parse `1x1,3x1` to ((1, 1), (3, 1)): rows x columns of each level.

    Raises:
        RequestError: the text has another form.
    """
    levels = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d?)x([1-9]\d?)\s*", part)
        if match is None:
            raise RequestError(
                f"cannot parse pyramid {text!r}; allowed are levels of rows x columns, separated by commas: 1x1,3x1"
            )
        levels.append((int(match[1]), int(match[2])))
    return tuple(levels)


def num_regions(levels: Levels) -> int:
    """Regions of all levels together."""
    return sum(rows * columns for rows, columns in levels)


def region_indices(positions: NDArray[np.float32], levels: Levels) -> NDArray[np.int64]:
    """The region of each position on each level, int64 (levels, n), numbered through all levels.

    Args:
        positions: (n, 2), row and column, fractions 0..1; a region includes its upper and left edge.
    """
    regions = np.empty((len(levels), len(positions)), np.int64)
    first = 0
    for level, (rows, columns) in enumerate(levels):
        row = np.clip((positions[:, 0] * rows).astype(np.int64), 0, rows - 1)
        column = np.clip((positions[:, 1] * columns).astype(np.int64), 0, columns - 1)
        regions[level] = first + row * columns + column
        first += rows * columns
    return regions
