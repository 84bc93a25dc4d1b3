"""What a training image undergoes: random crop, mirror, color noise; and the ten views of a test image.

Every draw is a function of (seed, epoch, sample id) alone, by a counter-based generator: the same crop
whatever the batch size, the number of workers, or where a run was resumed. Paper: section 4.1.
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
    """(B, 3): what is added to every pixel's R, G, B, in 0..255 units."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's samples as they leave the loader: cropped on the processor, everything else is left to the device."""

    images: torch.Tensor
    """uint8 (B, S, S, 3), RGB, cropped, not yet mirrored."""
    labels: torch.Tensor
    """int64 (B,)."""
    samples: torch.Tensor
    """int64 (B,): index of each sample in its split; where one could not be read, of what came in its place."""
    corners: torch.Tensor
    """int16 (B, 2), see `Draws`."""
    mirror: torch.Tensor
    """bool (B,), see `Draws`."""
    noise: torch.Tensor
    """float32 (B, 3), see `Draws`."""
    unreadable: Mapping[int, str] = field(default_factory=dict)
    """Samples that belong into the batch and could not be read, with the reason of each."""

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The batch with every tensor changed alike: some of its rows, say, or in other memory."""
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class View:
    """One of the places at which a test image is seen."""

    row: int
    """First row of the crop, pixels."""
    column: int
    """First column of the crop, pixels."""
    mirrored: bool


def philox(key: tuple[int, int], counters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Philox4x32-10: four random words for each counter, by integer arithmetic alone.

    Args:
        key: two words, 0 .. 2^32-1.
        counters: (N, 4), the first column is the lowest word.

    Returns:
        (N, 4) words, equal to the reference implementation's (Random123, Salmon et al., 2011).
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
    """Pixels by which a stored image is longer than its crop.

    Raises:
        RequestError: the crop is larger than the image.
    """
    if crop > side:
        raise RequestError(
            f"--data.crop is {crop} and the images are prepared at {side} pixels; allowed is a crop up to {side}, "
            f"or prepare the images again with --side {crop} or more"
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
    repeated: NDArray[np.int64] | None = None,
) -> Draws:
    """Draw crop, mirror and color noise of each sample from (seed, epoch, sample id).

    A corner's probabilities are equal to within 2^-20. The noise of one image is, in units of [0, 1],
    the sum over the components k of color of `e_k * a_k * lambda_k`, a_k normal with standard deviation
    `settings.color_noise` and lambda_k the eigenvalue of the covariance of RGB in [0, 1]
    (the stored one divided by 255 squared), or its root where `settings.color_scale` says `deviations`;
    it is returned multiplied by 255.

    Args:
        settings: `crop`, `corners`, `mirror`, `color_noise` and `color_scale` are read.
        statistics: of the training split.
        side: side of the stored images, pixels.
        seed: 0 .. 2^32-1.
        epoch: 0 .. 2^32-1.
        samples: (B,), ids of 0 or more.
        groups: (B,), 0 or more: samples of one group share crop and mirror, which are then drawn from
            (seed, epoch, group); None draws them for each sample.
        repeated: (B,), how often the sample has come before in this epoch; another time, other draws. None is
            never.

    Raises:
        RequestError: the crop is larger than the image.

    Paper: section 4.1, with 32 places an axis for 224 of 256 pixels (`paper`).
    """
    margin = crop_margin(side, settings.crop)
    num_places = max(1, margin if settings.corners == "paper" else margin + 1)
    key = (seed & WORD, epoch & WORD)
    words = philox(key, _counters(samples, 0, repeated) if groups is None else _counters(groups, 2))
    corners = ((words[:, :2].astype(np.uint64) * np.uint64(num_places)) >> np.uint64(32)).astype(np.int16)
    mirror = (words[:, 2] >> np.uint32(31)).astype(np.bool_) & settings.mirror

    if settings.color_noise == 0:
        return Draws(corners, mirror, np.zeros((len(samples), 3), np.float32))
    normals = _normals(philox(key, _counters(samples, 1, repeated)))  # (B, 3), one column a component
    factors = settings.color_noise * normals
    if settings.color_scale == "eigenvalues":
        weights = factors * (statistics.eigenvalues / 255.0**2) * 255.0
    else:
        weights = factors * np.sqrt(statistics.eigenvalues)
    # Three products rather than a matrix product, whose rounding may depend on the batch size.
    noise = sum(weights[:, k, None] * statistics.eigenvectors[None, :, k] for k in range(3))
    return Draws(corners, mirror, np.asarray(noise, np.float32))


def _counters(ids: NDArray[np.int64], purpose: int, repeated: NDArray[np.int64] | None = None) -> NDArray[np.uint32]:
    """Philox counters (N, 4) of ids 0 or more; another purpose or another time, other words."""
    counters = np.zeros((len(ids), 4), np.uint32)
    counters[:, 0] = ids & WORD
    counters[:, 1] = ids >> 32
    counters[:, 2] = purpose
    if repeated is not None:
        counters[:, 3] = repeated
    return counters


def _normals(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Three standard normal numbers from each row of four words (Box and Muller); (B, 4) -> (B, 3)."""
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
    """Finish a training batch on the device: cut there if need be, minus the mean image, mirrored, plus noise, divided.

    Args:
        batch: from the loader.
        mean_image: float32 (side, side, 3), 0..255, best kept on `device`.
        device: where the result lies.
        mean_at: which part of the mean image; the center is not mirrored with the crop.
        divisor: of the whole result; the source divides images with noise by 1.1.
        device_cache: uint8 (N, side, side, 3), or int32 (N, R, R, 2), blocks as `blocks.encode` makes them, on the
            device;
            the batch then holds no pixels, and its `samples` say which of these images it is made of.
        crop: S, pixels, with `device_cache`.
        dtype: of the result; the arithmetic is float32.

    Returns:
        (B, 3, S, S) of `dtype` in channels-last memory, 0..255 units around zero.

    Paper: sections 2 and 4.1. The original source takes the center for every crop.
    """
    mean_image = mean_image.to(device, non_blocking=True)
    if device.type == "cpu":
        if device_cache is not None and crop is not None:
            batch = replace(batch, images=_cut_together(device_cache, batch, crop))
        centered = _finish_one_by_one(batch, mean_image, mean_at)  # (B, S, S, 3)
        return (centered if divisor == 1 else centered.div_(divisor)).permute(0, 3, 1, 2).to(dtype)
    batch = batch.each(lambda tensor: tensor.to(device, non_blocking=True))
    side = crop if device_cache is not None and crop is not None else batch.images.shape[1]
    if device.type == "cuda" and triton_unavailable_reason() is None:
        from alexnet.data.crop_kernel import finish

        centered = finish(
            batch.images if device_cache is None else device_cache,
            None if device_cache is None else batch.samples,
            batch.corners,
            batch.mirror,
            batch.noise,
            mean_image,
            side,
            center=mean_at == "center",
            divisor=divisor,
            dtype=dtype,
        )
        return centered.permute(0, 3, 1, 2)
    if device_cache is not None:
        batch = replace(batch, images=_cut_together(device_cache, batch, side))
    centered = _finish_together(batch, mean_image, mean_at)
    return (centered if divisor == 1 else centered.div_(divisor)).permute(0, 3, 1, 2).to(dtype)


def _cut_together(images: torch.Tensor, batch: Batch, crop: int) -> torch.Tensor:
    """The crops (B, S, S, 3) of stored images, see `to_input`, everything on one device."""
    if images.dtype == torch.int32:
        from alexnet.data.bc1 import decode_crops  # loads Numba, for which nobody else need wait

        return decode_crops(images, batch.samples, batch.corners, crop)
    places = images.unfold(1, crop, 1).unfold(2, crop, 1).permute(0, 1, 2, 4, 5, 3)
    corners = batch.corners.long()
    return places[batch.samples, corners[:, 0], corners[:, 1]]


def _finish_one_by_one(batch: Batch, mean_image: torch.Tensor, mean_at: MeanAt) -> torch.Tensor:
    """`_finish_together`, to the last bit, in a quarter of its time on a processor: an image stays in the cache."""
    num, crop = batch.images.shape[:2]
    centered = torch.empty(num, crop, crop, 3)
    # A pixel's three numbers repeated along a row: adding whole rows takes a third of the time of adding threes.
    noise = batch.noise.repeat(1, crop)  # (B, S * 3)
    middle = central(mean_image, crop)
    for place, ((row, column), mirrored) in enumerate(zip(batch.corners.tolist(), batch.mirror.tolist(), strict=True)):
        image = batch.images[place].float()
        if mean_at == "center":
            image = (image.flip(1) if mirrored else image).sub_(middle)
        else:
            image.sub_(mean_image[row : row + crop, column : column + crop])
            image = image.flip(1) if mirrored else image
        torch.add(image.view(crop, crop * 3), noise[place], out=centered[place].view(crop, crop * 3))
    return centered


def _finish_together(batch: Batch, mean_image: torch.Tensor, mean_at: MeanAt) -> torch.Tensor:
    """Less the mean, mirrored, plus noise, everything on one device; float32 (B, S, S, 3)."""
    images, corners = batch.images, batch.corners.long()
    crop = images.shape[1]
    flips = batch.mirror[:, None, None, None]
    if mean_at == "center":
        upright = torch.where(flips, images.flip(2), images)
        centered = upright.float().sub_(central(mean_image, crop))  # (B, S, S, 3)
    else:
        # Every place of the mean image as one strided view: (rows, columns, S, S, 3), nothing is copied until indexed.
        places = mean_image.unfold(0, crop, 1).unfold(1, crop, 1).permute(0, 1, 3, 4, 2)
        centered = images.float().sub_(places[corners[:, 0], corners[:, 1]])  # (B, S, S, 3)
        centered = torch.where(flips, centered.flip(2), centered)
    return centered.add_(batch.noise[:, None, None, :])


def central(image: torch.Tensor, crop: int) -> torch.Tensor:
    """The central crop (crop, crop, 3) of an image (side, side, 3)."""
    first = (image.shape[0] - crop) // 2
    return image[first : first + crop, first : first + crop]


def views(num: int, side: int, crop: int) -> list[View]:
    """The places at which a test image is seen: 1 (the center), 9 or 10.

    The ten are top left, top right, center, bottom left, bottom right, then the same five mirrored. The nine
    are a grid of three by three, none mirrored: how the source measured its networks for CIFAR-10.

    Raises:
        RequestError: `num` is another, or the crop is larger than the image.

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
            f"--views is {num}; allowed are 1 (the center), 9 (three by three), 10 (corners and center, mirrored too), "
            "and for evaluations dense"
        )
    corners = ((0, 0), (0, margin), (center, center), (margin, 0), (margin, margin))
    return [View(row, column, mirrored) for mirrored in (False, True) for row, column in corners]


def cut_view(
    images: torch.Tensor, view: View, crop: int, mean_image: torch.Tensor, mean_at: MeanAt = "crop"
) -> torch.Tensor:
    """One view of each image, minus the mean image at the same place, mirrored with it, or minus its center.

    Args:
        images: uint8 (B, side, side, 3), RGB, on the device of the result.
        view: which place.
        crop: side of the crop, pixels.
        mean_image: float32 (side, side, 3), 0..255.
        mean_at: as the network was trained.

    Returns:
        float32 (B, 3, crop, crop) in channels-last memory.
    """
    rows, columns = slice(view.row, view.row + crop), slice(view.column, view.column + crop)
    mean_image = mean_image.to(images.device)
    if mean_at == "center":
        cut = images[:, rows, columns]
        return (cut.flip(2) if view.mirrored else cut).float().sub(central(mean_image, crop)).permute(0, 3, 1, 2)
    centered = images[:, rows, columns].float().sub_(mean_image[rows, columns])
    return (centered.flip(2) if view.mirrored else centered).permute(0, 3, 1, 2)
