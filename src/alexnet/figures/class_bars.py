"""One bar for each class, sorted: a measure between 0 and 1."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from alexnet.figures.figure_style import COLORS, figure_style, shortened
from alexnet.system.visible_text import visible

MOST_BARS = 40
_MOST_CHARACTERS = 38


@dataclass(frozen=True)
class ClassBar:
    """A class and its value, 0..1."""

    name: str
    value: float


def class_bars_figure(
    bars: Sequence[ClassBar], *, title: str, note: str, x_title: str, lines: Sequence[tuple[str, float]] = ()
) -> Figure:
    """Draw bars from the largest value to the smallest; of more than 40, the 20 of each end.

    Args:
        lines: values that all bars are compared with, and what each is.
    """
    ordered = sorted(bars, key=lambda one: -one.value)
    shown = ordered
    if len(ordered) > MOST_BARS:
        half = MOST_BARS // 2
        shown = [*ordered[:half], *ordered[-half:]]
        note += f"; the best {half} and the worst {half} of {len(ordered):,} classes"
    with figure_style():
        figure = Figure(figsize=(7.5, 1.7 + 0.27 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(shown))
        axes.barh(places, [one.value for one in shown], color=COLORS[0], height=0.72)
        for place, one in enumerate(shown):
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
            axes.text(one.value + 0.01, place, f"{one.value:.2f}", va="center", size=8.5, bbox=box, zorder=4)
        for number, (what, value) in enumerate(lines):
            axes.axvline(value, color=COLORS[1], linewidth=1.4, linestyle=("--", ":")[number % 2], zorder=3)
            axes.annotate(
                f"{visible(what)} {value:.2f}", (value, 1), xycoords=("data", "axes fraction"),
                xytext=(0, 4 + 11 * number),
                textcoords="offset points", ha="center", va="bottom", size=8.5, color=COLORS[1],
            )  # fmt: skip
        axes.set_yticks(places, [shortened(one.name, _MOST_CHARACTERS) for one in shown])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.06)
        axes.set_xlabel(x_title)
        figure.suptitle(visible(title), size=13, weight="bold", x=0.01, ha="left")
        axes.set_title(visible(note), size=9, loc="left", pad=9 + 11 * len(lines))
    return figure
