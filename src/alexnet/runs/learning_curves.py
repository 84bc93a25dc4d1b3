"""Curves of a training: loss and top-1 error over the epochs, of the training batches and of the validations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from alexnet.figures.curves import CurveMark, Series, curve_svg

CurveKey = Literal["loss", "top1_error"]
_SHOWN: dict[CurveKey, tuple[str, float, str, str]] = {
    "loss": ("Loss", 1, "", "loss, nats"),
    "top1_error": ("Top-1 error", 100, " %", "top-1 error, %"),
}
"""Title, factor, unit and title of the axis."""

_MOST_STEPS_IN_A_ROW = 2


@dataclass(frozen=True)
class LearningRateChange:
    """A step of the weights' learning rate from one constant value to another."""

    epoch: float
    """Epochs done when the old rate was last logged; the change is at most one logging interval later."""
    step: int
    before: float
    after: float


def learning_rate_changes(events: Sequence[Mapping[str, Any]]) -> list[LearningRateChange]:
    """The steps of the learning rate in a run's log, in order.

    A rate that changes gradually makes no steps: where it changes more than twice in a row (cosine, linear decay), or
    rises from the first logged step on (warmup). Of two changes in a row, each needs a constant rate beside it.

    Args:
        events: of the run.
    """
    steps = [event for event in events if event["event"] == "step" and event.get("learning_rate") is not None]
    rates = [float(event["learning_rate"]) for event in steps]
    is_held = [first == second for first, second in pairwise(rates)]
    found, number = [], 0
    for held, group in groupby(is_held):
        first, number = number, number + len(list(group))
        changes = range(first, number)
        is_warmup = first == 0 and all(rates[one] < rates[one + 1] for one in changes)
        if held or is_warmup or len(changes) > _MOST_STEPS_IN_A_ROW:
            continue
        found += [one for one in changes if any(is_held[max(0, one - 1) : one] + is_held[one + 1 : one + 2])]
    return [
        LearningRateChange(float(steps[one]["epoch"]), int(steps[one]["step"]), rates[one], rates[one + 1])
        for one in found
    ]


def learning_curve(
    events: Sequence[Mapping[str, Any]],
    key: CurveKey,
    evaluation_name: str,
    *,
    name: str,
    changes: Sequence[LearningRateChange] = (),
) -> str | None:
    """The curve of a run as one SVG element, see `curve_svg`; None if its log has no steps yet.

    Args:
        events: of the run.
        evaluation_name: label of the errors that were measured.
        name: letters and hyphens, unique in the page.
        changes: of the learning rate, to be marked.
    """
    steps = _training_points(events)
    validations = [event for event in events if event["event"] == "validation"]
    if not steps and not validations:
        return None
    title, scale, unit, y_title = _SHOWN[key]
    trained = Series("training batches", _column(steps, "epoch"), scale * _column(steps, key))
    validated = Series(evaluation_name, _column(validations, "epoch"), scale * _column(validations, key), "points")
    last = f"at the end of the log, epoch {(steps or validations)[-1]['epoch']:.4g}"
    return curve_svg(
        [one for one in (trained, validated) if len(one.x)],
        name=name,
        description=f"{title} over epochs; {_last_values(steps, validations, key, scale, unit)} {last}.",
        x_title="epoch",
        y_title=y_title,
        marks=[CurveMark(one.epoch, f"rate {one.after:.3g}") for one in changes],
    )


def learning_rate_curve(
    events: Sequence[Mapping[str, Any]], *, name: str, changes: Sequence[LearningRateChange] = ()
) -> str | None:
    """The weights' learning rate over the epochs as one SVG element; None if the log has fewer than two.

    Args:
        events, name, changes: as in `learning_curve`.
    """
    steps = [event for event in events if event["event"] == "step" and event.get("learning_rate") is not None]
    rates = _column(steps, "learning_rate")
    if np.count_nonzero(rates > 0) < 2:
        return None
    low, high = rates[rates > 0].min(), rates.max()
    return curve_svg(
        [Series("learning rate of the weights", _column(steps, "epoch"), rates)],
        name=name,
        description=f"Learning rate over epochs, between {low:.3g} and {high:.3g}.",
        x_title="epoch",
        y_title="learning rate",
        marks=[CurveMark(one.epoch, f"rate {one.after:.3g}") for one in changes],
        is_logarithmic=bool(changes),
    )


def curves_of_runs(
    logs: Mapping[str, Sequence[Mapping[str, Any]]], key: CurveKey, *, name: str, of_training: bool = False
) -> str | None:
    """One curve for each of several runs in one SVG element; None if no log has values.

    Args:
        logs: the events of each run by its label.
        name: letters and hyphens, unique in the page.
        of_training: whether the curves are of the training batches; otherwise of the validations.
    """
    kind = "step" if of_training else "validation"
    title, scale, _, y_title = _SHOWN[key]
    series = []
    for label, events in logs.items():
        of_kind = [event for event in events if event["event"] == kind]
        series.append(
            Series(label, _column(of_kind, "epoch"), scale * _column(of_kind, key), "line" if of_training else "points")
        )
    if not any(np.isfinite(one.y).any() for one in series):
        return None
    what = "of the training batches" if of_training else "of the validations"
    return curve_svg(
        series,
        name=name,
        description=f"{title} {what} over epochs, of {len(series)} runs.",
        x_title="epoch",
        y_title=f"{'training' if of_training else 'validation'} {y_title}",
    )


def _training_points(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What was logged of the training batches: every few steps, or, of a training too short for that, every epoch."""
    steps = [event for event in events if event["event"] == "step"]
    epochs = [event for event in events if event["event"] == "epoch"]
    if len(steps) > 1 or len(epochs) < len(steps) or not epochs:
        return steps
    return [{**one, "loss": one.get("train_loss"), "top1_error": one.get("train_top1_error")} for one in epochs]


def _column(events: Sequence[Mapping[str, Any]], key: str) -> npt.NDArray[np.float64]:
    """One value of each event; NaN for events without it."""
    return np.array([np.nan if event.get(key) is None else event[key] for event in events], np.float64)


def _last_values(
    steps: Sequence[Mapping[str, Any]], validations: Sequence[Mapping[str, Any]], key: str, scale: float, unit: str
) -> str:
    """The last value of each curve, as text."""
    words = []
    for label, events in (("training", steps), ("validation", validations)):
        if events and events[-1].get(key) is not None:
            words.append(f"{label} {scale * events[-1][key]:.3g}{unit}")
    return ", ".join(words)
