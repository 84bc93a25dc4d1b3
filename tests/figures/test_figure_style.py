"""Figures as files."""

import io
import logging
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from fontTools.fontBuilder import FontBuilder  # type: ignore[import-untyped]
from fontTools.pens.ttGlyphPen import TTGlyphPen  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import font_manager
from matplotlib.figure import Figure

from alexnet.figures.figure_style import FIGURE_FORMATS, FigureFormat, figure_bytes, figure_style, shortened
from alexnet.system.visible_text import visible

STARTS: dict[FigureFormat, bytes] = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


def drawn(title: str) -> Figure:
    with figure_style():
        figure = Figure(figsize=(2, 1))
        figure.add_subplot().plot([0, 1], [1, 0])
        figure.suptitle(title, weight="bold")
    return figure


@pytest.mark.parametrize("format", FIGURE_FORMATS)
def test_the_same_figure_gives_the_same_file(format: FigureFormat) -> None:
    content = figure_bytes(drawn("$x$ & <b>"), format)
    assert content.startswith(STARTS[format]) and figure_bytes(drawn("$x$ & <b>"), format) == content
    assert figure_bytes(drawn("other"), format) != content
    if format == "svg":
        assert b"$x$ &amp; &lt;b&gt;" in content  # as text, and no formula


def test_a_picture_has_the_size_of_the_figure_and_is_opaque() -> None:
    picture = np.asarray(PIL.Image.open(io.BytesIO(figure_bytes(drawn(""), "png"))).convert("RGBA"))
    assert picture.shape == (150, 300, 4) and (picture[..., 3] == 255).all() and (picture[0, 0] == 255).all()


UNUSED = "\ue0aa\ue0ab"
"""Of a private area: no font has letters there."""


def test_letters_that_the_fonts_lack_are_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        content = figure_bytes(drawn(f"{UNUSED} tench {UNUSED}"), "png")
        assert figure_bytes(drawn(UNUSED), "svg")  # text, drawn by the viewer
    assert content.startswith(b"\x89PNG")
    (line,) = caplog.messages
    assert (
        line.startswith("boxes stand for 2 characters of the figure (")
        and "fontlist-*.json" in line
        and "\n" not in line
    )


@pytest.mark.parametrize("format", FIGURE_FORMATS)
def test_fonts_of_the_machine_draw_what_the_own_font_lacks(
    format: FigureFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = figure_bytes(drawn("tench"), "png")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(font_with(UNUSED, "Unifont", tmp_path))
    with caplog.at_level(logging.WARNING):
        content = figure_bytes(drawn(f"{UNUSED} tench"), format)
        assert figure_bytes(drawn(f"{UNUSED} tench"), format) == content
        assert figure_bytes(drawn("tench"), "png") == plain
    assert not caplog.messages
    if format == "png":
        assert content != figure_bytes(drawn(f"{UNUSED[0]} tench"), format)


def font_with(letters: str, family: str, folder: Path) -> Path:
    """A font file in which letters are squares."""
    pen = TTGlyphPen(None)
    for number, point in enumerate([(100, 0), (100, 800), (900, 800), (900, 0)]):
        (pen.lineTo if number else pen.moveTo)(point)
    pen.closePath()
    square, names = pen.glyph(), [".notdef", *(f"letter{number}" for number in range(len(letters)))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(one): name for one, name in zip(letters, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    builder.save(folder / "font.ttf")
    return folder / "font.ttf"


@settings(max_examples=15)
@given(st.text(max_size=40), st.integers(2, 30), st.data())
def test_names_are_cut_to_a_length_with_an_ellipsis(text: str, most: int, draw: st.DataObject) -> None:
    kept = draw.draw(st.integers(0, most - 1))
    found, whole = shortened(text, most, kept_end=kept), visible(text)
    if len(whole) <= most:
        assert found == whole
        return
    assert len(found) <= most and found.endswith(whole[len(whole) - kept :])
    begin = found[: len(found) - kept - 1]
    assert found[len(begin)] == "…" and whole.startswith(begin)


def test_a_cut_has_no_space_before_the_ellipsis() -> None:
    assert shortened("great white shark", 12) == "great white…" and shortened("a b\nc", 9) == "a b\\nc"
    assert shortened("n02979186_1600_before.JPEG", 21, kept_end=8) == "n02979186_16…ore.JPEG"
