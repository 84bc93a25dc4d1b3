"""Color directions: swatches around the mean, and their description."""

import re

import numpy as np
import pytest

from alexnet.figures.swatches import color_ramp, color_ramp_html, describe_direction


@pytest.mark.parametrize(
    ("direction", "words"),
    [
        ((1, 1, 1), "dark to light"),
        ((-0.58, -0.57, -0.58), "light to dark"),
        ((0.9, 0.8, 0.7), "dark to light"),
        ((1, -0.5, -0.5), "cyan to red"),
        ((-1, 0.5, 0.5), "red to cyan"),
        ((0, 0, 1), "yellow to blue"),
        ((-1, 2, -1), "magenta to green"),
        ((1, 0, -1), "sky blue to orange"),
        ((1, -2, 1), "green to magenta"),
    ],
)
def test_directions_as_text(direction, words):
    assert describe_direction(np.array(direction, np.float64)) == words


def test_a_ramp_spans_two_standard_deviations():
    colors = color_ramp(np.array([100.0, 100.0, 100.0]), np.array([0.0, 0.6, 0.8]), 50.0)
    assert colors.dtype == np.uint8 and colors.shape == (9, 3)
    assert colors[0].tolist() == [100, 40, 20] and colors[4].tolist() == [100, 100, 100]
    assert colors[8].tolist() == [100, 160, 180]


def test_a_ramp_ends_at_black_and_white():
    colors = color_ramp(np.full(3, 128.0), np.full(3, 3**-0.5), 500.0)
    assert colors[0].tolist() == [0, 0, 0] and colors[-1].tolist() == [255, 255, 255]


def test_the_swatches_of_a_page():
    html = color_ramp_html(np.array([[0, 128, 255], [1, 2, 3]], np.uint8), '"from" <a> to b')
    assert re.findall(r"background: (#\w{6})", html) == ["#0080ff", "#010203"]
    assert 'role="img" aria-label="&quot;from&quot; &lt;a&gt; to b"' in html
