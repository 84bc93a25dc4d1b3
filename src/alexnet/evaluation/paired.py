"""Runs on the same images: their saved probabilities side by side, and the statistics of what differs between them.

Two networks that see the same images err on much the same ones, so their difference is far better known than the two
errors by themselves: what counts is each image's difference, not each network's spread.
"""

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import ClassInfo, PreparedData
from alexnet.errors import RequestError
from alexnet.evaluation.metrics import ErrorCounts, wilson_interval
from alexnet.evaluation.predictions import (
    NumViews,
    available_views,
    describe_views,
    load_predictions,
    predictions_folder,
    predictions_path,
)
from alexnet.runs.folder import RunFolder

TOP5_CLASSES = 20
"""With fewer classes five guesses say little, and only the top-1 error is reported."""
RESAMPLES = 10_000
_DRAWN_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class McNemar:
    """Two networks' answers to the same images, counted by who is right."""

    both_right: int
    only_first: int
    """Right are the first network's answers alone."""
    only_second: int
    both_wrong: int
    p_value: float
    """Chance of counts so unequal, or more so, if the two networks were equally good; two-sided and exact."""

    def to_dict(self) -> dict[str, Any]:
        """The counts and the p-value as one JSON object."""
        return {
            "both_right": self.both_right,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "both_wrong": self.both_wrong,
            "p_value": self.p_value,
        }


@dataclass(frozen=True)
class PairedDifference:
    """The first network's error less the second's on the same images: above 0 the second is the better one."""

    difference: float
    """Fraction, -1 .. 1."""
    low: float
    high: float
    confidence: float
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """`difference` with its `interval` `[low, high]`, and how that was found, as one JSON object."""
        return {
            "difference": self.difference,
            "interval": [self.low, self.high],
            "confidence": self.confidence,
            "resamples": self.resamples,
            "seed": self.seed,
        }


def mcnemar(first_wrong: npt.NDArray[np.bool_], second_wrong: npt.NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test: are the images that only one network gets right shared evenly between the two?

    If the networks are equally good, the n images with one right answer are n throws of a coin. The p-value is the
    chance of a share at least as uneven, min(1, 2 P(X <= smaller count)) with X binomial (n, 1/2), with_epilogues in
    whole numbers; without such images it is 1.

    Args:
        first_wrong: bool (N,), whether the first network's answer is wrong.
        second_wrong: bool (N,), the same of the second.

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
        p_value=_even_share_p(only_first, only_second),
    )


def paired_difference(
    first_credit: npt.NDArray[np.float64],
    second_credit: npt.NDArray[np.float64],
    confidence: float = 0.95,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Difference of two error rates on the same images, with the percentile interval of a bootstrap over images.

    Each resample draws N images with replacement. Of them only the differences enter, which have few values (-1, 0, 1
    and fractions of ties), so what is drawn is how often each value comes, which is multinomial: the same distribution,
    without N numbers a resample. The same arguments give the same interval, in whatever order the images stand.

    Args:
        first_credit: (N,), 0..1, each image's credit as `credits` gives it; N is at least 1.
        second_credit: (N,), the same of the second network.
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
    return PairedDifference(float(counts @ values / num), low, high, confidence, resamples, seed)


def errors_to_dict(counts: ErrorCounts, num_classes: int) -> dict[str, Any]:
    """Errors as JSON: images (whole unless classes tie), fractions, 95 % intervals; top-5 null where not reported."""
    content: dict[str, Any] = {}
    for name, wrong in (("top1", counts.top1_wrong), ("top5", counts.top5_wrong)):
        is_told = name == "top1" or num_classes >= TOP5_CLASSES
        content[f"{name}_wrong"] = (int(wrong) if wrong.denominator == 1 else float(wrong)) if is_told else None
        content[f"{name}_error"] = float(wrong / counts.num) if is_told else None
        content[f"{name}_interval"] = list(wilson_interval(wrong, counts.num)) if is_told else None
    return {**content, "loss": counts.loss}


def reported_errors(num_classes: int) -> dict[str, int]:
    """The errors that are reported, by name, with the number of guesses that each allows."""
    return {"top1": 1, "top5": 5} if num_classes >= TOP5_CLASSES else {"top1": 1}


@dataclass(frozen=True, eq=False)
class AlignedPredictions:
    """Several runs' saved probabilities of the same images."""

    runs: tuple[Path, ...]
    data: PreparedData
    classes: tuple[ClassInfo, ...]
    """What the networks know, in their order; more than the data set's where that has only some of them."""
    split: str
    num_views: NumViews
    samples: npt.NDArray[np.int64]
    """(N,), each row's place in the split."""
    labels: npt.NDArray[np.int64]
    """(N,), 0 .. K-1."""
    probabilities: tuple[npt.NDArray[np.float32], ...] = field(repr=False)
    """(N, K) of each run."""


def load_aligned_predictions(
    run_folders: Sequence[Path],
    *,
    data_folder: Path | Sequence[Path] | None = None,
    split: str | None = None,
    num_views: NumViews = 10,
) -> AlignedPredictions:
    """Read what `alexnet evaluate` saved of several runs on one data set.

    Args:
        run_folders: at least two, each once.
        data_folder: the prepared data set, or several to be joined, on which all of them were measured; None is what
            they were trained on, which must be the same for all.
        split: None is the data set's evaluation split.
        num_views: views that were averaged, or `dense`; a baseline has one, whatever is asked for.

    Raises:
        RequestError: fewer than two runs or one named twice, runs trained on different data where none is named, a
            split that is unknown, empty or without labels, probabilities that were not saved or are of another data
            set, or that differ in their classes or images; the message names the runs.
        WorkError: a file is damaged.
    """
    runs = tuple(run_folders)
    if len(runs) < 2:
        raise RequestError(f"{len(runs)} run{'s' * (len(runs) != 1)} named; name two or more")
    for first, second in itertools.combinations(runs, 2):
        if first.resolve() == second.resolve():
            raise RequestError(f"{second} is named twice (as {first} and {second}); name each run once")
    opened = [RunFolder.open(run) for run in runs]
    num_views = available_views(opened, num_views)
    trained_on = [str(run.facts()["data"]["checksum"]) for run in opened]
    if data_folder is None:
        for run, checksum in zip(runs[1:], trained_on[1:], strict=True):
            if checksum != trained_on[0]:
                raise RequestError(
                    f"{run} differs from {runs[0]} in its data: it was trained on {checksum[:12]}, the other on "
                    f"{trained_on[0][:12]}; evaluate both on one data set and name that with --data"
                )
    folders = opened[0].data_folders() if data_folder is None else data_folder
    data = open_data([folders] if isinstance(folders, Path) else folders)
    split = data.evaluation_split if split is None else split
    if split not in data.splits:
        raise RequestError(f"{data.folder} has no split {split!r}; it has {', '.join(data.splits)}")
    found = []
    for one_run, run, checksum in zip(opened, runs, trained_on, strict=True):
        own_views = available_views([one_run], num_views)
        again = _evaluate_command(run, data_folder, split, own_views)
        folder = predictions_folder(run, checksum, data.checksum)
        if not predictions_path(folder, split, own_views).is_file():
            raise RequestError(
                f"{run} has no saved probabilities of split {split!r} of {data.folder} with "
                f"{describe_views(own_views)}; `{again}` makes them"
            )
        one = load_predictions(folder, split, own_views, data)
        found.append(one)
        if one.class_ids != found[0].class_ids:
            raise RequestError(
                f"{run} differs from {runs[0]} in its classes: "
                f"{_first_difference(found[0].class_ids, one.class_ids)}; `{again}` measures it anew"
            )
        if not np.array_equal(one.samples, found[0].samples):
            raise RequestError(
                f"{run} differs from {runs[0]} in its images: their places in split {split!r} are not the same; "
                f"`{again}` measures it anew"
            )
    samples = found[0].samples
    if len(samples) == 0:
        raise RequestError(f"split {split!r} of {data.folder} has no images; choose another split")
    if (data.splits[split].labels < 0).any():
        raise RequestError(f"split {split!r} of {data.folder} has images without a label; choose another split")
    names = {one.id: one.name for one in data.classes}
    return AlignedPredictions(
        runs=runs,
        data=data,
        classes=tuple(ClassInfo(one, names.get(one, one)) for one in found[0].class_ids),
        split=split,
        num_views=num_views,
        samples=samples,
        labels=found[0].labels(data)[samples],
        probabilities=tuple(one.probabilities for one in found),
    )


def _even_share_p(first: int, second: int) -> float:
    """The two-sided binomial p-value of two counts that a fair coin would share evenly."""
    num, smaller = first + second, min(first, second)
    term = total = 1
    for place in range(smaller):
        term = term * (num - place) // (place + 1)  # the binomial coefficient (num, place + 1), exactly
        total += term
    # Whole numbers of any size: a division of them is rounded once.
    chance: float = 2 * total / 2**num
    return min(1.0, chance)


def _first_difference(first: Sequence[str], second: Sequence[str]) -> str:
    """Where two lists of class ids part, in words."""
    pairs = enumerate(itertools.zip_longest(second, first, fillvalue="none"))
    place, (mine, theirs) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
    return f"it has {len(second)}, the other {len(first)}, and number {place} is {mine!r}, the other's {theirs!r}"


def _evaluate_command(run: Path, data_folder: Path | Sequence[Path] | None, split: str, num_views: NumViews) -> str:
    """The command that saves a run's probabilities."""
    words = ["alexnet", "evaluate", str(run), "--split", split, "--views", str(num_views)]
    if data_folder is not None:
        words += ["--data", *map(str, [data_folder] if isinstance(data_folder, Path) else data_folder)]
    return shlex.join(words)
