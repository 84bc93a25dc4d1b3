"""Augmentation of training images (random crop, mirror, color noise), and the ten views of a test image.

Every draw is a function of (seed, epoch, sample id) alone, by a counter-based generator: it depends neither on the
batch size, nor on the number of workers, nor on where a run was resumed. Paper: section 4.1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.dataset import Statistics
from alexnet.errors import RequestError
from alexnet.runs.recipe import DataSettings
from alexnet.system.triton_probe import triton_unavailable_reason

PHILOX_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10
WORD = 0xFFFFFFFF

MeanAt = Literal["crop", "center"]
"""Which part of the mean image is subtracted from a crop: the crop's own (mirrored with it), or always the center."""


@dataclass(frozen=True, eq=False)
class Draws:
    """The random choices of a batch of B samples."""

    corners: NDArray[np.int16]
    """(B, 2): first row and first column of the crop, pixels."""
    mirror: NDArray[np.bool_]
    """(B,): whether the crop is mirrored left to right."""
    noise: NDArray[np.float32]
    """(B, 3): added to every pixel's R, G, B, in 0..255 units."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The samples of a step as the loader gives them: cropped on the CPU; `to_input` does the rest on the device."""

    images: torch.Tensor
    """uint8 (B, S, S, 3), RGB, cropped, not yet mirrored."""
    labels: torch.Tensor
    """int64 (B,)."""
    samples: torch.Tensor
    """int64 (B,): index of each sample in its split; of the replacement for a sample that could not be read."""
    corners: torch.Tensor
    """int16 (B, 2), see `Draws`."""
    mirror: torch.Tensor
    """bool (B,), see `Draws`."""
    noise: torch.Tensor
    """float32 (B, 3), see `Draws`."""
    unreadable: Mapping[int, str] = field(default_factory=dict)
    """Samples of the batch that could not be read, with reasons."""

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The batch with `function` applied to every tensor, for example to take some rows or move it to a device."""
        mapped: dict[str, Any] = {
            name: function(value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **mapped)


@dataclass(frozen=True)
class View:
    """A crop of a test image."""

    row: int
    """First row of the crop, pixels."""
    column: int
    """First column of the crop, pixels."""
    mirrored: bool


def philox(key: tuple[int, int], counters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Philox4x32-10: four random words per counter, by integer arithmetic alone.

    Args:
        key: two words, 0 .. 2^32-1.
        counters: (N, 4), the first column is the lowest word.

    Returns:
        (N, 4) words, equal to those of the reference implementation (Random123, Salmon et al., 2011).
    """
    first, second, third, fourth = (counters[:, column].astype(np.uint64) for column in range(4))
    low_half, shift = np.uint64(WORD), np.uint64(32)
    for round_index in range(PHILOX_ROUNDS):
        key_0 = np.uint64((key[0] + round_index * PHILOX_KEY_STEPS[0]) & WORD)
        key_1 = np.uint64((key[1] + round_index * PHILOX_KEY_STEPS[1]) & WORD)
        product_0 = PHILOX_MULTIPLIERS[0] * first
        product_1 = PHILOX_MULTIPLIERS[1] * third
        first, second, third, fourth = (
            (product_1 >> shift) ^ second ^ key_0,
            product_1 & low_half,
            (product_0 >> shift) ^ fourth ^ key_1,
            product_0 & low_half,
        )
    return np.stack((first, second, third, fourth), axis=1).astype(np.uint32)


def crop_margin(side: int, crop: int) -> int:
    """Pixels by which the side of a stored image exceeds that of its crop.

    Raises:
        RequestError: the crop is larger than the image.
    """
    if crop > side:
        raise RequestError(
            f"--data.crop is {crop} and the images are stored at {side} pixels; allowed is a crop up to {side}. "
            f"Lower it, or prepare the images again with --side {crop} or more"
        )
    return side - crop


def draw(
    settings: DataSettings,
    statistics: Statistics,
    side: int,
    seed: int,
    epoch: int,
    samples: NDArray[np.int64],
    groups: NDArray[np.int64] | None = None,
    earlier: NDArray[np.int64] | None = None,
) -> Draws:
    """Draw crop, mirror and color noise of each sample from (seed, epoch, sample id).

    All corners have the same probability to within 2^-20. The noise of an image is, in units of [0, 1],
    the sum over the color components k of `e_k * a_k * lambda_k`: a_k is normal with standard deviation
    `settings.color_noise`, and lambda_k is the eigenvalue of the covariance of RGB in [0, 1]
    (the stored one divided by 255 squared), or its root if `settings.color_scale` is not `eigenvalues`.
    It is returned multiplied by 255.

    Args:
        settings: `crop`, `corners`, `mirror`, `color_noise` and `color_scale` are read.
        statistics: of the training split.
        side: side of the stored images, pixels.
        seed: 0 .. 2^32-1.
        epoch: 0 .. 2^32-1.
        samples: (B,), ids of 0 or more.
        groups: (B,), 0 or more: samples of a group share crop and mirror, drawn from (seed, epoch, group);
            None draws them for each sample.
        earlier: (B,), how often the sample occurs earlier in this epoch; each occurrence has its own draws. None is
            never.

    Raises:
        RequestError: the crop is larger than the image.

    Paper: section 4.1, crops of 224 from 256 pixels at 32 positions per axis, mirrors: 32 x 32 x 2 = 2048 (`paper`).
    """
    margin = crop_margin(side, settings.crop)
    num_positions = max(1, margin if settings.corners == "paper" else margin + 1)
    key = (seed & WORD, epoch & WORD)
    words = philox(key, _counters(samples, 0, earlier) if groups is None else _counters(groups, 2))
    corners = ((words[:, :2].astype(np.uint64) * np.uint64(num_positions)) >> np.uint64(32)).astype(np.int16)
    mirror = (words[:, 2] >> np.uint32(31)).astype(np.bool_) & settings.mirror

    if settings.color_noise == 0:
        return Draws(corners, mirror, np.zeros((len(samples), 3), np.float32))
    normals = _normals(philox(key, _counters(samples, 1, earlier)))  # (B, 3), a column per component
    factors = settings.color_noise * normals
    if settings.color_scale == "eigenvalues":
        weights = factors * (statistics.eigenvalues / 255.0**2) * 255.0
    else:
        weights = factors * np.sqrt(statistics.eigenvalues)
    # Three products instead of a matrix product, whose rounding may depend on the batch size.
    noise = sum(weights[:, k, None] * statistics.eigenvectors[None, :, k] for k in range(3))
    return Draws(corners, mirror, np.asarray(noise, np.float32))


def _counters(ids: NDArray[np.int64], purpose: int, earlier: NDArray[np.int64] | None = None) -> NDArray[np.uint32]:
    """Philox counters (N, 4) of ids 0 or more; they differ by purpose and by occurrence."""
    counters = np.zeros((len(ids), 4), np.uint32)
    counters[:, 0] = ids & WORD
    counters[:, 1] = ids >> 32
    counters[:, 2] = purpose
    if earlier is not None:
        counters[:, 3] = earlier
    return counters


def _normals(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Three standard normal numbers from each row of four words (Box-Muller); (B, 4) -> (B, 3)."""
    uniform = words.astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((uniform[:, 0::2] + 1.0) / 2.0**32))  # (B, 2); +1 keeps 0 out of the logarithm
    angle = uniform[:, 1::2] * (2.0 * np.pi / 2.0**32)
    return np.stack(
        (radius[:, 0] * np.cos(angle[:, 0]), radius[:, 0] * np.sin(angle[:, 0]), radius[:, 1] * np.cos(angle[:, 1])),
        axis=1,
    )


def to_input(
    batch: Batch,
    mean_image: torch.Tensor,
    device: torch.device,
    *,
    mean_at: MeanAt = "crop",
    divisor: float = 1.0,
    device_cache: torch.Tensor | None = None,
    crop: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The network's input: crops minus the mean image, mirrored, plus color noise, divided, on the device.

    Args:
        batch: from the loader.
        mean_image: float32 (side, side, 3), 0..255; keep it on `device`.
        device: of the result.
        mean_at: which part of the mean image; the center is not mirrored with the crop.
        divisor: of the whole result; the original source divides images with noise by 1.1.
        device_cache: stored images on the device, uint8 (N, side, side, 3), or int32 (N, R, R, 2) from `bc1.encode`.
            The batch then has no pixels, and its `samples` are indices into these images.
        crop: S, pixels, with `device_cache`.
        dtype: of the result; the arithmetic is float32.

    Returns:
        (B, 3, S, S) of `dtype` in channels-last memory, 0..255 units around zero.

    Paper: sections 2 and 4.1. The original source takes the center for every crop.
    """
    mean_image = mean_image.to(device, non_blocking=True)
    batch = batch.map(lambda tensor: tensor.to(device, non_blocking=True))
    side = crop if device_cache is not None and crop is not None else batch.images.shape[1]
    if device.type == "cuda" and triton_unavailable_reason() is None:
        from alexnet.data.crop_kernel import crop_and_normalize

        centered = crop_and_normalize(
            batch, device_cache, mean_image, side, center=mean_at == "center", divisor=divisor, dtype=dtype
        )
        return centered.permute(0, 3, 1, 2)
    if device_cache is not None:
        batch = replace(batch, images=_crop_batch(device_cache, batch, side))
    normalize = _normalize_image_by_image if device.type == "cpu" else _normalize_batch
    centered = normalize(batch, mean_image, mean_at)  # (B, S, S, 3)
    return (centered if divisor == 1 else centered.div_(divisor)).permute(0, 3, 1, 2).to(dtype)


def _crop_batch(images: torch.Tensor, batch: Batch, crop: int) -> torch.Tensor:
    """The crops (B, S, S, 3) of a batch from stored images, see `to_input`, all on one device."""
    if images.dtype == torch.int32:
        from alexnet.data.bc1 import decode_crops  # imports Numba, which takes most of a second

        return decode_crops(images, batch.samples, batch.corners, crop)
    crops = images.unfold(1, crop, 1).unfold(2, crop, 1).permute(0, 1, 2, 4, 5, 3)
    corners = batch.corners.long()
    return crops[batch.samples, corners[:, 0], corners[:, 1]]


def _normalize_image_by_image(batch: Batch, mean_image: torch.Tensor, mean_at: MeanAt) -> torch.Tensor:
    """Equal to `_normalize_batch` to the last bit, in a quarter of its time on a CPU: an image stays in the cache."""
    num, crop = batch.images.shape[:2]
    centered = torch.empty(num, crop, crop, 3)
    # The noise of a pixel repeated along a row: adding whole rows takes a third of the time of adding pixels.
    noise = batch.noise.repeat(1, crop)  # (B, S * 3)
    mean_center = center_crop(mean_image, crop)
    for index, ((row, column), mirrored) in enumerate(zip(batch.corners.tolist(), batch.mirror.tolist(), strict=True)):
        image = batch.images[index].float()
        if mean_at == "center":
            image = (image.flip(1) if mirrored else image).sub_(mean_center)
        else:
            image.sub_(mean_image[row : row + crop, column : column + crop])
            image = image.flip(1) if mirrored else image
        torch.add(image.view(crop, crop * 3), noise[index], out=centered[index].view(crop, crop * 3))
    return centered


def _normalize_batch(batch: Batch, mean_image: torch.Tensor, mean_at: MeanAt) -> torch.Tensor:
    """Crops minus the mean, mirrored, plus noise, all on one device; float32 (B, S, S, 3)."""
    images, corners = batch.images, batch.corners.long()
    crop = images.shape[1]
    flips = batch.mirror[:, None, None, None]
    if mean_at == "center":
        upright = torch.where(flips, images.flip(2), images)
        centered = upright.float().sub_(center_crop(mean_image, crop))  # (B, S, S, 3)
    else:
        # All crops of the mean image as one strided view, (rows, columns, S, S, 3); only indexing copies.
        means = mean_image.unfold(0, crop, 1).unfold(1, crop, 1).permute(0, 1, 3, 4, 2)
        centered = images.float().sub_(means[corners[:, 0], corners[:, 1]])  # (B, S, S, 3)
        centered = torch.where(flips, centered.flip(2), centered)
    return centered.add_(batch.noise[:, None, None, :])


def center_crop(image: torch.Tensor, crop: int) -> torch.Tensor:
    """The center (crop, crop, 3) of an image (side, side, 3)."""
    first = (image.shape[0] - crop) // 2
    return image[first : first + crop, first : first + crop]


def views(num: int, side: int, crop: int) -> list[View]:
    """The crops of a test image over which probabilities are averaged: 1 (the center), 9 or 10.

    The ten are top left, top right, center, bottom left, bottom right, then the same five mirrored. The nine
    are a grid of three by three without mirroring, which the original source uses for CIFAR-10.

    Raises:
        RequestError: `num` is none of these, or the crop is larger than the image.

    Paper: section 4.1; the order is the original source's.
    """
    margin = crop_margin(side, crop)
    center = margin // 2
    if num == 1:
        return [View(center, center, False)]
    if num == 9:
        return [View(row, column, False) for row in (0, center, margin) for column in (0, center, margin)]
    if num != 10:
        raise RequestError(
            f"--views is {num!r}; allowed are 1 (the center), 9 (three by three), 10 (corners and center, mirrored "
            "too), and dense for evaluations"
        )
    corners = ((0, 0), (0, margin), (center, center), (margin, 0), (margin, margin))
    return [View(row, column, mirrored) for mirrored in (False, True) for row, column in corners]


def crop_view(
    images: torch.Tensor, view: View, crop: int, mean_image: torch.Tensor, mean_at: MeanAt = "crop"
) -> torch.Tensor:
    """One view of each image, minus the same crop of the mean image, mirrored with it, or minus its center.

    Args:
        images: uint8 (B, side, side, 3), RGB, on the device of the result.
        view: which crop.
        crop: side of the crop, pixels.
        mean_image: float32 (side, side, 3), 0..255.
        mean_at: as the network was trained.

    Returns:
        float32 (B, 3, crop, crop) in channels-last memory.
    """
    rows, columns = slice(view.row, view.row + crop), slice(view.column, view.column + crop)
    mean_image, crops = mean_image.to(images.device), images[:, rows, columns]
    if mean_at == "center":
        upright = crops.flip(2) if view.mirrored else crops
        return upright.float().sub(center_crop(mean_image, crop)).permute(0, 3, 1, 2)
    centered = crops.float().sub_(mean_image[rows, columns])
    return (centered.flip(2) if view.mirrored else centered).permute(0, 3, 1, 2)
