"""Error rates as the original source counts them, exactly, with their intervals.

Counts are fractions, not floats: they add up to the same number in any order and over any number of
processes, and the division into a rate is done once, at the end.
"""

import math
import statistics
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]

_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class ErrorCounts:
    """Errors among `num` images; two of them add up to the errors among all their images."""

    num: int = 0
    top1_wrong: Fraction = Fraction(0)
    """Images less credit; whole unless classes tie."""
    top5_wrong: Fraction = Fraction(0)
    """Images less credit; whole unless classes tie."""
    loss_sum: float = 0.0
    """Sum of -ln p(right class), nats."""

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.num + other.num,
            self.top1_wrong + other.top1_wrong,
            self.top5_wrong + other.top5_wrong,
            self.loss_sum + other.loss_sum,
        )

    @property
    def top1_error(self) -> float:
        """Fraction of the images whose most probable class is wrong."""
        return float(self.top1_wrong / self._some())

    @property
    def top5_error(self) -> float:
        """Fraction of the images whose right class is not among the five most probable."""
        return float(self.top5_wrong / self._some())

    @property
    def loss(self) -> float:
        """Mean of -ln p(right class), nats."""
        return self.loss_sum / self._some()

    def _some(self) -> int:
        """The number of images, which must not be 0."""
        if self.num == 0:
            raise ValueError("no images were counted; a rate needs at least one")
        return self.num


def count_errors(probabilities: Floats, labels: Integers) -> ErrorCounts:
    """Count errors with the original source's rule for ties.

    Of the k places, those above the right class go to the classes that are strictly more probable; what is
    left is shared by the classes as probable as the right one, itself included. The credit is 1 where the
    places suffice for all of them, places / classes where they do not, 0 where none is left. For k = 1 that
    is 1 / #ties; for k = 5 it is 1 as long as #larger + #equal <= 5. With fewer than five classes every
    top-5 answer is right. Values are compared as given, without tolerance.

    Args:
        probabilities: (N, K), finite; what ties is judged in this precision.
        labels: (N,), 0 .. K-1.

    The loss takes a probability that has underflowed as 2^-126, the smallest normal float32 (87.3 nats).

    Raises:
        ValueError: shapes that do not fit, labels out of range, or values that are not finite.
    """
    _check(probabilities, labels)
    right = probabilities[np.arange(len(labels)), labels]
    num_larger = np.count_nonzero(probabilities > right[:, None], axis=1)
    num_equal = np.count_nonzero(probabilities == right[:, None], axis=1)
    logs = np.log(np.maximum(right.astype(np.float64), _SMALLEST))
    return ErrorCounts(
        len(labels),
        len(labels) - _credit(num_larger, num_equal, 1),
        len(labels) - _credit(num_larger, num_equal, 5),
        -math.fsum(logs.tolist()),
    )


def top_k_credits(probabilities: Floats, labels: Integers, places: int) -> npt.NDArray[np.float64]:
    """The credit 0..1 that `count_errors` gives each image, float64 (N,): its error is 1 less it.

    Args:
        probabilities: (N, K), finite; what ties is judged in this precision.
        labels: (N,), 0 .. K-1.
        places: 1 for the top-1 error, 5 for the top-5 error.

    Raises:
        ValueError: as `count_errors`, or fewer than one place.
    """
    _check(probabilities, labels)
    if places < 1:
        raise ValueError(f"places is {places}; allowed is 1 or more")
    right = probabilities[np.arange(len(labels)), labels]
    num_larger = np.count_nonzero(probabilities > right[:, None], axis=1)
    num_equal = np.count_nonzero(probabilities == right[:, None], axis=1)
    shared: npt.NDArray[np.float64] = np.clip(places - num_larger, 0, num_equal) / num_equal
    return shared


def per_class_counts(probabilities: Floats, labels: Integers) -> list[ErrorCounts]:
    """`count_errors` for the images of each class, K of them in order; a class without images counts nothing."""
    _check(probabilities, labels)
    return [count_errors(probabilities[labels == one], labels[labels == one]) for one in range(probabilities.shape[1])]


def confusion_matrix(probabilities: Floats, labels: Integers) -> npt.NDArray[np.int64]:
    """Number of images by right class (row) and most probable class (column), int64 (K, K).

    Here a tie goes to the class that comes first, so the diagonal may differ from `count_errors` by ties.
    """
    _check(probabilities, labels)
    num_classes = probabilities.shape[1]
    places = labels.astype(np.int64) * num_classes + probabilities.argmax(axis=1)
    return np.bincount(places, minlength=num_classes**2).astype(np.int64).reshape(num_classes, num_classes)


def wilson_interval(wrong: Fraction | float, num: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of an error rate.

    With p = wrong / num and z the quantile of the normal distribution at (1 + confidence) / 2:
    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Args:
        wrong: 0 .. num; a fraction where ties were shared.
        num: images measured, at least 1.
        confidence: between 0 and 1, both excluded.

    Returns:
        The interval's ends, fractions 0..1.

    Raises:
        ValueError: an argument outside those ranges.
    """
    if num < 1 or not 0 <= wrong <= num:
        raise ValueError(f"{wrong} wrong of {num} is no error rate; allowed is 0 up to the number, which is at least 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; allowed is between 0 and 1")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    rate = float(Fraction(wrong) / num)
    middle = rate + z * z / (2 * num)
    half = z * math.sqrt(rate * (1 - rate) / num + z * z / (4 * num * num))
    scale = 1 + z * z / num
    # At the two ends the formula gives exactly 0 and 1; rounding must not leave a trace of it.
    low = 0.0 if wrong == 0 else (middle - half) / scale
    high = 1.0 if wrong == num else (middle + half) / scale
    return low, high


def _credit(num_larger: Integers, num_equal: Integers, places: int) -> Fraction:
    """Sum of the credits of all images; see `count_errors`."""
    shared = np.clip(places - num_larger, 0, num_equal)
    return sum(
        (Fraction(int(shared[num_equal == ties].sum()), int(ties)) for ties in np.unique(num_equal)), start=Fraction(0)
    )


def _check(probabilities: Floats, labels: Integers) -> None:
    """Refuse what is not (N, K) finite numbers with N labels in 0 .. K-1."""
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"probabilities have shape {probabilities.shape} and labels {labels.shape}; allowed are (N, K) and (N,)"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}; allowed are whole numbers")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < probabilities.shape[1]:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}; allowed is 0 to {probabilities.shape[1] - 1}"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities hold values that are not finite; there is no error rate of those")
