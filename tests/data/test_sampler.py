"""Which samples an epoch serves, and in what order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.sampler import Batching, earlier_occurrences, rank_slice, sample_weights, weighted_order
from alexnet.errors import RequestError

WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=50).filter(any)


@settings(max_examples=200, deadline=None)
@given(values=WEIGHTS, seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 1000))
def test_a_sample_comes_as_often_as_its_weight_says(values: list[float], seed: int, epoch: int) -> None:
    weights = np.array(values)
    order = weighted_order(weights, seed, epoch)
    counts = np.bincount(order, minlength=len(weights))
    expected = len(weights) * weights / weights.sum()
    assert len(order) == len(weights)
    assert (np.abs(counts - expected) < 1 + 1e-9).all()
    assert (counts[weights == 0] == 0).all()
    assert np.array_equal(order, weighted_order(weights, seed, epoch))


def test_over_many_epochs_the_parts_of_a_place_come_out_too() -> None:
    weights = np.array([0.3, 1.0, 2.2, 0.5])
    epochs = 4000
    counts = sum(np.bincount(weighted_order(weights, 5, epoch), minlength=4) for epoch in range(epochs))
    expected = 4 * weights / weights.sum()
    # Each epoch's count is one of two whole numbers: its variance is a quarter at the most.
    assert (np.abs(counts / epochs - expected) < 5 * 0.5 / epochs**0.5).all()


@settings(max_examples=100, deadline=None)
@given(samples=st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_earlier_occurrences_counts_what_came_before(samples: list[int]) -> None:
    expected = [samples[:place].count(sample) for place, sample in enumerate(samples)]
    assert earlier_occurrences(np.array(samples)).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(num=st.integers(0, 300), num_ranks=st.integers(1, 9))
def test_the_ranks_parts_are_the_batch(num: int, num_ranks: int) -> None:
    parts = [list(range(num))[rank_slice(num, rank, num_ranks)] for rank in range(num_ranks)]
    assert [one for part in parts for one in part] == list(range(num))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 120))
def test_a_cut_is_each_file_in_batches(num_images: int, batch_size: int, file_images: int) -> None:
    files = [
        list(range(num_images))[first:][: file_images or None]
        for first in range(0, num_images, file_images or num_images)
    ]
    expected = [file[first : first + batch_size] for file in files for first in range(0, len(file), batch_size)]
    cut = Batching(num_images=num_images, batch_size=batch_size, file_images=file_images)
    assert [list(cut.batch(place)) for place in range(cut.num_batches)] == expected


@given(st.integers(1, 200), st.integers(0, 60), st.integers(1, 40))
def test_groups_begin_anew_with_each_file(num_images: int, file_images: int, size: int) -> None:
    cut = Batching(num_images=num_images, batch_size=7, file_images=file_images)
    groups = cut.groups(range(num_images), size)
    run = file_images or num_images
    same = [(place // run, place % run // size) for place in range(num_images)]
    for one in range(num_images - 1):
        assert (groups[one] == groups[one + 1]) == (same[one] == same[one + 1])
    assert (np.diff(groups) >= 0).all()
    assert np.array_equal(cut.groups(range(num_images // 2, num_images), size), groups[num_images // 2 :])


def test_the_sources_cut_of_cifar10() -> None:
    cut = Batching(num_images=50_000, batch_size=128, file_images=10_000)
    assert cut.num_batches == 5 * 79
    assert [len(cut.batch(place)) for place in (77, 78, 79, 157, 394)] == [128, 16, 128, 16, 16]
    assert cut.batch(79) == range(10_000, 10_128) and cut.batch(394) == range(49_984, 50_000)


def test_balanced_classes_weigh_the_same_whatever_their_size() -> None:
    labels = np.array([0] * 8 + [1] * 2 + [2] * 5)
    weights = sample_weights(labels, np.array([1.0, 1.0, 0.5, 1.0]), balanced=True)  # class 3 has no image
    assert [weights[labels == label].sum() for label in range(3)] == pytest.approx([1.0, 1.0, 0.5])
    assert (
        sample_weights(labels, np.array([1.0, 3.0, 0.0, 1.0]), balanced=False).tolist()
        == [1.0] * 8 + [3.0] * 2 + [0.0] * 5
    )
    with pytest.raises(RequestError, match="gives no training image a weight above 0"):
        sample_weights(labels, np.array([0.0, 0.0, 0.0, 1.0]), balanced=False)
