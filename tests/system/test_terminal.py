"""Tables on a terminal of any width: nothing is cut, and numbers stay in their columns below wide letters."""

import io
import unicodedata

import pytest

from alexnet.cli.tables import new_table
from alexnet.system.terminal import TerminalConsole

ROWS = [("寿司\u3000握り", "1 [0, 2]", "11"), ("می\u200cخواهم", "22", "2"), ("\x1b[31mplain :dog: [b]", "3", "333,333")]


def printed(width: int, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    table = new_table("a title \x1b", "name", ["error", "images"])
    for row in ROWS:
        table.add_row(*row)
    TerminalConsole(file=stream, width=width).print_table(table)
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def cells(text: str) -> int:
    """Columns on a terminal, by Unicode's table: wide letters take two, joiners none."""
    widths = {"W": 2, "F": 2}
    return sum(
        0 if unicodedata.category(one) in ("Cf", "Mn") else widths.get(unicodedata.east_asian_width(one), 1)
        for one in text
    )


def test_numbers_are_aligned_below_wide_letters() -> None:
    lines = [line.rstrip() for line in printed(80).splitlines()]
    ends = {cells(line) for line in lines if line.endswith(tuple(images for _, _, images in ROWS))}
    assert len(ends) == 1 and len([line for line in lines if cells(line) in ends]) >= len(ROWS)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [8, 20, 30, 40, 80])
def test_a_narrow_terminal_loses_nothing(width: int, encoding: str) -> None:
    text = printed(width, encoding)
    for name, error, images in ROWS:
        assert error in text and images in text
        if encoding == "utf-8" and width < 30:
            assert f"name: {name}".replace("\x1b", r"\x1b") in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text and "\x1b" not in text
    assert width > 8 or "images: 333,333" in text.splitlines()
