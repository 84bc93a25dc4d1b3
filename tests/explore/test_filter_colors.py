"""The color of filters by hand-made ones, and the permutation test by counting all divisions one by one."""

import math
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet.errors import RequestError, WorkError
from alexnet.explore.filter_colors import MOST_DIVISIONS, RANDOM_COLOR, color_shares, color_test, first_filters
from alexnet.model.network import AlexNet


def tinted(*colors: tuple[float, float, float], side: int = 5, seed: int = 0) -> NDArray[np.float64]:
    """A random pattern in each of the colors."""
    patterns = np.random.default_rng(seed).normal(size=(len(colors), 1, side, side))
    return np.array(colors, np.float64)[:, :, None, None] * patterns


def test_gray_has_no_color_opponents_have_nothing_else_and_one_color_has_two_thirds() -> None:
    filters = tinted((1, 1, 1), (-3, -3, -3), (1, -1, 0), (1, 1, -2), (1, 0, 0), (0, 0, 5), (1, 1, 0))
    np.testing.assert_allclose(color_shares(filters), [0, 0, 1, 1, 2 / 3, 2 / 3, 1 / 3], atol=1e-12)


@given(
    angle=st.floats(0, math.pi / 2),
    strength=st.sampled_from([1e-300, 1e-20, 1.0, 1e20, 1e300]),
    kind=st.sampled_from([np.float32, np.float64]),
)
def test_a_mixture_has_the_share_of_its_colored_part_at_any_strength(angle: float, strength: float, kind: Any) -> None:
    """cos(angle) gray and sin(angle) color, both of length 1."""
    gray, color = np.array([1, 1, 1]) / math.sqrt(3), np.array([1, -1, 0]) / math.sqrt(2)
    filters = tinted(tuple(math.cos(angle) * gray + math.sin(angle) * color))
    if kind is np.float32 and not 1e-30 < strength < 1e30:
        strength = 1.0
    (share,) = color_shares((filters * strength).astype(kind))
    assert share == pytest.approx(math.sin(angle) ** 2, abs=1e-6)


def test_random_weights_have_two_thirds_on_average() -> None:
    shares = color_shares(np.random.default_rng(1).normal(size=(2_000, 3, 5, 5)))
    assert shares.mean() == pytest.approx(RANDOM_COLOR, abs=4 * shares.std() / math.sqrt(2_000))


def counted(colors: list[float], size: int) -> float:
    """The p-value by the definition: each division of the filters is one set of `size` of them."""
    everything = set(range(len(colors)))

    def difference(chosen: tuple[int, ...]) -> float:
        others = everything - {*chosen}
        return abs(sum(colors[one] for one in chosen) / size - sum(colors[one] for one in others) / len(others))

    observed = difference(tuple(range(size)))
    found = [difference(one) for one in combinations(range(len(colors)), size)]
    return sum(one >= observed - 1e-9 for one in found) / len(found)


def with_shares(shares: list[float], seed: int = 0) -> NDArray[np.float64]:
    """Filters with these colors."""
    mixed = [
        tuple(np.sqrt(1 - one) * np.ones(3) / np.sqrt(3) + np.sqrt(one) * np.array([1, 0, -1]) / np.sqrt(2))
        for one in shares
    ]
    return tinted(*mixed, seed=seed)


@given(st.lists(st.integers(0, 10), min_size=2, max_size=10).filter(lambda one: len(one) % 2 == 0))
def test_a_few_filters_are_compared_with_all_divisions(tenths: list[int]) -> None:
    shares = [one / 10 for one in tenths]
    result = color_test(with_shares(shares), 2)
    half = len(shares) // 2
    assert result.is_exact and result.num_divisions == math.comb(len(shares), half)
    assert result.p_value == pytest.approx(counted(shares, half))
    assert result.column_means == pytest.approx((np.mean(shares[:half]), np.mean(shares[half:])))
    assert result.difference == pytest.approx(abs(np.mean(shares[:half]) - np.mean(shares[half:])))


def test_many_filters_are_compared_with_random_divisions_that_agree_with_all() -> None:
    """Of 20 filters there are 184,756 divisions: too many, and few enough to count them here."""
    shares = np.random.default_rng(4).uniform(size=20)
    shares[:10] *= 0.6
    result = color_test(with_shares(shares.tolist()), 2)
    assert not result.is_exact and result.num_divisions == MOST_DIVISIONS - 1
    chosen = np.array(list(combinations(range(20), 10)))
    sums = shares[chosen].sum(axis=1)
    differences = np.abs(2 * sums - shares.sum()) / 10
    exact = (differences >= abs(shares[:10].mean() - shares[10:].mean()) - 1e-9).mean()
    assert 0.005 < exact < 0.5
    assert result.p_value == pytest.approx(exact, abs=5 * math.sqrt(exact / MOST_DIVISIONS))
    again, other = color_test(with_shares(shares.tolist()), 2), color_test(with_shares(shares.tolist()), 2, seed=1)
    assert again.p_value == result.p_value != other.p_value


def test_columns_of_gray_and_of_color_differ_and_the_smallest_p_value_counts_the_observed_division() -> None:
    shares = [0.01 * one for one in range(48)] + [0.9] * 48
    for given_shares in (shares, shares[::-1]):
        result = color_test(with_shares(given_shares), 2)
        assert result.p_value == pytest.approx(1 / MOST_DIVISIONS)
        assert "p = 0.00001 (two-sided permutation test, 99,999 random divisions" in result.describe()


def test_if_columns_ignore_color_p_values_are_spread_evenly() -> None:
    generator = np.random.default_rng(2)
    found = [color_test(generator.normal(size=(10, 3, 3, 3)), 2).p_value for _ in range(400)]
    for level in (0.05, 0.2, 0.5):
        share = np.mean([one is not None and one <= level for one in found])
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 400))


def test_three_columns_are_compared_by_their_largest_difference() -> None:
    shares = [0.1, 0.2, 0.3, 0.5, 0.8, 0.9]
    result = color_test(with_shares(shares), 3)
    assert result.difference == pytest.approx(0.85 - 0.15) and not result.is_exact
    spreads = [np.ptp(np.reshape(one, (3, 2)).mean(axis=1)) for one in permutations(shares)]
    assert result.p_value == pytest.approx(np.mean(np.array(spreads) >= 0.7 - 1e-9), abs=0.01)


def test_one_column_and_filters_of_zeros() -> None:
    filters = with_shares([0.5, 0.1, 0.9, 0.7])
    alone = color_test(filters, 1)
    assert (alone.difference, alone.p_value, alone.num_divisions) == (None, None, 0)
    assert "no columns to compare" in alone.describe() and alone.to_dict()["p_value"] is None
    filters[0] = 0
    without = color_test(filters, 2)
    assert without.column_means == pytest.approx((0.1, 0.8)) and np.isnan(without.colors[0])
    assert without.p_value == pytest.approx(1 / 3) and without.num_divisions == 3  # one filter of three is alone
    assert without.to_dict()["columns"][0]["colors"][0] is None and without.to_dict()["columns"][0]["norms"][0] == 0
    filters[1] = 0
    empty = color_test(filters, 2)
    assert empty.p_value is None and "not tested" in empty.describe() and empty.column_means[0] is None


@pytest.mark.parametrize(
    ("filters", "columns", "message"),
    [
        (np.ones((4, 1, 3, 3)), 2, r"shape \(4, 1, 3, 3\); allowed is \(F, 3, h, w\)"),
        (np.ones((3, 3, 3, 3)), 2, "3 filters do not divide into 2 columns"),
    ],
)
def test_other_filters_are_refused(filters: NDArray[np.float64], columns: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        color_test(filters, columns)


def test_weights_of_a_diverged_training_are_said() -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(WorkError, match="not finite: the training has diverged"):
            color_test(np.full((2, 3, 3, 3), value), 2)


@pytest.mark.parametrize(
    ("variant", "columns"),
    [("caffe", 2), ("no-communication", 2), ("one-gpu", 1), ("minus-conv2", 1), ("quick", 1)],
)
def test_the_next_layer_says_which_columns_the_filters_are_in(variant: str, columns: int) -> None:
    with torch.device("meta"):
        network = AlexNet(10, variant, 0.05)
    network.to_empty(device="cpu")
    found = first_filters(network)
    assert (found.layer, found.columns) == ("conv1", columns)


def test_filters_are_as_they_act_on_pixels() -> None:
    network = AlexNet(10, "torchvision", 0.1, generator=torch.Generator().manual_seed(0))
    found = first_filters(network)
    factors = np.array([1 / (255 * one) for one in (0.229, 0.224, 0.225)])
    weight = network.get_parameter("conv1.weight").detach().double().numpy()
    np.testing.assert_allclose(found.weights, weight * factors[None, :, None, None], rtol=1e-12)
