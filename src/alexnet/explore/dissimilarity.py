"""How differently a layer represents images: matrices of dissimilarities, and how far two of them agree.

Representational similarity analysis (Kriegeskorte, Mur and Bandettini, 2008) compares networks, layers and brains by
the dissimilarities of the same images, whose number does not depend on that of units.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from alexnet.errors import RequestError
from alexnet.explore.activation_rows import ActivationRows, require_equal_lengths, row_blocks
from alexnet.figures.dissimilarity_matrix import dissimilarity_matrix_figure
from alexnet.figures.figure_style import svg_element
from alexnet.figures.notebook_html import result_html

MOST_IMAGES = 20_000
"""Their dissimilarities take 1.6 GB."""
Metric = Literal["correlation", "euclidean", "cosine"]
Agreement = Literal["spearman", "kendall", "pearson", "cosine"]
_CLOSE = 1e-6
"""Fraction of the squared lengths below which a squared distance is computed from the difference of the rows."""
_EQUAL = 1e-13
"""So also 1 - the product of unit vectors: below, nothing but rounding would remain, which differs among blocks."""


@dataclass(frozen=True, eq=False)
class Dissimilarities:
    """The dissimilarity of each pair of N images."""

    condensed: NDArray[np.float64]
    """(N (N - 1) / 2,): pairs (0, 1), (0, 2), ..., (1, 2), ...: the upper triangle row by row, as SciPy's `pdist` and
    rsatoolbox's `RDMs` have it."""
    num_images: int
    metric: Metric

    def __repr__(self) -> str:
        return f"Dissimilarities({self.metric}, {self.num_images:,} images, mean {self.condensed.mean():.4g})"

    def _repr_html_(self) -> str:
        picture = svg_element(self.figure(), "dissimilarities", f"matrix of {self.num_images} images")
        return result_html(repr(self), Markup(f'<div style="max-width: 480px">{picture}</div>'))

    def square(self) -> NDArray[np.float64]:
        """The matrix, (N, N), symmetric with zeros on the diagonal."""
        matrix = np.zeros((self.num_images, self.num_images))
        for row in range(self.num_images - 1):
            offset = _offset(row, self.num_images)
            matrix[row, row + 1 :] = self.condensed[offset + row + 1 : offset + self.num_images]
            matrix[row + 1 :, row] = matrix[row, row + 1 :]
        return matrix

    def to_dict(self) -> dict[str, Any]:
        """Metric, number of images, and the dissimilarities as `condensed` has them."""
        return {"metric": self.metric, "images": self.num_images, "condensed": self.condensed.tolist()}

    def figure(self, labels: ArrayLike | None = None, classes: Sequence[str] = (), title: str = "") -> Figure:
        """The matrix as a picture, the images in the order of their labels if there are some.

        Args:
            labels: (N,), index into `classes`.
            classes: their names.
            title: of the picture.
        """
        numbers = None if labels is None else np.asarray(labels)
        if numbers is not None:
            require_equal_lengths("dissimilarities and labels", [self.num_images, len(numbers)])
        return dissimilarity_matrix_figure(self.square(), _SCALES[self.metric], numbers, classes, title)


_SCALES = {
    "correlation": "1 - Pearson correlation",
    "euclidean": "Euclidean distance",
    "cosine": "1 - cosine similarity",
}


def dissimilarity(activations: ArrayLike, metric: Metric = "correlation") -> Dissimilarities:
    """The dissimilarity of each pair of images, in float64, from blocks of at most 128 MiB.

    Args:
        activations: (N, ...), N from 2 to 20,000: an array, or one of `Features.activations`; those of a layer with
            positions are flattened.
        metric: `correlation`: 1 - Pearson's correlation of the rows, 0..2; `euclidean`: their distance (rsatoolbox's
            measure of this name is its square over D); `cosine`: 1 - the cosine of their angle, 0..2.

    Raises:
        RequestError: another metric, fewer or more images, activations that are not finite, or rows of which the
            metric is not defined: for `correlation` those that are constant, for `cosine` those that are zero.
    """
    if metric not in get_args(Metric):
        raise RequestError(f"the metric is {metric!r}; allowed is {', '.join(get_args(Metric))}")
    rows = ActivationRows(activations)
    if not 2 <= len(rows) <= MOST_IMAGES:
        raise RequestError(f"dissimilarities of {len(rows):,} images; allowed is 2 to {MOST_IMAGES:,}")
    prepared = _preparation(rows, metric)
    condensed = np.empty(len(rows) * (len(rows) - 1) // 2)
    blocks = row_blocks(rows)
    for first in blocks:
        a = prepared(first)
        for second in blocks:
            if second.start < first.start:
                continue
            b = a if second == first else prepared(second)
            block = _distances(a, b) if metric == "euclidean" else _angles(a, b)
            for row in range(first.start, first.stop):
                begin, offset = max(row + 1, second.start), _offset(row, len(rows))
                condensed[offset + begin : offset + second.stop] = block[row - first.start, begin - second.start :]
    return Dissimilarities(condensed, len(rows), metric)


def _offset(row: int, num_images: int) -> int:
    """What is added to a column, above the diagonal, for the pair's place in `Dissimilarities.condensed`."""
    return row * (2 * num_images - row - 1) // 2 - row - 1


def _preparation(rows: ActivationRows, metric: Metric) -> Callable[[slice], NDArray[np.float64]]:
    """A function that reads rows of which products or distances are to be computed."""
    if metric == "euclidean":
        mean = rows.mean()  # distances stay, and rounding is that of the spread
        return lambda part: rows.block(part) - mean

    def normalized(part: slice) -> NDArray[np.float64]:
        values = rows.block(part)
        if metric == "correlation":
            largest = np.abs(values).max(axis=1, keepdims=True)
            values -= values.mean(axis=1, keepdims=True)
            values[np.abs(values).max(axis=1) <= 1e-13 * largest[:, 0]] = 0  # constant but for rounding
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        if num_undefined := int((lengths == 0).sum()):
            what = "constant" if metric == "correlation" else "zero"
            raise RequestError(
                f"the activations of {num_undefined:,} images are {what}, such as those of image "
                f"{part.start + int(lengths.argmin())}, so their {metric} is not defined; leave these images out, or "
                "use the metric euclidean"
            )
        values /= lengths
        return values

    return normalized


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean distances of the rows, (len(a), len(b)); those of rows that almost agree from their differences."""
    sizes = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)
    squared: NDArray[np.float64] = sizes - 2 * (a @ b.T)
    for row, columns in _chosen(squared < _CLOSE * sizes):
        squared[row, columns] = [((a[row] - b[column]) ** 2).sum() for column in columns]
    return np.sqrt(squared)


def _angles(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - the products of the rows, which are unit vectors, (len(a), len(b)); exactly 0 of equal rows."""
    found: NDArray[np.float64] = np.clip(1 - a @ b.T, 0, 2)
    for row, columns in _chosen(found < _EQUAL):
        found[row, columns] = [((a[row] - b[column]) ** 2).sum() / 2 for column in columns]
    return found


def _chosen(is_chosen: NDArray[np.bool_]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """The rows of a matrix with chosen columns."""
    for row in np.flatnonzero(is_chosen.any(axis=1)).tolist():
        yield row, np.flatnonzero(is_chosen[row])


def compare_dissimilarities(
    first: Dissimilarities | ArrayLike, second: Dissimilarities | ArrayLike, method: Agreement = "spearman"
) -> float:
    """How far two matrices of dissimilarities agree, -1..1.

    The pairs of images are not independent of each other: no interval follows from this number alone.

    Args:
        first: dissimilarities, or an array (M,) in the order of `Dissimilarities.condensed`.
        second: of the same images, of any layer, network or measurement.
        method: `spearman`: correlation of ranks, equal values with their mean rank; `kendall`: tau-b, which needs
            SciPy; `pearson`; `cosine`.

    Raises:
        RequestError: another method, different numbers of pairs, values that are all equal or not finite, or SciPy is
            not installed.
    """
    if method not in get_args(Agreement):
        raise RequestError(f"the method is {method!r}; allowed is {', '.join(get_args(Agreement))}")
    a, b = (_pairs(one) for one in (first, second))
    if len(a) != len(b):
        raise RequestError(f"dissimilarities of {len(a):,} and {len(b):,} pairs; name the same images")
    if method == "kendall":
        try:
            from scipy.stats import kendalltau
        except ImportError as error:
            raise RequestError(
                "Kendall's tau needs SciPy, which is not installed; run: pip install 'alexnet[baselines]'"
            ) from error
        return float(kendalltau(a, b).statistic)
    if method == "spearman":
        a, b = _ranks(a), _ranks(b)
    if method != "cosine":
        a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def _pairs(given: Dissimilarities | ArrayLike) -> NDArray[np.float64]:
    array = given.condensed if isinstance(given, Dissimilarities) else np.asarray(given, np.float64)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all() or (array == array[0]).all():
        raise RequestError(
            f"dissimilarities are an array {array.shape}; allowed is (M,), the finite numbers of 2 or more pairs, not "
            "all equal"
        )
    return array


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values have the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts + 1) / 2)[inverse]
    return ranks
