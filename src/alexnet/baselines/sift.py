"""SIFT descriptors on a dense grid: 4 x 4 cells of 8 orientations. D. Lowe, IJCV 2004, section 6.

The descriptor is OpenCV's at a keypoint of no rotation: gradients by central differences, each shared by the two
nearest of eight orientations and the four nearest cells, a Gaussian window of half the patch, lengths cut at 0.2.
"""

import math

import torch
from torch.nn import functional

from alexnet.baselines.windows import Grid, cell_sums

ORIENTATIONS = 8
CELLS = 4
DIMENSIONS = CELLS * CELLS * ORIENTATIONS
_CUT = 0.2
_NO_CONTRAST = 1e-3
"""Sums of gradients (grey levels 0..255) shorter than this are none: the descriptor is all zeros."""


def dense_sift(grey: torch.Tensor, cell_px: int, step_px: int) -> torch.Tensor:
    """SIFT descriptors of every patch of 4 cells' side.

    Args:
        grey: float32 (B, H, W), 0..255, smoothed as it should be.
        cell_px: side of a cell, 1 or more.
        step_px: from patch to patch.

    Returns:
        float32 (B, patches, 128), cells row by row, in each the 8 orientations counterclockwise from rightward; of
        length 1, or all 0 where the patch has no contrast.

    Raises:
        RequestError: the image is smaller than a patch.
    """
    rows, columns = (Grid(length, cell_px, CELLS, step_px) for length in grey.shape[-2:])
    sums = cell_sums(orientation_maps(grey), rows, columns, "gaussian")
    return _cut_and_scaled(sums.flatten(-3))


def orientation_maps(grey: torch.Tensor) -> torch.Tensor:
    """The length of the gradient at each pixel, shared by the two nearest orientations; 0 on the image's edge.

    Args:
        grey: float32 (B, H, W).

    Returns:
        float32 (B, 8, H, W).
    """
    rightward = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    upward = grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1]
    length = torch.hypot(rightward, upward)
    place = torch.atan2(upward, rightward).mul_(ORIENTATIONS / (2 * math.pi))  # -4 .. 4
    lower = place.floor()
    share = (place - lower).mul_(length)
    lower_bin = lower.to(torch.int64).remainder_(ORIENTATIONS)
    upper_bin = (lower_bin + 1).remainder_(ORIENTATIONS)
    maps = grey.new_zeros(len(grey), ORIENTATIONS, *length.shape[1:])
    maps.scatter_(1, lower_bin[:, None], (length - share)[:, None])
    maps.scatter_(1, upper_bin[:, None], share[:, None])
    return functional.pad(maps, (1, 1, 1, 1))


def _cut_and_scaled(sums: torch.Tensor) -> torch.Tensor:
    """Unit length, no number above 0.2, unit length again; (..., 128)."""
    length = sums.norm(dim=-1, keepdim=True)
    cut = (sums / length.clamp_min(_NO_CONTRAST)).clamp_max_(_CUT)
    again = cut.norm(dim=-1, keepdim=True)
    scaled = cut / again.clamp_min(1e-12)
    return torch.where(length < _NO_CONTRAST, torch.zeros_like(scaled), scaled)
