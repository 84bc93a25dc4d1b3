"""Statistics of sizes and colors against values computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alexnet.data.dataset import Statistics
from alexnet.report.data_measures import size_edges, summarize_colors, summarize_sizes


def sizes(*pairs):
    return np.array(pairs, np.int32)


def test_sizes_by_hand():
    train = sizes((100, 200), (300, 300), (400, 200), (256, 1000))  # height, width
    facts = summarize_sizes({"train": train, "val": sizes((255, 256))}, 256)
    assert facts["splits"]["train"] == {
        "width": {"min": 200, "median": 200, "max": 1000},
        "height": {"min": 100, "median": 256, "max": 400},
        "enlarged": 0.5,
    }
    assert facts["splits"]["val"]["enlarged"] == 1.0
    assert facts["images"] == 5 and facts["enlarged"] == 0.6
    assert (facts["landscape"], facts["square"], facts["portrait"]) == (0.6, 0.2, 0.2)


@pytest.mark.parametrize(("height", "width"), [(10, 10), (30, 40), (20, 30), (90, 160), (160, 90), (1, 100), (100, 1)])
def test_common_shapes_fall_into_the_middle_of_a_bin(height, width):
    histogram = summarize_sizes({"train": sizes((height, width))}, 8)["width_to_height"]
    assert sum(histogram["counts"]) == 1
    place = histogram["counts"].index(1)
    low, high = np.log2(histogram["edges"][place : place + 2])
    if max(height, width) <= 3 * min(height, width):
        assert abs(np.log2(width / height) - (low + high) / 2) < 0.3 * (high - low)
    else:
        assert place == (0 if height > width else len(histogram["counts"]) - 1)


@given(arrays(np.int32, st.tuples(st.integers(1, 60), st.just(2)), elements=st.integers(1, 20_000)))
def test_every_image_is_counted_once(heights_and_widths):
    shorter = summarize_sizes({"train": heights_and_widths}, 256)["shorter_side"]
    edges, values = np.array(shorter["edges"]), heights_and_widths.min(axis=1)
    assert shorter["counts"] == np.histogram(values, edges)[0].tolist()
    assert sum(shorter["counts"]) == len(values)
    assert len(shorter["counts"]) <= 25


def test_a_long_tail_does_not_squeeze_the_rest():
    values = np.concatenate([np.full(990, 300), np.arange(301, 310), [30_000]])
    edges = size_edges(values)
    assert edges[-1] == 30_001 and edges[-2] < 320 and edges[0] == 300


def test_components_come_largest_first_with_a_description():
    vectors = np.array([[-1, 2, -1], [1, 0, -1], [1, 1, 1]]).T / np.sqrt([6, 2, 3])
    values = np.array([1.0, 4.0, 95.0])
    covariance = vectors @ np.diag(values) @ vectors.T
    mean = np.zeros((4, 4, 3), np.float32) + np.array([10, 20, 30], np.float32)
    facts = summarize_colors(Statistics(mean, covariance, values, vectors))
    assert facts["mean"] == [10, 20, 30]
    assert [one["meaning"] for one in facts["components"]] == [
        "dark to light",
        "sky blue to orange",
        "magenta to green",
    ]
    assert [one["fraction"] for one in facts["components"]] == pytest.approx([0.95, 0.04, 0.01])
    assert [one["standard_deviation"] for one in facts["components"]] == pytest.approx([95**0.5, 2, 1])
    assert np.square(facts["standard_deviation"]) == pytest.approx(np.diag(covariance))


@pytest.mark.parametrize(("values", "shares"), [((0, 0, 9.0), [1, 0, 0]), ((0, 0, 0), [0, 0, 0])])
def test_gray_and_black_images_have_directions_without_variation(values, shares):
    vectors = np.array([[0, 1, -1], [-2, 1, 1], [1, 1, 1]]).T / np.sqrt([2, 6, 3])
    covariance = vectors @ np.diag(values) @ vectors.T
    facts = summarize_colors(Statistics(np.zeros((4, 4, 3), np.float32), covariance, np.array(values), vectors))
    assert [one["fraction"] for one in facts["components"]] == shares
    assert facts["components"][2]["meaning"] == "no variation"
