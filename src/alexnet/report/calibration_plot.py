"""The reliability diagram of a stored evaluation, and what it says."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from alexnet.evaluation.metrics import mean_interval
from alexnet.figures.figure_style import svg_element
from alexnet.figures.reliability_diagram import ReliabilityBar, reliability_figure
from alexnet.report.contents import Section

_SMALL_GAP = 0.01


def calibration_section(evaluation: Mapping[str, Any]) -> Section:
    """Accuracy over confidence, with the number of images, and the expected calibration error."""
    stored = evaluation.get("calibration")
    if not stored or not stored["bins"]:
        return Section(
            missing="This evaluation was stored by an earlier version, without its calibration; evaluate the run again "
            "to see it."
        )
    bars = [
        ReliabilityBar(
            low=one["low"],
            high=one["high"],
            num_images=one["num_images"],
            confidence=one["confidence"],
            accuracy=one["accuracy"],
            interval=mean_interval(one["accuracy"], one["num_images"]),
        )
        for one in stored["bins"]
    ]
    num = sum(one.num_images for one in bars)
    confidence = sum(one.num_images * one.confidence for one in bars) / num
    accuracy = sum(one.num_images * one.accuracy for one in bars) / num
    error = stored["expected_error"]
    gap = confidence - accuracy
    verdict = (
        "on average as certain as it is right"
        if abs(gap) < _SMALL_GAP
        else "too certain: right less often than it says"
        if gap > 0
        else "too cautious: right more often than it says"
    )
    description = (
        f"Reliability diagram: mean confidence {100 * confidence:.1f} %, {100 * accuracy:.1f} % right, expected "
        f"calibration error {100 * error:.1f} %."
    )
    return Section(
        Markup('<div class="plot">{}</div>').format(
            Markup(svg_element(reliability_figure(bars), "calibration", description))
        ),
        note=f"Expected calibration error {100 * error:.1f} % (mean gap between confidence and accuracy over "
        f"{num:,} images, in {len(bars)} bins of equal width that have images). Its most probable class has a "
        f"probability of {100 * confidence:.1f} % on average and is right for {100 * accuracy:.1f} % of the "
        f"images: it is {verdict}.",
    )
