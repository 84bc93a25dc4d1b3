"""Curves of a training: loss and top-1 error over the epochs, of the training batches and of the validations."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from alexnet.figures.curves import Series, curve_svg

CurveKey = Literal["loss", "top1_error"]
_SHOWN: dict[CurveKey, tuple[str, float, str, str]] = {
    "loss": ("Loss", 1, "", "loss, nats"),
    "top1_error": ("Top-1 error", 100, " %", "top-1 error, %"),
}
"""Title, factor, unit and title of the axis."""


def learning_curve(
    events: Sequence[Mapping[str, Any]], key: CurveKey, evaluation_name: str, *, name: str
) -> str | None:
    """The curve of a run as one SVG element, see `curve_svg`; None if its log has no steps yet.

    Args:
        events: of the run.
        evaluation_name: label of the errors that were measured.
        name: letters and hyphens, unique in the page.
    """
    steps = [event for event in events if event["event"] == "step"]
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
    )


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
