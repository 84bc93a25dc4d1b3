"""Line plots as SVG for embedding in a page: deterministic, and legible on light and dark backgrounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from alexnet.figures.figure_style import COLORS, figure_style, svg_element

_MOST_POINTS = 500


@dataclass(frozen=True)
class Series:
    """One curve: `y` over `x`, float arrays (N,); points where either is not finite are omitted."""

    label: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    kind: Literal["line", "points"] = "line"
    """`points`: a few measurements, with markers and dashed lines."""


def curve_svg(series: Sequence[Series], *, name: str, description: str, x_title: str, y_title: str) -> str:
    """Draw curves as one SVG element for an HTML page.

    A curve of more than 500 points is drawn as 500 averages of neighboring points. Curves differ by color and by line
    style or markers.

    Args:
        name: letters and hyphens, unique in the page: the prefix of every id in the element.
        description: alternative text.

    Returns:
        An `<svg>` element without prolog that scales to the available width.
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
                label=one.label,
                color=COLORS[number % len(COLORS)],
                linestyle="--" if one.kind == "points" else "-",
                linewidth=1.2 if one.kind == "points" else 1.6,
                marker="o" if marked else "",
                markersize=5,
            )
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)
        axes.set_ylim(bottom=0)
        # Room above a curve that stays at its highest.
        axes.set_ylim(top=1.05 * axes.get_ylim()[1])
        axes.set_xlim(left=0)
        axes.grid(True)
        if axes.lines:
            axes.legend(loc="best")
    return svg_element(figure, name, description)


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
