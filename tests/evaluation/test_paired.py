"""McNemar's test against sums of fractions and hand-worked counts, intervals against theory, credits against counts."""

import math
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from alexnet.evaluation.metrics import count_errors, top_k_credits
from alexnet.evaluation.paired import errors_to_dict, mcnemar, paired_difference


def answers(both_right, only_first, only_second, both_wrong):
    """Two arrays of wrong answers with these counts, in mixed order."""
    wrong = [(False, False)] * both_right + [(False, True)] * only_first
    wrong += [(True, False)] * only_second + [(True, True)] * both_wrong
    shuffled = np.array(wrong, np.bool_).reshape(-1, 2)[np.random.default_rng(0).permutation(len(wrong))]
    return shuffled[:, 0], shuffled[:, 1]


def p_by_fractions(first, second):
    """The chance of all counts that are no more probable than what was seen, of `first + second` throws of a coin."""
    num = first + second
    seen = math.comb(num, first)
    extreme = sum(math.comb(num, one) for one in range(num + 1) if math.comb(num, one) <= seen)
    return float(Fraction(extreme, 2**num))


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        # 1 + 10 + 45 of 1024 on either side; one of 32 on either side; a coin's two sides; as even as can be.
        (2, 8, 112 / 1024),
        (5, 0, 2 / 32),
        (0, 1, 1.0),
        (4, 4, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_by_hand(only_first, only_second, p_value):
    found = mcnemar(*answers(7, only_first, only_second, 3))
    assert (found.both_right, found.only_first, found.only_second, found.both_wrong) == (7, only_first, only_second, 3)
    assert found.p_value == p_value


@settings(max_examples=100)
@given(st.integers(0, 60), st.integers(0, 60))
def test_p_value_is_the_sum_of_all_counts_at_least_as_uneven(first, second):
    assert mcnemar(*answers(0, first, second, 0)).p_value == p_by_fractions(first, second)
    assert mcnemar(*answers(0, second, first, 0)).p_value == p_by_fractions(first, second)


def test_p_value_of_many_images_is_near_the_normal_approximation_and_never_fails():
    # z = (|b - c| - 1) / sqrt(b + c), two-sided.
    z = (300 - 1) / math.sqrt(20_300)
    assert mcnemar(*answers(5, 10_000, 10_300, 5)).p_value == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert mcnemar(*answers(0, 3000, 0, 0)).p_value == 0.0


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        (np.zeros(2, np.bool_), np.zeros(3, np.bool_), "shapes"),
        (np.zeros((2, 1), np.bool_), np.zeros((2, 1), np.bool_), "shapes"),
        (np.zeros(2), np.zeros(2, np.bool_), "float64"),
    ],
)
def test_mcnemar_refuses_other_answers(first, second, word):
    with pytest.raises(ValueError, match=word):
        mcnemar(first, second)


def test_interval_is_the_normal_one_for_many_images():
    random = np.random.default_rng(1)
    first = (random.uniform(size=20_000) < 0.6).astype(np.float64)
    second = np.where(random.uniform(size=20_000) < 0.9, first, 1 - first)
    found = paired_difference(first, second, 0.9)
    differences = second - first
    middle, spread = differences.mean(), differences.std() / math.sqrt(20_000)
    assert found.difference == pytest.approx(middle)
    assert found.interval[0] == pytest.approx(middle - 1.644854 * spread, abs=0.06 * spread)
    assert found.interval[1] == pytest.approx(middle + 1.644854 * spread, abs=0.06 * spread)
    assert asdict(found) == {
        "difference": found.difference,
        "interval": found.interval,
        "confidence": 0.9,
        "resamples": 10_000,
        "seed": 0,
    }


def test_interval_is_that_of_a_plain_bootstrap_of_few_images():
    first = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0.5, 1])
    second = np.array([0, 1, 0, 1, 1, 0, 1, 0, 1, 1 / 3])
    random = np.random.default_rng(2)
    drawn = (second - first)[random.integers(0, 10, (200_000, 10))].mean(axis=1)
    found = paired_difference(first, second, 0.8, resamples=200_000)
    assert found.interval == pytest.approx(tuple(np.quantile(drawn, [0.1, 0.9])), abs=0.02)


@settings(max_examples=50)
@given(arrays.arrays(np.float64, st.integers(1, 30), elements=st.sampled_from([0, 1 / 3, 0.5, 1])), st.data())
def test_interval_has_bounds_and_depends_on_neither_order_nor_call(first, data):
    second = data.draw(arrays.arrays(np.float64, len(first), elements=st.sampled_from([0, 1 / 3, 0.5, 1])))
    found = paired_difference(first, second, resamples=500, seed=4)
    differences = second - first
    assert found.difference == pytest.approx(differences.mean(), abs=1e-12)
    assert differences.min() - 1e-9 <= found.interval[0] <= found.interval[1] <= differences.max() + 1e-9
    order = np.random.default_rng(len(first)).permutation(len(first))
    assert paired_difference(first[order], second[order], resamples=500, seed=4) == found


def test_one_image_and_equal_networks_have_an_interval_without_width():
    one = paired_difference(np.array([1.0]), np.array([0.0]))
    assert (one.difference, *one.interval) == (-1, -1, -1)
    same = paired_difference(np.array([1.0, 0.0, 0.5]), np.array([1.0, 0.0, 0.5]))
    assert (same.difference, *same.interval) == (0, 0, 0)


@pytest.mark.parametrize("num_values", [3, 700])
def test_drawing_in_pieces_gives_as_many_resamples(monkeypatch, num_values):
    monkeypatch.setattr("alexnet.evaluation.paired._DRAWN_AT_ONCE", 1000)
    credit = np.linspace(0, 1, num_values)
    found = paired_difference(np.ones(num_values), credit, resamples=1001)
    assert found.interval[0] < found.difference < found.interval[1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"first_credit": np.ones(3)}, "shapes"),
        ({"first_credit": np.ones(0), "second_credit": np.ones(0)}, "at least 1"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"confidence": 0.0}, "between 0 and 1"),
        ({"resamples": 0}, "1 or more"),
    ],
)
def test_what_has_no_interval_is_refused(change, word):
    with pytest.raises(ValueError, match=word):
        paired_difference(**{"first_credit": np.ones(2), "second_credit": np.ones(2), **change})


@settings(max_examples=50)
@given(st.integers(0, 12), st.integers(1, 7), st.data())
def test_credits_add_up_to_the_counts(num, num_classes, data):
    values = data.draw(arrays.arrays(np.int64, (num, num_classes), elements=st.integers(0, 2)))
    labels = data.draw(arrays.arrays(np.int64, (num,), elements=st.integers(0, num_classes - 1)))
    probabilities = (values / 7).astype(np.float32)
    counts = count_errors(probabilities, labels)
    for places, wrong in ((1, counts.top1_wrong), (5, counts.top5_wrong)):
        found = top_k_credits(probabilities, labels, places)
        assert found.dtype == np.float64 and found.shape == (num,)
        assert num - found.sum() == pytest.approx(float(wrong), abs=1e-9)


def test_credits_of_ties_are_fractions_and_k_of_zero_is_refused():
    assert top_k_credits(np.full((1, 4), 0.25), np.array([2]), 1).tolist() == [0.25]
    with pytest.raises(ValueError, match="k is 0"):
        top_k_credits(np.full((1, 4), 0.25), np.array([2]), 0)


def test_errors_are_whole_numbers_but_for_ties_and_top5_needs_twenty_classes():
    counts = count_errors(np.eye(4, 20), np.array([0, 1, 2, 4]))
    content = errors_to_dict(counts, 20)
    assert content["top1_wrong"] == 1 and isinstance(content["top1_wrong"], int)
    # 19 classes tie for the four places that are left.
    assert content["top5_error"] == pytest.approx((1 - 4 / 19) / 4)
    few = errors_to_dict(count_errors(np.full((1, 4), 0.25), np.array([2])), 4)
    assert few["top1_wrong"] == 0.75
    assert [few[f"top5_{part}"] for part in ("wrong", "error", "interval")] == [None] * 3
