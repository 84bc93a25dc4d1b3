"""Local color statistics: mean and standard deviation of red, green and blue in 4 x 4 cells.

S. Clinchant, G. Csurka, F. Perronnin, J.-M. Renders: XRCE's participation to ImagEval, 2007; the second kind of
descriptor of J. Sanchez and F. Perronnin, CVPR 2011, section 5.1.
"""

from typing import Any

import numpy as np

from alexnet.baselines.patch_cells import NUM_CHANNELS, Floats, PatchGrid, cell_means
from alexnet.system.numba_jit import jit

CELLS = 4
DIMENSIONS = CELLS * CELLS * 6


def dense_color_statistics(image: Floats, cell_px: int, step_px: int) -> Floats:
    """Color statistics of all patches of 4 x 4 cells.

    Args:
        image: float32 (H, W, 3), RGB, 0..255.
        cell_px: side of a cell, 1 or more.
        step_px: pixels between neighboring patches.

    Returns:
        float32 (patches, 96), scaled to 0..1: cells row by row, in each the means of red, green and blue, then their
        (population) standard deviations.

    Raises:
        RequestError: the image is smaller than a patch.
    """
    rows, columns = (PatchGrid(length, cell_px, CELLS, step_px) for length in image.shape[:2])
    # Centered on the image's mean the squares are small, and their difference is exact enough in float32.
    center = image.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    channels = np.zeros((*image.shape[:2], NUM_CHANNELS), np.float32)  # the last two stay 0
    _center_and_square(image, center, channels)
    cells = cell_means(channels, rows, columns)
    means, squares = cells.means[..., :3], cells.means[..., 3:6]
    stds = np.sqrt(np.maximum(squares - means**2, 0))
    statistics = np.concatenate([means + center / np.float32(255), stds], axis=-1)
    return cells.by_patch(statistics).reshape(-1, DIMENSIONS)


@jit()
def _center_and_square(image: Any, center: Any, channels: Any) -> None:  # pragma: no cover (compiled)
    """Write the centered colors, scaled to a range of 1, to channels 0 to 2 and their squares to 3 to 5."""
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            for color in range(3):
                value = (image[row, column, color] - center[color]) / np.float32(255)
                channels[row, column, color] = value
                channels[row, column, 3 + color] = value * value
