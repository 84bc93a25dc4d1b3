"""Sums over the cells of patches on a grid, for every patch at once: one pass along each axis.

A dense descriptor weighs each pixel by a function of its row times a function of its column, and all patches of a grid
share those functions up to a shift. So each row of pixels is first with_epilogues into the cells of its columns, and
these sums into the cells of the rows. The maps of a pixel lie side by side, so that the processor adds eight at a time.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.system.numba_jit import jit

Floats = NDArray[np.float32]
Weighting = Literal["gaussian", "flat"]
ANY_ORDER = {"reassoc", "contract", "nsz"}
"""What the compiler may do to sums: add in any order, which is what lets it add eight at once."""


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
    def centers(self) -> NDArray[np.float64]:
        """Middle of each patch as a coordinate of pixels' centers, (num,); between two pixels where a side is odd."""
        return self.starts.astype(np.float64) + self.patch_px / 2


class Taps(NamedTuple):
    """Which pixels of an axis count in each cell of each patch, and how much."""

    first: NDArray[np.int64]
    """(num * cells,): the first pixel."""
    weights: Floats
    """(num * cells, T): of it and those after it; none reaches beyond the axis."""


@lru_cache(maxsize=256)
def cell_taps(grid: Grid, weighting: Weighting) -> Taps:
    """How the pixels of an axis count.

    `gaussian`: SIFT's, a pixel is shared linearly by the two cells between whose middles it lies, and weighs less the
    farther it is from the patch's middle, by a Gaussian of half the patch's side. `flat`: 1 / `cell_px` within the
    cell, 0 outside, so that a sum is a mean.
    """
    cells = np.arange(grid.cells)
    own = grid.starts[:, None] + cells * grid.cell_px  # the first pixel within each cell, (num, cells)
    # With `gaussian` a cell reaches half of each neighbor, and one pixel more where its middle lies between two.
    reach = 0 if weighting == "flat" else (grid.cell_px + 1) // 2
    num_taps = min(grid.cell_px + 2 * reach, grid.length_px)
    first = np.clip(own - reach, 0, grid.length_px - num_taps)
    pixels = first[:, :, None] + np.arange(num_taps)
    if weighting == "flat":
        weights = ((pixels >= own[:, :, None]) & (pixels < own[:, :, None] + grid.cell_px)) / grid.cell_px
    else:
        away = (pixels - grid.centers[:, None, None]) / grid.cell_px  # cells from the patch's middle
        shared = np.maximum(0, 1 - np.abs(away + grid.cells / 2 - 0.5 - cells[:, None]))
        weights = shared * np.exp(-(away**2) / (grid.cells**2 / 2))
    flat = weights.reshape(-1, num_taps).astype(np.float32)
    return Taps(np.ascontiguousarray(first.ravel()), np.ascontiguousarray(flat))


def cell_sums(maps: Floats, rows: Grid, columns: Grid, weighting: Weighting) -> Floats:
    """The weighted sums of maps over all cells of all patches.

    Args:
        maps: float32 (H, W, M); fastest where M is 8.
        rows: patches along the height.
        columns: patches along the width.

    Returns:
        float32 (rows.num * rows.cells, columns.num * columns.cells, M).
    """
    return _sums_of(maps, cell_taps(rows, weighting), cell_taps(columns, weighting))


class SharedCells(NamedTuple):
    """Means over cells, each cell once that patches share, and where each patch has its cells."""

    means: Floats
    """(cells down, cells across, M)."""
    rows: NDArray[np.int64]
    """(patches down, cells): places along the first axis."""
    columns: NDArray[np.int64]
    """(patches across, cells): places along the second."""

    def by_patch(self, values: Floats) -> Floats:
        """Values of the cells, (cells down, cells across, V), patch by patch: (patches, cells, cells, V)."""
        found = values[self.rows[:, None, :, None], self.columns[None, :, None, :]]
        return found.reshape(-1, self.rows.shape[1], self.columns.shape[1], values.shape[2])


def shared_cells(maps: Floats, rows: Grid, columns: Grid) -> SharedCells:
    """The means of maps, float32 (H, W, M), over the cells of all patches; all pixels of a cell weigh alike."""
    down, of_rows = _distinct(cell_taps(rows, "flat"), rows)
    across, of_columns = _distinct(cell_taps(columns, "flat"), columns)
    return SharedCells(_sums_of(maps, down, across), of_rows, of_columns)


def _distinct(taps: Taps, grid: Grid) -> tuple[Taps, NDArray[np.int64]]:
    """The cells that begin at different pixels, and which of them are those of each patch."""
    first, places = np.unique(taps.first, return_inverse=True)
    return Taps(first, taps.weights[: len(first)]), places.reshape(grid.num, grid.cells)


def _sums_of(maps: Floats, down: Taps, across: Taps) -> Floats:
    """The sums, float32 (cells down, cells across, M)."""
    num_maps = maps.shape[2]
    sums = np.zeros((len(down.first), len(across.first), num_maps), np.float32)
    row_sums = np.empty((len(maps), len(across.first), num_maps), np.float32)
    along = _along_rows_of_8 if num_maps == 8 else _along_rows
    along(maps, across.first, across.weights, row_sums)
    width = len(across.first) * num_maps
    _down_columns(row_sums.reshape(-1, width), down.first, down.weights, sums.reshape(-1, width))
    return sums


def by_patch(sums: Floats, rows: Grid, columns: Grid) -> Floats:
    """`cell_sums` patch by patch, row by row: float32 (patches, cells, cells, M)."""
    cells = sums.reshape(rows.num, rows.cells, columns.num, columns.cells, sums.shape[2])
    return np.ascontiguousarray(cells.transpose(0, 2, 1, 3, 4)).reshape(-1, rows.cells, columns.cells, sums.shape[2])


@jit(fastmath=ANY_ORDER)
def _along_rows_of_8(maps: Any, first: Any, weights: Any, sums: Any) -> None:  # pragma: no cover (compiled)
    for row in range(maps.shape[0]):
        for cell in range(len(first)):
            start = first[cell]
            # Eight sums by name: an array of them would go through memory.
            a = b = c = d = e = f = g = h = np.float32(0)
            for tap in range(weights.shape[1]):
                weight = weights[cell, tap]
                pixel = maps[row, start + tap]
                a += weight * pixel[0]
                b += weight * pixel[1]
                c += weight * pixel[2]
                d += weight * pixel[3]
                e += weight * pixel[4]
                f += weight * pixel[5]
                g += weight * pixel[6]
                h += weight * pixel[7]
            found = sums[row, cell]
            found[0], found[1], found[2], found[3] = a, b, c, d
            found[4], found[5], found[6], found[7] = e, f, g, h


@jit(fastmath=ANY_ORDER)
def _along_rows(maps: Any, first: Any, weights: Any, sums: Any) -> None:  # pragma: no cover (compiled)
    for row in range(maps.shape[0]):
        for cell in range(len(first)):
            for one in range(maps.shape[2]):
                total = np.float32(0)
                for tap in range(weights.shape[1]):
                    total += weights[cell, tap] * maps[row, first[cell] + tap, one]
                sums[row, cell, one] = total


@jit(fastmath=ANY_ORDER)
def _down_columns(row_sums: Any, first: Any, weights: Any, sums: Any) -> None:  # pragma: no cover (compiled)
    width = row_sums.shape[1]
    for cell in range(len(first)):
        own = sums[cell]
        for tap in range(weights.shape[1]):
            weight = weights[cell, tap]
            if weight != 0:
                row = row_sums[first[cell] + tap]
                for place in range(width):
                    own[place] += weight * row[place]
