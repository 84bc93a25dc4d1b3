"""The order, the position, and the thread behind the batches."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.augment import draw
from alexnet.data.dataset import Split, Statistics
from alexnet.data.loader import Loader
from alexnet.data.sampler import class_balanced_subset, epoch_order
from alexnet.errors import RequestError
from alexnet.runs.recipe import DataSettings

SIDE = 12
STATISTICS = Statistics(
    np.zeros((SIDE, SIDE, 3), np.float32), np.eye(3) * 1000.0, np.full(3, 1000.0), np.eye(3, dtype=np.float64)
)
SETTINGS = DataSettings(crop=8)


def split_of(num: int) -> Split:
    """Random images; the label is the index modulo 3."""
    images = np.random.default_rng(0).integers(0, 256, (num, SIDE, SIDE, 3), dtype=np.uint8)
    return Split("train", images, np.arange(num) % 3, ["k"] * num)


def loader_threads() -> list[threading.Thread]:
    """The background threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("alexnet-loader")]


@settings(max_examples=15, deadline=None)
@given(num=st.integers(1, 30), batch_size=st.integers(1, 12), seed=st.integers(0, 100))
def test_an_epoch_serves_each_sample_once(num: int, batch_size: int, seed: int) -> None:
    loader = Loader(split_of(num), STATISTICS, SETTINGS, batch_size, seed)
    steps = loader.steps_per_epoch
    served = [batch.samples.numpy() for batch in loader.batches(steps, 2 * steps)]
    assert all(len(part) == batch_size for part in served[:-1])
    assert np.array_equal(np.concatenate(served), epoch_order(num, seed, 1))
    assert sorted(np.concatenate(served).tolist()) == list(range(num))


def test_a_batch_holds_the_drawn_crops_of_its_samples() -> None:
    split = split_of(20)
    for batch in Loader(split, STATISTICS, SETTINGS, 7, 4).batches(2, 5):  # crosses into the second epoch
        samples = batch.samples.numpy()
        epoch = 0 if len(samples) == 6 else 1
        drawn = draw(SETTINGS, STATISTICS, SIDE, 4, epoch, samples)
        assert np.array_equal(batch.corners.numpy(), drawn.corners)
        assert np.array_equal(batch.mirror.numpy(), drawn.mirror)
        assert np.array_equal(batch.noise.numpy(), drawn.noise)
        assert np.array_equal(batch.labels.numpy(), samples % 3)
        for place, (sample, (row, column)) in enumerate(zip(samples, drawn.corners, strict=True)):
            assert np.array_equal(batch.images[place].numpy(), split.images[sample, row : row + 8, column : column + 8])


def test_starting_at_a_step_equals_arriving_there() -> None:
    loader = Loader(split_of(20), STATISTICS, SETTINGS, 6, 9)
    through = list(loader.batches(0, 9))[5:]
    for first, second in zip(through, Loader(split_of(20), STATISTICS, SETTINGS, 6, 9).batches(5, 9), strict=True):
        assert np.array_equal(first.samples, second.samples) and np.array_equal(first.images, second.images)


def test_a_subset_serves_its_samples_alone() -> None:
    chosen = np.array([3, 5, 8, 13], np.int64)
    loader = Loader(split_of(20), STATISTICS, SETTINGS, 3, 0, sample_ids=chosen)
    assert (loader.num_samples, loader.steps_per_epoch) == (4, 2)
    served = np.concatenate([batch.samples.numpy() for batch in loader.batches(0, 2)])
    assert sorted(served.tolist()) == chosen.tolist()


def test_an_error_of_the_thread_reaches_the_consumer() -> None:
    loader = Loader(split_of(10), STATISTICS, SETTINGS, 4, 0, sample_ids=np.array([1, 99], np.int64))
    with pytest.raises(IndexError):
        list(loader.batches(0, 3))
    assert not loader_threads()


def test_leaving_early_ends_the_thread() -> None:
    batches = Loader(split_of(10), STATISTICS, SETTINGS, 1, 0).batches(0, 10_000)
    next(batches)
    assert loader_threads()
    started = time.monotonic()
    batches.close()
    assert not loader_threads()
    assert time.monotonic() - started < 5


def test_too_large_a_crop_is_refused_at_once() -> None:
    with pytest.raises(RequestError, match=r"--data.crop is 24"):
        Loader(split_of(3), STATISTICS, DataSettings(crop=24), 1, 0)


def test_orders_differ_by_seed_and_epoch() -> None:
    orders = [tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=40), seed=st.integers(0, 50), data=st.data())
def test_a_balanced_subset_is_as_equal_as_can_be(labels: list[int], seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(labels)))
    array = np.array(labels, np.int64)
    chosen = class_balanced_subset(array, size, seed)
    assert len(set(chosen.tolist())) == size and np.array_equal(chosen, np.sort(chosen))
    available = np.bincount(array, minlength=5)
    taken = np.bincount(array[chosen], minlength=5)
    # A class that could give more has no less than any other, but for the one of an uneven division.
    for label in range(5):
        if taken[label] < available[label]:
            assert taken[label] >= taken.max() - 1


def test_too_large_or_empty_a_subset_is_refused() -> None:
    for size in (0, 4):
        with pytest.raises(RequestError, match=f"--data.subset is {size}"):
            class_balanced_subset(np.zeros(3, np.int64), size, 0)


def test_an_order_drawn_once_is_every_epochs() -> None:
    loader = Loader(split_of(20), STATISTICS, replace(SETTINGS, order="once"), 6, 3)
    epochs = [np.concatenate([batch.samples for batch in loader.batches(first, first + 4)]) for first in (0, 4, 8)]
    assert np.array_equal(epochs[0], epochs[1]) and np.array_equal(epochs[0], epochs[2])
    assert sorted(epochs[0].tolist()) == list(range(20)) and epochs[0].tolist() != list(range(20))
    # The crops are drawn anew all the same.
    assert not np.array_equal(loader.batch(0).corners, loader.batch(4).corners)


def test_the_sources_files_are_read_as_they_are_stored() -> None:
    loader = Loader(split_of(20), STATISTICS, replace(SETTINGS, order="stored", file_images=8), 6, 3)
    for epoch in range(2):
        served = [batch.samples.tolist() for batch in loader.batches(5 * epoch, 5 * (epoch + 1))]
        assert served == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11, 12, 13], [14, 15], [16, 17, 18, 19]]


@settings(max_examples=15, deadline=None)
@given(num=st.integers(1, 40), batch_size=st.integers(1, 12), shared=st.integers(2, 9), seed=st.integers(0, 9))
def test_consecutive_images_share_crop_and_mirror(num: int, batch_size: int, shared: int, seed: int) -> None:
    def crops(size: int) -> np.ndarray:
        loader = Loader(split_of(num), STATISTICS, replace(SETTINGS, crops_shared_by=shared), size, seed)
        batches = list(loader.batches(0, loader.steps_per_epoch))
        return np.concatenate([np.column_stack([batch.corners, batch.mirror]) for batch in batches])

    drawn = crops(batch_size)
    for first in range(0, num, shared):
        assert (drawn[first : first + shared] == drawn[first]).all()
    assert np.array_equal(drawn, crops(num))  # whatever the batches
    if num > 4 * shared:
        assert len(np.unique(drawn[::shared], axis=0)) > 1


def test_noise_is_each_images_own_where_crops_are_shared() -> None:
    loader = Loader(split_of(8), STATISTICS, replace(SETTINGS, crops_shared_by=8), 8, 3)
    assert len(np.unique(loader.batch(0).noise.numpy(), axis=0)) == 8


def test_the_first_epoch_may_have_any_number() -> None:
    through = list(Loader(split_of(20), STATISTICS, SETTINGS, 6, 9).batches(8, 12))  # epoch 2
    for first, second in zip(
        through, Loader(split_of(20), STATISTICS, SETTINGS, 6, 9, first_epoch=2).batches(0, 4), strict=True
    ):
        assert torch.equal(first.images, second.images) and torch.equal(first.samples, second.samples)
