"""Calibration: whether a network is right as often as its confidence says, by bins of confidence."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet.evaluation.metrics import Floats, Integers

NUM_BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose most probable class has a probability above `low`, up to and including `high`."""

    low: float
    high: float
    num_images: int
    """1 or more."""
    confidence: float
    """Mean probability of the most probable class, fraction 0..1."""
    accuracy: float
    """Fraction of the images for which that class is right, 0..1; tied classes share the credit."""


@dataclass(frozen=True)
class Calibration:
    """Accuracy and confidence in bins of equal width; bins without images are omitted."""

    bins: tuple[ReliabilityBin, ...]
    """Least confident first."""

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean over the images of their bin's |accuracy - confidence|, fraction 0..1.

        Raises:
            ValueError: there are no images.
        """
        num = sum(one.num_images for one in self.bins)
        if num == 0:
            raise ValueError("no images were counted; a calibration error needs at least one")
        return sum(one.num_images * abs(one.accuracy - one.confidence) for one in self.bins) / num

    def to_dict(self) -> dict[str, Any]:
        """`expected_error` and `bins`, one object per bin, all values fractions."""
        return {
            "expected_error": self.expected_error,
            "bins": [
                {
                    "low": one.low,
                    "high": one.high,
                    "num_images": one.num_images,
                    "confidence": one.confidence,
                    "accuracy": one.accuracy,
                }
                for one in self.bins
            ],
        }


def calibration(probabilities: Floats, labels: Integers, num_bins: int = NUM_BINS) -> Calibration:
    """Compare the confidence of the predictions with how often they are right.

    Bins are those of Guo et al. 2017, "On calibration of modern neural networks": ((i - 1) / n, i / n]. A true class
    that ties for the first rank counts 1 / #ties, as in `count_errors`, so the bins' errors add up to the top-1 error.

    Args:
        probabilities: (N, K), each 0..1 up to rounding.
        labels: (N,), 0 .. K-1.
        num_bins: 1 or more, of equal width.

    Raises:
        ValueError: shapes that do not fit, or no bins.
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or num_bins < 1:
        raise ValueError(
            f"probabilities have shape {probabilities.shape}, labels {labels.shape}, in {num_bins} bins; allowed are "
            "(N, K) and (N,) in 1 bin or more"
        )
    highest = probabilities.max(axis=1)  # (N,)
    right = probabilities[np.arange(len(labels)), labels] == highest
    credit = right / np.count_nonzero(probabilities == highest[:, None], axis=1)
    # Without the two outer edges: values that rounding pushed beyond 1 belong to the last bin.
    inner_edges = np.arange(1, num_bins) / num_bins
    confidence = highest.astype(np.float64)
    indices = np.searchsorted(inner_edges, confidence, side="left")
    bins = []
    for index in np.unique(indices).tolist():
        inside = indices == index
        bins.append(
            ReliabilityBin(
                low=index / num_bins,
                high=(index + 1) / num_bins,
                num_images=int(inside.sum()),
                confidence=float(confidence[inside].mean()),
                accuracy=float(credit[inside].mean()),
            )
        )
    return Calibration(tuple(bins))
