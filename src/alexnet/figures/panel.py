"""Images with their five most probable classes below, as in figure 4 (left) of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alexnet.figures.contact_sheet import shrink
from alexnet.figures.filters import jpeg_data_uri, png_data_uri
from alexnet.system.number_text import percent_text
from alexnet.system.visible_text import visible_html

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
.panel li .probability { white-space: nowrap; font-variant-numeric: tabular-nums; }
.panel .absent { font-size: .85rem; margin: .2rem 0 0; max-width: 14rem; }
"""
"""CSS that a page with `panel_html` must include once."""

_SMALL_PX = 100
_MOST_PX = 224


@dataclass(frozen=True)
class PanelImage:
    """An image and a network's predictions for it."""

    image: npt.NDArray[np.uint8]
    """(H, W, 3) RGB."""
    label: str
    """Name of the true class."""
    label_probability: float
    predictions: Sequence[tuple[str, float, bool]]
    """Most probable first: class name, probability 0..1, whether it is the true class."""
    key: str
    """The image's name in its data set."""


def panel_html(images: Sequence[PanelImage]) -> str:
    """An HTML fragment: each image with its true label and a bar for each predicted class.

    The true class is marked by color, bold text and a check mark, so that color alone carries no meaning. All text is
    escaped.
    """
    return '<div class="panel">\n' + "\n".join(_figure(one) for one in images) + "\n</div>"


def _figure(one: PanelImage) -> str:
    label = visible_html(one.label)
    is_small = max(one.image.shape[:2]) < _SMALL_PX
    address = png_data_uri(one.image) if is_small else jpeg_data_uri(shrink(one.image, _MOST_PX))
    small = ' class="small"' if is_small else ""
    found = any(is_true for _, _, is_true in one.predictions)
    probability = percent_text(one.label_probability, 2)
    absent = f'<p class="absent"><bdi>{label}</bdi> is not among these; its probability is {probability}.</p>'
    return (
        f'<figure><img{small} alt="Image {visible_html(one.key)}, true label {label}" '
        f'title="{visible_html(one.key)}" src="{address}">\n'
        f"<figcaption>{label}</figcaption>\n<ol>\n"
        + "\n".join(_bar(*prediction) for prediction in one.predictions)
        + f"\n</ol>{'' if found else absent}</figure>"
    )


def _bar(name: str, probability: float, is_true: bool) -> str:
    """One predicted class: its bar's length is its probability."""
    opening = '<li class="right">' if is_true else "<li>"
    tick = "✓ " if is_true else ""
    return (
        f'{opening}<span class="bar" style="width: {100 * probability:.1f}%"></span>'
        f'<span class="name">{tick}<bdi>{visible_html(name)}</bdi></span>'
        f'<span class="probability">{100 * probability:.1f} %</span></li>'
    )
