"""Helpers of all pages: templates, and formatting of text."""

import re
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from alexnet.system.visible_text import visible


@cache  # so that a template is compiled once
def jinja_environment() -> jinja2.Environment:
    """The environment of this package's templates: all text is visible and escaped, an undefined name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet.report"),
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = format_percent
    environment.filters["bytes"] = format_bytes
    environment.filters["headings"] = _headings
    return environment


def format_percent(fraction: float | None, decimals: int = 2) -> str:
    """A fraction as percent, or a dash for None."""
    return "–" if fraction is None else f"{100 * fraction:.{decimals}f} %"


def format_bytes(size_bytes: int) -> str:
    """A size such as `14.2 MB`; a kilobyte has 1000 bytes."""
    size, units = float(size_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" or size >= 99.95 else f"{size:.1f} {units[0]}"


def format_large(number: float) -> str:
    """A count with three digits: `853`, `9.47 thousand`, `1.07 billion`; from 10 ** 15 on with a power of ten."""
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if number >= 1e15:
            mantissa, exponent = f"{number:.2e}".split("e")
            return f"{mantissa} x 10^{int(exponent)}"
        if number >= size:
            return f"{number / size:.3g}{word}"
    return f"{number:.3g}"


def count_noun(number: int, noun: str) -> str:
    """`1 class`, `2,000 classes`, `0 images`."""
    plural = noun if number == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {plural}"


def range_text(low: int, high: int) -> str:
    """The integers from `low` up to, but excluding, `high`, as text."""
    return f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}"


def _headings(page: str) -> list[tuple[str, Markup]]:
    """The ids and titles of a page's sections: of its `h2` elements that have an id."""
    return [(name, Markup(title)) for name, title in re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', page)]


def _visible(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
