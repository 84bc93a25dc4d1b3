"""Curves are deterministic, well-formed, and can share a page with others."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from alexnet.figures.curves import CurveMark, Series, curve_svg, curves_figure


def draw(name="loss", num=1201):
    x = np.arange(1, num + 1) / 100
    y = np.exp(-x)
    y[3] = np.nan
    series = [Series("training", x, y), Series("validation", np.array([1.0, 2.0]), np.array([0.5, 0.4]), "points")]
    return curve_svg(series, name=name, description='loss < 1 & "falling"', x_title="epoch", y_title="loss, nats")


def test_bytes_are_the_same_each_time():
    assert draw() == draw()


def test_is_one_element_with_its_labels_and_colors():
    svg = draw()
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.get("aria-label") == 'loss < 1 & "falling"'
    words = {element.text for element in root.iter("text")}
    assert {"epoch", "loss, nats", "training", "validation"} <= words
    assert "currentColor" in svg and "#010203" not in svg
    assert "http" not in svg and "<metadata" not in svg and "<style" not in svg


def test_ids_are_prefixed_and_references_resolve():
    first, second = draw("loss"), draw("error")
    ids = re.findall(r'\bid="([^"]+)"', first)
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'href="#([^"]+)"', first)) | set(re.findall(r"url\(#([^)]+)\)", first))
    assert references and references <= set(ids)
    assert not set(ids) & set(re.findall(r'\bid="([^"]+)"', second))


def test_long_curves_are_thinned_to_averages():
    svg = draw(num=5_000)
    assert len(svg) < 60_000


def test_a_curve_without_values_is_not_in_the_legend():
    x = np.arange(3.0)
    series = [Series("training", x, np.full(3, np.nan)), Series("val", x, x, "points")]
    svg = curve_svg(series, name="one", description="one", x_title="epoch", y_title="loss")
    assert ">val<" in svg and ">training<" not in svg
    assert "epoch" in curve_svg(series[:1], name="one", description="one", x_title="epoch", y_title="loss")


def test_a_single_point_is_marked():
    one = Series("training", np.array([0.5]), np.array([2.3]))
    assert "<use" in curve_svg([one], name="one", description="one", x_title="epoch", y_title="loss")


def test_names_that_begin_with_an_underscore_are_in_the_legend():
    x = np.arange(3.0)
    figure = curves_figure([Series("_hidden", x, x)], x_title="epoch", y_title="loss")
    assert [one.get_text().strip() for one in figure.axes[0].get_legend().get_texts()] == ["_hidden"]


def test_marks_are_lines_with_text():
    x = np.arange(3.0)
    svg = curve_svg(
        [Series("a", x, x)], name="a", description="a", x_title="x", y_title="y", marks=[CurveMark(1.5, "rate 0.01")]
    )
    assert "rate 0.01" in svg
    axes = curves_figure([Series("a", x, x)], x_title="x", y_title="y", marks=[CurveMark(1.5, "rate")]).axes[0]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [1.5]
    assert len(axes.get_legend().get_texts()) == 1


def test_letters_that_the_font_lacks_are_left_to_the_page(recwarn):
    x = np.arange(3.0)
    assert "鶴" in curve_svg([Series("鶴", x, x)], name="a", description="a", x_title="x", y_title="y")
    assert [one for one in recwarn if "Glyph" in str(one.message)] == []


def test_a_logarithmic_axis_has_plain_numbers():
    x = np.array([1.0, 2.0, 3.0])
    svg = curve_svg(
        [Series("a", x, 10.0**-x)], name="a", description="a", x_title="x", y_title="y", is_logarithmic=True
    )
    assert ">0.01<" in svg and "mathdefault" not in svg
