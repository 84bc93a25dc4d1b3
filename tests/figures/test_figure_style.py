"""Figures as files."""

import io
import logging

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from alexnet.figures.figure_style import FIGURE_FORMATS, FigureFormat, figure_bytes, figure_style, shortened
from alexnet.system.visible_text import visible

STARTS: dict[FigureFormat, bytes] = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


def drawn(title: str) -> Figure:
    with figure_style():
        figure = Figure(figsize=(2, 1))
        figure.add_subplot().plot([0, 1], [1, 0])
        figure.suptitle(title)
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


def test_letters_that_the_font_lacks_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        figure_bytes(drawn("鶴 tench"), "png")
    assert "missing from font" in caplog.text


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
