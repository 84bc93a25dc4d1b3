"""SIFT descriptors on a dense grid: 4 x 4 cells of 8 orientations. D. Lowe, IJCV 2004, section 6.

The descriptor is OpenCV's at an unrotated keypoint: central differences, each gradient split between the two nearest of
eight orientations and the four nearest cells, a Gaussian window of half the patch, values clipped at 0.2.
"""

import math
from typing import Any

import numpy as np

from alexnet.baselines.patch_cells import ANY_ORDER, Floats, PatchGrid, cell_sums
from alexnet.system.numba_jit import jit

ORIENTATIONS = 8
CELLS = 4
DIMENSIONS = CELLS * CELLS * ORIENTATIONS
_CLIP = 0.2
_MIN_NORM = 1e-3
"""A patch whose sums have a smaller norm is constant but for rounding: its descriptor is zero."""


def dense_sift(gray: Floats, cell_px: int, step_px: int, min_contrast: float = 0.0) -> Floats:
    """SIFT descriptors of all patches of 4 x 4 cells.

    Args:
        gray: float32 (H, W), 0..255, already smoothed.
        cell_px: side of a cell, 1 or more.
        step_px: pixels between neighboring patches.
        min_contrast: gray levels per pixel, 0 or more. A patch's contrast is the norm of its 128 sums of gradients, per
            pixel of a cell.

    Returns:
        float32 (patches, 128): cells row by row, in each the 8 orientations counterclockwise from the right; unit
        norm, or all 0 where the patch has less contrast, or none.

    Raises:
        RequestError: the image is smaller than a patch.
    """
    rows, columns = (PatchGrid(length, cell_px, CELLS, step_px) for length in gray.shape)
    sums = cell_sums(orientation_channels(gray), rows, columns, "gaussian")
    descriptors = np.empty((rows.num * columns.num, DIMENSIONS), np.float32)
    # The sums are of central differences, twice the gradients.
    _normalize_and_clip(sums, columns.num, np.float32(max(_MIN_NORM, 2 * cell_px**2 * min_contrast)), descriptors)
    return descriptors


def orientation_channels(gray: Floats) -> Floats:
    """The gradient magnitude of each pixel, split between the two nearest orientations; 0 on the image's border.

    Args:
        gray: float32 (H, W).

    Returns:
        float32 (H, W, 8).
    """
    channels = np.zeros((*gray.shape, ORIENTATIONS), np.float32)
    rightward = gray[1:-1, 2:] - gray[1:-1, :-2]
    upward = gray[:-2, 1:-1] - gray[2:, 1:-1]
    angle = np.arctan2(upward, rightward) * np.float32(ORIENTATIONS / (2 * math.pi))  # -4 .. 4
    _split_orientations(np.sqrt(rightward * rightward + upward * upward), angle, channels)
    return channels


@jit()
def _split_orientations(magnitude: Any, angle: Any, channels: Any) -> None:  # pragma: no cover (compiled)
    for row in range(magnitude.shape[0]):
        for column in range(magnitude.shape[1]):
            lower = np.floor(angle[row, column])
            upper_part = (angle[row, column] - lower) * magnitude[row, column]
            orientation = int(lower)
            channels[row + 1, column + 1, orientation & 7] += magnitude[row, column] - upper_part
            channels[row + 1, column + 1, (orientation + 1) & 7] += upper_part


@jit(fastmath=ANY_ORDER)
def _normalize_and_clip(sums: Any, across: Any, min_norm: Any, descriptors: Any) -> None:  # pragma: no cover (compiled)
    """Normalize to unit norm, clip at 0.2, normalize again."""
    clip = np.float32(_CLIP)
    for patch in range(descriptors.shape[0]):
        top, left = patch // across * CELLS, patch % across * CELLS
        descriptor = descriptors[patch]
        index = 0
        for row in range(CELLS):
            for column in range(CELLS):
                for orientation in range(ORIENTATIONS):
                    descriptor[index] = sums[top + row, left + column, orientation]
                    index += 1
        total = np.float32(0)
        for index in range(DIMENSIONS):
            total += descriptor[index] * descriptor[index]
        norm = np.sqrt(total)
        if norm < min_norm:
            descriptor[:] = 0
            continue
        total = np.float32(0)
        for index in range(DIMENSIONS):
            descriptor[index] = min(descriptor[index] / norm, clip)
            total += descriptor[index] * descriptor[index]
        scale = np.float32(1) / np.sqrt(total)
        for index in range(DIMENSIONS):
            descriptor[index] *= scale
