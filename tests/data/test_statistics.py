"""The exact sums against whole-number arithmetic of Python, and the statistics against NumPy's."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data import statistics
from alexnet.data.statistics import ColourSums

BYTES = pytest.mark.parametrize(
    "by_bytes",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(not statistics._multiplies_bytes(), reason="no products of bytes here")
        ),
    ],
)


@BYTES
@settings(max_examples=25, deadline=None)
@given(num=st.integers(0, 4), side=st.integers(1, 40), seed=st.integers(0, 99), bright=st.booleans())
def test_sums_are_exact(by_bytes: bool, num: int, side: int, seed: int, bright: bool) -> None:
    with mock.patch.object(statistics, "_multiplies_bytes", lambda: by_bytes):
        check_sums(num, side, seed, bright)


def check_sums(num: int, side: int, seed: int, bright: bool) -> None:
    images = np.random.default_rng(seed).integers(254 if bright else 0, 256, (num, side, side, 3), dtype=np.uint8)
    sums = ColourSums.of(images)
    assert sums.num_images == num
    assert np.array_equal(sums.pixel_sums, images.astype(np.int64).sum(axis=0))
    pixels = images.reshape(-1, 3).astype(object)  # Python integers: no rounding anywhere
    for row in range(3):
        for column in range(3):
            assert sums.products[row][column] == sum(pixels[:, row] * pixels[:, column])


@BYTES
@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_sums_of_flat_images_of_full_size_are_exact(by_bytes: bool, value: int) -> None:
    images = np.full((5, 256, 256, 3), value, np.uint8)
    with mock.patch.object(statistics, "_multiplies_bytes", lambda: by_bytes):
        assert ColourSums.of(images).products == ((5 * 256 * 256 * value**2,) * 3,) * 3


def test_more_images_than_16_bits_can_add_are_exact() -> None:
    images = np.full((600, 2, 2, 3), 255, np.uint8)
    assert (ColourSums.of(images).pixel_sums == 600 * 255).all()


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 9), min_size=2, max_size=2), seed=st.integers(0, 99))
def test_how_the_images_are_cut_does_not_matter(cuts: list[int], seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (9, 5, 5, 3), dtype=np.uint8)
    first, second = sorted(cuts)
    parts = [ColourSums.of(part) for part in (images[:first], images[first:second], images[second:])]
    together = parts[2] + parts[0] + parts[1]
    whole = ColourSums.of(images)
    assert together.products == whole.products and np.array_equal(together.pixel_sums, whole.pixel_sums)
    one, other = together.statistics(), ColourSums.from_arrays(whole.arrays()).statistics()
    for name in ("mean_image", "covariance", "eigenvalues", "eigenvectors"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    pixels = images.reshape(-1, 3).astype(np.float64)
    assert np.allclose(one.covariance, np.cov(pixels.T, bias=True), rtol=1e-12)
    assert np.array_equal(one.mean_image, images.astype(np.float64).mean(axis=0).astype(np.float32))


def test_sums_beyond_64_bits_survive_a_file() -> None:
    small = ColourSums.of(np.full((1, 2, 2, 3), 255, np.uint8))
    huge = ColourSums(10, small.pixel_sums, tuple(tuple(value * 2**60 for value in row) for row in small.products))
    assert ColourSums.from_arrays(huge.arrays()).products == huge.products
