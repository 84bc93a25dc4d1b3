"""Whether the order of a layer's weights means something: figures of the layer, and of shuffled copies of it.

Drawn weights are in random order, so shuffling changes nothing. Training makes inputs that count more than others,
directions that many units share, and smooth filters. Weights are shuffled within each unit only, and every unit is
brought to the same scale before, so that units that are drawn with scales of their own (columns of a network, pruned
units) do not look trained.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

_POWER_STEPS = 20
_OUTLIER_MEDIANS = 15.0
"""Of a normal distribution 10 standard deviations."""
_DEAD_NORM = 1e-6
"""Norm of a dead unit's weights at most, relative to the median of the units that are not 0."""
_MAX_GRAM = 256
"""Units or inputs whose scalar products are computed."""
_MIN_GRAM = 8
_ORTHOGONAL = 0.01
"""Scalar products of orthogonal units at most, relative to their squares: float16 rounds. Random ones are greater."""
MAX_UNITS = 1_024
"""Units of a dense layer that are compared: a random sample of a larger one, as every copy costs seconds otherwise."""
_LARGE = 200_000
"""Weights from which on fewer shuffled copies suffice: figures of large layers vary less."""
_FEW_COPIES, _MANY_COPIES = 8, 32
_LIMITS = {_FEW_COPIES: 7.5, _MANY_COPIES: 4.4}
"""Standard deviations above the mean of so many copies that a figure exceeds with a probability of about 0.0001:
quantiles of Student's t distribution times sqrt(1 + 1 / copies)."""
_ROUNDING = 1e-4
"""Standard deviations of figures of copies are taken as at least this: below, only rounding differs."""
ERROR_RATE = 0.001
"""At most so many of the layers in which each unit's weights were drawn independently from one distribution are said to
be ordered: by four figures of about 0.0001 each."""


@dataclass(frozen=True)
class Structure:
    """Figures of a layer's weights, each relative to shuffled copies: 1 is chance, except of the correlation."""

    top_singular_value: float
    """Of the weights as a matrix (units, inputs), each unit without its mean and with a standard deviation of 1."""
    unit_spread: float | None
    """Standard deviation of the units' sums of squares, relative to copies that are shuffled across units; None of a
    single unit."""
    input_spread: float
    """Of the inputs' sums of squares; of a convolution of its input channels' and positions'."""
    smoothness: float | None
    """Correlation of neighboring weights of a filter, -1..1; None without filters. Chance is 0."""
    kernel_sums: float | None
    """Largest singular value of the sums of the filters over their positions; None without filters or with a single
    input channel. Training moves the weights of a filter together long before they become smooth."""
    beyond_chance: tuple[str, ...]
    """Which of these figures shuffled copies do not reach: names of the attributes."""

    @property
    def is_ordered(self) -> bool:
        """Whether more than the norms of the units is beyond chance, which may be drawn with scales of their own."""
        return any(one != "unit_spread" for one in self.beyond_chance)


def structure(weight: torch.Tensor) -> Structure | None:
    """Compare a layer with shuffled copies of itself. The copies are the same in every call.

    Args:
        weight: float32, finite: (..., I, k, k) of filters, or (O, I).

    Returns:
        The figures of the units that are not dead; None if all are, or have a single weight.
    """
    alive = _sampled(living_part(weight))
    if not alive.numel() or alive[0].numel() < 2:
        return None
    values = _without_outliers(_standardized(alive))
    rows = values.flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    rows /= rows.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
    own, chance, beyond = _compared(rows.reshape(values.shape), _order_figures, _shuffled_within_units)
    unit_spread = None
    if len(values) > 1:
        spread, spread_chance, spread_beyond = _compared(values, _unit_figure, _shuffled)
        unit_spread = math.exp(spread["unit_spread"] - spread_chance["unit_spread"])
        beyond += spread_beyond
    return Structure(
        top_singular_value=math.exp(own["top_singular_value"] - chance["top_singular_value"]),
        unit_spread=unit_spread,
        input_spread=math.exp(own["input_spread"] - chance["input_spread"]),
        smoothness=own.get("smoothness"),
        kernel_sums=math.exp(own["kernel_sums"] - chance["kernel_sums"]) if "kernel_sums" in own else None,
        beyond_chance=beyond,
    )


def dead_units(units: torch.Tensor) -> torch.Tensor:
    """Which rows of (units, inputs) are all equal or tiny, bool (units,)."""
    rows = units.numpy()
    norms = np.sqrt(np.einsum("ui,ui->u", rows, rows, dtype=np.float64))  # in blocks: no second matrix in float64
    is_dead = norms <= _DEAD_NORM * np.median(norms[norms > 0]) if norms.any() else np.ones(len(norms), np.bool_)
    if rows.shape[1] > 1:
        is_dead |= rows.min(1) == rows.max(1)
    return torch.from_numpy(is_dead)


def living_part(weight: torch.Tensor) -> torch.Tensor:
    """The weights (units, I, k, k) or (units, I) without dead units and without inputs that are 0 in all others."""
    units = weight.reshape(-1, *weight.shape[-3:]) if weight.dim() > 2 else weight
    is_dead = dead_units(units.flatten(1))
    alive = units[~is_dead] if bool(is_dead.any()) else units
    is_read = (alive != 0).any(0)
    if is_read.dim() > 1:
        is_read = is_read.any(-1).any(-1)
    return alive if bool(is_read.all()) else alive[:, is_read]


def is_orthogonal(alive: torch.Tensor) -> bool:
    """Whether units, or inputs, have equal norms and scalar products of 0.

    Args:
        alive: see `living_part`.
    """
    matrix = alive.flatten(1)
    if min(matrix.shape, default=0) < _MIN_GRAM:
        return False
    vectors = (matrix if len(matrix) <= matrix.shape[1] else matrix.T)[:_MAX_GRAM].double()
    gram = vectors @ vectors.T
    gram /= gram.diagonal().mean()
    return bool((gram - torch.eye(len(gram), dtype=gram.dtype)).abs().max() < _ORTHOGONAL)


def _sampled(alive: torch.Tensor) -> torch.Tensor:
    """`MAX_UNITS` units of a larger dense layer, drawn at random, the same in every call; other layers as they are."""
    if alive.dim() != 2 or len(alive) <= MAX_UNITS:
        return alive
    numbers = np.random.default_rng(2).choice(len(alive), MAX_UNITS, replace=False)
    return alive[torch.from_numpy(np.sort(numbers))]


def _standardized(weight: torch.Tensor) -> torch.Tensor:
    """Without the mean, and with a standard deviation of 1, whatever the scale: float32 would underflow in squares."""
    values = weight.double()
    values = values - values.mean()
    return (values / values.square().mean().sqrt()).float()


def _without_outliers(values: torch.Tensor) -> torch.Tensor:
    """The weights limited to 15 times their median magnitude: a few huge ones would outshine all others."""
    largest = _OUTLIER_MEDIANS * float(values.abs().median())
    return values.clamp(-largest, largest) if largest else values


_Figures = dict[str, float]


def _compared(
    values: torch.Tensor,
    figures: Callable[[torch.Tensor], _Figures],
    shuffled: Callable[[torch.Tensor, int], Iterator[torch.Tensor]],
) -> tuple[_Figures, _Figures, tuple[str, ...]]:
    """Figures of values, their means in shuffled copies, and the names of those that the copies do not reach."""
    num = _FEW_COPIES if values.numel() >= _LARGE else _MANY_COPIES
    own = figures(values)
    copies = torch.tensor([list(figures(copy).values()) for copy in shuffled(values, num)], dtype=torch.float64)
    means, stds = copies.mean(0).tolist(), copies.std(0).tolist()
    beyond = tuple(
        name
        for (name, value), mean, std in zip(own.items(), means, stds, strict=True)
        if value - mean > _LIMITS[num] * max(std, _ROUNDING)
    )
    return own, dict(zip(own, means, strict=True)), beyond


def _order_figures(values: torch.Tensor) -> _Figures:
    """Of units of one scale; those that are positive as logarithms, which vary more symmetrically."""
    matrix = values.flatten(1)
    found = {
        "top_singular_value": _log(top_singular_value(matrix)),
        "input_spread": _log(float(matrix.square().sum(0, dtype=torch.float64).std())),
    }
    if values.dim() > 2 and values.shape[-1] > 1:
        found["smoothness"] = neighbor_correlation(values)
        if values.shape[1] > 1:
            found["kernel_sums"] = _log(top_singular_value(values.sum((-2, -1))))
    return found


def _unit_figure(values: torch.Tensor) -> _Figures:
    return {"unit_spread": _log(float(values.flatten(1).square().sum(1, dtype=torch.float64).std()))}


def _log(value: float) -> float:
    return math.log(max(value, 1e-30))


def top_singular_value(matrix: torch.Tensor) -> float:
    """The largest singular value of a matrix, float32, by power iteration: from below, close where it is alone.

    Its squares must be within float32's range.
    """
    vector = torch.from_numpy(np.random.default_rng(0).standard_normal(matrix.shape[1], np.float32))
    for _ in range(_POWER_STEPS):
        vector = matrix.T @ (matrix @ (vector / vector.norm()))
        if not vector.any():
            return 0.0
    return float((matrix @ (vector / vector.norm())).norm())


def neighbor_correlation(weight: torch.Tensor) -> float:
    """Correlation of weights with their neighbors to the right and below, (..., k, k) without a mean, -1..1."""
    pairs = ((weight[..., 1:, :], weight[..., :-1, :]), (weight[..., 1:], weight[..., :-1]))
    products = sum(float((first * second).sum(dtype=torch.float64)) for first, second in pairs)
    squares = sum(float((first.square() + second.square()).sum(dtype=torch.float64)) / 2 for first, second in pairs)
    return products / squares if squares > 0 else 0.0


def shuffled_copy(weight: torch.Tensor) -> torch.Tensor:
    """The weights in random order, the same in every call."""
    return next(_shuffled(weight, 1))


def _shuffled(weight: torch.Tensor, num: int) -> Iterator[torch.Tensor]:
    """Copies with the weights in random order, one after the other in the same memory."""
    generator = np.random.default_rng(1)
    flat = weight.detach().cpu().numpy().reshape(-1).copy()
    for _ in range(num):
        generator.shuffle(flat)
        yield torch.from_numpy(flat).reshape(weight.shape)


def _shuffled_within_units(values: torch.Tensor, num: int) -> Iterator[torch.Tensor]:
    """Copies with the weights of each unit in random order, one after the other in the same memory."""
    generator = np.random.default_rng(1)
    rows = values.flatten(1).numpy().copy()
    for _ in range(num):
        generator.permuted(rows, axis=1, out=rows)
        yield torch.from_numpy(rows).reshape(values.shape)
