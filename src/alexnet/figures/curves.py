"""Line plots as SVG for embedding in a page: deterministic, and legible on light and dark backgrounds."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from alexnet.system.visible_text import visible_html

# Drawn in this color, which is then replaced by the page's text color.
_INK = "#010203"
# Blue, vermilion, green, purple of Okabe and Ito's palette: distinguishable with every common color vision.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_MOST_POINTS = 500
# Any: the stubs expect literal keys.
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "alexnet",
    # Text stays text: it can be searched and read aloud, and uses the page's font.
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


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
    with matplotlib.rc_context(_STYLE):
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
                color=_COLORS[number % len(_COLORS)],
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
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue(), name, description)


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


def _for_page(svg: str, name: str, description: str) -> str:
    """Matplotlib's SVG file as an element: without prolog, metadata or style, and with unique ids."""
    view_box = re.search(r'viewBox="([^"]+)"', svg)
    if view_box is None:
        raise AssertionError("matplotlib wrote an SVG without a viewBox")
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", body)
    # HTML accepts `href` on SVG elements; the older `xlink:href` would need a namespace.
    body = body.replace("xlink:href=", "href=").replace(_INK, "currentColor")
    return (
        f'<svg class="curve" viewBox="{view_box.group(1)}" role="img" aria-label="{visible_html(description)}" '
        f'style="stroke-linejoin: round; stroke-linecap: butt">{body.rstrip()}'
    )
