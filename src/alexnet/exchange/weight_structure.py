"""Whether the order of a layer's weights means something: figures of the layer, and of shuffled copies of it.

Drawn weights are in random order, so shuffling changes nothing. Training makes units that differ in length, inputs that
count more than others, directions that many units share, and smooth filters.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

_POWER_STEPS = 20
_OUTLIER_MEDIANS = 15.0
"""Of a normal distribution 10 standard deviations."""
_EQUAL_SPREAD = 0.1
"""Spread of the units or inputs of an orthogonal matrix at most, relative to shuffled copies; rounding is far below."""
MAX_UNITS = 1_024
"""Units of a dense layer that are compared: a random sample of a larger one, as every copy costs seconds otherwise."""
_LARGE = 200_000
"""Weights from which on fewer shuffled copies suffice: figures of large layers vary less."""
_FEW_COPIES, _MANY_COPIES = 8, 32
_LIMITS = {_FEW_COPIES: 7.5, _MANY_COPIES: 4.4}
"""Standard deviations above the mean of so many copies that a figure exceeds with a probability of about 0.0001:
quantiles of Student's t distribution times sqrt(1 + 1 / copies)."""
ERROR_RATE = 0.001
"""At most so many of the layers of random weights are said to have structure: by five figures of about 0.0001 each."""


@dataclass(frozen=True)
class Structure:
    """Figures of a layer's weights, each relative to shuffled copies: 1 is chance, except of correlations."""

    top_singular_value: float
    """Of the weights as a matrix (units, inputs) without their mean."""
    marchenko_pastur: float
    """The layer's largest singular value relative to that which a large matrix of random numbers has."""
    unit_spread: float
    """Standard deviation of the units' sums of squares."""
    input_spread: float
    """Of the inputs' sums of squares; of a convolution of its input channels' and positions'."""
    smoothness: float | None
    """Correlation of neighboring weights of a filter, -1..1; None without filters. Chance is 0."""
    kernel_sums: float | None
    """Largest singular value of the sums of the filters over their positions; None without filters. Training moves the
    weights of a filter together long before they become smooth."""
    beyond_chance: tuple[str, ...]
    """Which of these figures shuffled copies do not reach: names of the attributes."""
    is_orthogonal: bool
    """Whether units, or inputs, have equal norms and the largest singular value is below that of shuffled copies."""


def structure(weight: torch.Tensor) -> Structure:
    """Compare a layer with shuffled copies of itself. The copies are the same in every call.

    Args:
        weight: float32, finite and not all equal: (..., I, k, k) of filters, or (O, I).
    """
    weight = _sampled(weight)
    centered = _without_outliers((weight - weight.mean()).contiguous())
    num = _FEW_COPIES if weight.numel() >= _LARGE else _MANY_COPIES
    own = _figures(centered)
    copies = torch.tensor([list(_figures(copy).values()) for copy in _shuffled(centered, num)], dtype=torch.float64)
    means, stds = copies.mean(0).tolist(), copies.std(0).tolist()
    limit = _LIMITS[num]
    above = {
        name: (value - mean) / std if std > 0 else math.copysign(math.inf, value - mean) if value != mean else 0.0
        for (name, value), mean, std in zip(own.items(), means, stds, strict=True)
    }
    chance = dict(zip(own, means, strict=True))
    rows, columns = _as_matrix(centered).shape
    edge = float(centered.std()) * (math.sqrt(rows) + math.sqrt(columns))
    return Structure(
        top_singular_value=math.exp(own["top_singular_value"] - chance["top_singular_value"]),
        marchenko_pastur=math.exp(own["top_singular_value"]) / edge,
        unit_spread=math.exp(own["unit_spread"] - chance["unit_spread"]),
        input_spread=math.exp(own["input_spread"] - chance["input_spread"]),
        smoothness=own.get("smoothness"),
        kernel_sums=math.exp(own["kernel_sums"] - chance["kernel_sums"]) if "kernel_sums" in own else None,
        beyond_chance=tuple(name for name, value in above.items() if value > limit),
        is_orthogonal=above["top_singular_value"] < -limit
        and min(own[name] - chance[name] for name in ("unit_spread", "input_spread")) < math.log(_EQUAL_SPREAD),
    )


def _sampled(weight: torch.Tensor) -> torch.Tensor:
    """`MAX_UNITS` units of a larger dense layer, drawn at random, the same in every call; other layers as they are."""
    if weight.dim() != 2 or len(weight) <= MAX_UNITS:
        return weight
    numbers = np.random.default_rng(2).choice(len(weight), MAX_UNITS, replace=False)
    chosen = weight[torch.from_numpy(np.sort(numbers))]
    return chosen if bool((chosen != chosen[0, 0]).any()) else weight  # nearly all units are dead


def _without_outliers(centered: torch.Tensor) -> torch.Tensor:
    """The weights limited to 15 times their median magnitude: a few huge ones would outshine all others."""
    largest = _OUTLIER_MEDIANS * float(centered.abs().median())
    return centered.clamp(-largest, largest) if largest else centered


def _figures(weight: torch.Tensor) -> dict[str, float]:
    """The figures of a centered layer; those that are positive as logarithms, which vary more symmetrically."""
    matrix = _as_matrix(weight)
    squares = matrix.square()
    found = {
        "top_singular_value": math.log(top_singular_value(matrix)),
        "unit_spread": _log(float(squares.sum(1, dtype=torch.float64).std())),
        "input_spread": _log(float(squares.sum(0, dtype=torch.float64).std())),
    }
    if weight.dim() > 2 and weight.shape[-1] > 1:
        found["smoothness"] = neighbor_correlation(weight)
        found["kernel_sums"] = math.log(top_singular_value(_as_matrix(weight.sum((-2, -1), keepdim=True))))
    return found


def _log(value: float) -> float:
    return math.log(max(value, 1e-300))


def _as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """(units, inputs); the units of a locally connected layer are those of every position."""
    num_inputs = weight.shape[-1] if weight.dim() == 2 else math.prod(weight.shape[-3:])
    return weight.reshape(-1, num_inputs)


def top_singular_value(matrix: torch.Tensor) -> float:
    """The largest singular value of a matrix, float32, by power iteration: from below, close where it is alone."""
    vector = torch.from_numpy(np.random.default_rng(0).standard_normal(matrix.shape[1], np.float32))
    for _ in range(_POWER_STEPS):
        vector = matrix.T @ (matrix @ (vector / vector.norm()))
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
