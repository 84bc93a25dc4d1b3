"""The panel escapes names, draws bars as long as probabilities, and marks the true class."""

import re

import numpy as np
from tests.html_page import Page

from alexnet.figures.panel import PanelImage, panel_html

NASTY = "<script>alert(\"1\")</script> & 'quotes'"


def pictured(guesses, label="cat", side=32):
    return PanelImage(np.zeros((side, side, 3), np.uint8), label, 0.0125, guesses, key="test/7")


def test_names_are_escaped():
    seen = Page(panel_html([pictured([(NASTY, 0.9, True)], label=NASTY)]))
    assert "script" not in seen.tags
    assert seen.text.count(NASTY) == 2
    assert seen.alts == [f"Image test/7, true label {NASTY}"]


def test_bars_are_as_long_as_probabilities_and_the_true_class_is_marked():
    html = panel_html([pictured([("dog", 0.75, False), ("cat", 0.2, True)])])
    assert re.findall(r"width: ([\d.]+)%", html) == ["75.0", "20.0"]
    assert html.count('<li class="right">') == 1 and html.count("✓") == 1
    assert "not among" not in html


def test_a_true_class_beyond_the_top_five_is_mentioned():
    seen = Page(panel_html([pictured([("dog", 0.9, False)])]))
    assert "cat is not among these; its probability is 1.2 %" in seen.text


def test_only_small_images_have_sharp_pixels():
    assert 'class="small"' in panel_html([pictured([])])
    assert 'class="small"' not in panel_html([pictured([], side=256)])
