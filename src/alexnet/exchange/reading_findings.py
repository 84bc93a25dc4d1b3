"""What the errors under different readings say, in sentences: which reading the weights were trained with, if any."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import ClassInfo
from alexnet.evaluation.metrics import wilson_interval
from alexnet.evaluation.paired import TOP5_CLASSES, mcnemar
from alexnet.exchange.class_order import MovedClass, moved_classes, relabeled
from alexnet.exchange.convention_proof import Combination, Measurement, Reading
from alexnet.model.weights import Trained
from alexnet.runs.import_recipe import SCALES

Stance = Literal["for", "against", "neither"]
AXES = ("color order", "scale", "mean", "layout")
"""What readings differ in: kinds of findings."""
ERROR_RATE = 0.001
"""Of networks that read as claimed at most so many are said to read otherwise, or to have classes in another order:
p-values are multiplied by the number of comparisons."""
_CLOSE = 0.05
"""A reading with a greater p-value against the best one is as good as that."""
_MIN_GAIN = 0.03
"""Accuracy that new names of the classes must add."""
_CLEARLY_ABOVE = 0.1
"""Part of the way from chance to no errors."""
_MOST_PAIRS = 3
"""Exchanged classes that a sentence names."""
_DOUBTFUL = 0.01
"""A reading that errs less than the claimed one with a smaller p-value leaves the claim in doubt."""
_MIN_IMAGES = 100
"""Of fewer images an error at chance says little."""
_MEANS = {
    "claimed": "colors minus the claimed mean",
    "none": "colors with no mean subtracted",
    "data set": "colors minus a mean (here the data set's)",
}
_LAYOUTS = {
    "as given": "tensors as they are imported",
    "height and width exchanged": "tensors with height and width exchanged",
    "filters rotated": "filters rotated by 180 degrees",
    "height, width, channels": "the first dense layer's inputs in the order height, width, channels",
}


@dataclass(frozen=True)
class Finding:
    """A sentence with figures."""

    kind: str
    """`layers`, `layer`, `units`, `error`, `classes`, `not tested`, or one of `AXES`."""
    stance: Stance
    """For or against what the weights claim to be."""
    text: str


@dataclass(frozen=True, eq=False)
class Reasoned:
    """What follows from a measurement."""

    measurement: Measurement
    """With p-values."""
    better: Combination | None
    """The reading that the weights were trained with, where it is not the claimed one."""
    needed: frozenset[str] | None
    """Of the suspected layers those without which the network errs more; None where it does not read as claimed."""
    findings: tuple[Finding, ...]
    moved: tuple[MovedClass, ...]


@dataclass(frozen=True, eq=False)
class _Judged:
    """A combination, and which images it gets right, under the names of the classes that fit."""

    combination: Combination
    right: NDArray[np.bool_]

    @property
    def reading(self) -> Reading:
        return self.combination.reading

    def p_value(self, other: "_Judged") -> float:
        return mcnemar(~self.right, ~other.right).p_value

    def is_better(self, other: "_Judged", num_comparisons: int) -> bool:
        """Whether it errs less, and not by chance."""
        return self.right.sum() > other.right.sum() and self.p_value(other) * num_comparisons < ERROR_RATE


def reason(measurement: Measurement, trained: Trained, *, is_last_trained: bool) -> Reasoned:
    """Compare the claimed reading with all others by McNemar's exact test on the same images.

    If the classes turn out to be in another order, readings are compared under the order that fits.

    Args:
        is_last_trained: whether the last layer's weights are trained; classes of others have no order.
    """
    labels = measurement.sample.labels
    combinations = measurement.combinations
    renamed = [_Judged(one, relabeled(one.answers, labels) == labels) for one in combinations]
    named = [_Judged(one, one.answers == labels) for one in combinations]
    best_renamed = max(range(len(renamed)), key=lambda number: int(renamed[number].right.sum()))
    gain = renamed[best_renamed].right.mean() - max(one.right.mean() for one in named)
    moved = moved_classes(combinations[best_renamed].answers, labels)
    is_moved = (
        is_last_trained
        and gain >= _MIN_GAIN
        and bool(moved)
        and renamed[best_renamed].is_better(named[best_renamed], len(combinations))
    )
    judged = renamed if is_moved else named
    claimed, others = judged[0], judged[1:]
    if is_moved:
        accuracies = float(named[best_renamed].right.mean()), float(renamed[best_renamed].right.mean())
        first = _class_finding(moved, trained.classes, accuracies, measurement.sample.num_classes)
    else:
        first = _error_finding(judged, measurement)
    better = _better_reading(claimed, others)
    if better is None:
        findings = [first, *_doubts(claimed, others)]
        if first.kind != "error" or first.stance == "for":  # at chance no reading is better than another
            findings += _axis_findings(claimed, others, measurement.num_gray)
    else:
        findings = [first, _better_finding(better, claimed)]
    needed = _needed_layers(claimed, measurement, is_moved) if better is None else None
    tested = (claimed.combination, *(replace(one.combination, p_value=one.p_value(claimed)) for one in others))
    return Reasoned(
        replace(measurement, combinations=tested),
        None if better is None else better.combination,
        needed,
        tuple(findings),
        moved if is_moved else (),
    )


def _needed_layers(claimed: _Judged, measurement: Measurement, is_moved: bool) -> frozenset[str]:
    """The shuffled layers without which the network loses half or more of its accuracy above chance.

    Random networks, too, answer a little better than chance, by colors. So the accuracy must be clearly above it.
    """
    labels, chance = measurement.sample.labels, 1 / measurement.sample.num_classes
    own, num = float(claimed.right.mean()), len(labels)
    lowest, _ = wilson_interval(int(claimed.right.sum()), num, 1 - 2 * ERROR_RATE)
    if lowest <= chance + _CLEARLY_ABOVE * (1 - chance):
        return frozenset()
    needed = set()
    for name, answers in measurement.answers_without.items():
        shuffled = _Judged(claimed.combination, (relabeled(answers, labels) if is_moved else answers) == labels)
        loses_half = float(shuffled.right.mean()) - chance <= (own - chance) / 2
        if loses_half and claimed.is_better(shuffled, len(measurement.answers_without)):
            needed.add(name)
    return frozenset(needed)


def _error_finding(judged: Sequence[_Judged], measurement: Measurement) -> Finding:
    """Whether the network classifies better than chance as claimed, which is the first, or at all."""
    sample, one = measurement.sample, judged[0].combination
    num, chance = len(sample.indices), 1 / sample.num_classes
    top5 = f", top-5 error {_percent(one.top5_error)} %" if sample.data.num_classes >= TOP5_CLASSES else ""
    error = (
        f"top-1 error {_with_interval(one)}{top5} on {num:,} images of "
        f"{sample.num_classes:,} classes ({sample.data.title}, {sample.split})"
    )
    above = [wilson_interval(int(each.right.sum()), num, 1 - 2 * ERROR_RATE)[0] > chance for each in judged]
    if above[0]:
        return Finding("error", "for", f"T{error[1:]}.")
    if any(above):
        return Finding("error", "neither", f"The network is no better than chance as claimed: {error}.")
    is_enough = num >= _MIN_IMAGES
    more = "" if is_enough else f"; of fewer than {_MIN_IMAGES} images that says little"
    return Finding(
        "error",
        "against" if is_enough else "neither",
        f"The network is no better than chance at these classes under any reading: {error}; chance is "
        f"{_percent(1 - chance)} %{more}.",
    )


def _better_reading(claimed: _Judged, others: Sequence[_Judged]) -> _Judged | None:
    """The reading with the fewest errors, if it errs less than the claimed one and not by chance. Of several that are
    as good, the one that is most like the claimed one."""
    best = max(others, key=lambda one: one.right.sum())
    if not best.is_better(claimed, len(others)):
        return None
    as_good = [one for one in others if one.is_better(claimed, len(others)) and one.p_value(best) > _CLOSE]
    return min((best, *as_good), key=lambda one: (len(_differences(one.reading, claimed.reading)), -one.right.sum()))


def _better_finding(better: _Judged, claimed: _Judged) -> Finding:
    """What the weights were trained to read."""
    differing = _differences(better.reading, claimed.reading)
    found, expected = (_describe(one.reading, differing) for one in (better, claimed))
    errors = f"top-1 error {_measured(better)} against {_measured(claimed)} as claimed"
    return Finding(differing[0], "against", f"The weights read {found}, not {expected}: {errors}.")


def _doubts(claimed: _Judged, others: Sequence[_Judged]) -> list[Finding]:
    """The best reading, where it errs less than the claimed one, but so many readings make that likely by chance."""
    best = max(others, key=lambda one: one.right.sum())
    p_value = best.p_value(claimed)
    if best.right.sum() <= claimed.right.sum() or p_value >= _DOUBTFUL:
        return []
    differing = _differences(best.reading, claimed.reading)
    found, expected = (_describe(one.reading, differing) for one in (best, claimed))
    text = (
        f"The weights may read {found} instead of {expected}: top-1 error {_measured(best)} against "
        f"{_measured(claimed)} as claimed, p {p_value:.1g}, which may still be chance for the best of {len(others)} "
        "readings; more images would tell."
    )
    return [Finding("error", "neither", text)]


def _axis_findings(claimed: _Judged, others: Sequence[_Judged], num_gray: int) -> list[Finding]:
    """What could be told of each axis, where no other reading is better."""
    findings = []
    for axis in AXES:
        rivals = [one for one in others if _differences(one.reading, claimed.reading) == [axis]]
        if not rivals:
            continue
        nearest = max(rivals, key=lambda one: one.right.sum())
        own, other = _describe(claimed.reading, [axis]), _describe(nearest.reading, [axis])
        figures = f"top-1 error {_measured(claimed)} against {_measured(nearest)}"
        if claimed.is_better(nearest, len(others)):
            findings.append(Finding(axis, "for", f"The weights read {own}: {figures} for {other}."))
            continue
        is_gray = axis == "color order" and num_gray > 0
        gray = f"; {num_gray:,} of {len(claimed.right):,} images are gray" if is_gray else ""
        text = f"These images do not tell whether the weights read {own} or {other}: {figures}{gray}."
        findings.append(Finding(axis, "neither", text))
    return findings


def _differences(reading: Reading, other: Reading) -> list[str]:
    pairs = zip(AXES, _parts(reading), _parts(other), strict=True)
    return [axis for axis, own, others in pairs if own != others]


def _parts(reading: Reading) -> tuple[str, ...]:
    return reading.color_order, reading.scale, reading.mean, reading.layout


def _describe(reading: Reading, axes: Iterable[str]) -> str:
    """The reading on some axes: `BGR and colors 0..255`."""
    texts = {
        "color order": reading.color_order.upper(),
        "scale": SCALES[reading.scale],
        "mean": _MEANS[reading.mean],
        "layout": _LAYOUTS[reading.layout],
    }
    return " and ".join(texts[axis] for axis in axes)


def _class_finding(
    moved: Sequence[MovedClass], classes: Sequence[ClassInfo], accuracies: tuple[float, float], num_classes: int
) -> Finding:
    """Which classes were exchanged, or that the network knows other classes."""
    pairs = "; ".join(
        f"images of {classes[one.label].name} are taken for {classes[one.read_as].name} "
        f"({one.num_read:,} of {one.num_images:,})"
        for one in moved[:_MOST_PAIRS]
    )
    more = f"; and {len(moved) - _MOST_PAIRS:,} more classes" if len(moved) > _MOST_PAIRS else ""
    named, renamed = accuracies
    return Finding(
        "classes",
        "against",
        f"The classes are in another order, or others than named: with the names exchanged the top-1 error is "
        f"{_percent(1 - renamed)} % instead of {_percent(1 - named)} % ({len(moved):,} of {num_classes:,} classes; "
        f"{pairs}{more}).",
    )


def _measured(judged: _Judged) -> str:
    """The top-1 error and its interval."""
    num, wrong = len(judged.right), int((~judged.right).sum())
    low, high = wilson_interval(wrong, num)
    return f"{_percent(wrong / num)} % ({_percent(low)} to {_percent(high)})"


def _with_interval(one: Combination) -> str:
    low, high = one.top1_interval
    return f"{_percent(one.top1_error)} % ({_percent(low)} to {_percent(high)})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
