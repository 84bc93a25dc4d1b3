"""Whether a network is right as often as its probabilities say: reliability by bins of the most probable class's."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alexnet.evaluation.metrics import Floats, Integers

NUM_BINS = 15


@dataclass(frozen=True)
class Bin:
    """The images whose most probable class has a probability above `low`, up to and including `high`."""

    low: float
    high: float
    num_images: int
    """1 or more."""
    confidence: float
    """Mean probability of the most probable class, fraction 0..1."""
    accuracy: float
    """Share of the images for which that class is right, fraction 0..1; of classes that tie, each counts in part."""


@dataclass(frozen=True)
class Calibration:
    """Reliability in bins of equal width; a bin without images is left out."""

    bins: tuple[Bin, ...]
    """Least confident first."""

    @property
    def expected_error(self) -> float:
        """Mean over the images of |accuracy - confidence| of their bin, fraction 0..1 (expected calibration error).

        Raises:
            ValueError: there are no images.
        """
        num = sum(one.num_images for one in self.bins)
        if num == 0:
            raise ValueError("no images were counted; a calibration error needs at least one")
        return sum(one.num_images * abs(one.accuracy - one.confidence) for one in self.bins) / num

    def to_dict(self) -> dict[str, Any]:
        """`expected_error` and `bins`, one object a bin, all fractions."""
        return {"expected_error": self.expected_error, "bins": [asdict(one) for one in self.bins]}


def calibration(probabilities: Floats, labels: Integers, num_bins: int = NUM_BINS) -> Calibration:
    """Compare how sure the answers are with how often they are right.

    Bins are those of Guo et al. 2017, "On calibration of modern neural networks": ((i - 1) / n, i / n]. A right class
    that ties with others for the first place counts 1 / #ties, as in `count_errors`, so that the bins' errors add up
    to the top-1 error.

    Args:
        probabilities: (N, K), each 0..1 but for rounding.
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
    surest = probabilities.max(axis=1)  # (N,)
    right = probabilities[np.arange(len(labels)), labels] == surest
    credit = right / np.count_nonzero(probabilities == surest[:, None], axis=1)
    # The two outer edges are left out: what rounding pushed beyond 1 belongs to the last bin.
    inner_edges = np.arange(1, num_bins) / num_bins
    confidence = surest.astype(np.float64)
    places = np.searchsorted(inner_edges, confidence, side="left")
    found = []
    for place in np.unique(places).tolist():
        inside = places == place
        found.append(
            Bin(
                low=place / num_bins,
                high=(place + 1) / num_bins,
                num_images=int(inside.sum()),
                confidence=float(confidence[inside].mean()),
                accuracy=float(credit[inside].mean()),
            )
        )
    return Calibration(tuple(found))
