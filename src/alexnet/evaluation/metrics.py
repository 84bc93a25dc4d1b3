"""Error rates, counted exactly by the rule of the original source, with confidence intervals; and every metric's entry.

To add a metric, write a function of `MetricInputs` and add a line to `METRICS`: evaluation files, tables and reports
then contain it.

Counts are fractions, not floats: they add up to the same number in any order and over any number of processes. The
division into an error rate is done once, at the end.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]

_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class ErrorCounts:
    """Errors among `num_images` images; adding two gives the errors among all their images."""

    num_images: int = 0
    top1_wrong: Fraction = Fraction(0)
    """Images minus credit; a whole number unless classes tie."""
    top5_wrong: Fraction = Fraction(0)
    """Images minus credit; a whole number unless classes tie."""
    loss_sum: float = 0.0
    """Sum of -ln p(true class), nats."""

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.num_images + other.num_images,
            self.top1_wrong + other.top1_wrong,
            self.top5_wrong + other.top5_wrong,
            self.loss_sum + other.loss_sum,
        )

    @property
    def top1_error(self) -> float:
        """Fraction of the images whose most probable class is wrong."""
        return float(self.top1_wrong / self._require_images())

    @property
    def top5_error(self) -> float:
        """Fraction of the images whose true class is not among the five most probable."""
        return float(self.top5_wrong / self._require_images())

    @property
    def loss(self) -> float:
        """Mean of -ln p(true class), nats."""
        return self.loss_sum / self._require_images()

    def _require_images(self) -> int:
        if self.num_images == 0:
            raise ValueError("no images were counted; an error rate needs at least one")
        return self.num_images


@dataclass(frozen=True, eq=False)
class MetricInputs:
    """What a metric is computed from."""

    probabilities: Floats
    """(N, K), averaged over the views."""
    labels: Integers
    """(N,), 0 .. K-1."""
    counts: ErrorCounts
    """Over all N images, at least one."""
    per_class: tuple[ErrorCounts, ...]
    """One for each of the K classes."""


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation, and how it is shown."""

    title: str
    """As a table's heading has it."""
    unit: Literal["percent", "nats", "number"]
    """`percent`: the value is a fraction 0..1 and is shown in percent."""
    compute: Callable[[MetricInputs], float]
    interval_key: str | None = None
    """Key of the metric's 95 % interval in evaluation files; None for a metric without one."""
    interval: Callable[[MetricInputs], tuple[float, float]] | None = None
    is_headline: bool = False
    """Whether terminal tables show it too: their 80 columns hold two with intervals."""
    least_classes: int = 1
    """With fewer, it is 0 by definition and is not shown."""

    def says_something(self, num_classes: int) -> bool:
        """Whether it depends on the network, with this number of classes."""
        return num_classes >= self.least_classes


def mean_class_accuracy(inputs: MetricInputs) -> float:
    """Mean over the classes with images of the fraction classified correctly, 0..1; ties count as in `count_errors`."""
    accuracies = [1 - one.top1_error for one in inputs.per_class if one.num_images]
    return sum(accuracies) / len(accuracies)


def count_errors(probabilities: Floats, labels: Integers) -> ErrorCounts:
    """Count errors with the original source's rule for ties.

    An image's k guesses go first to the classes that are strictly more probable than the true one; the classes tied
    with the true one, itself included, share those that remain. The credit is 1 if the remaining guesses suffice for
    all tied classes, (remaining guesses) / (tied classes) if they do not, and 0 if none remain. For k = 1 that is
    1 / #ties; for k = 5 it is 1 as long as #larger + #equal <= 5. With fewer than five classes every top-5 answer is
    right. Values are compared exactly, without tolerance.

    The loss treats a probability that has underflowed as 2^-126, the smallest normal float32 (87.3 nats).

    Args:
        probabilities: (N, K), finite; ties are judged in this precision.
        labels: (N,), 0 .. K-1.

    Raises:
        ValueError: shapes that do not fit, labels out of range, or values that are not finite.
    """
    true, num_larger, num_equal = _rank(probabilities, labels)
    logs = np.log(np.maximum(true.astype(np.float64), _SMALLEST))
    return ErrorCounts(
        len(labels),
        len(labels) - _credit_sum(num_larger, num_equal, 1),
        len(labels) - _credit_sum(num_larger, num_equal, 5),
        -math.fsum(logs.tolist()),
    )


def top_k_credits(probabilities: Floats, labels: Integers, k: int) -> npt.NDArray[np.float64]:
    """The credit 0..1 that `count_errors` gives each image, float64 (N,); an image's error is 1 minus its credit.

    Args:
        probabilities: (N, K), finite; ties are judged in this precision.
        labels: (N,), 0 .. K-1.
        k: 1 for the top-1 error, 5 for the top-5 error.

    Raises:
        ValueError: as `count_errors`, or `k` below 1.
    """
    _, num_larger, num_equal = _rank(probabilities, labels)
    if k < 1:
        raise ValueError(f"k is {k}; allowed is 1 or more")
    credit: npt.NDArray[np.float64] = np.clip(k - num_larger, 0, num_equal) / num_equal
    return credit


def per_class_counts(probabilities: Floats, labels: Integers) -> list[ErrorCounts]:
    """`count_errors` for the images of each of the K classes, in order."""
    _check(probabilities, labels)
    return [count_errors(probabilities[labels == one], labels[labels == one]) for one in range(probabilities.shape[1])]


def confusion_matrix(probabilities: Floats, labels: Integers) -> npt.NDArray[np.int64]:
    """Number of images by true class (row) and most probable class (column), int64 (K, K).

    A tie goes to the class with the lower index, so the diagonal may differ from `count_errors` by ties.
    """
    _check(probabilities, labels)
    num_classes = probabilities.shape[1]
    cells = labels.astype(np.int64) * num_classes + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=num_classes**2).astype(np.int64).reshape(num_classes, num_classes)


def wilson_interval(wrong: Fraction | float, num: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of an error rate.

    With p = wrong / num and z the quantile of the normal distribution at (1 + confidence) / 2:
    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Args:
        wrong: 0 .. num; a fraction if ties were shared.
        num: number of images, at least 1.
        confidence: between 0 and 1, both excluded.

    Returns:
        The ends of the interval, fractions 0..1.

    Raises:
        ValueError: an argument outside those ranges.
    """
    if num < 1 or not 0 <= wrong <= num:
        raise ValueError(
            f"{wrong} wrong of {num} is not an error rate; allowed is 0 up to the number, which is at least 1"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; allowed is between 0 and 1")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    rate = float(Fraction(wrong) / num)
    middle = rate + z * z / (2 * num)
    half = z * math.sqrt(rate * (1 - rate) / num + z * z / (4 * num * num))
    scale = 1 + z * z / num
    # At the extremes the formula gives exactly 0 and 1; rounding must not disturb that.
    low = 0.0 if wrong == 0 else (middle - half) / scale
    high = 1.0 if wrong == num else (middle + half) / scale
    return low, high


def mean_interval(mean: float, num: int) -> tuple[float, float]:
    """A 95 % interval of the mean of `num` numbers between 0 and 1, such as shares: Wilson's with one trial for each.

    For zeros and ones that is `wilson_interval`. Of other numbers it is wider than needed, since none with the same
    mean vary more than zeros and ones.

    Args:
        mean: 0..1; rounding beyond the ends is ignored.
        num: at least 1.
    """
    return wilson_interval(min(max(mean * num, 0.0), num), num)


METRICS: dict[str, Metric] = {
    "top1_error": Metric(
        "top-1 error",
        "percent",
        lambda inputs: inputs.counts.top1_error,
        interval_key="top1_interval",
        interval=lambda inputs: wilson_interval(inputs.counts.top1_wrong, inputs.counts.num_images),
        is_headline=True,
    ),
    "top5_error": Metric(
        "top-5 error",
        "percent",
        lambda inputs: inputs.counts.top5_error,
        interval_key="top5_interval",
        interval=lambda inputs: wilson_interval(inputs.counts.top5_wrong, inputs.counts.num_images),
        is_headline=True,
        least_classes=6,
    ),
    "mean_class_accuracy": Metric("mean class accuracy", "percent", mean_class_accuracy),
    "loss": Metric("loss, nats", "nats", lambda inputs: inputs.counts.loss),
}
"""By key in evaluation files, in the order in which tables show them."""


def _rank(probabilities: Floats, labels: Integers) -> tuple[Floats, Integers, Integers]:
    """Each image's probability of its true class, and how many classes are above it and equal to it; each (N,)."""
    _check(probabilities, labels)
    true = probabilities[np.arange(len(labels)), labels]
    num_larger = np.count_nonzero(probabilities > true[:, None], axis=1)
    num_equal = np.count_nonzero(probabilities == true[:, None], axis=1)
    return true, num_larger, num_equal


def _credit_sum(num_larger: Integers, num_equal: Integers, k: int) -> Fraction:
    """Sum of the credits of all images; see `count_errors`."""
    shared = np.clip(k - num_larger, 0, num_equal)
    return sum(
        (Fraction(int(shared[num_equal == ties].sum()), int(ties)) for ties in np.unique(num_equal)), start=Fraction(0)
    )


def _check(probabilities: Floats, labels: Integers) -> None:
    """Refuse anything but (N, K) finite numbers with N labels in 0 .. K-1."""
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"probabilities have shape {probabilities.shape} and labels {labels.shape}; allowed are (N, K) and (N,)"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}; allowed are integers")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < probabilities.shape[1]:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}; allowed is 0 to {probabilities.shape[1] - 1}"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities contain values that are not finite; no error rate can be computed from them")
