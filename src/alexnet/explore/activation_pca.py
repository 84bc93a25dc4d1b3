"""Principal components of a layer's activations: exact, in float64, read in blocks from files of any length."""

import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.storage.npy import read_npz
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.typed_files import damaged, read_bounded

MOST_SIDE = 10_000
"""Of the matrix whose eigenvectors are computed: 0.8 GB in float64; with the solver's copies 3.2 GB."""
BLOCK_BYTES = 1 << 27
"""Of a block in float64."""
MOST_FILE_BYTES = 1 << 33

Rows = NDArray[np.floating[Any]]
"""(N, D), possibly memory-mapped."""


@dataclass(frozen=True, eq=False)
class Projection:
    """The mean of a layer's activations and their first principal components; call it to project activations.

    The largest number of each component, in magnitude, is positive. Components beyond the rank of the activations that
    they were fitted to are zero, as is their variance.
    """

    mean: NDArray[np.float64]
    """(D,): of the images that it was fitted to; of a layer with positions in the order channel, row, column."""
    components: NDArray[np.float64]
    """(K, D): orthonormal, by falling variance."""
    explained_variance: NDArray[np.float64]
    """(K,): of the projections, with N - 1 in the denominator."""
    total_variance: float
    """The sum of the variances of all D numbers."""
    num_images: int
    """That it was fitted to."""

    def __repr__(self) -> str:
        return (
            f"Projection({self.components.shape[1]:,} to {len(self.components):,} dimensions, "
            f"{100 * self.explained_fraction:.1f} % of the variance of {self.num_images:,} images)"
        )

    def __call__(self, activations: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """The coordinates along the components, float32 (n, K), of activations (n, ...) with D numbers per image.

        Raises:
            RequestError: the activations have another number of values per image.
        """
        num_values = self.components.shape[1]
        if math.prod(activations.shape[1:]) != num_values:
            raise RequestError(
                f"the activations have {math.prod(activations.shape[1:]):,} values per image; this projection takes "
                f"{num_values:,}"
            )
        rows = activations.reshape(len(activations), num_values)
        found = np.empty((len(rows), len(self.components)), np.float32)
        for part in _parts(len(rows), num_values):
            found[part] = (rows[part].astype(np.float64) - self.mean) @ self.components.T
        return found

    @property
    def explained_fraction(self) -> float:
        """Fraction of the total variance that the components hold, 0..1; 1 if there is no variance."""
        if self.total_variance == 0:
            return 1.0
        return min(1.0, float(self.explained_variance.sum()) / self.total_variance)

    def file_content(self) -> bytes:
        """An .npz file of its arrays, which `read_projection` reads."""
        file = io.BytesIO()
        np.savez(
            file,
            mean=self.mean,
            components=self.components,
            explained_variance=self.explained_variance,
            total_variance=np.float64(self.total_variance),
            images=np.int64(self.num_images),
        )
        return file.getvalue()

    def digest(self) -> str:
        """SHA-256 of its arrays."""
        arrays = (self.mean, self.components, self.explained_variance)
        return hashlib.sha256(b"".join(np.ascontiguousarray(one).tobytes() for one in arrays)).hexdigest()


def read_projection(path: Path, num_components: int, num_values: int, advice: str) -> Projection:
    """The projection that a file holds.

    Raises:
        DamagedFile: the file is missing, damaged, or holds a projection of other sizes.
    """
    try:
        arrays = read_npz(
            read_bounded(path, MOST_FILE_BYTES),
            {
                "mean": (np.float64, (num_values,)),
                "components": (np.float64, (num_components, num_values)),
                "explained_variance": (np.float64, (num_components,)),
                "total_variance": (np.float64, ()),
                "images": (np.int64, ()),
            },
        )
    except (OSError, ValueError) as error:
        raise_unless_damage(error, path)
        raise damaged(path, str(error), advice) from error
    return Projection(
        mean=arrays["mean"],
        components=arrays["components"],
        explained_variance=arrays["explained_variance"],
        total_variance=float(arrays["total_variance"]),
        num_images=int(arrays["images"]),
    )


def require_fittable(name: str, num_images: int, num_values: int, num_components: int) -> None:
    """Refuse a fit that cannot be made, or not within memory.

    Raises:
        RequestError: more components than there are dimensions, or a layer and a set of images that are both large.
    """
    if num_components > num_values:
        raise RequestError(
            f"--pca is {num_components:,}; {name} has {num_values:,} values per image, so use at most that"
        )
    if num_components >= num_images:
        raise RequestError(
            f"--pca is {num_components:,}, but {num_images:,} images span fewer dimensions; use at most "
            f"{num_images - 1:,} components, or more images"
        )
    if min(num_images, num_values) > MOST_SIDE:
        raise RequestError(
            f"--pca of {name} ({num_values:,} values per image) of {num_images:,} images needs a matrix of "
            f"{min(num_images, num_values):,} rows; at most {MOST_SIDE:,} fit in memory: choose a layer with at most "
            f"{MOST_SIDE:,} values, or fit to at most {MOST_SIDE:,} images and pass that folder as --pca FOLDER"
        )


def fit_projection(rows: Rows, num_components: int) -> Projection:
    """The first principal components of N activations, exact up to rounding in float64.

    The eigenvectors are those of the covariance (D, D), or, of fewer images than dimensions, those of the products
    of images (N, N). Memory: that matrix four times, the components, and blocks of 128 MiB.

    Args:
        rows: float32 (N, D).
        num_components: at most D; see `require_fittable`.
    """
    num_images, num_values = rows.shape
    if num_values <= num_images:
        mean = np.zeros(num_values)
        for part in _parts(num_images, num_values):
            mean += rows[part].sum(axis=0, dtype=np.float64)
        mean /= num_images
        scatter = np.zeros((num_values, num_values))
        for part in _parts(num_images, num_values):
            centered = rows[part].astype(np.float64) - mean
            scatter += centered.T @ centered
        total = float(np.trace(scatter))
        eigenvalues, vectors = _largest(scatter, num_components, max(rows.shape))
        components = np.ascontiguousarray(vectors.T)
    else:
        mean, products = np.empty(num_values), np.zeros((num_images, num_images))
        # Blocks of columns: each number is read once.
        for part in _parts(num_values, num_images):
            columns = rows[:, part].astype(np.float64)
            mean[part] = columns.mean(axis=0)
            columns -= mean[part]
            products += columns @ columns.T
        total = float(np.trace(products))
        eigenvalues, vectors = _largest(products, num_components, max(rows.shape))
        lengths = np.sqrt(np.where(eigenvalues > 0, eigenvalues, 1))
        components = np.empty((num_components, num_values))
        for part in _parts(num_values, num_images):
            components[:, part] = (vectors.T @ (rows[:, part].astype(np.float64) - mean[part])) / lengths[:, None]
        # Rounding in the products leaves components of tiny variance neither of length 1 nor orthogonal to the others.
        components = np.ascontiguousarray(np.linalg.qr(components.T)[0].T)
    components[eigenvalues == 0] = 0
    largest = np.abs(components).argmax(axis=1)
    components[components[np.arange(num_components), largest] < 0] *= -1
    return Projection(mean, components, eigenvalues / (num_images - 1), total / (num_images - 1), num_images)


def _largest(matrix: NDArray[np.float64], num: int, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The `num` largest eigenvalues, falling, 0 where they are no more than rounding; eigenvectors in columns."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    found = np.zeros(num)
    num_found = min(num, len(eigenvalues))
    found[:num_found] = eigenvalues[::-1][:num_found]
    found[found <= max(found[0], 0) * size * np.finfo(np.float64).eps] = 0
    chosen = np.zeros((len(matrix), num))
    chosen[:, :num_found] = vectors[:, ::-1][:, :num_found]
    return found, chosen


def _parts(num: int, width: int) -> Iterator[slice]:
    """Slices of `num` lines of `width` numbers, each of at most `BLOCK_BYTES` in float64 and at least one line."""
    step = max(1, BLOCK_BYTES // (8 * width))
    for first in range(0, num, step):
        yield slice(first, min(first + step, num))
