"""Reliability by bins against a plain NumPy loop, and worked by hand."""

import json

import numpy as np
import pytest

from alexnet.evaluation.calibration import NUM_BINS, ReliabilityBin, calibration
from alexnet.evaluation.metrics import count_errors


def by_loop(probabilities, labels, num_bins):
    """Each bin's [images, confidence, accuracy], those without images left out, and the expected error."""
    rows, error = [], 0.0
    for number in range(num_bins):
        confidences, credits = [], []
        for row, label in zip(probabilities.astype(np.float64), labels, strict=True):
            if number / num_bins < row.max() <= (number + 1) / num_bins:
                confidences.append(row.max())
                credits.append((row[label] == row.max()) / (row == row.max()).sum())
        if confidences:
            rows.append([len(confidences), np.mean(confidences), np.mean(credits)])
            error += len(confidences) / len(labels) * abs(np.mean(confidences) - np.mean(credits))
    return rows, error


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("num", "num_classes", "num_bins"), [(200, 10, NUM_BINS), (7, 3, NUM_BINS), (50, 4, 1)])
def test_bins_are_those_of_a_loop(num, num_classes, num_bins, dtype):
    generator = np.random.default_rng(num)
    probabilities = generator.dirichlet(np.full(num_classes, 0.5), num).astype(dtype)
    # Rounded to sixteenths some of them tie.
    probabilities[::5] = np.round(probabilities[::5] * 16) / 16
    labels = generator.integers(0, num_classes, num)
    found = calibration(probabilities, labels, num_bins)
    rows, error = by_loop(probabilities, labels, num_bins)
    assert len(found.bins) == len(rows)
    for one, row in zip(found.bins, rows, strict=True):
        assert [one.num_images, one.confidence, one.accuracy] == pytest.approx(row, abs=1e-12)
    assert found.expected_error == pytest.approx(error, abs=1e-12)
    wrong = sum(one.num_images * (1 - one.accuracy) for one in found.bins)
    assert wrong / num == pytest.approx(count_errors(probabilities, labels).top1_error)


def test_by_hand():
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1], [0.08, 0.92], [1.0000001, 0.0]], np.float32)
    found = calibration(probabilities, np.array([0, 0, 0, 0]))
    half, *rest = found.bins
    # A tie of two for the first place is half right.
    assert half == ReliabilityBin(low=7 / 15, high=8 / 15, num_images=1, confidence=0.5, accuracy=0.5)
    assert [(one.num_images, one.accuracy) for one in rest] == [(2, 0.5), (1, 1.0)]
    assert rest[-1].high == 1.0  # rounding beyond 1 does not leave the last bin
    assert found.expected_error == pytest.approx((0 + 2 * 0.41 + 0) / 4, abs=1e-6)
    content = json.loads(json.dumps(found.to_dict()))
    assert list(content) == ["expected_error", "bins"]
    assert list(content["bins"][0]) == ["low", "high", "num_images", "confidence", "accuracy"]


def test_an_edge_belongs_to_the_bin_below():
    found = calibration(np.array([[0.5, 0.25, 0.25], [0.75, 0.25, 0.0]]), np.array([0, 1]), num_bins=4)
    assert [(one.low, one.high) for one in found.bins] == [(0.25, 0.5), (0.5, 0.75)]


def test_what_has_no_calibration_is_refused():
    with pytest.raises(ValueError, match="shape"):
        calibration(np.zeros((2, 3)), np.array([0]))
    with pytest.raises(ValueError, match="0 bins"):
        calibration(np.zeros((1, 3)), np.array([0]), num_bins=0)
    with pytest.raises(ValueError, match="at least one"):
        _ = calibration(np.zeros((0, 3)), np.zeros(0, np.int64)).expected_error
