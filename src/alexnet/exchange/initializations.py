"""Which of the initializations that people use a layer's weights could have been drawn from, if any."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_MOMENT_WEIGHTS = 1_000_000
"""Weights of which mean and kurtosis are computed: a random sample of a larger layer."""
MAX_FITTED_WEIGHTS = 50_000
"""Weights that are compared with a distribution: few enough that rounding to bfloat16 does not show."""
_Z_LIMIT = 3.9
"""A normal variable is farther from its mean with a probability of 0.0001."""
_KOLMOGOROV_LIMIT = 2.08
"""sqrt(N) times the largest difference of two distribution functions is greater with a probability below 0.0004. Where
the scale is estimated from the same weights, the probability is lower."""
ERROR_RATE = 0.001
"""At most so many of the layers that were drawn from a family are said not to be of it."""
_SCALE_Z_LIMIT = 3.3
"""For the name of the scale alone, which decides nothing."""


@dataclass(frozen=True)
class _Family:
    """A distribution with mean 0 and any scale, by its even moments for variance 1."""

    fourth: float
    sixth: float
    eighth: float

    def kurtosis_error(self, num: int) -> float:
        """Standard error of m4 / m2^2 of `num` weights."""
        variance = (
            (self.eighth - self.fourth**2)
            - 4 * self.fourth * (self.sixth - self.fourth)
            + 4 * self.fourth**2 * (self.fourth - 1)
        )
        return math.sqrt(variance / num)


def _normal_cdf(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.array([math.erf(one) for one in (values / math.sqrt(2)).tolist()]))


_CUT = 2.0
"""Standard deviations at which a truncated normal distribution ends."""
_CUT_MASS = math.erf(_CUT / math.sqrt(2))
_CUT_DENSITY = math.exp(-(_CUT**2) / 2) / math.sqrt(2 * math.pi)


def _truncated_moments() -> tuple[float, ...]:
    """Second, fourth, sixth and eighth moment of a standard normal variable within -2..2."""
    moments = [1.0]
    for order in (2, 4, 6, 8):
        moments.append((order - 1) * moments[-1] - 2 * _CUT ** (order - 1) * _CUT_DENSITY / _CUT_MASS)
    return tuple(moments[1:])


_SECOND, *_HIGHER = _truncated_moments()
TRUNCATED_STD = math.sqrt(_SECOND)
"""Standard deviation of a standard normal variable within -2..2: 0.8796."""
_FAMILIES: Mapping[str, _Family] = {
    "normal": _Family(3, 15, 105),
    "truncated normal": _Family(*(moment / _SECOND ** (2 + number) for number, moment in enumerate(_HIGHER))),
    "uniform": _Family(9 / 5, 27 / 7, 9),
}


@dataclass(frozen=True)
class Distribution:
    """How the weights of a layer are distributed, whatever their order."""

    mean: float
    std: float
    excess_kurtosis: float
    """0 for a normal distribution, -1.2 for a uniform one, above 0 with heavy tails."""
    family: str | None
    """`normal`, `truncated normal`, `uniform`, or None: none of them, with `ERROR_RATE`."""
    text: str
    """In words: `uniform within 1/sqrt(fan-in), as torch draws it`, `not an initialization's (excess kurtosis 4.2)`."""


def distribution(weights: NDArray[np.float32], fan_in: int, fan_out: int) -> Distribution:
    """The distribution of a layer's weights, which are finite and not all equal.

    A family fits if mean, kurtosis and distribution function all differ from it by no more than chance allows.

    Args:
        weights: of any shape.
        fan_in: inputs of a unit.
        fan_out: as torch counts it, output channels times the positions of a kernel.
    """
    flat, generator = weights.reshape(-1), np.random.default_rng(0)
    sample = flat if len(flat) <= MAX_MOMENT_WEIGHTS else generator.choice(flat, MAX_MOMENT_WEIGHTS)
    values = sample.astype(np.float64)
    num, mean = len(values), float(values.mean())
    second = float(np.mean(values**2))
    std, kurtosis = math.sqrt(second), float(np.mean((values / math.sqrt(second)) ** 4))
    few = values if num <= MAX_FITTED_WEIGHTS else generator.choice(values, MAX_FITTED_WEIGHTS, replace=False)
    ordered = np.sort(few)
    distances = {
        name: distance
        for name, family in _FAMILIES.items()
        if abs(mean) < _Z_LIMIT * std / math.sqrt(num)
        and abs(kurtosis - family.fourth) < _Z_LIMIT * family.kurtosis_error(num)
        and (distance := _distance(ordered, name, std, float(np.abs(flat).max()))) * math.sqrt(len(few))
        < _KOLMOGOROV_LIMIT
    }
    excess = kurtosis - 3
    best = min(distances, key=distances.__getitem__, default=None)
    if best is None:
        shifted = abs(mean) >= _Z_LIMIT * std / math.sqrt(num)
        off_center = f", mean {mean / std:+.3f} std" if shifted else ""
        return Distribution(
            mean, std, excess, None, f"not an initialization's (excess kurtosis {excess:.2g}{off_center})"
        )
    error = math.sqrt((_FAMILIES[best].fourth - 1) / (4 * num))
    return Distribution(mean, std, excess, best, f"{best}, {_scale_name(best, std, error, fan_in, fan_out)}")


def is_uniform_within(values: NDArray[np.float32], bound: float) -> bool:
    """Whether values could be uniform within -bound..bound; 4 in 10,000 that are do not pass."""
    if float(np.abs(values).max()) > bound * (1 + 1e-6):
        return False
    distance = _distance(np.sort(values.astype(np.float64)), "uniform", 0.0, bound)
    return distance * math.sqrt(len(values)) < _KOLMOGOROV_LIMIT


def _distance(ordered: NDArray[np.float64], family: str, std: float, largest: float) -> float:
    """The largest difference between the distribution function of sorted values and that of a family."""
    num = len(ordered)
    if family == "uniform":
        expected = (ordered / largest + 1) / 2
    elif family == "normal":
        expected = _normal_cdf(ordered / std)
    else:
        expected = np.clip((_normal_cdf(ordered / std * TRUNCATED_STD) - 0.5) / _CUT_MASS + 0.5, 0, 1)
    above = np.arange(1, num + 1) / num - expected
    return float(max(above.max(), (1 / num - above).max()))


def _scale_name(family: str, std: float, error: float, fan_in: int, fan_out: int) -> str:
    """The rule that gives this scale; its bound or standard deviation where no known one does.

    Args:
        error: standard error of the estimated `std`, relative.
    """
    if family == "uniform":
        rules = {
            "within 1/sqrt(fan-in), as torch draws it": 1 / fan_in,
            "within sqrt(6/(fan-in + fan-out)), as Xavier draws it": 6 / (fan_in + fan_out),
            "within sqrt(6/fan-in), as He draws it": 6 / fan_in,
        }
        to_std = 1 / math.sqrt(3)
    else:
        rules = {
            "std sqrt(2/fan-in), as He draws it": 2 / fan_in,
            "std sqrt(2/fan-out), as He draws it": 2 / fan_out,
            "std sqrt(2/(fan-in + fan-out)), as Xavier draws it": 2 / (fan_in + fan_out),
            "std sqrt(1/fan-in), as LeCun draws it": 1 / fan_in,
        }
        to_std = 1.0
    offs = {name: abs(math.log(std / (math.sqrt(value) * to_std))) for name, value in rules.items()}
    best = min(offs, key=offs.__getitem__)
    if offs[best] < _SCALE_Z_LIMIT * error:
        return best
    if family == "uniform":
        return f"within {std / to_std:.3g}"
    if family == "truncated normal":
        return f"std {_rounded(std, error)} ({_rounded(std / TRUNCATED_STD, error)} before truncation)"
    return f"std {_rounded(std, error)}"


def _rounded(std: float, error: float) -> str:
    """One digit where that is within the error of estimating it, else three."""
    short = f"{std:.1g}"
    return f"{float(short):g}" if abs(math.log(std / float(short))) < _SCALE_Z_LIMIT * error else f"{std:.3g}"
