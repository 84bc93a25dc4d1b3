"""Local colour statistics: mean and deviation of red, green and blue in 4 x 4 cells.

S. Clinchant, G. Csurka, F. Perronnin, J.-M. Renders: XRCE's participation to ImagEval, 2007; the second kind of
descriptor of J. Sanchez and F. Perronnin, CVPR 2011, section 5.1.
"""

import torch

from alexnet.baselines.windows import Grid, cell_sums

CELLS = 4
DIMENSIONS = CELLS * CELLS * 6


def dense_colour(colours: torch.Tensor, cell_px: int, step_px: int) -> torch.Tensor:
    """Colour statistics of every patch of 4 cells' side.

    Args:
        colours: float32 (B, 3, H, W), RGB, 0..255.
        cell_px: side of a cell, 1 or more.
        step_px: from patch to patch.

    Returns:
        float32 (B, patches, 96), in units of the whole range (0..1): cells row by row, in each the means of red, green
        and blue, then their (population) deviations.

    Raises:
        RequestError: the image is smaller than a patch.
    """
    rows, columns = (Grid(length, cell_px, CELLS, step_px) for length in colours.shape[-2:])
    # Around the image's own mean the squares are small, and their difference is exact enough in float32.
    middle = colours.mean(dim=(-2, -1), keepdim=True)
    centred = (colours - middle) / 255
    sums = cell_sums(torch.cat([centred, centred.square()], dim=-3), rows, columns, "flat")
    means, squares = sums[..., :3], sums[..., 3:]
    deviations = (squares - means.square()).clamp_min_(0).sqrt_()
    back = (middle / 255).reshape(len(colours), 1, 1, 1, 3)
    return torch.cat([means + back, deviations], dim=-1).flatten(-3)
