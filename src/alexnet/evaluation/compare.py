"""Two runs on the same images: which is better, how surely, and on which images they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alexnet.data.dataset import ClassInfo
from alexnet.evaluation.metrics import ErrorCounts, count_errors, per_class_counts, top_k_credits
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

Outcome = Literal["only_first", "only_second", "both_wrong"]


@dataclass(frozen=True)
class Measure:
    """One error of two runs."""

    mcnemar: McNemar
    """Right is here what ties with nothing that would displace it, so with ties the counts differ from the errors."""
    difference: PairedDifference
    """The first run's error less the second's."""


@dataclass(frozen=True)
class DifferingImage:
    """An image that the two runs answer differently; classes are 0 .. K-1."""

    index: int
    """Its place in the split."""
    key: str
    """What it is called in the data set; what is not UTF-8 in it is replaced."""
    label: int
    first: int
    """The first run's most probable class; the one that comes first among equals."""
    first_probability: float
    second: int
    second_probability: float
    outcome: Outcome


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same images."""

    first: str
    second: str
    split: str
    num_views: NumViews
    data_checksum: str
    data_title: str
    generated: bool
    """Whether a program drew the images."""
    classes: tuple[ClassInfo, ...]
    first_counts: ErrorCounts
    second_counts: ErrorCounts
    measures: Mapping[str, Measure]
    """By error: `top1`, and `top5` where there are 20 classes or more."""
    first_per_class: tuple[ErrorCounts, ...]
    """One for each class, in the order of `classes`."""
    second_per_class: tuple[ErrorCounts, ...]
    images: tuple[DifferingImage, ...] = field(repr=False)
    """All on which they differ, the most confident disagreements first."""

    def to_dict(self) -> dict[str, Any]:
        """The comparison as one JSON object: errors are fractions, intervals `[low, high]` of 95 %.

        `top1` and `top5` (null with fewer than 20 classes) hold the errors `first` and `second`, McNemar's counts and
        `p_value`, and the `difference`, first less second. `per_class` has one object a class (errors null for a class
        without images), `images` one for each image on which the two differ.
        """

        def named(place: int) -> dict[str, str]:
            return {"id": self.classes[place].id, "name": self.classes[place].name}

        counts = {"first": self.first_counts, "second": self.second_counts}
        errors = {run: errors_to_dict(one, len(self.classes)) for run, one in counts.items()}
        measures = {
            name: {
                **{
                    run: {part: content[f"{name}_{part}"] for part in ("wrong", "error", "interval")}
                    for run, content in errors.items()
                },
                **self.measures[name].mcnemar.to_dict(),
                "difference": self.measures[name].difference.to_dict(),
            }
            if name in self.measures
            else None
            for name in ("top1", "top5")
        }
        per_class = zip(self.classes, self.first_per_class, self.second_per_class, strict=True)
        return {
            "first": self.first,
            "second": self.second,
            "split": self.split,
            "num_views": self.num_views,
            "num_images": self.first_counts.num,
            "num_classes": len(self.classes),
            "data_checksum": self.data_checksum,
            "data_title": self.data_title,
            "generated": self.generated,
            **measures,
            "per_class": [
                {
                    "id": one.id,
                    "name": one.name,
                    "num_images": first.num,
                    "first_top1_error": first.top1_error if first.num else None,
                    "second_top1_error": second.top1_error if first.num else None,
                    "difference": float((first.top1_wrong - second.top1_wrong) / first.num) if first.num else None,
                }
                for one, first, second in per_class
            ],
            "num_differing": len(self.images),
            "images": [
                {
                    "index": one.index,
                    "key": one.key,
                    "outcome": one.outcome,
                    "right": named(one.label),
                    "first": {**named(one.first), "probability": one.first_probability},
                    "second": {**named(one.second), "probability": one.second_probability},
                }
                for one in self.images
            ],
        }


def compare_runs(
    first: Path,
    second: Path,
    *,
    data_folder: Path | Sequence[Path] | None = None,
    split: str | None = None,
    num_views: NumViews = 10,
) -> Comparison:
    """Compare two runs by the probabilities that `alexnet evaluate` saved of them.

    Images on which they differ are those with another most probable class, or with one run right alone; a disagreement
    is as confident as the less probable of its two answers.

    Args:
        data_folder: as in `load_aligned_predictions`.
        split: None is the data set's evaluation split.
        num_views: views that were averaged.

    Raises:
        RequestError: what `load_aligned_predictions` refuses.
        WorkError: a file is damaged.
    """
    found = load_aligned_predictions((first, second), data_folder=data_folder, split=split, num_views=num_views)
    mine, theirs = found.probabilities
    measures = {}
    for name, places in reported_errors(len(found.classes)).items():
        credit = top_k_credits(mine, found.labels, places), top_k_credits(theirs, found.labels, places)
        measures[name] = Measure(mcnemar(credit[0] < 1, credit[1] < 1), paired_difference(*credit))
    return Comparison(
        first=str(first),
        second=str(second),
        split=found.split,
        num_views=found.num_views,
        data_checksum=found.data.checksum,
        data_title=found.data.title,
        generated=found.data.generated,
        classes=found.classes,
        first_counts=count_errors(mine, found.labels),
        second_counts=count_errors(theirs, found.labels),
        measures=measures,
        first_per_class=tuple(per_class_counts(mine, found.labels)),
        second_per_class=tuple(per_class_counts(theirs, found.labels)),
        images=_differing(found),
    )


def _differing(found: AlignedPredictions) -> tuple[DifferingImage, ...]:
    """The images on which two runs differ, most confident disagreements first, in the split's order among equals."""
    guesses = [one.argmax(axis=1) for one in found.probabilities]
    sure = [one.max(axis=1) for one in found.probabilities]
    right = [top_k_credits(one, found.labels, 1) == 1 for one in found.probabilities]
    differ = np.flatnonzero((guesses[0] != guesses[1]) | (right[0] != right[1]))
    order = differ[np.argsort(-np.minimum(*sure)[differ], kind="stable")]
    images = found.data.splits[found.split]
    listed = []
    for row in order.tolist():
        outcome: Outcome = "only_first" if right[0][row] else "only_second" if right[1][row] else "both_wrong"
        sample = int(found.samples[row])
        listed.append(
            DifferingImage(
                index=sample,
                # A file name need not be UTF-8; JSON is.
                key=images.key(sample).encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
                label=int(found.labels[row]),
                first=int(guesses[0][row]),
                first_probability=float(sure[0][row]),
                second=int(guesses[1][row]),
                second_probability=float(sure[1][row]),
                outcome=outcome,
            )
        )
    return tuple(listed)
