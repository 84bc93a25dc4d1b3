"""One bar for each class, sorted: a measure between 0 and 1."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from alexnet.figures.figure_style import COLORS, figure_style, shortened
from alexnet.system.visible_text import visible

MOST_BARS = 40
_MOST_CHARACTERS = 38
_NOTE_CHARACTERS = 95
"""Of a line of the note."""
_WIDTH_IN, _TITLE_IN, _LINE_IN = 7.5, 0.42, 0.16


@dataclass(frozen=True)
class ClassBar:
    """A class and its value, 0..1."""

    name: str
    value: float
    note: str = ""
    """What follows the name, such as a number of images; it is not cut where the name is."""

    @property
    def label(self) -> str:
        """The name and the note, with room for both."""
        return shortened(self.name, _MOST_CHARACTERS - len(self.note)) + self.note


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
    notes = textwrap.wrap(visible(note), _NOTE_CHARACTERS)
    header = _TITLE_IN + _LINE_IN * len(notes)
    height = header + 0.9 + 0.15 * len(lines) + 0.27 * len(shown)
    with figure_style():
        engine = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - header / height))
        figure = Figure(figsize=(_WIDTH_IN, height), layout=engine)
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
        axes.set_yticks(places, [one.label for one in shown], size=9.5)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 1.06)
        axes.set_xlabel(x_title)
        figure.text(0.01, 1 - 0.12 / height, visible(title), size=13, weight="bold", va="top")
        figure.text(0.01, 1 - _TITLE_IN / height, "\n".join(notes), size=9, va="top")
    return figure
