"""Histograms: heights of bars, positions of labels, and round edges."""

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alexnet.figures.histogram import HistogramBar, histogram_html, round_edges


def test_bars_are_as_high_as_their_counts():
    bars = [
        HistogramBar(50, "a"),
        HistogramBar(0, "b"),
        HistogramBar(100, "<c>"),
        HistogramBar(1, "d"),
        HistogramBar(0, "e"),
    ]
    html = histogram_html(
        bars, caption="<i>what</i>", description='"so"', ticks=[(0, "0"), (2.5, "<2>"), (5, "5")], marker=1.25
    )
    heights = [float(one) for one in re.findall(r'<rect [^>]*height="([\d.]+)"', html)]
    assert heights == [50, 0, 100, 1, 0]
    assert all(float(y) + height == 100 for y, height in zip(re.findall(r' y="([\d.]+)"', html), heights, strict=True))
    assert re.findall(r"left: ([\d.]+)%", html) == ["0.00", "50.00"]
    assert re.findall(r"right: 0[^>]*>(\w+)<", html) == ["5"]
    assert 'x1="1.25" x2="1.25"' in html
    assert "<i>" not in html and "<2>" not in html and "<c>" not in html and "&quot;so&quot;" in html


def test_small_counts_stay_visible():
    html = histogram_html([HistogramBar(10**7, "a"), HistogramBar(1, "b")], caption="", description="", ticks=[])
    assert re.findall(r'<rect [^>]*height="([\d.]+)"', html) == ["100.00", "1.00"]
    assert "<line" not in html


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [
        (7, 7, [7, 8]),
        (0, 3, [0, 1, 2, 3, 4]),
        (0, 99, list(range(0, 101, 5))),
        (75, 500, list(range(60, 521, 20))),
    ],
)
def test_edges_are_round(lowest, highest, expected):
    assert round_edges(lowest, highest).tolist() == expected


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(2, 40))
@example(0, 23, 24)
@example(0, 24, 24)
@example(9, 10, 2)
def test_edges_hold_all_values_in_few_bins(lowest, more, most_bins):
    edges = round_edges(lowest, lowest + more, most_bins=most_bins)
    assert edges[0] <= lowest < edges[1] and edges[-2] <= lowest + more < edges[-1]
    assert len(edges) - 1 <= most_bins
    (width,) = set(np.diff(edges).tolist())
    assert str(width).rstrip("0") in ("1", "2", "5")
    assert (edges % width == 0).all()


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="must not be below"):
        round_edges(2, 1)
