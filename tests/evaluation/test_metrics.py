"""Error counts against a slow count over random orders of ties, intervals against the formula and known values."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from alexnet.evaluation.metrics import (
    ErrorCounts,
    confusion_matrix,
    count_errors,
    mean_interval,
    per_class_counts,
    wilson_interval,
)


def credit_by_enumeration(row, label, places):
    """Share of the orders among equals in which the right class stands in the first `places`."""
    orders = [
        order
        for order in itertools.permutations(range(len(row)))
        if all(row[first] >= row[second] for first, second in itertools.pairwise(order))
    ]
    return Fraction(sum(label in order[:places] for order in orders), len(orders))


@st.composite
def tied_answers(draw):
    """Few values, so that many of them tie; 1 to 6 classes, 0 to 4 images."""
    num, num_classes = draw(st.integers(0, 4)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    values = draw(arrays.arrays(np.int64, (num, num_classes), elements=st.integers(0, 2)))
    labels = draw(arrays.arrays(np.int64, (num,), elements=st.integers(0, num_classes - 1)))
    return (values / 7).astype(dtype), labels


@settings(max_examples=25, deadline=None)
@given(tied_answers())
def test_credit_is_the_chance_among_random_orders_of_ties(answers):
    probabilities, labels = answers
    counts = count_errors(probabilities, labels)
    for places, wrong in ((1, counts.top1_wrong), (5, counts.top5_wrong)):
        right = [credit_by_enumeration(row, label, places) for row, label in zip(probabilities, labels, strict=True)]
        assert wrong == len(labels) - sum(right, start=Fraction(0))


@settings(max_examples=25, deadline=None)
@given(tied_answers(), st.integers(0, 4))
def test_counts_of_parts_add_up_to_the_whole(answers, cut):
    probabilities, labels = answers
    whole = count_errors(probabilities, labels)
    parts = count_errors(probabilities[:cut], labels[:cut]) + count_errors(probabilities[cut:], labels[cut:])
    by_class = sum(per_class_counts(probabilities, labels), start=ErrorCounts())
    for one in (parts, by_class):
        assert (one.num_images, one.top1_wrong, one.top5_wrong) == (
            whole.num_images,
            whole.top1_wrong,
            whole.top5_wrong,
        )
        assert one.loss_sum == pytest.approx(whole.loss_sum, rel=1e-12)
    assert confusion_matrix(probabilities, labels).sum() == len(labels)


def test_the_sources_rule_by_hand():
    six_equal = np.full((1, 6), 1 / 6)
    assert count_errors(six_equal, np.array([3])) == ErrorCounts(
        1, Fraction(5, 6), Fraction(1, 6), pytest.approx(math.log(6))
    )
    # Four are larger, two equal: one place for two.
    row = np.array([[0.2, 0.2, 0.2, 0.2, 0.1, 0.1]])
    assert count_errors(row, np.array([5])).top5_wrong == Fraction(1, 2)
    # Three larger and two equal are five: all of them are among the first five.
    row = np.array([[0.3, 0.3, 0.2, 0.1, 0.1, 0.0]])
    assert count_errors(row, np.array([4])).top5_wrong == 0
    # With three classes every answer is among the first five.
    assert count_errors(np.array([[0.7, 0.2, 0.1]]), np.array([2])).top5_wrong == 0


def test_errors_without_ties_are_plain_fractions():
    probabilities = np.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]], np.float32)
    counts = count_errors(probabilities, np.array([0, 0, 1]))
    assert (counts.num_images, counts.top1_wrong, counts.top5_wrong) == (3, 2, 0)
    assert counts.top1_error == 2 / 3
    right = np.array([0.7, 0.4, 0.1], np.float32).astype(np.float64)
    assert counts.loss == pytest.approx(-np.log(right).mean(), rel=1e-14)
    assert confusion_matrix(probabilities, np.array([0, 0, 1])).tolist() == [[1, 1], [1, 0]]
    assert [one.top1_wrong for one in per_class_counts(probabilities, np.array([0, 0, 1]))] == [1, 1]


def test_an_underflowed_probability_has_a_finite_loss():
    counts = count_errors(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    assert counts.loss == pytest.approx(126 * math.log(2))


@pytest.mark.parametrize(
    ("probabilities", "labels", "word"),
    [
        (np.zeros((2, 3)), np.array([0]), "shape"),
        (np.zeros(3), np.array([0, 1, 2]), "shape"),
        (np.zeros((1, 3)), np.array([3]), "0 to 2"),
        (np.zeros((1, 3)), np.array([-1]), "0 to 2"),
        (np.zeros((1, 3)), np.array([0.0]), "integers"),
        (np.array([[0.5, np.nan]]), np.array([0]), "finite"),
    ],
)
def test_what_cannot_be_counted_is_refused(probabilities, labels, word):
    with pytest.raises(ValueError, match=word):
        count_errors(probabilities, labels)


def test_the_error_of_no_images_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        _ = ErrorCounts().top1_error


@pytest.mark.parametrize(
    ("wrong", "num", "expected"),
    [
        # Worked with z = 1.959964: Wilson's intervals for 10 of 100, 0 of 10 and 10 of 10.
        (10, 100, (0.0552291, 0.1743657)),
        (0, 10, (0.0, 0.2775328)),
        (10, 10, (0.7224672, 1.0)),
    ],
)
def test_interval_has_known_values(wrong, num, expected):
    assert wilson_interval(wrong, num) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 100_000), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_ends_are_where_the_score_test_just_accepts(num, share, confidence):
    wrong = round(share * num)
    low, high = wilson_interval(wrong, num, confidence)
    rate = wrong / num
    assert 0 <= low <= rate <= high <= 1
    z = {0.5: 0.6744897502, 0.9: 1.6448536270, 0.95: 1.9599639845, 0.99: 2.5758293035}[confidence]
    for end in (low, high):
        # At an end p of the interval: (rate - p)^2 = z^2 p (1 - p) / n.
        assert (rate - end) ** 2 == pytest.approx(z * z * end * (1 - end) / num, rel=1e-6, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_interval_of_a_mean_is_that_of_zeros_and_ones_and_never_narrower_than_the_means_own(values):
    low, high = mean_interval(math.fsum(values) / len(values), len(values))
    mean = np.mean(values)
    assert 0 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= 1
    for end in (low, high):  # at both ends the deviation is z standard errors of zeros and ones with that mean
        assert abs(mean - end) == pytest.approx(1.9599639845 * math.sqrt(end * (1 - end) / len(values)), abs=1e-7)
    assert mean_interval(sum(one > 0.5 for one in values) / len(values), len(values)) == pytest.approx(
        wilson_interval(sum(one > 0.5 for one in values), len(values))
    )
    assert mean_interval(1 + 1e-16 * 4, 3)[1] == 1 and mean_interval(-1e-16, 3)[0] == 0


@pytest.mark.parametrize(("wrong", "num", "confidence"), [(1, 0, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0)])
def test_interval_refuses_invalid_counts(wrong, num, confidence):
    with pytest.raises(ValueError, match="allowed"):
        wilson_interval(wrong, num, confidence)
