"""Several runs as one: the average of their saved probabilities, and what it gains. Paper: table 2, 5 and 7 CNNs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from alexnet.errors import RequestError
from alexnet.evaluation.metrics import ErrorCounts, count_errors, top_k_credits
from alexnet.evaluation.paired import (
    AlignedPredictions,
    McNemar,
    PairedDifference,
    errors_to_dict,
    load_aligned_predictions,
    mcnemar,
    paired_difference,
    reported_errors,
)
from alexnet.evaluation.predictions import NumViews

GRID_STEPS = 20
"""The greedy weights are 0, 1/20 .. 20/20, as the original source tries them."""
MOST_PASSES = 5
_VALUES_AT_ONCE = 4_000_000
# Sums of credits that differ by less are the same sum: credits of ties are no whole numbers.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Gain:
    """What an average gains in one error; above 0 the average is the better one."""

    over_mean: PairedDifference
    """The mean of the single runs' errors less the average's error."""
    over_best: PairedDifference
    """The best single run's error less the average's error."""
    best_run: str
    """The run with the lowest error on the images reported, the first named among equals."""
    mcnemar: McNemar
    """The best run (first) and the average (second); right is what ties with nothing that would displace it."""

    def to_dict(self) -> dict[str, Any]:
        """The gain as one JSON object."""
        return {
            "over_mean": self.over_mean.to_dict(),
            "over_best": self.over_best.to_dict(),
            "best_run": self.best_run,
            "mcnemar": self.mcnemar.to_dict(),
        }


@dataclass(frozen=True)
class Average:
    """A weighted mean of the runs' probabilities and its errors."""

    weights: tuple[float, ...]
    """As they were found, one a run; their sum need not be 1, for errors do not depend on it."""
    counts: ErrorCounts
    gains: Mapping[str, Gain]
    """By error: `top1`, and `top5` where it is reported."""

    def to_dict(self, num_classes: int) -> dict[str, Any]:
        """The average as one JSON object."""
        return {
            "weights": list(self.weights),
            **errors_to_dict(self.counts, num_classes),
            "gain": {name: self.gains[name].to_dict() if name in self.gains else None for name in ("top1", "top5")},
        }


@dataclass(frozen=True)
class Tuning:
    """How weights were searched for."""

    error: Literal["top1", "top5"]
    """The error that was made small."""
    num_images: int
    """Images searched on; none of them is among those reported."""
    seed: int
    """Of the drawing of these images."""
    passes: int
    """Passes over the runs, the last one, which may have changed nothing, included."""
    error_before: float
    """With equal weights, on the images searched on."""
    error_after: float
    """With the weights found, on the same images: lower than it is on others."""

    def to_dict(self) -> dict[str, Any]:
        """The search as one JSON object."""
        return {
            "error": self.error,
            "num_images": self.num_images,
            "seed": self.seed,
            "passes": self.passes,
            "error_before": self.error_before,
            "error_after": self.error_after,
        }


@dataclass(frozen=True)
class Ensemble:
    """Several runs and their average on the same images."""

    split: str
    num_views: NumViews
    num_images: int
    """Images reported: the whole split, or with greedy weights the half on which they were not tuned."""
    num_classes: int
    data_checksum: str
    generated: bool
    """Whether a program drew the images."""
    runs: tuple[tuple[str, ErrorCounts], ...]
    """Each run's folder and its own errors on the images reported."""
    equal: Average
    greedy: Average | None = None
    tuning: Tuning | None = None

    def to_dict(self) -> dict[str, Any]:
        """The ensemble as one JSON object: errors are fractions, intervals `[low, high]` of 95 %.

        `runs` has one object a run, `mean` the means of their errors; `equal` and `greedy` an object each with
        `weights`, errors and `gain`; `greedy` and `tuning` are null with equal weights. What concerns the top-5 error
        is null with fewer than 20 classes.
        """
        mean = {
            f"{name}_error": float(np.mean([getattr(counts, f"{name}_error") for _, counts in self.runs]))
            if name in self.equal.gains
            else None
            for name in ("top1", "top5")
        }
        return {
            "split": self.split,
            "num_views": self.num_views,
            "num_images": self.num_images,
            "num_classes": self.num_classes,
            "data_checksum": self.data_checksum,
            "generated": self.generated,
            "runs": [{"run": run, **errors_to_dict(counts, self.num_classes)} for run, counts in self.runs],
            "mean": mean,
            "equal": self.equal.to_dict(self.num_classes),
            "greedy": None if self.greedy is None else self.greedy.to_dict(self.num_classes),
            "tuning": None if self.tuning is None else self.tuning.to_dict(),
        }


def average_runs(
    run_folders: Sequence[Path],
    *,
    data_folder: Path | Sequence[Path] | None = None,
    split: str | None = None,
    num_views: NumViews = 10,
    weights: Literal["equal", "greedy"] = "equal",
    seed: int = 0,
) -> Ensemble:
    """Average the saved probabilities of several runs and measure the average beside each of them.

    Equal weights give the arithmetic mean, in float64. Greedy weights are those that the original source searches for,
    see `greedy_weights`; it tunes them on the images it reports, here they are tuned on half of the images, drawn at
    random, and everything, the equal average and the single runs too, is reported on the other half.

    Args:
        run_folders: at least two, evaluated with `num_views` on the same split of the same data.
        data_folder: as in `load_aligned_predictions`.
        split: None is the data set's evaluation split.
        weights: `equal` or `greedy`.
        seed: of the drawing of the half and of the intervals' bootstrap, 0 or more.

    Raises:
        RequestError: what `load_aligned_predictions` refuses, or greedy weights for a single image.
        WorkError: a file is damaged.

    Paper: section 6. Differs from the paper: the paper does not say how its weights were chosen.
    """
    if weights not in ("equal", "greedy"):
        raise RequestError(f"weights is {weights!r}; allowed are 'equal' and 'greedy'")
    found = load_aligned_predictions(run_folders, data_folder=data_folder, split=split, num_views=num_views)
    num, num_classes = len(found.labels), len(found.classes)
    places = reported_errors(num_classes)
    reported = np.arange(num)
    greedy_steps = tuning = None
    if weights == "greedy":
        if num < 2:
            raise RequestError(
                f"split {found.split!r} has {num} image; greedy weights are tuned on one half and reported on the "
                "other: take equal weights"
            )
        order = np.random.Generator(np.random.Philox(seed)).permutation(num)
        tuned_on, reported = np.sort(order[: num // 2]), np.sort(order[num // 2 :])
        greedy_steps, tuning = _tuned(found, tuned_on, seed)
    labels = found.labels[reported]
    probabilities = [one[reported] for one in found.probabilities]
    single = {name: [top_k_credits(one, labels, allowed) for one in probabilities] for name, allowed in places.items()}

    def average(steps: Sequence[int], shown: Sequence[float]) -> Average:
        mixed = weighted_mean(probabilities, steps)
        gains = {
            name: _gain(found.runs, single[name], top_k_credits(mixed, labels, allowed), seed)
            for name, allowed in places.items()
        }
        return Average(tuple(shown), count_errors(mixed, labels), gains)

    num_runs = len(found.runs)
    return Ensemble(
        split=found.split,
        num_views=found.num_views,
        num_images=len(labels),
        num_classes=num_classes,
        data_checksum=found.data.checksum,
        generated=found.data.generated,
        runs=tuple((str(run), count_errors(one, labels)) for run, one in zip(found.runs, probabilities, strict=True)),
        equal=average([1] * num_runs, [1 / num_runs] * num_runs),
        greedy=None if greedy_steps is None else average(greedy_steps, [one / GRID_STEPS for one in greedy_steps]),
        tuning=tuning,
    )


def weighted_mean(probabilities: Sequence[npt.NDArray[np.float32]], steps: Sequence[int]) -> npt.NDArray[np.float64]:
    """The mean of the runs' probabilities (N, K) with whole weights, at least one of them above 0; float64 (N, K)."""
    total = np.zeros(probabilities[0].shape, np.float64)
    for one, step in zip(probabilities, steps, strict=True):
        # Whole numbers times float32 have no rounding here, so what ties does not hang on the runs' order.
        total += step * one.astype(np.float64)
    return total / sum(steps)


def greedy_weights(
    probabilities: Sequence[npt.NDArray[np.float32]], labels: npt.NDArray[np.int64], places: int
) -> tuple[list[int], int]:
    """The original source's search: one run's weight after the other is set to what makes the error smallest.

    It starts from one half for all, tries 0, 0.05 .. 1 for each run in turn while the others stay, takes the smallest
    weight of those that are best, if it is better than what there was, and ends after five passes or when it comes
    round without a change. Weights that are all 0 are left out: they name no class, yet by the rule for ties they would
    beat networks that are always wrong.

    Args:
        probabilities: (N, K) of each run.
        labels: (N,), 0 .. K-1.
        places: 1 to make the top-1 error small, 5 for the top-5 error.

    Returns:
        For each run its weight in twentieths, and the number of passes begun.
    """
    steps = [GRID_STEPS // 2] * len(probabilities)
    best = float(_credit_sums(probabilities, labels, places, [steps])[0])
    num_unchanged = 0
    for begun in range(1, MOST_PASSES + 1):
        for run in range(len(steps)):
            tried = [[*steps[:run], step, *steps[run + 1 :]] for step in range(GRID_STEPS + 1)]
            tried = [one for one in tried if any(one)]
            sums = _credit_sums(probabilities, labels, places, tried)
            # The first of those that are best but for rounding.
            place = int(np.argmax(sums >= sums.max() - _ROUNDING))
            num_unchanged += 1
            if sums[place] > best + _ROUNDING:
                steps, best, num_unchanged = tried[place], float(sums[place]), 0
            if num_unchanged == len(steps):
                return steps, begun
    return steps, MOST_PASSES


def _tuned(found: AlignedPredictions, tuned_on: npt.NDArray[np.int64], seed: int) -> tuple[list[int], Tuning]:
    """Greedy weights, in twentieths, found on some of the images."""
    error: Literal["top1", "top5"] = "top5" if "top5" in reported_errors(len(found.classes)) else "top1"
    places = {"top1": 1, "top5": 5}[error]
    probabilities, labels = [one[tuned_on] for one in found.probabilities], found.labels[tuned_on]
    steps, passes = greedy_weights(probabilities, labels, places)
    before, after = _credit_sums(probabilities, labels, places, [[1] * len(steps), steps]).tolist()
    num = len(tuned_on)
    return steps, Tuning(error, num, seed, passes, 1 - before / num, 1 - after / num)


def _credit_sums(
    probabilities: Sequence[npt.NDArray[np.float32]],
    labels: npt.NDArray[np.int64],
    places: int,
    choices: Sequence[Sequence[int]],
) -> npt.NDArray[np.float64]:
    """Sum of the images' credits for each choice of weights, some images at a time: these matrices may be large."""
    num, num_classes = probabilities[0].shape
    at_once = max(1, _VALUES_AT_ONCE // num_classes)
    sums = np.zeros(len(choices), np.float64)
    for first in range(0, num, at_once):
        some = slice(first, first + at_once)
        wide = [one[some].astype(np.float64) for one in probabilities]
        for place, steps in enumerate(choices):
            mixed = np.zeros_like(wide[0])
            for one, step in zip(wide, steps, strict=True):
                if step:
                    mixed += step * one
            sums[place] += top_k_credits(mixed, labels[some], places).sum()
    return sums


def _gain(
    runs: Sequence[Path], single: Sequence[npt.NDArray[np.float64]], average: npt.NDArray[np.float64], seed: int
) -> Gain:
    """What the average's credits (N,) gain over those of the single runs."""
    sums = np.array([one.sum() for one in single])
    best = int(np.argmax(sums >= sums.max() - _ROUNDING))
    return Gain(
        over_mean=paired_difference(np.mean(single, axis=0), average, seed=seed),
        over_best=paired_difference(single[best], average, seed=seed),
        best_run=str(runs[best]),
        mcnemar=mcnemar(single[best] < 1, average < 1),
    )
