"""BC1 images, at half a byte per pixel: blocks of 4 x 4 pixels with two colors, and a mixture of them per pixel.

BC1 (also called DXT1; here always in its four-color mode) is a format of graphics hardware: a block is two 32-bit
words, little-endian. The first holds two colors of 5, 6 and 5 bits for red, green and blue, the first color in the low
half; the second holds two bits per pixel, row by row from the lowest: the first color, the second, two thirds of the
first and one third of the second, or vice versa, rounded down. Memory holds six times as many images as with three
bytes per pixel, and a crop can be decoded without the rest of the image.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.system.numba_jit import jit, unavailable_reason

BLOCK_PX = 4
BLOCK_BYTES = 8
_PIXELS = BLOCK_PX * BLOCK_PX
_SQUARINGS = 3
_REFINEMENTS = 2
_INDEX_BY_THIRDS = 0b01_11_10_00
"""A pixel's two bits for the mixtures with 0, 1, 2, 3 thirds of the second color, from the lowest bits."""
_EXACT_SUMS = {"reassoc", "nsz"}
"""Compiler options: float32 sums of integers below 2^24 are exact in any order."""


def num_block_rows(side: int) -> int:
    """Blocks along a side of an image; the last one may extend over the edge."""
    return -(-side // BLOCK_PX)


def require_encoder() -> None:
    """Check that images can be encoded here.

    Raises:
        RequestError: Numba cannot be imported.
    """
    if unavailable_reason:
        raise RequestError(
            f"--training.cache bc1 needs Numba, which cannot be imported here ({unavailable_reason}); "
            "repair its installation, or use another --training.cache"
        )


def encode(images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Encode images in BC1.

    The principal axis of a block's colors gives two initial colors; least squares over the chosen mixtures refine
    them.

    Args:
        images: (B, S, S, 3), RGB, contiguous. If S is not a multiple of four, the last pixels are repeated.

    Returns:
        (B, R, R, 2), the words of R x R blocks, R = S / 4 rounded up.
    """
    num, side = images.shape[:2]
    rows = num_block_rows(side)
    blocks = np.empty((num, rows, rows, 2), np.int32)
    for image, coded in zip(images, blocks, strict=True):
        _encode_image(image, coded)
    return blocks


def decode_crops(blocks: torch.Tensor, images: torch.Tensor, corners: torch.Tensor, crop: int) -> torch.Tensor:
    """Crops of some images: compiled on a CPU, elsewhere by torch's operations.

    Args:
        blocks: int32 (N, R, R, 2), see `encode`.
        images: int64 (B,), indices of images.
        corners: int16 (B, 2), row and column of each crop's top left pixel.
        crop: S, pixels.

    Returns:
        uint8 (B, S, S, 3).
    """
    if blocks.device.type == "cpu" and not unavailable_reason:
        crops = np.empty((len(images), crop, crop, 3), np.uint8)
        _decode_crops(blocks.numpy(), images.numpy(), corners.numpy(), crops)
        return torch.from_numpy(crops)
    along = torch.arange(crop, device=blocks.device)
    rows, columns = (corners[:, axis, None].long() + along for axis in (0, 1))  # (B, S) each
    words = blocks[
        images[:, None, None],
        torch.div(rows, BLOCK_PX, rounding_mode="floor")[:, :, None],
        torch.div(columns, BLOCK_PX, rounding_mode="floor")[:, None, :],
    ]  # (B, S, S, 2)
    pixel = (rows % BLOCK_PX * BLOCK_PX)[:, :, None] + (columns % BLOCK_PX)[:, None, :]
    index = (words[..., 1] >> (2 * pixel)) & 3  # (B, S, S)
    of_second = torch.where(index < 2, 3 * index, index - 1)  # thirds
    decoded = torch.empty(*index.shape, 3, dtype=torch.uint8, device=blocks.device)
    for color, (shift, bits) in enumerate(((11, 5), (5, 6), (0, 5))):
        first, second = (
            (part << (8 - bits)) | (part >> (2 * bits - 8))
            for part in ((words[..., 0] >> (shift + half)) & (2**bits - 1) for half in (0, 16))
        )
        decoded[..., color] = torch.div(first * (3 - of_second) + second * of_second, 3, rounding_mode="floor")
    return decoded


@jit(error_model="numpy")
def _word_of(ends: Any, end: Any) -> Any:  # pragma: no cover (compiled)
    """A color of `ends`, (2, 3) of 0..255, in 16 bits."""
    word = np.int64(0)
    for color in range(3):
        bits = 6 if color == 1 else 5
        most = np.float32((1 << bits) - 1)
        within = min(max(ends[end, color], np.float32(0)), np.float32(255))
        word = (word << bits) | np.int64(within * (most / np.float32(255)) + np.float32(0.5))
    return word


@jit(error_model="numpy")
def _mix(first: Any, second: Any, palette: Any) -> None:  # pragma: no cover (compiled)
    """The four mixtures of two colors, (4, 3) of 0..255, in the order of their thirds of the second color."""
    for color in range(3):
        shift = 11 if color == 0 else (5 if color == 1 else 0)
        bits = 6 if color == 1 else 5
        low, high = (first >> shift) & ((1 << bits) - 1), (second >> shift) & ((1 << bits) - 1)
        one, other = (low << (8 - bits)) | (low >> (2 * bits - 8)), (high << (8 - bits)) | (high >> (2 * bits - 8))
        for thirds in range(4):
            palette[thirds, color] = (one * (3 - thirds) + other * thirds) // 3


@jit(error_model="numpy")
def _distance(pixels: Any, pixel: Any, palette: Any, mixture: Any) -> Any:  # pragma: no cover (compiled)
    red = pixels[0, pixel] - palette[mixture, 0]
    green = pixels[1, pixel] - palette[mixture, 1]
    blue = pixels[2, pixel] - palette[mixture, 2]
    return red * red + green * green + blue * blue


@jit(error_model="numpy", fastmath=_EXACT_SUMS)
def _choose(pixels: Any, palette: Any, thirds: Any) -> Any:  # pragma: no cover (compiled)
    """The nearest color of each pixel, the first of equal ones; returns the sum of squared distances."""
    total = np.float32(0)
    for pixel in range(_PIXELS):
        nearest, nearest_thirds = _distance(pixels, pixel, palette, 0), np.float32(0)
        for mixture in range(1, 4):
            distance = _distance(pixels, pixel, palette, mixture)
            nearest_thirds = np.float32(mixture) if distance < nearest else nearest_thirds
            nearest = min(nearest, distance)
        thirds[pixel] = nearest_thirds
        total += nearest
    return total


@jit(error_model="numpy", fastmath=True)
def _ends_of_line(pixels: Any, centered: Any, ends: Any) -> None:  # pragma: no cover (compiled)
    """The extreme points, (2, 3), of pixels (3, 16) along their principal axis."""
    for color in range(3):
        mean = np.float32(0)
        for pixel in range(_PIXELS):
            mean += pixels[color, pixel]
        mean /= np.float32(_PIXELS)
        ends[0, color] = ends[1, color] = mean
        for pixel in range(_PIXELS):
            centered[color, pixel] = pixels[color, pixel] - mean
    xx = xy = xz = yy = yz = zz = np.float32(0)
    for pixel in range(_PIXELS):
        x, y, z = centered[0, pixel], centered[1, pixel], centered[2, pixel]
        xx += x * x
        xy += x * y
        xz += x * z
        yy += y * y
        yz += y * z
        zz += z * z
    if xx + yy + zz < np.float32(1e-6):
        return  # all pixels are equal
    # In the eighth power of the covariance the direction of the greatest variance dominates, and the column with the
    # largest diagonal element is never orthogonal to it.
    for _ in range(_SQUARINGS):
        factor = np.float32(1) / (xx + yy + zz)
        xx, xy, xz, yy, yz, zz = xx * factor, xy * factor, xz * factor, yy * factor, yz * factor, zz * factor
        xx, xy, xz, yy, yz, zz = (
            xx * xx + xy * xy + xz * xz,
            xx * xy + xy * yy + xz * yz,
            xx * xz + xy * yz + xz * zz,
            xy * xy + yy * yy + yz * yz,
            xy * xz + yy * yz + yz * zz,
            xz * xz + yz * yz + zz * zz,
        )
    if xx >= yy and xx >= zz:
        red, green, blue = xx, xy, xz
    elif yy >= zz:
        red, green, blue = xy, yy, yz
    else:
        red, green, blue = xz, yz, zz
    length = np.sqrt(red * red + green * green + blue * blue)
    red, green, blue = red / length, green / length, blue / length
    least = highest = np.float32(0)
    for pixel in range(_PIXELS):
        along = centered[0, pixel] * red + centered[1, pixel] * green + centered[2, pixel] * blue
        least, highest = min(least, along), max(highest, along)
    for color, part in enumerate((red, green, blue)):
        ends[0, color] += highest * part
        ends[1, color] += least * part


@jit(error_model="numpy", fastmath=_EXACT_SUMS)
def _refine(pixels: Any, thirds: Any, ends: Any) -> Any:  # pragma: no cover (compiled)
    """The two colors, (2, 3), whose chosen mixtures are nearest to the pixels; False if they are not unique."""
    of_first = of_both = of_second = np.float32(0)
    for pixel in range(_PIXELS):
        second = thirds[pixel]
        first = np.float32(3) - second
        of_first += first * first
        of_both += first * second
        of_second += second * second
    determinant = of_first * of_second - of_both * of_both
    if determinant == 0:
        return False
    factor = np.float32(3) / determinant
    for color in range(3):
        from_first = from_second = np.float32(0)
        for pixel in range(_PIXELS):
            value, second = pixels[color, pixel], thirds[pixel]
            from_first += (np.float32(3) - second) * value
            from_second += second * value
        ends[0, color] = factor * (of_second * from_first - of_both * from_second)
        ends[1, color] = factor * (of_first * from_second - of_both * from_first)
    return True


@jit(error_model="numpy")
def _encode_image(image: Any, blocks: Any) -> None:  # pragma: no cover (compiled)
    """Write the blocks, int32 (R, R, 2), of an image, uint8 (S, S, 3)."""
    side = image.shape[0]
    pixels = np.empty((3, _PIXELS), np.float32)
    centered = np.empty((3, _PIXELS), np.float32)
    ends = np.empty((2, 3), np.float32)
    palette = np.empty((4, 3), np.float32)
    thirds, best_thirds = np.zeros(_PIXELS, np.float32), np.zeros(_PIXELS, np.float32)
    for block_row in range(blocks.shape[0]):
        for block_column in range(blocks.shape[1]):
            for pixel in range(_PIXELS):
                row = min(block_row * BLOCK_PX + pixel // BLOCK_PX, side - 1)
                column = min(block_column * BLOCK_PX + pixel % BLOCK_PX, side - 1)
                for color in range(3):
                    pixels[color, pixel] = image[row, column, color]
            _ends_of_line(pixels, centered, ends)
            best, best_first, best_second = np.float32(np.inf), np.int64(0), np.int64(0)
            for trial in range(_REFINEMENTS + 1):
                if trial > 0 and not _refine(pixels, thirds, ends):
                    break
                first, second = _word_of(ends, 0), _word_of(ends, 1)
                _mix(first, second, palette)
                distance = _choose(pixels, palette, thirds)
                if distance >= best:
                    break
                best, best_first, best_second = distance, first, second
                for pixel in range(_PIXELS):
                    best_thirds[pixel] = thirds[pixel]
            # The greater word first means "four colors". If both are equal, all pixels use the first, as `_choose`
            # does.
            swapped = best_first < best_second
            indices = np.int64(0)
            for pixel in range(_PIXELS):
                of_second = np.int64(best_thirds[pixel])
                if swapped:
                    of_second = 3 - of_second
                indices |= ((_INDEX_BY_THIRDS >> (2 * of_second)) & 3) << (2 * pixel)
            if swapped:
                best_first, best_second = best_second, best_first
            blocks[block_row, block_column, 0] = np.int32(np.uint32(best_first | (best_second << 16)))
            blocks[block_row, block_column, 1] = np.int32(np.uint32(indices))


@jit(error_model="numpy")
def _decode_crops(blocks: Any, images: Any, corners: Any, crops: Any) -> None:  # pragma: no cover (compiled)
    """Write the crops, uint8 (B, S, S, 3), see `decode_crops`."""
    crop = crops.shape[1]
    palette = np.empty((4, 3), np.float32)
    for index in range(len(images)):
        of_image = blocks[images[index]]
        top, left = np.int64(corners[index, 0]), np.int64(corners[index, 1])
        for block_row in range(top // BLOCK_PX, (top + crop - 1) // BLOCK_PX + 1):
            for block_column in range(left // BLOCK_PX, (left + crop - 1) // BLOCK_PX + 1):
                colors = np.int64(of_image[block_row, block_column, 0])
                indices = np.int64(of_image[block_row, block_column, 1])
                _mix(colors & 0xFFFF, (colors >> 16) & 0xFFFF, palette)
                first_row, first_column = block_row * BLOCK_PX, block_column * BLOCK_PX
                for pixel in range(_PIXELS):
                    row, column = first_row + pixel // BLOCK_PX, first_column + pixel % BLOCK_PX
                    if top <= row < top + crop and left <= column < left + crop:
                        code = (indices >> (2 * pixel)) & 3
                        thirds = 3 * code if code < 2 else code - 1
                        for color in range(3):
                            crops[index, row - top, column - left, color] = np.uint8(palette[thirds, color])
