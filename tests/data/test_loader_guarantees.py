"""The same batches whatever the threads, the processes and the step at which a run goes on; unreadable samples."""

import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet.data.augment import Batch
from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData, Split, Statistics
from alexnet.data.loader import Loader
from alexnet.data.preparation.prepare import prepare
from alexnet.data.sampler import weighted_order
from alexnet.data.shards import LazyImages, UnreadableSample
from alexnet.errors import RequestError
from alexnet.runs.recipe import DataSettings

SIDE = 12
STATISTICS = Statistics(
    np.zeros((SIDE, SIDE, 3), np.float32), np.eye(3) * 1000.0, np.full(3, 1000.0), np.eye(3, dtype=np.float64)
)
SETTINGS = DataSettings(crop=8)


class Worn(LazyImages):
    """Images some of which cannot be read."""

    def __init__(self, images: NDArray[np.uint8], unreadable: set[int]) -> None:
        self.images, self.unreadable, self.shape = images, unreadable, images.shape

    def decode(self, which: int) -> NDArray[np.uint8]:
        if which in self.unreadable:
            raise UnreadableSample(f"image {which} is worn", which)
        return self.images[which]


def split_of(num: int, unreadable: set[int] | None = None) -> Split:
    """Random images; the label is the index modulo 3."""
    images = np.random.default_rng(0).integers(0, 256, (num, SIDE, SIDE, 3), dtype=np.uint8)
    kept = images if unreadable is None else Worn(images, unreadable)
    return Split("train", kept, np.arange(num) % 3, [f"k{index}" for index in range(num)])


def same(first: Batch, second: Batch) -> bool:
    names = ("images", "labels", "samples", "corners", "mirror", "noise")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def stitched(parts: list[Batch]) -> Batch:
    names = ("images", "labels", "samples", "corners", "mirror", "noise")
    return Batch(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])  # 8: some processes have no part of the last batch
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_threads_and_processes_serves_the_same(workers: int, num_ranks: int, weighted: bool) -> None:
    num, batch_size = 41, 7  # neither divides; the last batch of an epoch holds 6
    weights = np.linspace(0.1, 2, num) if weighted else None
    plain = Loader(split_of(num), STATISTICS, replace(SETTINGS, crops_shared_by=3), batch_size, 11, weights=weights)
    expected = list(plain.batches(0, 2 * plain.steps_per_epoch))
    ranks = [
        Loader(
            split_of(num),
            STATISTICS,
            replace(SETTINGS, crops_shared_by=3),
            batch_size,
            11,
            weights=weights,
            workers=workers,
            rank=rank,
            num_ranks=num_ranks,
        )
        for rank in range(num_ranks)
    ]
    served = [list(one.batches(0, 2 * plain.steps_per_epoch)) for one in ranks]
    for step, whole in enumerate(expected):
        assert same(whole, stitched([parts[step] for parts in served]))
    if not weighted:
        first_epoch = torch.cat([batch.samples for batch in expected[: plain.steps_per_epoch]])
        assert sorted(first_epoch.tolist()) == list(range(num))


@pytest.mark.parametrize("weighted", [False, True])
def test_cut_at_twenty_steps_and_gone_on_with_by_other_threads(weighted: bool) -> None:
    weights = np.linspace(0.5, 3, 53) if weighted else None
    loader = Loader(split_of(53), STATISTICS, SETTINGS, 8, 2, weights=weights)
    expected = list(loader.batches(0, 70))
    draw = random.Random(1)
    cuts = sorted(draw.sample(range(1, 70), 20))
    served: list[Batch] = []
    for first, last in zip([0, *cuts], [*cuts, 70], strict=True):
        served += Loader(split_of(53), STATISTICS, SETTINGS, 8, 2, weights=weights, workers=draw.randint(1, 5)).batches(
            first, last
        )
    assert len(served) == 70 and all(map(same, expected, served))


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 30), batch_size=st.integers(1, 12), seed=st.integers(0, 99), data=st.data())
def test_a_weighted_epoch_is_its_order(num: int, batch_size: int, seed: int, data: st.DataObject) -> None:
    weights = np.array(data.draw(st.lists(st.floats(0.1, 5), min_size=num, max_size=num)))
    loader = Loader(split_of(num), STATISTICS, SETTINGS, batch_size, seed, weights=weights)
    steps = loader.steps_per_epoch
    served = np.concatenate([batch.samples.numpy() for batch in loader.batches(3 * steps, 4 * steps)])
    assert np.array_equal(served, weighted_order(weights, seed, 3))


def test_a_sample_that_comes_again_is_cropped_anew() -> None:
    weights = np.array([1e6, 1.0] + [1e-6] * 38)
    batch = Loader(split_of(40), STATISTICS, SETTINGS, 40, 3, weights=weights).batch(0)
    assert (batch.samples == 0).sum() >= 38
    assert len(torch.unique(batch.corners[batch.samples == 0], dim=0)) > 8
    assert len(torch.unique(batch.noise[batch.samples == 0], dim=0)) >= 38


def test_weights_of_nothing_are_refused() -> None:
    with pytest.raises(RequestError, match="has a weight above 0"):
        Loader(split_of(3), STATISTICS, SETTINGS, 2, 0, weights=np.zeros(3))


def test_an_unreadable_sample_stops_and_is_named() -> None:
    loader = Loader(split_of(20, {7}), STATISTICS, SETTINGS, 6, 0, workers=2)
    with pytest.raises(UnreadableSample, match=r"^k7: image 7 is worn") as caught:
        list(loader.batches(0, loader.steps_per_epoch))
    assert caught.value.image == 7


@pytest.mark.parametrize("workers", [1, 3])
def test_an_unreadable_sample_is_replaced_by_the_next_and_told(workers: int) -> None:
    split, whole = split_of(20, {7, 8, 19}), split_of(20)
    loader = Loader(split, STATISTICS, SETTINGS, 6, 0, workers=workers, on_unreadable="replace")
    undisturbed = Loader(whole, STATISTICS, SETTINGS, 6, 0)
    told: dict[int, str] = {}
    steps = loader.steps_per_epoch
    for batch, wanted in zip(loader.batches(0, steps), undisturbed.batches(0, steps), strict=True):
        told |= batch.unreadable
        instead = {7: 9, 8: 9, 19: 0}
        samples = [instead.get(sample, sample) for sample in wanted.samples.tolist()]
        assert batch.samples.tolist() == samples
        assert batch.labels.tolist() == [sample % 3 for sample in samples]
        assert torch.equal(batch.corners, wanted.corners)
        for place, (sample, (row, column)) in enumerate(zip(samples, batch.corners.tolist(), strict=True)):
            assert np.array_equal(batch.images[place], whole.images[sample][row : row + 8, column : column + 8])
    assert told == {index: f"k{index}: image {index} is worn" for index in (7, 8, 19)}


def test_a_subset_is_replaced_within_itself() -> None:
    chosen = np.array([2, 5, 11], np.int64)
    loader = Loader(split_of(20, {5, 11}), STATISTICS, SETTINGS, 3, 0, sample_ids=chosen, on_unreadable="replace")
    assert loader.batch(0).samples.tolist() == [2, 2, 2]


def test_a_data_set_that_is_gone_stops_even_where_samples_are_replaced() -> None:
    loader = Loader(split_of(200, set(range(200))), STATISTICS, SETTINGS, 4, 0, on_unreadable="replace")
    with pytest.raises(UnreadableSample, match=r"^100 images in a row cannot be read: .* The last one: k\d+: image"):
        loader.batch(0)
    few = Loader(split_of(6, set(range(6))), STATISTICS, SETTINGS, 4, 0, on_unreadable="replace")
    with pytest.raises(UnreadableSample, match=r"^6 images in a row"):
        few.batch(0)


def test_no_more_batches_are_made_than_are_to_be_ahead() -> None:
    made: list[int] = []

    class Counted(Loader):
        def batch(self, step: int) -> Batch:
            made.append(step)
            return super().batch(step)

    batches = Counted(split_of(20), STATISTICS, SETTINGS, 1, 0, workers=2).batches(0, 1000)
    for taken in range(1, 30):
        next(batches)
        time.sleep(0.002)
        assert len(made) <= taken + 3  # the one taken, and three more in progress or ready
    batches.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for a GPU, and there is none here")
def test_batches_for_a_gpu_are_pinned() -> None:
    batch = Loader(split_of(20), STATISTICS, SETTINGS, 4, 0, pin_memory=True).batch(0)
    assert all(getattr(batch, name).is_pinned() for name in ("images", "labels", "corners", "mirror", "noise"))


@pytest.fixture
def two_sets(make_tree, tmp_path: Path) -> list[PreparedData]:
    """Three colors as pixels, four colors as JPEG files of other pictures."""
    first = prepare(make_tree("first", classes=3, train=5, val=2), tmp_path / "a", side=24, store="pixels")
    second = prepare(make_tree("second", classes=4, train=3, val=1, side=44), tmp_path / "b", side=24, store="jpeg")
    return [first, second]


def test_joined_sets_serve_each_image_once_with_one_label_a_class(two_sets: list[PreparedData]) -> None:
    data = open_data([one.folder for one in two_sets])
    split = data.splits["train"]
    assert [one.id for one in data.classes] == ["color0", "color1", "color2", "color3"]
    assert len(split) == 15 + 12 and {name: len(one) for name, one in data.splits.items()}["val"] == 6 + 4
    for index in range(len(split)):
        part, place = (two_sets[0], index) if index < 15 else (two_sets[1], index - 15)
        own = part.splits["train"]
        assert np.array_equal(split.images[index], own.images[place])
        assert data.classes[split.labels[index]].id == part.classes[own.labels[place]].id
        assert split.keys[index] == f"{part.folder}/{own.keys[place]}"
    assert np.array_equal(split.images[10:20], np.stack([split.images[index] for index in range(10, 20)]))
    loader = Loader(split, data.statistics, DataSettings(crop=16), 5, 0, workers=2)
    served = torch.cat([batch.samples for batch in loader.batches(0, loader.steps_per_epoch)])
    assert sorted(served.tolist()) == list(range(27))


def test_joined_statistics_are_those_of_all_images(two_sets: list[PreparedData], make_tree, tmp_path: Path) -> None:
    # Two stores of pixels: a store of JPEG files has the statistics of what was encoded.
    other = prepare(make_tree("third", classes=4, train=3, side=44), tmp_path / "c", side=24, store="pixels")
    data = open_data([two_sets[0].folder, other.folder])
    pixels = np.stack([data.splits["train"].images[index] for index in range(27)]).astype(np.float64)
    assert np.allclose(data.statistics.mean_image, pixels.mean(0), atol=1e-4)
    expected = np.cov(pixels.reshape(-1, 3).T, bias=True)
    assert np.allclose(data.statistics.covariance, expected, rtol=1e-6)
    rebuilt = (data.statistics.eigenvectors * data.statistics.eigenvalues) @ data.statistics.eigenvectors.T
    assert np.allclose(rebuilt, expected, rtol=1e-6)


def test_sets_that_cannot_be_concatenated_are_refused(two_sets: list[PreparedData], make_tree, tmp_path: Path) -> None:
    other = prepare(make_tree("third"), tmp_path / "c", side=32)
    with pytest.raises(RequestError, match=r"different image sides cannot be concatenated \(.*a 24, .*c 32 pixels\)"):
        open_data([two_sets[0].folder, other.folder])
    with pytest.raises(RequestError, match="is named twice"):
        open_data([two_sets[0].folder, two_sets[0].folder])
