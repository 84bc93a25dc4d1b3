"""Mean image and colour covariance of the training images, from exact sums: no order and no number of workers shows.

Paper: sections 2 (the mean activity over the training set) and 4.1 (the principal components of the RGB values).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from alexnet.data.prepared import Statistics
from alexnet.runs.machine import processor_flags

BLOCK_PIXELS = 256
"""Products of two bytes summed over so many pixels stay below 2^24, where float32 holds every integer."""
SIGNED_ROWS = 65_536
"""Products of two signed bytes summed so often stay below 2^31, where int32 holds every integer."""
PIXELS_A_ROW = 4
"""Neighbouring pixels laid side by side for a product: a wider one is so much faster that most of it may be unused."""
SUMMED_IMAGES = 257
"""Sums of so many bytes stay below 2^16."""


@dataclass(frozen=True, eq=False)
class ColourSums:
    """Exact integer sums over some images of one size.

    The products are held as Python integers: over 15 million images of 256 pixels they pass 2^63.
    """

    num_images: int
    pixel_sums: NDArray[np.int64]
    """(S, S, 3)."""
    products: tuple[tuple[int, ...], ...]
    """3 x 3, sum over all pixels of channel times channel."""

    @classmethod
    def none(cls, side: int) -> Self:
        """Of no images, `side` pixels square."""
        return cls(0, np.zeros((side, side, 3), np.int64), ((0,) * 3,) * 3)

    @classmethod
    def of(cls, images: NDArray[np.uint8]) -> Self:
        """Of uint8 (n, S, S, 3)."""
        num_images, side = len(images), int(images.shape[1])
        if num_images == 0:
            return cls.none(side)
        pixel_sums = np.zeros((side, side, 3), np.int64)
        for first in range(0, num_images, SUMMED_IMAGES):
            part = np.zeros((side, side, 3), np.uint16)
            for image in images[first : first + SUMMED_IMAGES]:
                part += image
            pixel_sums += part
        pixels = np.ascontiguousarray(images).reshape(-1, 3)
        if _multiplies_bytes():
            # One axis at a time: NumPy adds long rows, and three numbers at a time six times as slowly.
            products = _products_of_signed_bytes(pixels, pixel_sums.sum(axis=0).sum(axis=0))
        else:
            products = _products_of_floats(pixels)
        return cls(num_images, pixel_sums, tuple(tuple(row) for row in products.tolist()))

    def __add__(self, other: "ColourSums") -> "ColourSums":
        """Of the images of both."""
        products = tuple(
            tuple(one + two for one, two in zip(mine, theirs, strict=True))
            for mine, theirs in zip(self.products, other.products, strict=True)
        )
        return ColourSums(self.num_images + other.num_images, self.pixel_sums + other.pixel_sums, products)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """For a file; the products as decimal text, since they may pass 64 bits."""
        return {
            "num_images": np.array(self.num_images, np.int64),
            "pixel_sums": self.pixel_sums,
            "products": np.array([[str(value) for value in row] for row in self.products], np.str_),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """The reverse of `arrays`."""
        products = tuple(tuple(int(str(value)) for value in row) for row in arrays["products"])
        return cls(int(arrays["num_images"].item()), arrays["pixel_sums"].astype(np.int64), products)

    def statistics(self) -> Statistics:
        """Mean image, and covariance with its components, each rounded once from the exact value."""
        side = self.pixel_sums.shape[0]
        num_pixels = self.num_images * side**2
        sums = [int(total) for total in self.pixel_sums.sum(axis=(0, 1))]
        covariance = np.array(
            [
                [
                    (num_pixels * self.products[row][column] - sums[row] * sums[column]) / num_pixels**2
                    for column in range(3)
                ]
                for row in range(3)
            ]
        )
        eigenvalues, eigenvectors = colour_components(covariance)
        return Statistics(
            mean_image=(self.pixel_sums / self.num_images).astype(np.float32),
            covariance=covariance,
            eigenvalues=eigenvalues,
            eigenvectors=eigenvectors,
        )


@functools.cache
def _multiplies_bytes() -> bool:
    """Whether the processor adds products of bytes in 32 bits; others cut them off at 16 on the way."""
    return bool(processor_flags() & {"avx512_vnni", "avx_vnni", "amx_int8"}) and hasattr(torch, "_int_mm")


def _products_of_signed_bytes(pixels: NDArray[np.uint8], channel_sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums over pixels (N, 3) of channel times channel, exact, int64 (3, 3).

    A byte less 128 is signed: sum x y = sum (x - 128)(y - 128) + 128 (sum x + sum y) - 128^2 N.
    """
    num = len(pixels)
    whole = num // PIXELS_A_ROW * PIXELS_A_ROW
    rows = torch.from_numpy((pixels[:whole] ^ np.uint8(128)).view(np.int8)).view(-1, 3 * PIXELS_A_ROW)
    signed = np.zeros((3, 3), np.int64)
    for first in range(0, len(rows), SIGNED_ROWS):
        part = rows[first : first + SIGNED_ROWS]
        # A product wants more than 16 rows; zeros add nothing.
        padded = functional.pad(part, (0, 0, 0, max(0, 32 - len(part))))
        signed += _diagonal_blocks(torch._int_mm(padded.t(), padded).numpy().astype(np.int64))
    rest = pixels[whole:].astype(np.int64) - 128
    signed += rest.T @ rest
    return np.asarray(signed + 128 * (channel_sums[:, None] + channel_sums[None, :]) - 128**2 * num)


def _products_of_floats(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The same by float32 products over blocks short enough to be exact."""
    numbers = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).float()
    block = BLOCK_PIXELS * PIXELS_A_ROW
    whole = len(numbers) // block * block
    blocks = numbers[:whole].view(-1, BLOCK_PIXELS, 3 * PIXELS_A_ROW)
    rest = numbers[whole:].double()
    products = torch.bmm(blocks.transpose(1, 2), blocks).double().sum(dim=0)
    return np.asarray(_diagonal_blocks(products.numpy().astype(np.int64)) + (rest.T @ rest).numpy().astype(np.int64))


def _diagonal_blocks(products: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the products of pixels side by side, those of each pixel with itself, added up: (3 p, 3 p) -> (3, 3)."""
    by_pixel = products.reshape(PIXELS_A_ROW, 3, PIXELS_A_ROW, 3)
    return np.asarray(np.einsum("pipj->ij", by_pixel))


def colour_components(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Principal components of a covariance of colours, (3, 3), as `Statistics` holds them.

    Returns:
        Eigenvalues (3,), ascending, 0 or more, and eigenvectors (3, 3), unit columns whose largest component is
        positive.
    """
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    largest = np.take_along_axis(eigenvectors, np.abs(eigenvectors).argmax(axis=0)[None], axis=0)
    return np.maximum(eigenvalues, 0.0), eigenvectors * np.sign(largest)
