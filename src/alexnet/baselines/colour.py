"""Local colour statistics: mean and deviation of red, green and blue in 4 x 4 cells.

S. Clinchant, G. Csurka, F. Perronnin, J.-M. Renders: XRCE's participation to ImagEval, 2007; the second kind of
descriptor of J. Sanchez and F. Perronnin, CVPR 2011, section 5.1.
"""

import numpy as np

from alexnet.baselines.windows import Floats, Grid, by_patch, cell_sums

CELLS = 4
DIMENSIONS = CELLS * CELLS * 6


def dense_colour(colours: Floats, cell_px: int, step_px: int) -> Floats:
    """Colour statistics of every patch of 4 cells' side.

    Args:
        colours: float32 (H, W, 3), RGB, 0..255.
        cell_px: side of a cell, 1 or more.
        step_px: from patch to patch.

    Returns:
        float32 (patches, 96), in units of the whole range (0..1): cells row by row, in each the means of red, green
        and blue, then their (population) deviations.

    Raises:
        RequestError: the image is smaller than a patch.
    """
    rows, columns = (Grid(length, cell_px, CELLS, step_px) for length in colours.shape[:2])
    # Around the image's own mean the squares are small, and their difference is exact enough in float32.
    middle = colours.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    maps = np.zeros((*colours.shape[:2], 8), np.float32)  # two maps more: eight are summed as fast as six
    maps[..., :3] = (colours - middle) / 255
    maps[..., 3:6] = maps[..., :3] ** 2
    sums = cell_sums(maps, rows, columns, "flat")
    means = sums[..., :3]
    deviations = np.sqrt(np.maximum(sums[..., 3:6] - means**2, 0))
    both = np.concatenate([means + middle / 255, deviations], axis=-1)
    return by_patch(both, rows, columns).reshape(-1, DIMENSIONS)
