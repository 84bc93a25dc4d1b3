"""Reliability diagrams: how often a network is right at each confidence, with the number of images below."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from alexnet.figures.figure_style import COLORS, figure_style


@dataclass(frozen=True)
class ReliabilityBar:
    """The images whose most probable class has a probability above `low`, up to `high`."""

    low: float
    high: float
    num_images: int
    confidence: float
    """Mean probability, fraction 0..1."""
    accuracy: float
    """Fraction that is right."""
    interval: tuple[float, float]
    """Of the accuracy."""


def reliability_figure(bars: Sequence[ReliabilityBar]) -> Figure:
    """Draw accuracy over confidence, with intervals, above the number of images of each bar.

    On the dashed diagonal a network is right exactly as often as it says; above it, it is more often right.
    """
    with figure_style():
        figure = Figure(figsize=(6, 5), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        ink = upper.xaxis.label.get_color()
        upper.plot([0, 100], [0, 100], linestyle="--", linewidth=1.2, color=ink, alpha=0.6, label="as right as it says")
        middles = [100 * one.confidence for one in bars]
        accuracies = [100 * one.accuracy for one in bars]
        # Rounding may put an end of the interval on the wrong side of a value at its edge.
        spans = [
            [max(0.0, 100 * (one.accuracy - one.interval[0])) for one in bars],
            [max(0.0, 100 * (one.interval[1] - one.accuracy)) for one in bars],
        ]
        upper.vlines(middles, middles, accuracies, color=COLORS[1], linewidth=5, alpha=0.4, label="gap")
        upper.errorbar(
            middles, accuracies, spans, fmt="o", color=COLORS[0], markersize=5, capsize=2, label="right (95 % interval)"
        )
        upper.set_ylabel("images that are right, %")
        upper.set_ylim(0, 103)
        upper.set_xlim(0, 100)
        upper.grid(True)
        upper.legend(loc="upper left")
        lower.bar(
            [100 * one.low for one in bars],
            [one.num_images for one in bars],
            [92 * (one.high - one.low) for one in bars],
            align="edge",
            color=COLORS[0],
        )
        lower.set_ylabel("images")
        lower.set_xlabel("confidence: probability of the most probable class, %")
        figure.align_ylabels()
    return figure
