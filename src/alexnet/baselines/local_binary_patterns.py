"""Local binary patterns: which of eight neighbors are at least as bright as a pixel, counted in 2 x 2 cells.

T. Ojala, M. Pietikainen, T. Maenpaa, PAMI 2002: eight neighbors on a circle of radius 1, the diagonal ones
interpolated; patterns with at most two transitions around the circle have a bin each, all others share one.
"""

import math
from functools import lru_cache

import torch

from alexnet.baselines.patch_cells import PatchGrid
from alexnet.errors import RequestError

NEIGHBORS = 8
BINS = NEIGHBORS * (NEIGHBORS - 1) + 3
CELLS = 2
DIMENSIONS = CELLS * CELLS * BINS


def dense_binary_patterns(gray: torch.Tensor, cell_px: int, step_px: int) -> torch.Tensor:
    """Histograms of patterns of all patches of 2 x 2 cells.

    Args:
        gray: float32 (B, H, W), 0..255.
        cell_px: side of a cell, a multiple of `step_px`.
        step_px: pixels between neighboring patches.

    Returns:
        float32 (B, patches, 236), cells row by row, in each 59 counts; each patch has unit norm.

    Raises:
        RequestError: the image is smaller than a patch, or the cell is not a multiple of the step.
    """
    if cell_px % step_px:
        raise RequestError(
            f"the cells of binary patterns, twice --descriptors.cell_px, are {cell_px} pixels; allowed is a multiple "
            f"of --descriptors.step_px, which is {step_px}"
        )
    rows, columns = (PatchGrid(length, cell_px, CELLS, step_px) for length in gray.shape[-2:])
    labels = pattern_labels(gray)
    # Count in squares as large as the step first: cells are sums of those, and overlapping cells share them.
    top, left = int(rows.starts[0]), int(columns.starts[0])
    blocks_down, blocks_across = ((grid.num - 1) + grid.patch_px // step_px for grid in (rows, columns))
    used = labels[:, top : top + blocks_down * step_px, left : left + blocks_across * step_px]
    block_row = torch.arange(used.shape[1]) // step_px
    block_column = torch.arange(used.shape[2]) // step_px
    index = (block_row[:, None] * blocks_across + block_column[None, :]) * BINS + used  # (B, h, w)
    counts = gray.new_zeros(len(gray), blocks_down * blocks_across * BINS)
    counts.scatter_add_(1, index.flatten(1), torch.ones_like(index, dtype=gray.dtype).flatten(1))
    blocks = counts.reshape(len(gray), blocks_down, blocks_across, BINS)
    stride = cell_px // step_px
    cells = blocks.unfold(1, stride, 1).sum(-1).unfold(2, stride, 1).sum(-1)
    quarters = [
        cells[:, down * stride : down * stride + rows.num, across * stride : across * stride + columns.num]
        for down in range(CELLS)
        for across in range(CELLS)
    ]
    patches = torch.cat(quarters, dim=-1).flatten(1, 2)
    normalized: torch.Tensor = patches / patches.norm(dim=-1, keepdim=True)
    return normalized


def pattern_labels(gray: torch.Tensor) -> torch.Tensor:
    """The pattern at each pixel as a number 0 .. 58, int64 (B, H, W); outside the image it is black."""
    padded = torch.nn.functional.pad(gray, (1, 1, 1, 1))
    height, width = gray.shape[-2:]

    def difference(down: int, across: int) -> torch.Tensor:
        return padded[:, 1 + down : 1 + down + height, 1 + across : 1 + across + width] - gray

    bits = torch.zeros(gray.shape, dtype=torch.int64)
    near = 1 / math.sqrt(2)  # distance of a diagonal neighbor from the pixel along each axis
    for number in range(NEIGHBORS):
        angle = 2 * math.pi * number / NEIGHBORS
        down, across = -round(math.sin(angle)), round(math.cos(angle))
        if number % 2 == 0:
            brighter = difference(down, across)
        else:
            sides = difference(down, 0) + difference(0, across)
            # Interpolate differences from the pixel itself, so that equal neighbors give exactly 0.
            brighter = near * near * difference(down, across) + near * (1 - near) * sides
        bits |= (brighter >= 0).to(torch.int64) << number
    return _label_table()[bits]


@lru_cache(maxsize=1)
def _label_table() -> torch.Tensor:
    """Label of each of the 256 patterns: those with at most two transitions in order, then one for all others."""
    labels = torch.full((2**NEIGHBORS,), BINS - 1, dtype=torch.int64)
    uniform = [
        pattern
        for pattern in range(2**NEIGHBORS)
        if bin(pattern ^ ((pattern >> 1) | ((pattern & 1) << (NEIGHBORS - 1)))).count("1") <= 2
    ]
    labels[torch.tensor(uniform)] = torch.arange(len(uniform))
    return labels
