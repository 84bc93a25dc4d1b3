"""Sums over the cells of patches on a grid, for every patch at once: two matrix products, one along each axis.

A dense descriptor weighs each pixel by a function of its row times a function of its column. All patches of a grid
share those functions up to a shift, so a matrix of weights along each axis holds them all, and a map of pixels becomes
a table of cells by one product from each side.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.errors import RequestError

Weighting = Literal["gaussian", "flat"]
BLOCK = 12
"""Patches along an axis whose cells are summed in one product: outside their stretch of pixels the weights are 0."""


@dataclass(frozen=True)
class Grid:
    """Patches of `cells` x `cells` cells along one axis of an image, symmetric to its middle up to a pixel."""

    length_px: int
    """Of the axis."""
    cell_px: int
    cells: int
    step_px: int

    def __post_init__(self) -> None:
        if self.length_px < self.patch_px:
            raise RequestError(
                f"an image of {self.length_px} pixels is smaller than a patch of {self.patch_px} ({self.cells} cells "
                f"of {self.cell_px} pixels); take smaller cells, or prepare larger images"
            )

    @property
    def patch_px(self) -> int:
        """Side of a patch."""
        return self.cell_px * self.cells

    @property
    def num(self) -> int:
        """Patches along the axis, 1 or more."""
        return (self.length_px - self.patch_px) // self.step_px + 1

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first pixel of each patch, (num,)."""
        left = self.length_px - self.patch_px - (self.num - 1) * self.step_px
        return left // 2 + self.step_px * np.arange(self.num, dtype=np.int64)

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of each patch as a coordinate of pixels' centres, (num,); between two pixels where a side is odd."""
        return self.starts.astype(np.float64) + self.patch_px / 2


@lru_cache(maxsize=64)
def cell_weights(grid: Grid, weighting: Weighting) -> torch.Tensor:
    """How much each pixel of an axis counts in each cell of each patch, float32 (length, num * cells).

    `gaussian`: SIFT's, a pixel is shared linearly by the two cells between whose middles it lies, and weighs less the
    farther it is from the patch's middle, by a Gaussian of half the patch's side. `flat`: 1 / `cell_px` within the
    cell, 0 outside, so that a sum is a mean.
    """
    pixels = np.arange(grid.length_px, dtype=np.float64)[:, None, None]
    cells = np.arange(grid.cells)[None, None, :]
    if weighting == "flat":
        first = grid.starts[None, :, None] + cells * grid.cell_px
        weights = ((pixels >= first) & (pixels < first + grid.cell_px)) / grid.cell_px
    else:
        away = (pixels - grid.centres[None, :, None]) / grid.cell_px  # cells from the patch's middle
        shared = np.maximum(0, 1 - np.abs(away + grid.cells / 2 - 0.5 - cells))
        weights = shared * np.exp(-(away**2) / (grid.cells**2 / 2))
    return torch.from_numpy(weights.reshape(grid.length_px, -1).astype(np.float32))


def cell_sums(maps: torch.Tensor, rows: Grid, columns: Grid, weighting: Weighting) -> torch.Tensor:
    """The weighted sums of maps over all cells of all patches.

    Args:
        maps: float32 (..., M, H, W).
        rows: patches along the height.
        columns: patches along the width.

    Returns:
        float32 (..., patches = rows.num * columns.num, rows.cells, columns.cells, M), patches row by row.
    """
    lead, num_maps = maps.shape[:-3], maps.shape[-3]
    across = _along_last(maps, columns, weighting)  # (..., M, H, columns)
    down = _along_last(across.transpose(-1, -2).contiguous(), rows, weighting)  # (..., M, columns, rows)
    cells = down.reshape(*lead, num_maps, columns.num, columns.cells, rows.num, rows.cells)
    order = [one - 5 for one in (3, 1, 4, 2, 0)]
    kept = list(range(len(lead)))
    moved = cells.permute(*kept, *(len(lead) + 5 + one for one in order))
    return moved.reshape(*lead, rows.num * columns.num, rows.cells, columns.cells, num_maps)


def _along_last(values: torch.Tensor, grid: Grid, weighting: Weighting) -> torch.Tensor:
    """(..., length) times the weights, (..., num * cells), some patches at a time."""
    weights = cell_weights(grid, weighting)
    if grid.num <= BLOCK:
        return values @ weights
    reach = grid.cell_px  # beyond a patch: half a cell is shared with what lies outside
    parts = []
    for first in range(0, grid.num, BLOCK):
        last = min(first + BLOCK, grid.num)
        start = max(0, int(grid.starts[first]) - reach)
        end = min(grid.length_px, int(grid.starts[last - 1]) + grid.patch_px + reach)
        parts.append(values[..., start:end] @ weights[start:end, first * grid.cells : last * grid.cells])
    return torch.cat(parts, dim=-1)
