"""Arrays as images: first-layer filters as a grid, and any RGB array as an embedded PNG."""

import base64
import io

import numpy as np
import numpy.typing as npt
import PIL.Image

_CELL_PX = 40


def filter_grid(
    filters: npt.NDArray[np.floating], *, num_columns: int | None = None, scale: int | None = None
) -> npt.NDArray[np.uint8]:
    """Draw filters in a grid with a black line around each.

    All filters share one scale, as in the original source: the smallest weight of all is drawn as 0, the largest as
    255, so strong filters look stronger than weak ones. If all weights are equal, they are drawn gray.

    Args:
        filters: (F, 3, h, w), RGB, finite.
        num_columns: filters per row; None is 16 for more than 32 filters, else 8.
        scale: side of a weight in pixels; None draws a filter at about 40 pixels.

    Returns:
        uint8 (H, W, 3) RGB with H = scale (rows (h + 1) + 1), W likewise.

    Raises:
        ValueError: another shape, no filters, or values that are not finite.
    """
    if filters.ndim != 4 or filters.shape[1] != 3 or filters.size == 0:
        raise ValueError(f"filters have shape {filters.shape}; allowed is (F, 3, h, w) with at least one filter")
    if not np.isfinite(filters).all():
        raise ValueError("filters hold values that are not finite and cannot be drawn")
    num_filters, _, height, width = filters.shape
    num_columns = min(num_filters, num_columns or (16 if num_filters > 32 else 8))
    num_rows = -(-num_filters // num_columns)
    scale = scale or max(1, round(_CELL_PX / max(height, width)))
    values = filters.astype(np.float64)
    lowest, highest = values.min(), values.max()
    scaled = (values - lowest) / (highest - lowest) * 255 if highest > lowest else np.full_like(values, 128)
    grid = np.zeros((num_rows * (height + 1) + 1, num_columns * (width + 1) + 1, 3), np.uint8)
    for number, one in enumerate(np.rint(scaled).astype(np.uint8)):
        top = number // num_columns * (height + 1) + 1
        left = number % num_columns * (width + 1) + 1
        grid[top : top + height, left : left + width] = one.transpose(1, 2, 0)
    return grid.repeat(scale, axis=0).repeat(scale, axis=1)


def png_data_uri(image: npt.NDArray[np.uint8]) -> str:
    """An RGB image, uint8 (H, W, 3), as the `data:` URI of a PNG."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def jpeg_data_uri(image: npt.NDArray[np.uint8], quality: int = 85) -> str:
    """An RGB image, uint8 (H, W, 3), as the `data:` URI of a JPEG: of photographs a tenth of a PNG."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
