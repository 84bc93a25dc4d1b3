"""What a notebook shows of a result: tables and small pictures in HTML, with all text escaped.

A fragment has neither scripts nor style sheets, so that it looks right between the cells of any notebook and cannot
change the rest of the page.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import PIL.Image
from markupsafe import Markup

from alexnet.figures.contact_sheet import thumbnail_html
from alexnet.system.visible_text import visible_html

MOST_PICTURE_PX = 160
"""The longer side of a picture."""

Cell = str | int | Markup
"""Text is escaped, `Markup` is HTML already; numbers, also as text or in percent, are aligned to the right
below a heading."""
_NUMBER = re.compile(r"-?[\d,]+(\.\d+)?( %)?")


def table_html(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str = "") -> Markup:
    """A table; without headings, the first cell of each row is its heading."""
    lines = [f'<caption style="text-align: left; white-space: nowrap">{_cell(caption)}</caption>'] if caption else []
    if headings:
        lines.append("<thead><tr>" + "".join(f"<th>{_cell(one)}</th>" for one in headings) + "</tr></thead>")
    lines.append("<tbody>")
    for row in rows:
        cells = []
        for number, one in enumerate(row):
            content = f"{one:,}" if isinstance(one, int) else one
            tag = "th" if number == 0 and not headings else "td"
            is_number = headings and not isinstance(one, Markup) and _NUMBER.fullmatch(content)
            align = "right" if is_number else "left"
            cells.append(f'<{tag} style="text-align: {align}; padding-right: 1em">{_cell(content)}</{tag}>')
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return Markup("<table>\n" + "\n".join([*lines, "</tbody>"]) + "\n</table>")


def picture_html(image: npt.NDArray[np.uint8], text: str, *, side: int = MOST_PICTURE_PX) -> Markup:
    """An `<img>` of an image, uint8 (H, W, 3), RGB, that is scaled down to at most `side` pixels.

    Args:
        text: what it shows: the alternative text and the tooltip.
    """
    picture = PIL.Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    return Markup(thumbnail_html(np.asarray(picture), text, text))


def pictures_html(pictures: Iterable[tuple[npt.NDArray[np.uint8], str]], *, side: int = 64) -> Markup:
    """A row of images, each uint8 (H, W, 3), RGB, with its text below."""
    figures = "".join(
        f'<figure style="margin: 0; width: {side}px; font-size: small; overflow-wrap: anywhere">'
        f"{picture_html(image, text, side=side)}<figcaption>{_cell(text)}</figcaption></figure>"
        for image, text in pictures
    )
    return Markup(f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{figures}</div>')


def bars_html(values: Iterable[tuple[str, float]], heading: str = "") -> Markup:
    """Named fractions, 0..1, one below the other, each with a bar."""
    bars = "".join(
        '<div style="display: flex; gap: 6px; align-items: center">'
        f'<span style="min-width: 4em; text-align: right; white-space: nowrap">{100 * value:.1f} %</span>'
        '<span style="width: 120px"><span style="display: block; height: 0.7em; '
        f'width: {100 * value:.1f}%; background: #4477aa"></span></span>{_cell(name)}</div>'
        for name, value in values
    )
    return Markup(f"<div>{_cell(heading) if heading else ''}{bars}</div>")


def result_html(title: str, *parts: Markup) -> str:
    """A result's parts, one below the other, under a title."""
    return "\n".join([f'<div><strong style="display: block">{_cell(title)}</strong>', *parts, "</div>"])


def _cell(content: str) -> str:
    return str(content) if isinstance(content, Markup) else f"<bdi>{visible_html(content)}</bdi>"
