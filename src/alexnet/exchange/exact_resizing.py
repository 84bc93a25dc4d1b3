"""The crops that a network sees, from pictures of any size, by operators that torch.export and ONNX have.

torch resizes bytes (bilinear, antialiased) with integer weights: along each side, a pixel is a sum of bytes times whole
numbers, divided by a power of two and rounded to a byte; first along the rows, then along the columns. Matrices of the
same numbers give the same pixels, and need to compute only those of the crop, whose size is fixed. float32 has the sums
exactly for pictures up to four times the size of the square; of larger ones, a pixel in 100,000 may differ by one gray
level. `onnx_preprocessing` writes the same formulas as an ONNX graph.
"""

import torch

from alexnet.data.augment import crop_margin
from alexnet.data.decode import MAX_ELONGATION, PAD_COLOR, Fit

WEIGHT_LIMIT = 2**15
"""Weights are smaller, as whole numbers of 16 bits."""
UNITS = tuple(2.0**bits for bits in range(23))
"""What weights are fractions of: the largest of these with which they are below the limit."""


def exact_crops(images: torch.Tensor, side: int, crop: int, fit: Fit) -> torch.Tensor:
    """The central crops of `make_square(image, side, fit)`, by operators for sizes that are not known yet.

    Args:
        images: uint8 (N, H, W, 3).
        side: of the square, pixels.
        crop: of the crop, pixels.
        fit: as in `make_square`.

    Returns:
        float32 (N, 3, crop, crop), 0..255.

    Raises:
        RuntimeError: more than 100 times longer than wide, or vice versa; of an exported program an AssertionError.
    """
    height, width = images.shape[1:3]
    torch._check(height <= MAX_ELONGATION * width)  # type: ignore[no-untyped-call]
    torch._check(width <= MAX_ELONGATION * height)  # type: ignore[no-untyped-call]
    sizes = [torch.full((), size, dtype=torch.float64) for size in images.shape[1:3]]
    square = torch.full((), side, dtype=torch.float64)
    if fit == "squash":
        resized = [square, square]
    elif fit == "pad":
        resized = [(size * side / torch.maximum(*sizes)).round().clamp(min=1) for size in sizes]
    else:
        resized = [torch.maximum((size * side / torch.minimum(*sizes)).round(), square) for size in sizes]
    # Where the crop's rows and columns are in the resized picture; of bars, beyond it.
    margin = crop_margin(side, crop) // 2
    rows, columns = (torch.trunc((size - side) / 2) + margin + torch.arange(crop) for size in resized)
    x = images.permute(0, 3, 1, 2).float()
    weights, unit = _weights(images.shape[2], sizes[1], resized[1], columns)
    x = _rounded(x @ weights.transpose(0, 1), unit)
    weights, unit = _weights(images.shape[1], sizes[0], resized[0], rows)
    x = _rounded(weights @ x, unit)
    if fit == "pad":
        is_row, is_column = (
            (places >= 0) & (places < size) for places, size in zip((rows, columns), resized, strict=True)
        )
        x = torch.where(is_row[:, None] & is_column, x, torch.tensor(PAD_COLOR, dtype=torch.float32)[:, None, None])
    return x


def _weights(
    num: int, size: torch.Tensor, resized: torch.Tensor, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole weights of `num` pixels for each place, float32 (places, num), and their unit."""
    scale = size / resized
    inside = torch.minimum(places.clamp(min=0), resized - 1)
    # And the first place: the largest weight, on which the unit depends, is at an edge.
    centers = (torch.cat([torch.zeros_like(places[:1]), inside]) + 0.5) * scale
    distances = (torch.arange(num, dtype=torch.float64) + 0.5 - centers[:, None]).abs()
    weights = (1 - distances * (1 / scale.clamp(min=1))).clamp(min=0)
    weights = weights / weights.sum(dim=1, keepdim=True)
    units = torch.tensor(UNITS, dtype=torch.float64)
    unit = torch.where(weights.max() * units + 0.5 < WEIGHT_LIMIT, units, 0.0).max()
    return torch.floor(weights[1:] * unit + 0.5).float(), unit.float()


def _rounded(sums: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    return torch.floor(sums / unit + 0.5).clamp(0, 255)
