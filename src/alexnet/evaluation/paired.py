"""Paired statistics of runs evaluated on the same images, from their saved probabilities.

Two networks err on much the same images, so the difference of their errors is known far more precisely than either
error: paired tests use each image's difference, not each network's variance.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import ClassInfo, PreparedData
from alexnet.errors import AlexNetError, RequestError
from alexnet.evaluation.metrics import ErrorCounts, wilson_interval
from alexnet.evaluation.predictions import (
    NumViews,
    SavedPredictions,
    available_views,
    first_class_difference,
    load_run_predictions,
    training_checksum,
)
from alexnet.runs.folder import RunFolder

TOP5_CLASSES = 20
"""With fewer classes the top-5 error says little, and only the top-1 error is reported."""
RESAMPLES = 10_000
_DRAWN_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class McNemar:
    """Counts of images by which of two networks is right, and their test; `--json` prints the fields by name."""

    both_right: int
    only_first: int
    """Images that only the first network classifies correctly."""
    only_second: int
    both_wrong: int
    p_value: float
    """Probability of counts at least this unequal if the two networks were equally good; two-sided and exact."""


@dataclass(frozen=True)
class PairedDifference:
    """The first network's error minus the second's on the same images; above 0 the second is better.

    `--json` prints the fields by name.
    """

    difference: float
    """Fraction, -1 .. 1."""
    interval: tuple[float, float]
    confidence: float
    resamples: int
    seed: int


def mcnemar(first_wrong: npt.NDArray[np.bool_], second_wrong: npt.NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test of whether two networks are equally good.

    If they are, each of the n images that only one network gets right is equally likely to be either network's. The
    p-value is the probability of counts at least as uneven, min(1, 2 P(X <= smaller count)) with X binomial (n, 1/2),
    computed in integers; it is 1 if n is 0.

    Args:
        first_wrong: bool (N,), whether the first network's answer is wrong.
        second_wrong: bool (N,), the same for the second.

    Raises:
        ValueError: arrays of another type, or of shapes that do not fit.
    """
    if first_wrong.ndim != 1 or first_wrong.shape != second_wrong.shape:
        raise ValueError(f"answers have shapes {first_wrong.shape} and {second_wrong.shape}; allowed is (N,) for both")
    if first_wrong.dtype != np.bool_ or second_wrong.dtype != np.bool_:
        raise ValueError(f"answers are {first_wrong.dtype} and {second_wrong.dtype}; allowed is bool: wrong or not")
    only_first = int(np.count_nonzero(~first_wrong & second_wrong))
    only_second = int(np.count_nonzero(first_wrong & ~second_wrong))
    both_wrong = int(np.count_nonzero(first_wrong & second_wrong))
    return McNemar(
        both_right=len(first_wrong) - only_first - only_second - both_wrong,
        only_first=only_first,
        only_second=only_second,
        both_wrong=both_wrong,
        p_value=_binomial_p_value(only_first, only_second),
    )


def paired_difference(
    first_credit: npt.NDArray[np.float64],
    second_credit: npt.NDArray[np.float64],
    confidence: float = 0.95,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Difference of two error rates on the same images, with a percentile bootstrap interval over images.

    Each resample draws N images with replacement. Only the images' differences matter, and they take few values (-1, 0,
    1 and fractions for ties), so each resample draws the multinomial counts of these values: the same distribution
    without N random numbers. The interval depends only on the arguments and not on the order of the images.

    Args:
        first_credit: (N,), 0..1, from `top_k_credits`; N is at least 1.
        second_credit: (N,), the same for the second network.
        confidence: between 0 and 1, both excluded.
        resamples: at least 1.
        seed: of the Philox generator, 0 or more.

    Raises:
        ValueError: shapes that do not fit, no images, or an argument outside its range.
    """
    if first_credit.ndim != 1 or first_credit.shape != second_credit.shape or len(first_credit) == 0:
        raise ValueError(
            f"credits have shapes {first_credit.shape} and {second_credit.shape}; "
            "allowed is (N,) for both, N at least 1"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; allowed is between 0 and 1")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; allowed is 1 or more")
    num = len(first_credit)
    values, counts = np.unique(second_credit - first_credit, return_counts=True)
    generator = np.random.Generator(np.random.Philox(seed))
    at_once = max(1, _DRAWN_AT_ONCE // len(values))
    means = np.empty(resamples, np.float64)
    for first in range(0, resamples, at_once):
        drawn = generator.multinomial(num, counts / num, size=min(at_once, resamples - first))  # (R, values)
        means[first : first + len(drawn)] = drawn @ values / num
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return PairedDifference(float(counts @ values / num), (low, high), confidence, resamples, seed)


def errors_to_dict(counts: ErrorCounts, num_classes: int) -> dict[str, Any]:
    """Wrong images (whole unless classes tie), errors and 95 % intervals; null for errors that are not reported."""
    content: dict[str, Any] = {}
    for name, wrong in (("top1", counts.top1_wrong), ("top5", counts.top5_wrong)):
        is_reported = name in reported_errors(num_classes)
        content[f"{name}_wrong"] = (int(wrong) if wrong.denominator == 1 else float(wrong)) if is_reported else None
        content[f"{name}_error"] = float(wrong / counts.num_images) if is_reported else None
        content[f"{name}_interval"] = list(wilson_interval(wrong, counts.num_images)) if is_reported else None
    return {**content, "loss": counts.loss}


def reported_errors(num_classes: int) -> dict[str, int]:
    """The errors to report, by name, with k, the number of guesses that each allows."""
    return {"top1": 1, "top5": 5} if num_classes >= TOP5_CLASSES else {"top1": 1}


@dataclass(frozen=True, eq=False)
class AlignedPredictions:
    """Several runs' saved probabilities for the same images."""

    runs: tuple[Path, ...]
    data: PreparedData
    classes: tuple[ClassInfo, ...]
    """The networks' classes, in their order; more than the data set's if that has only some of them."""
    split: str
    num_views: NumViews
    labels: npt.NDArray[np.int64]
    """(N,), 0 .. K-1, in the split's order."""
    probabilities: tuple[npt.NDArray[np.float32], ...] = field(repr=False)
    """(N, K) of each run."""


def load_aligned_predictions(
    run_folders: Sequence[Path],
    *,
    data_folder: Path | Sequence[Path] | None = None,
    split: str | None = None,
    num_views: NumViews = 10,
) -> AlignedPredictions:
    """Read what `alexnet evaluate` saved for several runs on one data set.

    Args:
        run_folders: at least two, each once.
        data_folder: the prepared data set, or several to concatenate, that all runs were evaluated on; None is the data
            they were trained on, which must be the same for all.
        split: None is the data set's evaluation split.
        num_views: number of views that were averaged, or `dense`; a baseline has 1, whatever is asked for.

    Raises:
        RequestError: fewer than two runs or one named twice; runs trained on different data with no data set named; a
            split that is unknown, empty or without labels; probabilities that were not saved, belong to another data
            set, or differ in their classes. The message names the runs.
        WorkError: a file is damaged.
    """
    if len(run_folders) < 2:
        raise RequestError(f"{len(run_folders)} run{'s' * (len(run_folders) != 1)} named; name two or more")
    runs = open_runs(run_folders)
    num_views = available_views(runs, num_views)
    data, split = open_common_data(runs, data_folder, split)
    predictions = list(iterate_predictions(runs, data, split, num_views, data_folder))
    names = {one.id: one.name for one in data.classes}
    return AlignedPredictions(
        runs=tuple(run_folders),
        data=data,
        classes=tuple(ClassInfo(one, names.get(one, one)) for one in predictions[0].class_ids),
        split=split,
        num_views=num_views,
        labels=predictions[0].labels(data),
        probabilities=tuple(one.probabilities for one in predictions),
    )


def open_runs(run_folders: Sequence[Path]) -> list[RunFolder]:
    """Open run folders.

    Raises:
        RequestError: a folder is named twice or is not a run.
    """
    for first, second in itertools.combinations(run_folders, 2):
        if first.resolve() == second.resolve():
            raise RequestError(f"{second} is named twice (as {first} and {second}); name each run once")
    return [RunFolder.open(folder) for folder in run_folders]


def open_common_data(
    runs: Sequence[RunFolder], data_folder: Path | Sequence[Path] | None, split: str | None
) -> tuple[PreparedData, str]:
    """The data set on which to compare runs, and the name of its split; see `load_aligned_predictions`.

    Raises:
        RequestError: runs trained on different data with no data set named; a split that is unknown, empty or without
            labels.
    """
    checksums = [training_checksum(run) for run in runs]
    data = open_data(runs[0].require_data(data_folder))
    if data_folder is None:
        if data.checksum != checksums[0]:
            raise RequestError(
                f"{data.folder} holds other data (checksum {data.checksum[:12]}) than {runs[0].path} was trained on "
                f"({(checksums[0] or '')[:12]}); restore the data, or evaluate the runs again on one data set"
            )
        for run, checksum in zip(runs, checksums, strict=True):
            if checksum != data.checksum:
                raise RequestError(
                    f"{runs[0].path} and {run.path} differ in their data: {_data_difference(data, run)}; evaluate all "
                    "runs on one data set and name it with --data"
                )
    split = data.evaluation_split if split is None else split
    if len(data.require_labels(split)) == 0:
        raise RequestError(f"split {split!r} of {data.folder} has no images; choose another split")
    return data, split


def iterate_predictions(
    runs: Sequence[RunFolder],
    data: PreparedData,
    split: str,
    num_views: NumViews,
    data_folder: Path | Sequence[Path] | None,
) -> Iterator[SavedPredictions]:
    """The saved probabilities of each run, one run at a time; arguments and errors as `load_aligned_predictions`."""
    class_ids: tuple[str, ...] = ()
    for run in runs:
        one, command = load_run_predictions(run, data, split, num_views, data_folder)
        class_ids = class_ids or one.class_ids
        if difference := first_class_difference(one.class_ids, class_ids):
            raise RequestError(
                f"{run.path} differs from {runs[0].path} in its classes: {difference}; run `{command}` to evaluate it "
                "again"
            )
        yield one


def _data_difference(data: PreparedData, run: RunFolder) -> str:
    """How the data that a run was trained on differ from `data`: titles, checksums, numbers of images, classes."""
    other = run.data()
    title = other.get("title", "data without a title")
    words = [f"{data.title!r} and {title!r} (checksums {data.checksum[:12]} and {other['checksum'][:12]})"]
    counts = other.get("splits", {})
    split, other_split = ("val" if "val" in names else "test" for names in (data.splits, counts))
    num, other_num = len(data.splits.get(split, ())), counts.get(other_split, 0)
    if counts and (split, num) != (other_split, other_num):
        words.append(f"{num:,} images of split {split!r} and {other_num:,} of {other_split!r}")
    if (num_classes := other.get("num_classes", data.num_classes)) != data.num_classes:
        words.append(f"{data.num_classes:,} classes and {num_classes:,}")
    try:
        ids = [one.id for one in open_data(run.data_folders()).classes]
    except AlexNetError:  # the data are gone
        return ", ".join(words)
    difference = first_class_difference(ids, [one.id for one in data.classes])
    return ", ".join([*words, *([f"in its classes {difference}"] if difference else [])])


def _binomial_p_value(first: int, second: int) -> float:
    num, smaller = first + second, min(first, second)
    term = total = 1
    for drawn in range(smaller):
        term = term * (num - drawn) // (drawn + 1)  # the binomial coefficient (num, drawn + 1), exactly
        total += term
    # Integers of any size: their quotient is rounded once.
    chance: float = 2 * total / 2**num
    return min(1.0, chance)
