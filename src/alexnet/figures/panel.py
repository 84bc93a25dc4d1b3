"""Pictures with the five most probable classes beneath, as figure 4 (left) of the paper has them."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alexnet.figures.filters import png_data_uri

PANEL_STYLE = """
.panel { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 1.25rem 1.5rem; }
.panel figure { margin: 0; break-inside: avoid; }
.panel img { display: block; width: 100%; max-width: 14rem; aspect-ratio: 1; border-radius: 4px; }
.panel img.small { image-rendering: pixelated; }
.panel figcaption { font-weight: 600; margin: .4rem 0 .3rem; overflow-wrap: anywhere; }
.panel ol { list-style: none; margin: 0; padding: 0; font-size: .85rem; max-width: 14rem; }
.panel li { position: relative; display: flex; justify-content: space-between; gap: .5rem; margin: 2px 0; }
.panel li span { position: relative; padding: 1px .4rem; }
.panel li .bar {
  position: absolute; inset: 0 auto 0 0; padding: 0; border-radius: 2px; background: var(--bar-other, #8aa0b455);
  print-color-adjust: exact; -webkit-print-color-adjust: exact;
}
.panel li.right { font-weight: 600; }
.panel li.right .bar { background: var(--bar-right, #e69f0099); }
.panel li .name { overflow-wrap: anywhere; }
.panel li .share { white-space: nowrap; font-variant-numeric: tabular-nums; }
.panel .absent { font-size: .85rem; margin: .2rem 0 0; max-width: 14rem; }
"""
"""What a page must hold in its style once for `panel_html` to look as meant."""

_SMALL_PX = 100


@dataclass(frozen=True)
class PanelImage:
    """One picture and what a network says of it."""

    image: npt.NDArray[np.uint8]
    """(H, W, 3) RGB."""
    label: str
    """Name of the right class."""
    label_probability: float
    guesses: Sequence[tuple[str, float, bool]]
    """Most probable first: name, probability 0..1, whether it is the right class."""
    key: str
    """What the picture is called in its data set."""


def panel_html(pictures: Sequence[PanelImage]) -> str:
    """An HTML fragment: each picture, its right label, and a bar for each guess, the right one's marked.

    Names are escaped. The marking is a color, a heavier type and a tick, so it does not hang on color.
    """
    return '<div class="panel">\n' + "\n".join(_figure(one) for one in pictures) + "\n</div>"


def _figure(one: PanelImage) -> str:
    """One picture of the panel."""
    label = html.escape(one.label)
    small = ' class="small"' if max(one.image.shape[:2]) < _SMALL_PX else ""
    found = any(right for _, _, right in one.guesses)
    absent = (
        f'<p class="absent">{label} is not among these; the network gives it {100 * one.label_probability:.2g} %.</p>'
    )
    return (
        f'<figure><img{small} alt="Picture {html.escape(one.key)}, right label {label}" '
        f'title="{html.escape(one.key)}" src="{png_data_uri(one.image)}">\n'
        f"<figcaption>{label}</figcaption>\n<ol>\n"
        + "\n".join(_bar(*guess) for guess in one.guesses)
        + f"\n</ol>{'' if found else absent}</figure>"
    )


def _bar(name: str, probability: float, right: bool) -> str:
    """One guess: its bar's length is its probability."""
    opening = '<li class="right">' if right else "<li>"
    tick = "✓ " if right else ""
    return (
        f'{opening}<span class="bar" style="width: {100 * probability:.1f}%"></span>'
        f'<span class="name">{tick}{html.escape(name)}</span>'
        f'<span class="share">{100 * probability:.1f} %</span></li>'
    )
