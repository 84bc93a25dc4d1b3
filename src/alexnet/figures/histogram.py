"""Histograms as HTML: bars scale with the page, labels keep their size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alexnet.system.visible_text import visible_html

HISTOGRAM_STYLE = """
.histogram { margin: .75rem 0 1rem; break-inside: avoid; }
.histogram figcaption { color: var(--soft); font-size: .9rem; margin-bottom: .5rem; }
.histogram svg { display: block; width: 100%; height: 9rem; border-bottom: 1px solid var(--line); overflow: visible; }
.histogram rect { fill: var(--accent); print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.histogram line { stroke: var(--ink); stroke-width: 1.5px; stroke-dasharray: 4 3; vector-effect: non-scaling-stroke; }
.ticks {
  position: relative; height: 1.5rem; color: var(--soft); font-size: .82rem; font-variant-numeric: tabular-nums;
}
.ticks span { position: absolute; top: .25rem; transform: translateX(-50%); white-space: nowrap; }
.ticks span:first-child { transform: none; }
.ticks span.last { transform: none; }
"""
"""CSS that a page with `histogram_html` must include once."""

_HEIGHT = 100
_LEAST_HEIGHT = 1.0
_GAP = 0.08
_LAST = 0.9


@dataclass(frozen=True)
class HistogramBar:
    """One bar."""

    count: int
    title: str
    """The tooltip: what the bar counts, and its count."""


def histogram_html(
    bars: Sequence[HistogramBar],
    *,
    caption: str,
    description: str,
    ticks: Sequence[tuple[float, str]],
    marker: float | None = None,
) -> str:
    """Draw bars in an HTML `<figure>`; all text is escaped.

    Args:
        caption: what the histogram counts.
        description: alternative text.
        ticks: labels below the bars: position in bars, 0 at the left edge of the first bar, and text.
        marker: position of a dashed vertical line; None draws none.
    """
    highest = max((bar.count for bar in bars), default=0) or 1
    rectangles = []
    for number, bar in enumerate(bars):
        height = max(_LEAST_HEIGHT, _HEIGHT * bar.count / highest) if bar.count else 0
        rectangles.append(
            f'<rect x="{number + _GAP / 2:g}" y="{_HEIGHT - height:.2f}" width="{1 - _GAP:g}" height="{height:.2f}">'
            f"<title>{visible_html(bar.title)}</title></rect>"
        )
    line = "" if marker is None else f'<line x1="{marker:.4g}" x2="{marker:.4g}" y1="0" y2="{_HEIGHT}"/>'
    width = max(1, len(bars))
    labels = "".join(_tick(position / width, text) for position, text in ticks)
    return (
        f'<figure class="histogram">\n<figcaption>{visible_html(caption)}</figcaption>\n'
        f'<svg viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{visible_html(description)}">\n' + "\n".join(rectangles) + f"{line}\n</svg>\n"
        f'<div class="ticks" aria-hidden="true">{labels}</div>\n</figure>'
    )


def _tick(fraction: float, text: str) -> str:
    """A label below the bars at a fraction of the width; the last one is aligned to the right edge."""
    if fraction > _LAST:
        return f'<span class="last" style="right: 0">{visible_html(text)}</span>'
    return f'<span style="left: {100 * fraction:.2f}%">{visible_html(text)}</span>'


def round_edges(lowest: int, highest: int, *, most_bins: int = 24) -> npt.NDArray[np.int64]:
    """Edges of equal bins at round numbers: multiples of 1, 2 or 5 times a power of ten.

    Args:
        lowest, highest: smallest and largest integer that the bins must include.
        most_bins: 2 or more.

    Returns:
        int64 (bins + 1,), ascending; bin i has the integers from edge i up to, but excluding, edge i + 1.

    Raises:
        ValueError: `highest` is below `lowest`.
    """
    if highest < lowest:
        raise ValueError(f"there are no bins from {lowest} up to {highest}; highest must not be below lowest")
    exponent = max(0, math.floor(math.log10(max(1, (highest - lowest) / most_bins))))
    widths: list[int] = [factor * 10**power for power in (exponent, exponent + 1) for factor in (1, 2, 5)]
    width = next(width for width in widths if highest // width - lowest // width < most_bins)
    return np.arange(lowest // width, highest // width + 2, dtype=np.int64) * width
