"""Figures take most of the time of a page; tests of other parts of it leave them blank."""

from typing import IO, Any

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure of matplotlib is an empty SVG."""

    def write_blank(figure: Figure, file: IO[str], **settings: Any) -> None:
        file.write('<svg viewBox="0 0 1 1">\n</svg>')

    monkeypatch.setattr(Figure, "savefig", write_blank)
