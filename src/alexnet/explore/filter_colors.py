"""How much color the first layer's filters have, and whether the columns differ in it. Paper: figure 3, section 6.1.

The color of a filter is the share of its energy outside of gray: at each of its positions, the weights of red, green
and blue are split into their mean, which sees gray, and the rest, which sees differences between colors. The squares of
the rest, divided by the squares of all weights, are the share: 0 is a filter that sees only gray, 1 one that sees only
differences between colors, such as red against green. Weights drawn at random have 2/3 on average. A filter's strength
does not matter.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError, WorkError
from alexnet.model.layer_specs import Convolution, NetworkSpec, WeightedSpec
from alexnet.model.network import AlexNet

RANDOM_COLOR = 2 / 3
"""Mean color of filters whose weights are drawn independently from one distribution."""
MOST_DIVISIONS = 100_000
"""Up to this number, all divisions of the filters into columns are compared; otherwise one less is drawn at random."""
_ROWS = 5_000
# Sums of the same numbers in another order differ by less.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class ColorTest:
    """The color of a network's first filters, and a permutation test of the difference between its columns.

    The test compares the observed difference of the columns' mean colors, whichever column has more (two-sided), with
    those of other divisions of the same filters into columns of the same sizes. Its null hypothesis: each division was
    equally likely. A small p-value means that this network's columns differ more than columns do that ignore color; it
    says nothing of other networks, of which each gives one p-value.
    """

    colors: NDArray[np.float64]
    """(F,), 0..1; NaN of a filter whose weights are all 0, which takes no part."""
    norms: NDArray[np.float64]
    """(F,): square root of the sum of a filter's squared weights."""
    columns: int
    difference: float | None
    """Largest less smallest mean color of the columns; None with one column, or if a column has no color to measure."""
    p_value: float | None
    """Share of the divisions, the observed one included, whose columns differ at least as much; None as above."""
    num_divisions: int
    """Divisions that were compared with the observed one; 0 without a test."""
    is_exact: bool
    """Whether these are all possible divisions, the observed one among them, rather than random ones."""
    seed: int
    """Draws the random divisions."""

    def __repr__(self) -> str:
        return f"ColorTest({self.describe()})"

    @property
    def column_means(self) -> tuple[float | None, ...]:
        """Mean color of each column's filters; None of a column of zeros."""
        return tuple(_mean(one) for one in np.split(self.colors, self.columns))

    def describe(self) -> str:
        """The result in a sentence or two."""
        means = ["-" if one is None else f"{one:.2f}" for one in self.column_means]
        if self.columns == 1:
            return f"mean color of the {len(self.colors)} filters: {means[0]}; the network has no columns to compare"
        text = f"mean color of the columns: {' and '.join(means)}"
        if self.p_value is None or self.difference is None:
            return f"{text}; not tested: a column has no weights other than 0"
        which = f"all {self.num_divisions:,} divisions" if self.is_exact else f"{self.num_divisions:,} random divisions"
        return f"{text}; p = {_p_text(self.p_value)} (two-sided permutation test, {which} of the filters)"

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        colors, norms = (np.split(one, self.columns) for one in (self.colors, self.norms))
        return {
            "measure": "share of a filter's squared weights outside of the gray direction of RGB, 0 to 1",
            "mean_of_random_weights": RANDOM_COLOR,
            "columns": [
                {
                    "mean_color": mean,
                    "colors": [None if math.isnan(one) else float(one) for one in colors[column]],
                    "norms": norms[column].tolist(),
                }
                for column, mean in enumerate(self.column_means)
            ],
            "difference": self.difference,
            "p_value": self.p_value,
            "two_sided": True,
            "divisions": self.num_divisions,
            "exact": self.is_exact,
            "seed": self.seed,
        }


@dataclass(frozen=True, eq=False)
class FirstFilters:
    """The filters of a network's first layer."""

    layer: str
    weights: NDArray[np.float64]
    """(F, 3, h, w), RGB, as they act on pixels: times the network's factor for each color."""
    columns: int
    """Those of the layer, see `layer_columns`."""


def layer_columns(network: NetworkSpec, layer: str) -> int:
    """Into how many columns the channels of a layer are divided: the first half of them is the first of two columns.

    A column's channels are computed from those of the same column alone, or alone go into the same column of the next
    layer with weights: so the first layer, which reads the image, is in columns if the second is.
    """
    own = following = None
    names = [one.name for one in network.named_layers]
    for number, one in enumerate(network.named_layers):
        if isinstance(one.spec, WeightedSpec):
            if number <= names.index(layer):
                own = one.spec
            elif following is None:
                following = one.spec
    return max(int(getattr(one, "columns", 1)) for one in (own, following))


def first_filters(network: AlexNet) -> FirstFilters:
    """The filters of the first layer of a network.

    Raises:
        RequestError: the first layer with weights is not a convolution, so that it has no filters for the whole image.
    """
    return spec_filters(network.spec, lambda name: network.get_parameter(name).detach().double().cpu().numpy())


def spec_filters(spec: NetworkSpec, read: Callable[[str], NDArray[np.floating[Any]]]) -> FirstFilters:
    """The filters of the first layer of a network, given by its specification and its parameters by name.

    Raises:
        RequestError: as `first_filters`.
    """
    first = next(layer for layer in spec.named_layers if isinstance(layer.spec, WeightedSpec))
    if not isinstance(first.spec, Convolution):
        raise RequestError(
            f"the first layer of the network, {first.name}, is not a convolution, so it has no filters "
            "to draw; name another layer to see its image patches"
        )
    weights = read(f"{first.name}.weight").astype(np.float64)
    scale = np.broadcast_to(np.array(spec.input_scale, np.float64), 3)
    return FirstFilters(first.name, weights * scale[:, None, None], layer_columns(spec, first.name))


def color_shares(filters: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The color of each filter, 0..1, as the module describes it; NaN of a filter of zeros.

    Args:
        filters: (F, 3, h, w), RGB, as they act on pixels.
    """
    values = filters.astype(np.float64)
    # Of tiny weights, squares would vanish.
    largest = np.abs(values).max(axis=(1, 2, 3), keepdims=True)
    values = np.divide(values, largest, out=np.full_like(values, np.nan), where=largest > 0)
    rest = values - values.mean(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.square(rest).sum(axis=(1, 2, 3)) / np.square(values).sum(axis=(1, 2, 3))
    return shares


def color_test(filters: NDArray[np.floating[Any]], columns: int, *, seed: int = 0) -> ColorTest:
    """Measure the color of filters, and compare the columns by a permutation test.

    Args:
        filters: (F, 3, h, w), RGB, as they act on pixels, finite; those of the first column come first.
        columns: 1 or more, of equally many filters; with 1 there is nothing to test.
        seed: draws the divisions where there are too many to compare all.

    Raises:
        RequestError: filters of another shape, or that do not divide into the columns.
        WorkError: weights that are not finite.
    """
    if filters.ndim != 4 or filters.shape[1] != 3 or filters.size == 0:
        raise RequestError(f"the filters have shape {filters.shape}; allowed is (F, 3, h, w): red, green and blue")
    if columns < 1 or len(filters) % columns:
        raise RequestError(f"{len(filters)} filters do not divide into {columns} columns of the same size")
    if not np.isfinite(filters).all():
        raise WorkError(
            "the filters have weights that are not finite: the training has diverged; train again with a lower "
            "learning rate"
        )
    colors = color_shares(filters)
    norms = np.linalg.norm(filters.astype(np.float64).reshape(len(filters), -1), axis=1)
    known = [one[~np.isnan(one)] for one in np.split(colors, columns)]
    if columns == 1 or not all(map(len, known)):
        return ColorTest(colors, norms, columns, None, None, num_divisions=0, is_exact=False, seed=seed)
    sizes = [*map(len, known)]
    values = np.concatenate(known)
    difference = float(_differences(values[None], sizes)[0])
    is_exact = columns == 2 and math.comb(len(values), sizes[0]) <= MOST_DIVISIONS
    others = _all_differences(values, sizes) if is_exact else _random_differences(values, sizes, seed)
    count = int((others >= difference - _ROUNDING).sum())
    # Random divisions do not include the observed one, which the null hypothesis counts too.
    p_value = count / len(others) if is_exact else (count + 1) / (len(others) + 1)
    return ColorTest(colors, norms, columns, difference, p_value, len(others), is_exact, seed)


def _differences(divided: NDArray[np.float64], sizes: list[int]) -> NDArray[np.float64]:
    """Largest less smallest mean of the columns, for each row of values in the order of the columns."""
    starts = np.cumsum([0, *sizes[:-1]])
    means = np.add.reduceat(divided, starts, axis=1) / sizes
    differences: NDArray[np.float64] = means.max(axis=1) - means.min(axis=1)
    return differences


def _all_differences(values: NDArray[np.float64], sizes: list[int]) -> NDArray[np.float64]:
    """Of all divisions into two columns."""
    chosen = np.fromiter(chain.from_iterable(combinations(range(len(values)), sizes[0])), np.int64)
    first = values[chosen.reshape(-1, sizes[0])].sum(axis=1)
    differences: NDArray[np.float64] = np.abs(first / sizes[0] - (values.sum() - first) / sizes[1])
    return differences


def _random_differences(values: NDArray[np.float64], sizes: list[int], seed: int) -> NDArray[np.float64]:
    generator, left, found = np.random.default_rng(seed), MOST_DIVISIONS - 1, []
    while left:
        rows = min(left, _ROWS)
        found.append(_differences(generator.permuted(np.tile(values, (rows, 1)), axis=1), sizes))
        left -= rows
    return np.concatenate(found)


def _mean(colors: NDArray[np.float64]) -> float | None:
    known = colors[~np.isnan(colors)]
    return float(known.mean()) if len(known) else None


def _p_text(p_value: float) -> str:
    """Two digits, without an exponent."""
    return np.format_float_positional(float(f"{p_value:.2g}"), trim="-")
