"""A contact sheet: a row of small pictures for each class, as part of a page of limited size."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import PIL.Image

CONTACT_SHEET_STYLE = """
.sheet {
  display: grid; grid-template-columns: 9.5rem minmax(0, 1fr); gap: .25rem 1rem; margin: 0 0 .9rem; break-inside: avoid;
}
.sheet h3 { margin: 0; font-size: .95rem; line-height: 1.35; overflow-wrap: anywhere; }
.sheet h3 span { display: block; color: var(--soft); font-weight: 400; font-size: .82rem; }
.strip { display: grid; grid-template-columns: repeat(10, minmax(0, 1fr)); gap: 4px; }
.thumbnail { display: block; width: 100%; height: auto; aspect-ratio: 1; border-radius: 3px; }
.thumbnail.small { image-rendering: pixelated; }
@media (max-width: 40rem) {
  .sheet { grid-template-columns: minmax(0, 1fr); margin-bottom: 1.1rem; }
  .sheet h3 span { display: inline; margin-left: .4rem; }
  .strip { grid-template-columns: repeat(5, minmax(0, 1fr)); }
}
"""
"""What a page must hold in its style once for `contact_sheet_html` to look as meant."""

THUMBNAIL_SIDES_PX = (128, 96, 80, 64, 48, 32)
"""Sides a thumbnail may have, pixels; the largest that keeps the sheet within its bytes is taken."""
SMALL_PX = 64
"""Stored images up to this side are shown with hard pixels: enlarged by the page, they would only blur."""
_QUALITY, _SMALL_QUALITY = 80, 95


@dataclass(frozen=True)
class SheetRow:
    """The pictures of one class."""

    heading: str
    note: str
    """ImageSource smaller beside the heading."""
    images: Sequence[npt.NDArray[np.uint8]]
    """Each (S, S, 3), RGB; `shrink` first where many are held at once."""
    names: Sequence[str]
    """What each picture is called in its data set."""


def shrink(image: npt.NDArray[np.uint8], side: int = THUMBNAIL_SIDES_PX[0]) -> npt.NDArray[np.uint8]:
    """The square image, uint8 (S, S, 3), scaled down to at most `side` pixels; a smaller one stays as it is."""
    if len(image) <= side:
        return np.ascontiguousarray(image)
    picture = PIL.Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((side, side), PIL.Image.Resampling.LANCZOS))


def thumbnail_html(image: npt.NDArray[np.uint8], alt: str, name: str) -> str:
    """An `<img>` that holds the picture itself, uint8 (S, S, 3), RGB, as a JPEG; the text is escaped.

    Args:
        alt: what a person who cannot see the picture is told.
        name: what is shown when the pointer rests on it.
    """
    is_small = len(image) <= SMALL_PX
    return _img(_jpeg(image, is_small), len(image), is_small, alt, name)


def contact_sheet_html(rows: Sequence[SheetRow], *, most_bytes: int) -> str:
    """An HTML fragment: each row its heading and its pictures, as JPEG files inside the page.

    Args:
        most_bytes: the pictures become smaller until all together take no more than this as text of the page; those of
            the smallest side are taken whatever they need.
    """
    for side in THUMBNAIL_SIDES_PX:
        jpegs = [[_jpeg(shrink(image, side), len(image) <= SMALL_PX) for image in row.images] for row in rows]
        # Base64 makes four characters of three bytes.
        if sum(len(jpeg) for row in jpegs for jpeg in row) * 4 <= most_bytes * 3:
            break
    return "\n".join(_row(row, files, side) for row, files in zip(rows, jpegs, strict=True))


def _row(row: SheetRow, jpegs: Sequence[bytes], side: int) -> str:
    """One class: its name beside its pictures."""
    pictures = "\n".join(
        _img(jpeg, min(len(image), side), len(image) <= SMALL_PX, f"{row.heading}: {name}", name)
        for jpeg, image, name in zip(jpegs, row.images, row.names, strict=True)
    )
    return (
        f'<div class="sheet">\n<h3>{html.escape(row.heading)} <span>{html.escape(row.note)}</span></h3>\n'
        f'<div class="strip">\n{pictures}\n</div>\n</div>'
    )


def _img(jpeg: bytes, side: int, is_small: bool, alt: str, name: str) -> str:
    """The element of one picture."""
    classes = "thumbnail small" if is_small else "thumbnail"
    content = base64.b64encode(jpeg).decode("ascii")
    return (
        f'<img class="{classes}" width="{side}" height="{side}" alt="{html.escape(alt)}" title="{html.escape(name)}" '
        f'src="data:image/jpeg;base64,{content}">'
    )


def _jpeg(image: npt.NDArray[np.uint8], is_small: bool) -> bytes:
    """The JPEG file of a thumbnail; small stored images, which the page enlarges, keep their every pixel visible."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(
        buffer,
        format="JPEG",
        quality=_SMALL_QUALITY if is_small else _QUALITY,
        subsampling="4:4:4" if is_small else "4:2:0",
        optimize=True,
    )
    return buffer.getvalue()
