"""LocallyConnected binary patterns: which of eight neighbors are at least as bright as a pixel, counted in 2 x 2 cells.

T. Ojala, M. Pietikainen, T. Maenpaa, PAMI 2002: eight neighbors on a circle of radius 1, those between pixels
interpolated; patterns with at most two changes around the circle have a bin each, all others share one.
"""

import math
from functools import lru_cache

import torch

from alexnet.baselines.patch_cells import Grid
from alexnet.errors import RequestError

NEIGHBORS = 8
BINS = NEIGHBORS * (NEIGHBORS - 1) + 3
CELLS = 2
DIMENSIONS = CELLS * CELLS * BINS


def dense_patterns(gray: torch.Tensor, cell_px: int, step_px: int) -> torch.Tensor:
    """Counts of patterns in every patch of 2 cells' side.

    Args:
        gray: float32 (B, H, W), 0..255.
        cell_px: side of a cell, a multiple of `step_px`.
        step_px: from patch to patch.

    Returns:
        float32 (B, patches, 236), cells row by row, in each 59 counts; each patch of length 1.

    Raises:
        RequestError: the image is smaller than a patch, or a cell is no multiple of the step.
    """
    if cell_px % step_px:
        raise RequestError(f"cells of {cell_px} pixels are no multiple of a step of {step_px}; binary patterns need it")
    rows, columns = (Grid(length, cell_px, CELLS, step_px) for length in gray.shape[-2:])
    labels = pattern_labels(gray)
    # Counts in squares of the step's side first: cells are sums of those, and neighbors share them.
    top, left = int(rows.starts[0]), int(columns.starts[0])
    blocks_down, blocks_across = ((one.num - 1) + one.patch_px // step_px for one in (rows, columns))
    used = labels[:, top : top + blocks_down * step_px, left : left + blocks_across * step_px]
    row_of = torch.arange(used.shape[1]) // step_px
    column_of = torch.arange(used.shape[2]) // step_px
    place = (row_of[:, None] * blocks_across + column_of[None, :]) * BINS + used  # (B, h, w)
    counts = gray.new_zeros(len(gray), blocks_down * blocks_across * BINS)
    counts.scatter_add_(1, place.flatten(1), torch.ones_like(place, dtype=gray.dtype).flatten(1))
    blocks = counts.reshape(len(gray), blocks_down, blocks_across, BINS)
    cells = blocks.unfold(1, cell_px // step_px, 1).sum(-1).unfold(2, cell_px // step_px, 1).sum(-1)
    stride = cell_px // step_px
    quarters = [
        cells[:, down * stride : down * stride + rows.num, across * stride : across * stride + columns.num]
        for down in range(CELLS)
        for across in range(CELLS)
    ]
    patches = torch.cat(quarters, dim=-1).flatten(1, 2)
    scaled: torch.Tensor = patches / patches.norm(dim=-1, keepdim=True)
    return scaled


def pattern_labels(gray: torch.Tensor) -> torch.Tensor:
    """The pattern at each pixel as a number 0 .. 58, int64 (B, H, W); outside the image it is black."""
    padded = torch.nn.functional.pad(gray, (1, 1, 1, 1))
    height, width = gray.shape[-2:]

    def shifted(down: int, across: int) -> torch.Tensor:
        return padded[:, 1 + down : 1 + down + height, 1 + across : 1 + across + width] - gray

    bits = torch.zeros(gray.shape, dtype=torch.int64)
    near = 1 / math.sqrt(2)  # a diagonal neighbor lies so far from the pixel along each axis
    for number in range(NEIGHBORS):
        angle = 2 * math.pi * number / NEIGHBORS
        down, across = -round(math.sin(angle)), round(math.cos(angle))
        if number % 2 == 0:
            brighter = shifted(down, across)
        else:
            sides = shifted(down, 0) + shifted(0, across)
            # As differences from the pixel itself, so that equal neighbors give exactly 0.
            brighter = near * near * shifted(down, across) + near * (1 - near) * sides
        bits |= (brighter >= 0).to(torch.int64) << number
    return _labels()[bits]


@lru_cache(maxsize=1)
def _labels() -> torch.Tensor:
    """Label of each of the 256 patterns: those with at most two changes in order, then one for all others."""
    labels = torch.full((2**NEIGHBORS,), BINS - 1, dtype=torch.int64)
    uniform = [
        pattern
        for pattern in range(2**NEIGHBORS)
        if bin(pattern ^ ((pattern >> 1) | ((pattern & 1) << (NEIGHBORS - 1)))).count("1") <= 2
    ]
    labels[torch.tensor(uniform)] = torch.arange(len(uniform))
    return labels
