"""SIFT descriptors on a dense grid: 4 x 4 cells of 8 orientations. D. Lowe, IJCV 2004, section 6.

The descriptor is OpenCV's at a keypoint of no rotation: gradients by central differences, each shared by the two
nearest of eight orientations and the four nearest cells, a Gaussian window of half the patch, lengths cut at 0.2.
"""

import math
from typing import Any

import numpy as np

from alexnet.baselines.patch_cells import ANY_ORDER, Floats, Grid, cell_sums
from alexnet.system.numba_jit import jit

ORIENTATIONS = 8
CELLS = 4
DIMENSIONS = CELLS * CELLS * ORIENTATIONS
_CUT = 0.2
_NO_CONTRAST = 1e-3
"""Sums of gradients (gray levels 0..255) shorter than this are none: the descriptor is all zeros."""


def dense_sift(gray: Floats, cell_px: int, step_px: int) -> Floats:
    """SIFT descriptors of every patch of 4 cells' side.

    Args:
        gray: float32 (H, W), 0..255, smoothed as it should be.
        cell_px: side of a cell, 1 or more.
        step_px: from patch to patch.

    Returns:
        float32 (patches, 128), cells row by row, in each the 8 orientations counterclockwise from rightward; of
        length 1, or all 0 where the patch has no contrast.

    Raises:
        RequestError: the image is smaller than a patch.
    """
    rows, columns = (Grid(length, cell_px, CELLS, step_px) for length in gray.shape)
    sums = cell_sums(orientation_maps(gray), rows, columns, "gaussian")
    found = np.empty((rows.num * columns.num, DIMENSIONS), np.float32)
    _cut_and_scaled(sums, columns.num, found)
    return found


def orientation_maps(gray: Floats) -> Floats:
    """The length of the gradient at each pixel, shared by the two nearest orientations; 0 on the image's edge.

    Args:
        gray: float32 (H, W).

    Returns:
        float32 (H, W, 8).
    """
    maps = np.zeros((*gray.shape, ORIENTATIONS), np.float32)
    rightward = gray[1:-1, 2:] - gray[1:-1, :-2]
    upward = gray[:-2, 1:-1] - gray[2:, 1:-1]
    place = np.arctan2(upward, rightward) * np.float32(ORIENTATIONS / (2 * math.pi))  # -4 .. 4
    _shared(np.sqrt(rightward * rightward + upward * upward), place, maps)
    return maps


@jit()
def _shared(length: Any, place: Any, maps: Any) -> None:  # pragma: no cover (compiled)
    for row in range(length.shape[0]):
        for column in range(length.shape[1]):
            lower = np.floor(place[row, column])
            share = (place[row, column] - lower) * length[row, column]
            orientation = int(lower)
            maps[row + 1, column + 1, orientation & 7] += length[row, column] - share
            maps[row + 1, column + 1, (orientation + 1) & 7] += share


@jit(fastmath=ANY_ORDER)
def _cut_and_scaled(sums: Any, across: Any, found: Any) -> None:  # pragma: no cover (compiled)
    """Unit length, no number above 0.2, unit length again."""
    cut = np.float32(_CUT)
    for patch in range(found.shape[0]):
        top, left = patch // across * CELLS, patch % across * CELLS
        own = found[patch]
        place = 0
        for row in range(CELLS):
            for column in range(CELLS):
                for orientation in range(ORIENTATIONS):
                    own[place] = sums[top + row, left + column, orientation]
                    place += 1
        total = np.float32(0)
        for place in range(DIMENSIONS):
            total += own[place] * own[place]
        length = np.sqrt(total)
        if length < _NO_CONTRAST:
            own[:] = 0
            continue
        total = np.float32(0)
        for place in range(DIMENSIONS):
            own[place] = min(own[place] / length, cut)
            total += own[place] * own[place]
        scale = np.float32(1) / np.sqrt(total)
        for place in range(DIMENSIONS):
            own[place] *= scale
