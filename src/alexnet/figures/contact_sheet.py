"""Contact sheets: a row of thumbnails for each class, as part of a page of limited size."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import PIL.Image

from alexnet.system.visible_text import visible_html

THUMBNAIL_STYLE = """
.thumbnail { display: block; width: 100%; height: auto; aspect-ratio: 1; border-radius: 3px; }
.thumbnail.small { image-rendering: pixelated; }
"""
"""CSS that a page with `thumbnail_html` must include once; part of `CONTACT_SHEET_STYLE`."""

CONTACT_SHEET_STYLE = (
    """
.sheet {
  display: grid; grid-template-columns: 9.5rem minmax(0, 1fr); gap: .25rem 1rem; margin: 0 0 .9rem; break-inside: avoid;
}
.sheet h3 { margin: 0; font-size: .95rem; line-height: 1.35; overflow-wrap: anywhere; }
.sheet h3 span { display: block; color: var(--soft); font-weight: 400; font-size: .82rem; }
.strip { display: grid; grid-template-columns: repeat(10, minmax(0, 1fr)); gap: 4px; }
@media (max-width: 40rem) {
  .sheet { grid-template-columns: minmax(0, 1fr); margin-bottom: 1.1rem; }
  .sheet h3 span { display: inline; margin-left: .4rem; }
  .strip { grid-template-columns: repeat(5, minmax(0, 1fr)); }
}
"""
    + THUMBNAIL_STYLE
)
"""CSS that a page with `contact_sheet_html` must include once."""

THUMBNAIL_SIDES_PX = (128, 96, 80, 64, 48, 32)
"""Possible sides of a thumbnail, pixels; the largest that keeps the sheet within its size is used."""
SMALL_PX = 64
"""Stored images up to this side are shown with sharp pixels: the page enlarges them, which would blur them."""
_QUALITY, _SMALL_QUALITY = 80, 95


@dataclass(frozen=True)
class SheetRow:
    """The images of one class."""

    heading: str
    note: str
    """Shown after the heading in a smaller font."""
    images: Sequence[npt.NDArray[np.uint8]]
    """Each (S, S, 3), RGB; `shrink` them first to save memory."""
    names: Sequence[str]
    """Each image's name in its data set."""


def shrink(image: npt.NDArray[np.uint8], side: int = THUMBNAIL_SIDES_PX[0]) -> npt.NDArray[np.uint8]:
    """A square image, uint8 (S, S, 3), scaled down to at most `side` pixels; a smaller one is not changed."""
    if len(image) <= side:
        return np.ascontiguousarray(image)
    picture = PIL.Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((side, side), PIL.Image.Resampling.LANCZOS))


def thumbnail_html(image: npt.NDArray[np.uint8], alt: str, name: str) -> str:
    """An `<img>` with the image, uint8 (H, W, 3), RGB, embedded as a JPEG; the text is escaped.

    Args:
        alt: alternative text.
        name: the tooltip.
    """
    is_small = max(image.shape[:2]) <= SMALL_PX
    return _img(_jpeg(image, is_small), image.shape[:2], is_small, alt, name)


def contact_sheet_html(rows: Sequence[SheetRow], *, most_bytes: int) -> str:
    """An HTML fragment: each row has a heading and its images as embedded JPEG files.

    Args:
        most_bytes: the thumbnails shrink until all together take at most this much of the page; the smallest side is
            used even if it takes more.
    """
    for side in THUMBNAIL_SIDES_PX:
        jpegs = [[_jpeg(shrink(image, side), len(image) <= SMALL_PX) for image in row.images] for row in rows]
        # Base64 encodes three bytes as four characters.
        if sum(len(jpeg) for row in jpegs for jpeg in row) * 4 <= most_bytes * 3:
            break
    return "\n".join(_row(row, files, side) for row, files in zip(rows, jpegs, strict=True))


def _row(row: SheetRow, jpegs: Sequence[bytes], side: int) -> str:
    images = "\n".join(
        _img(jpeg, (min(len(image), side),) * 2, len(image) <= SMALL_PX, f"{row.heading}: {name}", name)
        for jpeg, image, name in zip(jpegs, row.images, row.names, strict=True)
    )
    return (
        f'<div class="sheet">\n<h3><bdi>{visible_html(row.heading)}</bdi> <span>{visible_html(row.note)}</span></h3>\n'
        f'<div class="strip">\n{images}\n</div>\n</div>'
    )


def _img(jpeg: bytes, size: tuple[int, ...], is_small: bool, alt: str, name: str) -> str:
    """An `<img>` of a JPEG file, height and width in pixels."""
    height, width = size
    classes = "thumbnail small" if is_small else "thumbnail"
    content = base64.b64encode(jpeg).decode("ascii")
    return (
        f'<img class="{classes}" width="{width}" height="{height}" alt="{visible_html(alt)}" '
        f'title="{visible_html(name)}" src="data:image/jpeg;base64,{content}">'
    )


def _jpeg(image: npt.NDArray[np.uint8], is_small: bool) -> bytes:
    """The JPEG file of a thumbnail; small images, which the page enlarges, get a higher quality."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(
        buffer,
        format="JPEG",
        quality=_SMALL_QUALITY if is_small else _QUALITY,
        subsampling="4:4:4" if is_small else "4:2:0",
        optimize=True,
    )
    return buffer.getvalue()
