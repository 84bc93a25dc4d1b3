"""Curves are deterministic, well-formed, and can share a page with others."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from alexnet.figures.curves import Series, curve_svg


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
