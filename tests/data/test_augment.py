"""Crop, mirror, color noise and views, against formulas written from the paper."""

import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data import augment
from alexnet.data.augment import Batch, MeanAt, View, crop_margin, crop_view, draw, philox, to_input, views
from alexnet.data.dataset import Statistics
from alexnet.errors import RequestError
from alexnet.runs.recipe import DataSettings


def statistics(side: int) -> Statistics:
    """Color statistics with known components, and a mean image that differs at every place."""
    generator = np.random.default_rng(3)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    eigenvalues = np.array([300.0, 1400.0, 14000.0])
    return Statistics(
        mean_image=generator.uniform(0, 255, (side, side, 3)).astype(np.float32),
        covariance=(rotation * eigenvalues) @ rotation.T,
        eigenvalues=eigenvalues,
        eigenvectors=rotation,
    )


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(counter: tuple, key: tuple, expected: tuple) -> None:
    words = philox(key, np.array([counter, counter], np.uint32))
    assert words.dtype == np.uint32
    assert words.tolist() == [list(expected)] * 2


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 1000), first=st.integers(0, 2**40), cut=st.integers(1, 19))
def test_draws_depend_on_seed_epoch_and_sample_alone(seed: int, epoch: int, first: int, cut: int) -> None:
    samples = np.arange(first, first + 20, dtype=np.int64)
    whole = draw(DataSettings(crop=24), statistics(32), 32, seed, epoch, samples)
    parts = [draw(DataSettings(crop=24), statistics(32), 32, seed, epoch, part) for part in np.split(samples, [cut])]
    for name in ("corners", "mirror", "noise"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))


def test_other_seed_epoch_or_sample_draws_otherwise() -> None:
    samples = np.arange(64, dtype=np.int64)
    noises = [
        draw(DataSettings(crop=24), statistics(32), 32, seed, epoch, ids).noise
        for seed, epoch, ids in ((1, 1, samples), (2, 1, samples), (1, 2, samples), (1, 1, samples + 2**32))
    ]
    for index, noise in enumerate(noises):
        assert all(not np.allclose(noise, other) for other in noises[index + 1 :])


@pytest.mark.parametrize(("corners", "highest"), [("paper", 31), ("original", 32)])
def test_corners_are_uniform_over_the_places_of_the_convention(corners: str, highest: int) -> None:
    num = 40_000
    drawn = draw(DataSettings(corners=corners), statistics(256), 256, 5, 0, np.arange(num, dtype=np.int64))
    assert drawn.corners.dtype == np.int16
    for axis in range(2):
        counts = np.bincount(drawn.corners[:, axis])
        assert len(counts) == highest + 1
        expected = num / (highest + 1)
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert chi_square < highest + 6 * math.sqrt(2 * highest)
    assert abs(drawn.mirror.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(drawn.corners.T)[0, 1]) < 0.03


def test_what_is_switched_off_is_off() -> None:
    samples = np.arange(100, dtype=np.int64)
    drawn = draw(DataSettings(crop=32, mirror=False, color_noise=0.0), statistics(32), 32, 0, 0, samples)
    assert not drawn.corners.any() and not drawn.mirror.any() and not drawn.noise.any()


@pytest.mark.parametrize("scale", ["eigenvalues", "deviations"])
def test_color_noise_has_the_variance_of_its_formula(scale: Literal["eigenvalues", "deviations"]) -> None:
    stats = statistics(32)
    chosen = DataSettings(crop=24, color_noise=0.1, color_scale=scale)
    drawn = draw(chosen, stats, 32, 1, 0, np.arange(40_000, dtype=np.int64))
    assert drawn.noise.dtype == np.float32
    along = drawn.noise.astype(np.float64) @ stats.eigenvectors
    # The paper's factors multiply eigenvalues in units of [0, 1]; the source's multiply deviations in 0..255.
    papers, sources = 0.1 * stats.eigenvalues / 255.0**2 * 255.0, 0.1 * np.sqrt(stats.eigenvalues)
    expected = papers if scale == "eigenvalues" else sources
    assert np.allclose(along.std(axis=0), expected, rtol=0.03)
    assert np.all(np.abs(along.mean(axis=0)) < 0.03 * expected)
    assert np.all(np.abs(np.corrcoef(along.T) - np.eye(3)) < 0.03)
    kurtosis = ((along / along.std(axis=0)) ** 4).mean(axis=0)
    assert np.allclose(kurtosis, 3.0, atol=0.2)


@settings(max_examples=15, deadline=None)
@given(batch_size=st.integers(1, 5), side=st.integers(2, 9), data=st.data())
def test_input_is_image_minus_mean_mirrored_plus_noise_divided(batch_size: int, side: int, data: st.DataObject) -> None:
    crop = data.draw(st.integers(1, side))
    mean_at: MeanAt = data.draw(st.sampled_from(["crop", "center"]))
    divisor = data.draw(st.sampled_from([1.0, 1.1]))
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    mean = generator.uniform(0, 255, (side, side, 3)).astype(np.float32)
    images = generator.integers(0, 256, (batch_size, crop, crop, 3), dtype=np.uint8)
    corners = generator.integers(0, side - crop + 1, (batch_size, 2)).astype(np.int16)
    mirror = generator.integers(0, 2, batch_size).astype(bool)
    noise = generator.normal(size=(batch_size, 3)).astype(np.float32)
    arrays = (images, np.zeros(batch_size, np.int64), np.arange(batch_size), corners, mirror, noise)
    batch = Batch(*map(torch.from_numpy, arrays))
    got = to_input(batch, torch.from_numpy(mean), torch.device("cpu"), mean_at=mean_at, divisor=divisor)

    assert got.shape == (batch_size, 3, crop, crop) and got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
    for index in range(batch_size):
        row, column = corners[index]
        image = images[index].astype(np.float64)
        if mean_at == "crop":
            centered = image - mean[row : row + crop, column : column + crop]
            centered = centered[:, ::-1] if mirror[index] else centered
        else:  # the center is subtracted from the crop as the network sees it
            first = (side - crop) // 2
            upright = image[:, ::-1] if mirror[index] else image
            centered = upright - mean[first : first + crop, first : first + crop]
        expected = ((centered + noise[index]) / divisor).transpose(2, 0, 1)
        assert np.allclose(got[index].numpy(), expected, atol=1e-4)


def test_ten_views_are_in_the_sources_order() -> None:
    five = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    assert views(10, 256, 224) == [View(*place, mirrored) for mirrored in (False, True) for place in five]
    assert views(1, 256, 224) == [View(16, 16, False)]
    assert views(9, 32, 24) == [View(row, column, False) for row in (0, 4, 8) for column in (0, 4, 8)]


def test_other_numbers_of_views_and_too_large_crops_are_refused() -> None:
    with pytest.raises(RequestError, match="--views is 5"):
        views(5, 256, 224)
    with pytest.raises(RequestError, match=r"--data.crop is 224 .* 32 pixels"):
        crop_margin(32, 224)


@pytest.mark.parametrize("view", views(10, 8, 5))
def test_a_view_loses_the_mean_of_its_place_or_the_center(view: View) -> None:
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    mean = generator.uniform(0, 255, (8, 8, 3)).astype(np.float32)
    got = crop_view(torch.from_numpy(images), view, 5, torch.from_numpy(mean))
    whole = (images.astype(np.float64) - mean)[:, view.row : view.row + 5, view.column : view.column + 5]
    expected = whole[:, :, ::-1] if view.mirrored else whole
    assert np.allclose(got.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)

    got = crop_view(torch.from_numpy(images), view, 5, torch.from_numpy(mean), "center")
    cut = images.astype(np.float64)[:, view.row : view.row + 5, view.column : view.column + 5]
    expected = (cut[:, :, ::-1] if view.mirrored else cut) - mean[1:6, 1:6]
    assert np.allclose(got.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("mean_at", ["crop", "center"])
@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 5), crop=st.integers(1, 9), seed=st.integers(0, 99))
def test_image_by_image_equals_the_batch_to_the_last_bit(mean_at: MeanAt, num: int, crop: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch = Batch(
        images=torch.randint(0, 256, (num, crop, crop, 3), dtype=torch.uint8, generator=generator),
        labels=torch.zeros(num, dtype=torch.long),
        samples=torch.arange(num),
        corners=torch.randint(0, 10 - crop, (num, 2), generator=generator).short(),
        mirror=torch.rand(num, generator=generator) < 0.5,
        noise=torch.randn(num, 3, generator=generator),
    )
    mean_image = 255 * torch.rand(9, 9, 3, generator=generator)
    together = augment._normalize_batch(batch, mean_image, mean_at)
    assert torch.equal(augment._normalize_image_by_image(batch, mean_image, mean_at), together)
