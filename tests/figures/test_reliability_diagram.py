"""The reliability diagram has the accuracy, the interval and the number of images of each bar."""

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from alexnet.figures.reliability_diagram import ReliabilityBar, reliability_figure

BARS = [
    ReliabilityBar(0.2, 0.4, num_images=7, confidence=0.3, accuracy=0.5, interval=(0.2, 0.8)),
    ReliabilityBar(0.8, 1.0, num_images=93, confidence=0.9, accuracy=1.0, interval=(0.95, 1.0)),
]


def test_points_are_accuracies_in_percent_with_their_intervals() -> None:
    upper, lower = reliability_figure(BARS).axes
    (points,) = (one for one in upper.containers if isinstance(one, ErrorbarContainer))
    np.testing.assert_allclose(points.lines[0].get_xydata(), [[30, 50], [90, 100]])
    ends = [segment[:, 1].tolist() for segment in points.lines[2][0].get_segments()]
    assert ends == [pytest.approx([20, 80]), pytest.approx([95, 100])]
    heights = [one.get_height() for one in lower.patches]
    assert heights == [7, 93] and [one.get_x() for one in lower.patches] == pytest.approx([20, 80])
    assert "%" in upper.get_ylabel() and lower.get_ylabel() == "images" and "%" in lower.get_xlabel()


def test_an_interval_that_rounding_put_beside_its_value_is_drawn() -> None:
    reliability_figure([ReliabilityBar(0.0, 1.0, 3, 0.5, 1.0, (0.4, 1.0 - 1e-16))])
