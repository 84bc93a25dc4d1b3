"""Dense local descriptors: a grid of patches on several scales of an image.

The estimators here follow scikit-learn (`fit` returns the estimator and sets attributes that end in `_`, `get_params`,
`clone`) with one addition: between images and features they pass lists of descriptor sets, one set per image. All of
them keep this contract: the result has one row, or one set, per set of the list, in order and independent of the other
sets; the input is not modified; a set of another width or with non-finite values raises ValueError.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from torch.nn import functional

from alexnet.baselines.color_statistics import dense_color_statistics
from alexnet.baselines.local_binary_patterns import dense_binary_patterns
from alexnet.baselines.patch_cells import PatchGrid
from alexnet.baselines.sift import dense_sift
from alexnet.errors import RequestError
from alexnet.runs.baseline_recipe import DESCRIPTORS, IMAGE_BLUR_PX, parse_cells

Images = NDArray[np.uint8]
IMAGES_PER_BATCH = 4
"""Images of one size that are processed together: more do not stay in a processor's cache."""
_LUMINANCE = (0.299, 0.587, 0.114)


class DescriptorSet(NamedTuple):
    """The descriptors of one image."""

    values: NDArray[np.float32]
    """(n, D), n 0 or more."""
    positions: NDArray[np.float32]
    """(n, 2), row and column of the patch's center, fractions of the image's height and width."""


class DenseDescriptors(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Descriptors of one kind on a grid, on several scales of the image. Nothing is learned.

    Args:
        kind: `sift`, `color` (local color statistics) or `patterns` (local binary patterns).
        cell_px: side of a cell, or several such as `4,6,8,10`, ascending: patches of each size on every scale. A patch
            has 4 x 4 cells (binary patterns: 2 x 2 cells of twice the side).
        step_px: pixels between neighboring patches, on every scale; the paper has 4.
        scales: number of scales; scales on which the image is smaller than a patch are left out.
        scale_factor: from one scale to the next, below 1.
        max_pixels: larger images are first scaled down to this many pixels; smaller ones are not enlarged, unless they
            are smaller than a patch: then both sides grow by the factor that makes room for one.
        smoothing_per_cell: standard deviation of the image's blur before SIFT, relative to `cell_px`; 0 adds none. The
            image is taken to have 0.5 pixels already.
        min_contrast: SIFT leaves out patches with less contrast, in gray levels per pixel, see `dense_sift`; 0 keeps
            all.
        max_descriptors: descriptors kept per image, drawn alike for all images with as many; 0 keeps all.
        seed: of that drawing.

    Paper: J. Sanchez and F. Perronnin, CVPR 2011, section 5.1: patches of 24 pixels every 4 pixels on 5 scales.
    K. Chatfield et al., BMVC 2011: cells of 4, 6, 8 and 10 pixels every 3 pixels on one scale, smoothed by 1/6 of each.
    """

    def __init__(
        self,
        kind: str = "sift",
        *,
        cell_px: int | str = 6,
        step_px: int = 6,
        scales: int = 5,
        scale_factor: float = math.sqrt(0.5),
        max_pixels: int = 100_000,
        smoothing_per_cell: float = 0.0,
        min_contrast: float = 0.0,
        max_descriptors: int = 0,
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.cell_px = cell_px
        self.step_px = step_px
        self.scales = scales
        self.scale_factor = scale_factor
        self.max_pixels = max_pixels
        self.smoothing_per_cell = smoothing_per_cell
        self.min_contrast = min_contrast
        self.max_descriptors = max_descriptors
        self.seed = seed

    def fit(self, X: Sequence[Images], y: Any = None) -> Self:
        """Check the parameters; nothing is learned."""
        self._check_parameters()
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """There is nothing to fit."""
        return True

    def transform(self, X: Sequence[Images] | Images) -> list[DescriptorSet]:
        """The descriptors of images.

        Args:
            X: uint8 (N, H, W, 3), RGB, or a sequence of (H, W, 3) of any sizes.

        Returns:
            One set per image: scale by scale, patches row by row.

        Raises:
            RequestError: an image is not uint8 (H, W, 3), or a parameter is out of range.
        """
        self._check_parameters()
        sets: list[DescriptorSet] = []
        first = 0
        while first < len(X):
            last = first + 1
            while last < min(len(X), first + IMAGES_PER_BATCH) and X[last].shape == X[first].shape:
                last += 1
            sets += self._describe(np.stack([_check_image(X[index], index) for index in range(first, last)]))
            first = last
        return sets

    def _check_parameters(self) -> None:
        if self.kind not in DESCRIPTORS:
            raise RequestError(f"unknown kind of descriptor {self.kind!r}; allowed are {', '.join(DESCRIPTORS)}")
        parse_cells("cell_px", self.cell_px)
        for name in ("step_px", "scales", "max_pixels"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} is {getattr(self, name)}; allowed is 1 or more")
        if not 0 < self.scale_factor < 1:
            raise RequestError(f"scale_factor is {self.scale_factor}; allowed is above 0, below 1")
        for name in ("max_descriptors", "smoothing_per_cell", "min_contrast"):
            if getattr(self, name) < 0:
                raise RequestError(f"{name} is {getattr(self, name)}; allowed is 0 or more")

    def _describe(self, images: Images) -> list[DescriptorSet]:
        """The descriptors of images of one size, (B, H, W, 3)."""
        with torch.inference_mode():
            planes = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # (B, 3, H, W)
            if self.kind != "color":
                planes = to_gray(planes)[:, None]
            planes = _resize(planes, min(1.0, math.sqrt(self.max_pixels / (images.shape[1] * images.shape[2]))))
            cells = parse_cells("cell_px", self.cell_px)
            planes = _resize(planes, max(1.0, 4 * cells[0] / min(planes.shape[-2:])))
            values: list[list[NDArray[np.float32]]] = [[] for _ in images]
            positions: list[NDArray[np.float32]] = []
            for scale in range(self.scales):
                scaled = _resize(planes, self.scale_factor**scale)
                height, width = scaled.shape[-2:]
                for cell_px in cells:
                    if min(height, width) < 4 * cell_px and positions:
                        break
                    for of_image, image in zip(values, scaled, strict=True):
                        of_image.append(self._describe_patches(image, cell_px))
                    positions.append(_patch_positions(height, width, 4 * cell_px, self.step_px))
        all_positions = np.concatenate(positions)
        return [self._keep_some(np.concatenate(of_image), all_positions) for of_image in values]

    def _describe_patches(self, planes: torch.Tensor, cell_px: int) -> NDArray[np.float32]:
        """The descriptors of one image, float32 (1 or 3, H, W), 0..255."""
        if self.kind == "color":
            return dense_color_statistics(planes.permute(1, 2, 0).numpy(), cell_px, self.step_px)
        if self.kind == "sift":
            added_blur = max(0.0, (self.smoothing_per_cell * cell_px) ** 2 - IMAGE_BLUR_PX**2) ** 0.5
            gray = gaussian_blur(planes, added_blur)[0].numpy()
            return dense_sift(np.ascontiguousarray(gray), cell_px, self.step_px, self.min_contrast)
        patterns: NDArray[np.float32] = dense_binary_patterns(planes, 2 * cell_px, self.step_px)[0].numpy()
        return patterns

    def _keep_some(self, values: NDArray[np.float32], positions: NDArray[np.float32]) -> DescriptorSet:
        """The descriptors with contrast, of these at most `max_descriptors`."""
        if self.kind == "sift" and self.min_contrast:
            has_contrast = values.any(axis=1)
            values, positions = values[has_contrast], positions[has_contrast]
        if not 0 < self.max_descriptors < len(values):
            return DescriptorSet(values, positions)
        generator = np.random.Generator(np.random.Philox(self.seed))
        kept = np.sort(generator.permutation(len(values))[: self.max_descriptors])
        return DescriptorSet(values[kept], positions[kept])


def to_gray(images: torch.Tensor) -> torch.Tensor:
    """Luminance of RGB, float32 (B, 3, H, W) -> (B, H, W), in the same range."""
    red, green, blue = images.unbind(dim=1)
    return _LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue


def gaussian_blur(gray: torch.Tensor, sigma: float) -> torch.Tensor:
    """Float32 (B, H, W) blurred by a Gaussian of `sigma` pixels, edges mirrored; 0 returns the input."""
    if sigma == 0:
        return gray
    radius = min(max(1, round(4 * sigma)), min(gray.shape[-2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = functional.pad(gray[:, None], (radius,) * 4, mode="reflect")
    across = functional.conv2d(padded, kernel.reshape(1, 1, 1, -1))
    return functional.conv2d(across, kernel.reshape(1, 1, -1, 1))[:, 0]


def _resize(planes: torch.Tensor, factor: float) -> torch.Tensor:
    """(B, C, H, W) scaled by a factor, antialiased where it is below 1; 1 returns the input."""
    if factor == 1:
        return planes
    size = tuple(max(1, round(length * factor)) for length in planes.shape[-2:])
    return functional.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)


def _patch_positions(height: int, width: int, patch_px: int, step_px: int) -> NDArray[np.float32]:
    """Centers of the patches, (n, 2), row by row, fractions of height and width."""
    axes = [PatchGrid(length, patch_px, 1, step_px).centers / length for length in (height, width)]
    rows, columns = np.meshgrid(*axes, indexing="ij")
    return np.stack([rows.ravel(), columns.ravel()], axis=1).astype(np.float32)


def _check_image(image: Images, index: int) -> Images:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise RequestError(f"image {index} is {image.dtype} {image.shape}; allowed is uint8 (H, W, 3), RGB")
    return image


def check_descriptor_sets(sets: Sequence[DescriptorSet], width: int | None = None) -> list[DescriptorSet]:
    """The list, if it keeps the contract.

    Args:
        width: D that the sets must have; None is that of the first set.

    Raises:
        ValueError: the list is empty, or a set has another shape or width, or non-finite values.
    """
    if len(sets) == 0:
        raise ValueError("got 0 descriptor sets; allowed is 1 or more")
    checked = [DescriptorSet(np.asarray(values), np.asarray(positions)) for values, positions in sets]
    width = checked[0].values.shape[-1] if width is None else width
    for number, (values, positions) in enumerate(checked):
        if values.ndim != 2 or values.shape[1] != width or positions.shape != (len(values), 2):
            raise ValueError(
                f"descriptor set {number} has values {values.shape} and positions {positions.shape}; allowed are "
                f"(n, {width}) and (n, 2)"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"descriptor set {number} has non-finite values")
    return checked


def concatenate_values(sets: Sequence[DescriptorSet]) -> NDArray[Any]:
    """The values of all sets of a list together, (n, D); raises as `check_descriptor_sets` does."""
    return np.concatenate([one.values for one in check_descriptor_sets(sets)])
