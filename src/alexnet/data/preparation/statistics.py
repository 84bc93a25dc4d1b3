"""Mean image and color covariance of the training images, from exact sums, which do not depend on their order.

Paper: sections 2 (the mean activity over the training set) and 4.1 (the principal components of the RGB values).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import Statistics


@dataclass(frozen=True, eq=False)
class ColorSums:
    """Exact integer sums over some images of one size.

    The products are Python integers: over 15 million images of 256 pixels they exceed 2^63.
    """

    num_images: int
    pixel_sums: NDArray[np.int64]
    """(S, S, 3)."""
    products: NDArray[np.object_]
    """(3, 3), sums over all pixels of channel times channel."""

    @classmethod
    def none(cls, side: int) -> Self:
        """The sums over no images, `side` pixels square."""
        return cls(0, np.zeros((side, side, 3), np.int64), np.zeros((3, 3), object))

    def __add__(self, other: "ColorSums") -> "ColorSums":
        """The sums over the images of both."""
        return ColorSums(
            self.num_images + other.num_images,
            self.pixel_sums + other.pixel_sums,
            self.products + other.products,
        )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The sums as arrays for a file; the products as decimal text, since they may exceed 64 bits."""
        return {
            "num_images": np.array(self.num_images, np.int64),
            "pixel_sums": self.pixel_sums,
            "products": self.products.astype(np.str_),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """The reverse of `arrays`."""
        products = np.array([[int(text) for text in row] for row in arrays["products"].tolist()], object)
        return cls(int(arrays["num_images"].item()), arrays["pixel_sums"].astype(np.int64), products)

    def statistics(self) -> Statistics:
        """Mean image, and covariance with its components, each rounded once from the exact value."""
        side = self.pixel_sums.shape[0]
        num_pixels = self.num_images * side**2
        sums = self.pixel_sums.sum(axis=(0, 1)).astype(object)  # Python integers, as are the products
        covariance = ((num_pixels * self.products - np.outer(sums, sums)) / num_pixels**2).astype(np.float64)
        eigenvalues, eigenvectors = color_components(covariance)
        return Statistics(
            mean_image=(self.pixel_sums / self.num_images).astype(np.float32),
            covariance=covariance,
            eigenvalues=eigenvalues,
            eigenvectors=eigenvectors,
        )


def color_components(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Principal components of a covariance of colors, (3, 3), as in `Statistics`.

    Returns:
        Eigenvalues (3,), ascending, 0 or more, and eigenvectors (3, 3), unit columns whose largest component is
        positive.
    """
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    largest = np.take_along_axis(eigenvectors, np.abs(eigenvectors).argmax(axis=0)[None], axis=0)
    return np.maximum(eigenvalues, 0.0), eigenvectors * np.sign(largest)
