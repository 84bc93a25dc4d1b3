"""Images to sets of descriptors: a grid of patches on several scales of the image.

A descriptor set is what one image gives. The estimators that take lists of them keep this contract: a row of the
result, or a set, for each set of the list, in its order, and the same whatever else is in the list; what was given is
not changed; a set of another width or with values that are not finite is refused; and they follow scikit-learn in the
rest (`fit` returns the estimator and sets attributes that end in `_`, `get_params`, `clone`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from torch.nn import functional

from alexnet.baselines.color_statistics import dense_color
from alexnet.baselines.local_binary_patterns import dense_patterns
from alexnet.baselines.sift import dense_sift
from alexnet.errors import RequestError

Images = NDArray[np.uint8]
AT_ONCE = 4
"""Images of one size that are worked on together: more do not stay in a processor's cache."""
_LUMINANCE = (0.299, 0.587, 0.114)


class DescriptorSet(NamedTuple):
    """The descriptors of one image."""

    values: NDArray[np.float32]
    """(n, D), n 0 or more."""
    places: NDArray[np.float32]
    """(n, 2), row and column of the patch's middle, fractions of the image's height and width."""


class DenseDescriptors(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Descriptors of one kind on a grid, on several scales of the image. It learns nothing.

    Args:
        kind: `sift`, `color` (local color statistics) or `patterns` (local binary patterns).
        cell_px: side of a patch's cell; a patch has 4 x 4 of them, of binary patterns 2 x 2 of twice the side.
        step_px: from patch to patch, on every scale; the paper has 4.
        scales: how often the image is scaled; scales on which it is smaller than a patch are left out.
        scale_factor: from one scale to the next, below 1.
        max_pixels: a larger image is scaled down to as many pixels before; smaller ones are not enlarged.
        smoothing: deviation of a Gaussian, pixels, that smooths gray values on each scale before gradients; 0 is none.
        limit: descriptors kept of an image, drawn once for all images of a size; 0 is all.
        seed: of that drawing.

    Paper: J. Sanchez and F. Perronnin, CVPR 2011, section 5.1: patches of 24 pixels every 4 pixels on 5 scales.
    """

    def __init__(
        self,
        kind: str = "sift",
        *,
        cell_px: int = 6,
        step_px: int = 6,
        scales: int = 5,
        scale_factor: float = math.sqrt(0.5),
        max_pixels: int = 100_000,
        smoothing: float = 0.0,
        limit: int = 0,
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.cell_px = cell_px
        self.step_px = step_px
        self.scales = scales
        self.scale_factor = scale_factor
        self.max_pixels = max_pixels
        self.smoothing = smoothing
        self.limit = limit
        self.seed = seed

    def fit(self, X: Sequence[Images], y: Any = None) -> Self:
        """Check the settings; nothing is learned."""
        self._check()
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """There is nothing to fit."""
        return True

    def transform(self, X: Sequence[Images] | Images) -> list[DescriptorSet]:
        """The descriptors of images.

        Args:
            X: uint8 (N, H, W, 3), RGB, or a sequence of (H, W, 3) of any sizes.

        Returns:
            A set for each image; a scale after the other, patches row by row.

        Raises:
            RequestError: an image is smaller than a patch, or no uint8 (H, W, 3); a setting is out of its range.
        """
        self._check()
        sets: list[DescriptorSet] = []
        first = 0
        while first < len(X):
            last = first + 1
            while last < min(len(X), first + AT_ONCE) and X[last].shape == X[first].shape:
                last += 1
            sets += self._of_one_size(np.stack([_checked(X[place], place) for place in range(first, last)]))
            first = last
        return sets

    def _check(self) -> None:
        if self.kind not in KINDS:
            raise RequestError(f"kind of descriptor {self.kind!r} is unknown; known are {', '.join(KINDS)}")
        for name in ("cell_px", "step_px", "scales", "max_pixels"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} is {getattr(self, name)}; allowed is 1 or more")
        if not 0 < self.scale_factor < 1:
            raise RequestError(f"scale_factor is {self.scale_factor}; allowed is above 0, below 1")
        if self.limit < 0 or self.smoothing < 0:
            raise RequestError(f"limit is {self.limit}, smoothing {self.smoothing}; allowed is 0 or more")

    def _of_one_size(self, images: Images) -> list[DescriptorSet]:
        with torch.inference_mode():
            planes = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # (B, 3, H, W)
            if self.kind != "color":
                planes = gray_of(planes)[:, None]
            planes = _scaled(planes, min(1.0, math.sqrt(self.max_pixels / (images.shape[1] * images.shape[2]))))
            found: list[list[NDArray[np.float32]]] = [[] for _ in images]
            places: list[NDArray[np.float32]] = []
            patch_px = 4 * self.cell_px
            for number in range(self.scales):
                scaled = _scaled(planes, self.scale_factor**number)
                if number and min(scaled.shape[-2:]) < patch_px:
                    break
                for own, image in zip(found, scaled, strict=True):
                    own.append(_KINDS[self.kind](image, self))
                places.append(_grid_places(scaled.shape[-2], scaled.shape[-1], patch_px, self.step_px))
        where = np.concatenate(places)
        drawn: Any = slice(None)
        if self.limit and self.limit < len(where):
            drawn = np.random.Generator(np.random.Philox(self.seed)).permutation(len(where))[: self.limit]
            drawn.sort()
        return [DescriptorSet(np.concatenate(own)[drawn], where[drawn]) for own in found]


def _sift(planes: torch.Tensor, settings: DenseDescriptors) -> NDArray[np.float32]:
    gray = smoothed(planes, settings.smoothing)[0]
    return dense_sift(np.ascontiguousarray(gray.numpy()), settings.cell_px, settings.step_px)


def _color(planes: torch.Tensor, settings: DenseDescriptors) -> NDArray[np.float32]:
    return dense_color(planes.permute(1, 2, 0).numpy(), settings.cell_px, settings.step_px)


def _patterns(planes: torch.Tensor, settings: DenseDescriptors) -> NDArray[np.float32]:
    found: NDArray[np.float32] = dense_patterns(planes, 2 * settings.cell_px, settings.step_px)[0].numpy()
    return found


_KINDS: dict[str, Callable[[torch.Tensor, DenseDescriptors], NDArray[np.float32]]] = {
    "sift": _sift,
    "color": _color,
    "patterns": _patterns,
}
"""From the planes of one image, float32 (1 or 3, H, W), 0..255."""
KINDS = tuple(_KINDS)


def gray_of(colors: torch.Tensor) -> torch.Tensor:
    """Luminance of RGB, float32 (B, 3, H, W) -> (B, H, W), the same range."""
    red, green, blue = colors.unbind(dim=1)
    return _LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue


def smoothed(gray: torch.Tensor, deviation: float) -> torch.Tensor:
    """Float32 (B, H, W) under a Gaussian of that deviation, pixels; edges are mirrored. 0 leaves it as it is."""
    if deviation == 0:
        return gray
    reach = max(1, round(4 * deviation))
    away = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-away.square() / (2 * deviation**2))
    kernel /= kernel.sum()
    padded = functional.pad(gray[:, None], (reach,) * 4, mode="reflect")
    across = functional.conv2d(padded, kernel.reshape(1, 1, 1, -1))
    return functional.conv2d(across, kernel.reshape(1, 1, -1, 1))[:, 0]


def _scaled(planes: torch.Tensor, factor: float) -> torch.Tensor:
    """(B, C, H, W) by a factor of 1 or less, antialiased; 1 leaves it as it is."""
    if factor == 1:
        return planes
    size = tuple(max(1, round(length * factor)) for length in planes.shape[-2:])
    return functional.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)


def _grid_places(height: int, width: int, patch_px: int, step_px: int) -> NDArray[np.float32]:
    """Middles of the patches, (n, 2), row by row, fractions of height and width."""
    axes = []
    for length in (height, width):
        num = (length - patch_px) // step_px + 1
        start = (length - patch_px - (num - 1) * step_px) // 2
        axes.append((start + step_px * np.arange(num) + patch_px / 2) / length)
    rows, columns = np.meshgrid(*axes, indexing="ij")
    return np.stack([rows.ravel(), columns.ravel()], axis=1).astype(np.float32)


def _checked(image: Images, place: int) -> Images:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise RequestError(f"image {place} is {image.dtype} {image.shape}; allowed is uint8 (H, W, 3), RGB")
    return image


def checked_sets(sets: Sequence[DescriptorSet], width: int | None = None) -> list[DescriptorSet]:
    """The list, if it keeps the contract.

    Raises:
        ValueError: it is empty, or a set has another shape or width, or values that are not finite.
    """
    if len(sets) == 0:
        raise ValueError("a list of 0 descriptor sets; allowed is 1 or more")
    checked = [DescriptorSet(np.asarray(values), np.asarray(places)) for values, places in sets]
    width = checked[0].values.shape[-1] if width is None else width
    for number, (values, places) in enumerate(checked):
        if values.ndim != 2 or values.shape[1] != width or places.shape != (len(values), 2):
            raise ValueError(
                f"descriptor set {number} has values {values.shape} and places {places.shape}; allowed are "
                f"(n, {width}) and (n, 2)"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"descriptor set {number} holds values that are not finite")
    return checked
