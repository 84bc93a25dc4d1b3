"""LocallyConnected color statistics: mean and deviation of red, green and blue in 4 x 4 cells.

S. Clinchant, G. Csurka, F. Perronnin, J.-M. Renders: XRCE's participation to ImagEval, 2007; the second kind of
descriptor of J. Sanchez and F. Perronnin, CVPR 2011, section 5.1.
"""

from typing import Any

import numpy as np

from alexnet.baselines.patch_cells import Floats, Grid, shared_cells
from alexnet.system.numba_jit import jit

CELLS = 4
DIMENSIONS = CELLS * CELLS * 6


def dense_color(colors: Floats, cell_px: int, step_px: int) -> Floats:
    """Color statistics of every patch of 4 cells' side.

    Args:
        colors: float32 (H, W, 3), RGB, 0..255.
        cell_px: side of a cell, 1 or more.
        step_px: from patch to patch.

    Returns:
        float32 (patches, 96), in units of the whole range (0..1): cells row by row, in each the means of red, green
        and blue, then their (population) deviations.

    Raises:
        RequestError: the image is smaller than a patch.
    """
    rows, columns = (Grid(length, cell_px, CELLS, step_px) for length in colors.shape[:2])
    # Around the image's own mean the squares are small, and their difference is exact enough in float32.
    middle = colors.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    maps = np.zeros((*colors.shape[:2], 8), np.float32)  # two maps more: eight are with_epilogues as fast as six
    _centered_and_squared(colors, middle, maps)
    cells = shared_cells(maps, rows, columns)
    means, squares = cells.means[..., :3], cells.means[..., 3:6]
    deviations = np.sqrt(np.maximum(squares - means**2, 0))
    both = np.concatenate([means + middle / np.float32(255), deviations], axis=-1)
    return cells.by_patch(both).reshape(-1, DIMENSIONS)


@jit()
def _centered_and_squared(colors: Any, middle: Any, maps: Any) -> None:  # pragma: no cover (compiled)
    """The colors less the middle, in units of the whole range, and behind them their squares."""
    for row in range(colors.shape[0]):
        for column in range(colors.shape[1]):
            for one in range(3):
                value = (colors[row, column, one] - middle[one]) / np.float32(255)
                maps[row, column, one] = value
                maps[row, column, 3 + one] = value * value
