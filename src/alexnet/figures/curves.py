"""Line plots as SVG for embedding in a page: deterministic, and legible on light and dark backgrounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alexnet.figures.figure_style import COLORS, figure_style, svg_element

_MOST_POINTS = 500
_MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Series:
    """One curve: `y` over `x`, float arrays (N,); points where either is not finite are omitted."""

    label: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    kind: Literal["line", "points"] = "line"
    """`points`: a few measurements, with markers and dashed lines."""


@dataclass(frozen=True)
class CurveMark:
    """A moment that is marked by a dotted vertical line."""

    x: float
    text: str
    """A few letters, written along the line."""


def curve_svg(
    series: Sequence[Series],
    *,
    name: str,
    description: str,
    x_title: str,
    y_title: str,
    marks: Sequence[CurveMark] = (),
    is_logarithmic: bool = False,
) -> str:
    """Draw curves as one SVG element for an HTML page, see `curves_figure`.

    Args:
        name: letters and hyphens, unique in the page: the prefix of every id in the element.
        description: alternative text.

    Returns:
        An `<svg>` element without prolog that scales to the available width.
    """
    figure = curves_figure(series, x_title=x_title, y_title=y_title, marks=marks, is_logarithmic=is_logarithmic)
    return svg_element(figure, name, description)


def curves_figure(
    series: Sequence[Series],
    *,
    x_title: str,
    y_title: str,
    marks: Sequence[CurveMark] = (),
    is_logarithmic: bool = False,
) -> Figure:
    """Draw curves over one another, with a legend.

    A curve of more than 500 points is drawn as 500 averages of neighboring points. Curves differ by color and by line
    style or markers.

    Args:
        marks: moments on the x axis.
        is_logarithmic: the y axis; values of 0 and less are then omitted.
    """
    with figure_style():
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for number, one in enumerate(series):
            x, y = _averaged(one.x, one.y)
            if not len(x):
                continue  # a legend would name a line that is not there
            marked = one.kind == "points" or len(x) < 3
            axes.plot(
                x,
                y,
                label=one.label if not one.label.startswith("_") else f" {one.label}",  # which would be no label
                color=COLORS[number % len(COLORS)],
                linestyle="--" if one.kind == "points" else "-",
                linewidth=1.2 if one.kind == "points" else 1.6,
                marker=_MARKERS[number // 2 % len(_MARKERS)] if marked else "",
                markersize=5,
                clip_on=not marked,  # a marker at the border is drawn whole
            )
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)
        if is_logarithmic:
            axes.set_yscale("log", nonpositive="mask")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter("")
        else:
            axes.set_ylim(bottom=0)
            # Room above a curve that stays at its highest.
            axes.set_ylim(top=1.05 * axes.get_ylim()[1])
        axes.set_xlim(left=0)
        if axes.get_xlim()[1] >= 1.5:
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        axes.grid(True)
        has_curves = bool(axes.lines)
        for mark in marks:
            axes.axvline(mark.x, linestyle=":", linewidth=1.2, color=COLORS[3], zorder=1)
            axes.annotate(
                mark.text,
                (mark.x, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-3, -3),
                textcoords="offset points",
                rotation=90,
                horizontalalignment="right",
                verticalalignment="top",
                fontsize=9,
            )
        if has_curves:
            axes.legend(loc="best")
    return figure


def _averaged(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The finite points, as at most `_MOST_POINTS` averages of neighbors."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= _MOST_POINTS:
        return x, y
    starts = np.arange(_MOST_POINTS) * len(x) // _MOST_POINTS
    sizes = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes
