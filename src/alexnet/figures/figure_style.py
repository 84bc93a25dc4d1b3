"""The style that all figures of matplotlib share, and figures as files: PNG, SVG and PDF, the same bytes each time."""

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

from alexnet.system.visible_text import visible, visible_html

FigureFormat = Literal["png", "svg", "pdf"]
FIGURE_FORMATS: tuple[FigureFormat, ...] = get_args(FigureFormat)

PROGRAM = "alexnet"
"""What files of figures name as the program that made them."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Blue, vermilion, green, purple, orange, sky blue of Okabe and Ito's palette: distinguishable with every common color
vision."""
# Text and axes are drawn in this color, which is then replaced by the page's text color.
_INK = "#010203"
_DPI = 150
_FALLBACK_FONTS = (
    *(f"Noto Sans CJK {one}" for one in ("JP", "SC", "TC", "KR")),
    *(f"Noto Sans {one}" for one in ("JP", "SC", "TC", "KR", "Devanagari", "Bengali", "Tamil", "Telugu", "Thai")),
    *(f"Noto Sans {one}" for one in ("Khmer", "Myanmar", "Ethiopic", "Sinhala", "Symbols 2")),
    *("Source Han Sans", "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic", "Meiryo"),
    *("Microsoft YaHei", "Malgun Gothic", "SimHei", "IPAexGothic", "TakaoPGothic", "NanumGothic"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS", "Unifont"),
    *("Nirmala UI", "Leelawadee UI", "Noto Emoji", "Segoe UI Emoji"),
)
"""Of which those that are installed draw the letters that the figures' own font lacks, the first ones first."""
_MOST_NAMED = 10
"""Missing letters that a warning shows."""
# Any: the stubs expect literal keys.
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "alexnet",
    # Text stays text: it can be searched and read aloud, and uses the page's font.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
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

_logger = logging.getLogger(__name__)


def shortened(text: str, most: int, *, kept_end: int = 0) -> str:
    """A name of others for a figure, as one visible line of at most `most` characters; an ellipsis says what is cut.

    Args:
        kept_end: characters of the end to keep, which distinguishes files; the cut is then before them.
    """
    text = visible(text)
    if len(text) <= most:
        return text
    return f"{text[: most - 1 - kept_end].rstrip()}…{text[len(text) - kept_end :]}"


def fitted(figure: Figure, text: str, width_in: float, *, size: float, weight: str = "normal") -> str:
    """One visible line, at most `width_in` inches wide in a figure; what is cut from its middle becomes an ellipsis."""
    text = visible(text)

    def fits(line: str) -> bool:
        measured = figure.text(0, 0, line, size=size, weight=weight)
        try:
            with warnings.catch_warnings(action="ignore"):  # of letters that the font lacks, which is said when drawing
                return float(measured.get_window_extent().width) <= width_in * figure.dpi
        finally:
            measured.remove()

    if fits(text):
        return text
    low, high = 0, len(text)
    while low < high:  # the most letters that fit
        middle = (low + high + 1) // 2
        is_narrow = fits(shortened(text, middle + 1, kept_end=middle // 2))
        low, high = (middle, high) if is_narrow else (low, middle - 1)
    return shortened(text, low + 1, kept_end=low // 2)


@contextmanager
def figure_style() -> Iterator[None]:
    """The context in which a figure is made and drawn."""
    installed = {one.name for one in font_manager.fontManager.ttflist}
    families = ["sans-serif", *(one for one in _FALLBACK_FONTS if one in installed)]

    def is_of_use(record: logging.LogRecord) -> bool:  # such fonts may have no bold letters
        return "Failed to find font weight" not in record.msg

    logger = logging.getLogger(font_manager.__name__)
    logger.addFilter(is_of_use)
    try:
        with matplotlib.rc_context({**_STYLE, "font.family": families}):
            yield
    finally:
        logger.removeFilter(is_of_use)


def figure_bytes(figure: Figure, format: FigureFormat) -> bytes:
    """The file of a figure, without date or version in it: the same figure gives the same bytes.

    It says that this program made it. Letters that the fonts lack are drawn as boxes, and a warning says so; in an SVG
    they are text, for which the viewer has fonts.
    """
    metadata: dict[FigureFormat, dict[str, str | None]] = {
        "png": {"Software": PROGRAM},
        "svg": {"Date": None, "Creator": PROGRAM},
        "pdf": {"CreationDate": None, "Creator": PROGRAM, "Producer": None},
    }
    buffer = io.BytesIO()
    with figure_style(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(buffer, format=format, dpi=_DPI, facecolor="white", metadata=metadata[format])
    missing = ""
    for message in dict.fromkeys(str(one.message) for one in caught):
        if glyph := re.match(r"Glyph (\d+) .*missing from font", message):
            missing += chr(int(glyph[1]))
        else:
            _logger.warning(f"the figure: {message}")
    if missing and format != "svg":
        _warn_of_boxes("".join(dict.fromkeys(missing)))
    return buffer.getvalue()


def _warn_of_boxes(letters: str) -> None:
    shown = ", ".join(visible(one) for one in letters[:_MOST_NAMED]) + (", ..." if len(letters) > _MOST_NAMED else "")
    _logger.warning(
        f"boxes stand for {len(letters)} character{'' if len(letters) == 1 else 's'} of the figure ({shown}), which no "
        "known font has; install the Noto Sans font of that script, such as Noto Sans CJK, and delete "
        f"{Path(matplotlib.get_cachedir()) / 'fontlist-*.json'}, matplotlib's list of installed fonts"
    )


def svg_element(figure: Figure, name: str, description: str) -> str:
    """A figure as one SVG element for an HTML page: it scales to the available width and has the page's text color.

    Args:
        name: letters and hyphens, unique in the page: the prefix of every id in the element.
        description: alternative text.
    """
    buffer = io.StringIO()
    with figure_style(), warnings.catch_warnings():
        # The page's font draws the text: letters that matplotlib's font lacks are only measured wrongly.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue(), name, description)


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
