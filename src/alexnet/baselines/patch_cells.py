"""Weighted sums over the cells of all patches of a dense grid, in one pass along each axis.

A dense descriptor weighs each pixel by a function of its row times a function of its column, and all patches of a grid
share those functions up to a shift. So each row of pixels is first summed into the cells of its columns, and these
sums into the cells of the rows. Images have eight channels as their last axis, which the processor adds together.
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
NUM_CHANNELS = 8
ANY_ORDER = {"reassoc", "contract", "nsz"}
"""Fast-math flags that let the compiler reorder sums, and so vectorize them."""


@dataclass(frozen=True)
class PatchGrid:
    """Patches of `cells` cells along one axis of an image, centered in it up to a pixel."""

    length_px: int
    """Of the axis."""
    cell_px: int
    cells: int
    step_px: int
    """Between neighboring patches."""

    def __post_init__(self) -> None:
        if self.length_px < self.patch_px:
            raise RequestError(
                f"an image of {self.length_px} pixels is smaller than a patch of {self.patch_px} ({self.cells} cells "
                f"of {self.cell_px} pixels); use smaller cells, or prepare larger images"
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
        """Center of each patch, (num,), as a coordinate in which pixel i is at i, as in OpenCV."""
        return self.starts.astype(np.float64) + self.patch_px / 2


class CellWeights(NamedTuple):
    """Which pixels of an axis contribute to each cell of each patch, and their weights."""

    first: NDArray[np.int64]
    """(num * cells,): the first pixel."""
    weights: Floats
    """(num * cells, T): weights of `first` and the T - 1 pixels after it, all within the axis."""


@lru_cache(maxsize=256)
def cell_weights(grid: PatchGrid, weighting: Weighting) -> CellWeights:
    """The weights of an axis.

    `gaussian`: as in SIFT, a pixel is split linearly between the two nearest cell centers, times a Gaussian around the
    patch's center with a sigma of half the patch's side. `flat`: 1 / `cell_px` within the cell and 0 outside, so that
    the sum is a mean.
    """
    cells = np.arange(grid.cells)
    start = grid.starts[:, None] + cells * grid.cell_px  # the first pixel within each cell, (num, cells)
    # With `gaussian` a cell reaches half of each neighbor, and one pixel more where its center lies between two.
    reach = 0 if weighting == "flat" else (grid.cell_px + 1) // 2
    num_pixels = min(grid.cell_px + 2 * reach, grid.length_px)
    first = np.clip(start - reach, 0, grid.length_px - num_pixels)
    pixels = first[:, :, None] + np.arange(num_pixels)
    if weighting == "flat":
        weights = ((pixels >= start[:, :, None]) & (pixels < start[:, :, None] + grid.cell_px)) / grid.cell_px
    else:
        offset = (pixels - grid.centers[:, None, None]) / grid.cell_px  # from the patch's center, in cells
        linear = np.maximum(0, 1 - np.abs(offset + grid.cells / 2 - 0.5 - cells[:, None]))
        weights = linear * np.exp(-(offset**2) / (grid.cells**2 / 2))
    flat = weights.reshape(-1, num_pixels).astype(np.float32)
    return CellWeights(np.ascontiguousarray(first.ravel()), np.ascontiguousarray(flat))


def cell_sums(image: Floats, rows: PatchGrid, columns: PatchGrid, weighting: Weighting) -> Floats:
    """The weighted sums over all cells of all patches.

    Args:
        image: float32 (H, W, 8).
        rows: patches along the height.
        columns: patches along the width.

    Returns:
        float32 (rows.num * rows.cells, columns.num * columns.cells, 8).
    """
    return _separable_sums(image, cell_weights(rows, weighting), cell_weights(columns, weighting))


class CellMeans(NamedTuple):
    """Means over the distinct cells of a grid, and the index of each patch's cells."""

    means: Floats
    """(cells down, cells across, 8)."""
    rows: NDArray[np.int64]
    """(patches down, cells): indices into the first axis."""
    columns: NDArray[np.int64]
    """(patches across, cells): indices into the second axis."""

    def by_patch(self, values: Floats) -> Floats:
        """Gather values of the cells, (cells down, cells across, V), by patch: (patches, cells, cells, V)."""
        found = values[self.rows[:, None, :, None], self.columns[None, :, None, :]]
        return found.reshape(-1, self.rows.shape[1], self.columns.shape[1], values.shape[2])


def cell_means(image: Floats, rows: PatchGrid, columns: PatchGrid) -> CellMeans:
    """The unweighted means of an image, float32 (H, W, 8), over the cells of all patches."""
    down, row_indices = _distinct(cell_weights(rows, "flat"), rows)
    across, column_indices = _distinct(cell_weights(columns, "flat"), columns)
    return CellMeans(_separable_sums(image, down, across), row_indices, column_indices)


def _distinct(weights: CellWeights, grid: PatchGrid) -> tuple[CellWeights, NDArray[np.int64]]:
    """The cells with different first pixels, and the indices of each patch's cells among them."""
    first, indices = np.unique(weights.first, return_inverse=True)
    return CellWeights(first, weights.weights[: len(first)]), indices.reshape(grid.num, grid.cells)


def _separable_sums(image: Floats, down: CellWeights, across: CellWeights) -> Floats:
    """The sums, float32 (cells down, cells across, 8)."""
    width = len(across.first) * NUM_CHANNELS
    sums = np.zeros((len(down.first), len(across.first), NUM_CHANNELS), np.float32)
    row_sums = np.empty((len(image), len(across.first), NUM_CHANNELS), np.float32)
    _sum_rows(image, across.first, across.weights, row_sums)
    _sum_columns(row_sums.reshape(-1, width), down.first, down.weights, sums.reshape(-1, width))
    return sums


@jit(fastmath=ANY_ORDER)
def _sum_rows(image: Any, first: Any, weights: Any, sums: Any) -> None:  # pragma: no cover (compiled)
    for row in range(image.shape[0]):
        for cell in range(len(first)):
            start = first[cell]
            # Eight scalar sums: an array of them would go through memory.
            a = b = c = d = e = f = g = h = np.float32(0)
            for offset in range(weights.shape[1]):
                weight = weights[cell, offset]
                pixel = image[row, start + offset]
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
def _sum_columns(row_sums: Any, first: Any, weights: Any, sums: Any) -> None:  # pragma: no cover (compiled)
    width = row_sums.shape[1]
    for cell in range(len(first)):
        total = sums[cell]
        for offset in range(weights.shape[1]):
            weight = weights[cell, offset]
            if weight != 0:
                row = row_sums[first[cell] + offset]
                for column in range(width):
                    total[column] += weight * row[column]
