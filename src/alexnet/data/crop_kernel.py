"""Crops and normalizes a training batch in one pass on a GPU, in Triton.

Axes: B images, S the side of a crop. The environment variable `TRITON_INTERPRET=1` runs it on a CPU, slowly.
"""

import torch
import triton
import triton.language as tl

from alexnet.data.augment import Batch

_BLOCK = 1024


@triton.jit
def _crop_kernel(
    images, samples, corners, mirror, noise, mean_image, result, side, mean_side, divisor,
    CROP: tl.constexpr, WHOLE: tl.constexpr, BC1: tl.constexpr, CENTER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """WHOLE: `images` are whole images, from which `samples` and `corners` select crops; otherwise they are the crops.

    BC1: the whole images are BC1 blocks of 4 x 4 pixels, `side` of them along an image's side.
    """
    image = tl.program_id(0)
    position = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # among the S * S * 3 numbers of the crop
    mask = position < CROP * CROP * 3
    color = position % 3
    column = position // 3 % CROP
    row = position // 3 // CROP
    top = tl.load(corners + 2 * image).to(tl.int32)
    left = tl.load(corners + 2 * image + 1).to(tl.int32)
    # A mirrored crop is read from the right; so is the same crop of the mean image, but not the mean image's center.
    read = tl.where(tl.load(mirror + image) != 0, CROP - 1 - column, column)
    if BC1:
        images += tl.load(samples + image).to(tl.int64) * side * side * 2
        stored_row, stored_column = top + row, left + read
        words = images + (stored_row // 4 * side + stored_column // 4) * 2
        value = _decoded(
            tl.load(words, mask=mask, other=0),
            tl.load(words + 1, mask=mask, other=0),
            stored_row % 4 * 4 + stored_column % 4,
            color,
        ).to(tl.float32)
    else:
        if WHOLE:
            images += tl.load(samples + image).to(tl.int64) * side * side * 3
            offset = ((top + row) * side + left + read) * 3 + color
        else:
            images += image.to(tl.int64) * CROP * CROP * 3
            offset = (row * CROP + read) * 3 + color
        value = tl.load(images + offset, mask=mask, other=0).to(tl.float32)
    if CENTER:
        margin = (mean_side - CROP) // 2
        of_mean = ((margin + row) * mean_side + margin + column) * 3 + color
    else:
        of_mean = ((top + row) * mean_side + left + read) * 3 + color
    value -= tl.load(mean_image + of_mean, mask=mask, other=0.0)
    value += tl.load(noise + 3 * image + color, mask=mask, other=0.0)
    tl.store(
        result + image.to(tl.int64) * CROP * CROP * 3 + position,
        (value / divisor).to(result.dtype.element_ty),
        mask=mask,
    )


@triton.jit
def _decoded(colors, indices, pixel, color):
    """A color, 0..255, of a pixel, 0..15, of a BC1 block of two words (`data/bc1.py`)."""
    index = (indices >> (2 * pixel)) & 3
    of_second = tl.where(index < 2, 3 * index, index - 1)  # thirds
    shift = tl.where(color == 0, 11, tl.where(color == 1, 5, 0))
    bits = tl.where(color == 1, 6, 5)
    first = (colors >> shift) & ((1 << bits) - 1)
    second = (colors >> (shift + 16)) & ((1 << bits) - 1)
    first = (first << (8 - bits)) | (first >> (2 * bits - 8))
    second = (second << (8 - bits)) | (second >> (2 * bits - 8))
    return (first * (3 - of_second) + second * of_second) // 3


def crop_and_normalize(
    batch: Batch,
    device_cache: torch.Tensor | None,
    mean_image: torch.Tensor,
    crop: int,
    *,
    center: bool,
    divisor: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Crops minus the mean image, mirrored, plus noise, divided; all on one GPU.

    Args:
        batch: its `images` are the crops, or its `samples` are indices into the device cache.
        device_cache: whole images, uint8 (N, side, side, 3) or in BC1, int32 (N, R, R, 2); None if the batch has crops.
        mean_image: float32 (side, side, 3).
        crop: S, pixels.
        center: whether the mean image's center is subtracted, or the same crop of it.
        divisor: of the whole result.
        dtype: of the result, to which float32 is rounded.

    Returns:
        (B, S, S, 3).
    """
    images = batch.images if device_cache is None else device_cache
    num = len(batch.corners)
    result = torch.empty(num, crop, crop, 3, dtype=dtype, device=images.device)
    if num:
        with torch.cuda.device_of(images):
            _crop_kernel[num, triton.cdiv(crop * crop * 3, _BLOCK)](
                images,
                batch.samples,
                batch.corners,
                batch.mirror.view(torch.uint8),
                batch.noise,
                mean_image,
                result,
                images.shape[1],
                mean_image.shape[0],
                divisor,
                CROP=crop,
                WHOLE=device_cache is not None,
                BC1=images.dtype == torch.int32,
                CENTER=center,
                BLOCK=_BLOCK,
            )
    return result
