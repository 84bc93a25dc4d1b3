"""Calibrated probabilities: a temperature, fitted to a run's saved probabilities, so that confidence can be trusted.

What is calibrated is what an evaluation saves and a prediction shows: the mean p of the softmax over the views of an
image. The calibrated probabilities are p^(1/T), divided by their sum; T, the temperature, minimizes the negative
log-likelihood of the true classes, which is convex in 1/T. For one view that is temperature scaling of the scores (Guo
et al. 2017, "On calibration of modern neural networks"). The order of the classes stays. Each number of views has its
own temperature.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.evaluation.calibration import calibration
from alexnet.evaluation.metrics import Floats, Integers, top_k_credits, wilson_interval
from alexnet.evaluation.predictions import NumViews, describe_views, load_labeled_predictions
from alexnet.runs.folder import RunFolder
from alexnet.storage.paths import StrPath, as_path

MIN_IMAGES = 50
"""Fewer say too little about how often a confident answer is right."""
TEMPERATURES = (0.05, 20.0)
"""Smallest and largest. If all answers are right, likelihood grows without end toward 0; at chance level, toward
infinity."""
NUM_FOLDS = 5
_SMALLEST = float(np.finfo(np.float32).tiny)
"""A probability that has underflowed counts as this, as in the loss of `count_errors`."""
_CHUNK_VALUES = 1 << 17


@dataclass(frozen=True)
class Coverage:
    """What happens if images below a calibrated probability are not answered."""

    threshold: float
    """Calibrated probability from which on an image is answered, 0..1."""
    num_images: int
    num_answered: int
    accuracy: float | None
    """Fraction of the answered images whose most probable class is right, ties share the credit; None if none is."""
    interval: tuple[float, float] | None
    """Wilson's 95 % interval of the accuracy."""

    @property
    def answered(self) -> float:
        """Fraction of the images that is answered."""
        return self.num_answered / self.num_images

    def to_dict(self) -> dict[str, Any]:
        """`threshold`, `answered`, `accuracy` and `accuracy_interval`; all are fractions."""
        interval = None if self.interval is None else list(self.interval)
        return {
            "threshold": self.threshold,
            "answered": self.answered,
            "accuracy": self.accuracy,
            "accuracy_interval": interval,
        }


@dataclass(frozen=True, eq=False)
class Calibrator:
    """A temperature, and what it does on the images that it was fitted to.

    Everything but `temperature` and `error_before` is cross-validated: of each fifth of the images, it is computed with
    the temperature fitted to the other four.
    """

    temperature: float
    """T, fitted to all images; above 1 the network is too confident."""
    split: str
    num_views: NumViews
    error_before: float
    """Expected calibration error of the probabilities as they are, fraction 0..1."""
    error_after: float
    """Expected calibration error of the calibrated probabilities."""
    num_classes_absent: int
    """Classes without an image: nothing shows how well their probabilities are calibrated."""
    confidence: NDArray[np.float64]
    """(N,), calibrated probability of each image's most probable class."""
    credit: NDArray[np.float64]
    """(N,), 1 where that class is right, 0 where it is wrong; tied classes share it."""

    @property
    def num_images(self) -> int:
        """Images that the temperature was fitted to."""
        return len(self.confidence)

    def calibrated(self, probabilities: Floats) -> Floats:
        """The calibrated probabilities, of the same shape, order and dtype.

        Args:
            probabilities: (N, K), 0..1, averaged over as many views as those that the temperature was fitted to.
        """
        return _calibrated(probabilities, 1 / self.temperature).astype(probabilities.dtype)

    def coverage(self, threshold: float) -> Coverage:
        """How many of the images are answered from this calibrated probability on, and how many of these are right.

        Raises:
            RequestError: a threshold outside 0..1.
        """
        if not 0 <= threshold <= 1:
            raise RequestError(f"--reject is {threshold}; allowed is a probability from 0 to 1")
        credit = self.credit[self.confidence >= threshold]
        accuracy, interval = None, None
        if len(credit):
            wrong = min(max(float((1 - credit).sum()), 0.0), float(len(credit)))
            low, high = wilson_interval(wrong, len(credit))
            accuracy, interval = 1 - wrong / len(credit), (1 - high, 1 - low)
        return Coverage(threshold, self.num_images, len(credit), accuracy, interval)

    def describe(self, threshold: float) -> str:
        """One line for a person: where the calibration comes from and what this threshold does."""
        limit = ""
        if not TEMPERATURES[0] * 1.001 < self.temperature < TEMPERATURES[1] * 0.999:
            limit = f" (the {'smallest' if self.temperature < 1 else 'largest'} allowed)"
        absent = f", no images of {self.num_classes_absent:,} of the classes" if self.num_classes_absent else ""
        found = self.coverage(threshold)
        answers = "answers none of them"
        if found.accuracy is not None and found.interval is not None:
            low, high = found.interval
            answers = (
                f"answers {100 * found.answered:.1f} % of them, and {100 * found.accuracy:.1f} % "
                f"[{100 * low:.1f}, {100 * high:.1f}] of these answers are right"
            )
        return (
            f"calibrated on {self.num_images:,} images of split {self.split!r} "
            f"({describe_views(self.num_views)}{absent}): temperature {self.temperature:.2f}{limit}, calibration error "
            f"{100 * self.error_before:.1f} % before and {100 * self.error_after:.1f} % after; --reject {threshold:g} "
            f"{answers}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The temperature and where it comes from; the calibration errors are fractions."""
        return {
            "temperature": self.temperature,
            "split": self.split,
            "num_views": self.num_views,
            "num_images": self.num_images,
            "classes_absent": self.num_classes_absent,
            "calibration_error_before": self.error_before,
            "calibration_error": self.error_after,
        }


def calibrator_for(run_folder: StrPath, num_views: NumViews) -> Calibrator:
    """The calibrator of a run, fitted to the probabilities that `alexnet evaluate` saved of its evaluation split.

    That is the validation split of the run's own data; the test split if the data has no validation split.

    Raises:
        RequestError: no run, no saved probabilities with this number of views (the message names the command), or too
            few images.
        WorkError: the file of probabilities is damaged.
    """
    run_folder = as_path(run_folder, "the run")
    if run_folder.is_file():
        raise RequestError(
            f"{run_folder} is a weights file, without the saved probabilities that --reject needs; give the run folder"
        )
    found, labels = load_labeled_predictions(RunFolder.open(run_folder), num_views)
    return fit_calibrator(found.probabilities, labels, found.split, num_views)


def fit_calibrator(probabilities: Floats, labels: Integers, split: str, num_views: NumViews) -> Calibrator:
    """Fit a temperature to probabilities of images whose classes are known.

    Args:
        probabilities: (N, K), 0..1, averaged over the views.
        labels: (N,), 0 .. K-1.
        split: name of the images, as the description has it.
        num_views: as it was used for the probabilities.

    Raises:
        RequestError: fewer than `MIN_IMAGES` images.
        ValueError: shapes that do not fit, labels out of range, or values that are not finite.
    """
    credit = top_k_credits(probabilities, labels, 1)
    num = len(labels)
    if num < MIN_IMAGES:
        raise RequestError(
            f"split {split!r} has {num:,} images, too few to calibrate probabilities; --reject needs {MIN_IMAGES} or "
            "more, prepare the data again with a larger --hold-out"
        )
    inverse = _fit(probabilities, labels, 1.0)
    fold = np.random.default_rng(0).permutation(num) % NUM_FOLDS
    calibrated = np.empty(probabilities.shape, np.float32)
    confidence = np.empty(num)
    for number in range(NUM_FOLDS):
        inside = fold == number
        fold_inverse = _fit(probabilities[~inside], labels[~inside], inverse)
        found = _calibrated(probabilities[inside], fold_inverse)
        calibrated[inside], confidence[inside] = found, found.max(axis=1)
    return Calibrator(
        temperature=1 / inverse,
        split=split,
        num_views=num_views,
        error_before=calibration(probabilities, labels).expected_error,
        error_after=calibration(calibrated, labels).expected_error,
        num_classes_absent=probabilities.shape[1] - len(np.unique(labels)),
        confidence=confidence,
        credit=credit,
    )


def _calibrated(probabilities: Floats, inverse: float) -> NDArray[np.float64]:
    """p^inverse divided by its sum, (N, K)."""
    powers: NDArray[np.float64] = np.exp(inverse * _log_ratios(probabilities))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def _log_ratios(probabilities: Floats) -> NDArray[np.float64]:
    """Logarithms of probabilities over those of each row's largest, (N, K), 0 or less."""
    logs: NDArray[np.float64] = np.log(np.maximum(probabilities, _SMALLEST, dtype=np.float64))
    logs -= logs.max(axis=1, keepdims=True)
    return logs


def _fit(probabilities: Floats, labels: Integers, start: float) -> float:
    """The 1/T of the least negative log-likelihood: Newton's method, bisecting where it leaves the bracket."""
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    inverse = start
    while True:
        slope, curvature = _derivatives(probabilities, labels, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        following = inverse - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        # Newton's steps square the error, so the step after this one would be far smaller still.
        if abs(following - inverse) <= 1e-6 * inverse:
            return following
        inverse = following


def _derivatives(probabilities: Floats, labels: Integers, inverse: float) -> tuple[float, float]:
    """First and second derivative by 1/T of the mean negative log-likelihood.

    With z the logarithms of an image's probabilities and q the calibrated ones: mean of z under q minus z of the true
    class, and variance of z under q.
    """
    slope = curvature = 0.0
    step = max(1, _CHUNK_VALUES // probabilities.shape[1])
    for first in range(0, len(labels), step):
        chosen = labels[first : first + step]
        logs = _log_ratios(probabilities[first : first + step])
        weights = np.exp(inverse * logs)
        total = weights.sum(axis=1)
        weights *= logs
        mean = weights.sum(axis=1) / total
        slope += float((mean - logs[np.arange(len(chosen)), chosen]).sum())
        weights *= logs
        curvature += float((weights.sum(axis=1) / total - mean**2).sum())
    return slope / len(labels), curvature / len(labels)
