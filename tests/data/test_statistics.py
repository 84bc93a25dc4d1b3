"""The exact sums against whole-number arithmetic of Python, and the statistics against NumPy's."""

from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.preparation import color_sums
from alexnet.data.preparation.color_sums import ColorAccumulator
from alexnet.data.preparation.statistics import ColorSums
from alexnet.system.numba_jit import unavailable_reason

COMPILED = pytest.mark.parametrize(
    "is_compiled",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(bool(unavailable_reason), reason=f"no Numba: {unavailable_reason}")
        ),
    ],
)


def sums_of(images: np.ndarray) -> ColorSums:
    counted = ColorAccumulator(images.shape[1])
    for image in images:
        counted.add(image)
    return counted.sums()


@COMPILED
@settings(max_examples=25, deadline=None)
@given(num=st.integers(0, 4), side=st.integers(1, 40), seed=st.integers(0, 99), bright=st.booleans())
def test_sums_are_exact(is_compiled: bool, num: int, side: int, seed: int, bright: bool) -> None:
    with mock.patch.object(color_sums, "unavailable_reason", "" if is_compiled else "for this test"):
        check_sums(num, side, seed, bright)


def check_sums(num: int, side: int, seed: int, bright: bool) -> None:
    images = np.random.default_rng(seed).integers(254 if bright else 0, 256, (num, side, side, 3), dtype=np.uint8)
    sums = sums_of(images)
    assert sums.num_images == num
    assert np.array_equal(sums.pixel_sums, images.astype(np.int64).sum(axis=0))
    pixels = images.reshape(-1, 3).astype(object)  # Python integers: no rounding anywhere
    for row in range(3):
        for column in range(3):
            assert sums.products[row][column] == sum(pixels[:, row] * pixels[:, column])


@COMPILED
@pytest.mark.parametrize("side", [256, 1024])
@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_sums_of_flat_images_of_full_size_are_exact(is_compiled: bool, side: int, value: int) -> None:
    images = np.full((2, side, side, 3), value, np.uint8)
    with mock.patch.object(color_sums, "unavailable_reason", "" if is_compiled else "for this test"):
        sums = sums_of(images)
    assert (sums.products == 2 * side**2 * value**2).all()
    assert (sums.pixel_sums == 2 * value).all()


@COMPILED
def test_more_images_than_16_bits_can_add_are_exact(is_compiled: bool) -> None:
    images = np.full((600, 2, 2, 3), 255, np.uint8)
    with mock.patch.object(color_sums, "unavailable_reason", "" if is_compiled else "for this test"):
        assert (sums_of(images).pixel_sums == 600 * 255).all()


def test_many_threads_add_to_one_accumulator() -> None:
    images = np.random.default_rng(3).integers(0, 256, (400, 30, 30, 3), dtype=np.uint8)
    counted = ColorAccumulator(30)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(counted.add, images))
    sums, alone = counted.sums(), sums_of(images)
    assert sums.num_images == 400 and np.array_equal(sums.products, alone.products)
    assert np.array_equal(sums.pixel_sums, images.astype(np.int64).sum(axis=0))


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 9), min_size=2, max_size=2), seed=st.integers(0, 99))
def test_how_the_images_are_cut_does_not_matter(cuts: list[int], seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (9, 5, 5, 3), dtype=np.uint8)
    first, second = sorted(cuts)
    parts = [sums_of(part) for part in (images[:first], images[first:second], images[second:])]
    together = parts[2] + parts[0] + parts[1]
    whole = sums_of(images)
    assert np.array_equal(together.products, whole.products)
    assert np.array_equal(together.pixel_sums, whole.pixel_sums)
    one, other = together.statistics(), ColorSums.from_arrays(whole.arrays()).statistics()
    for name in ("mean_image", "covariance", "eigenvalues", "eigenvectors"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    pixels = images.reshape(-1, 3).astype(np.float64)
    assert np.allclose(one.covariance, np.cov(pixels.T, bias=True), rtol=1e-12)
    assert np.array_equal(one.mean_image, images.astype(np.float64).mean(axis=0).astype(np.float32))


def test_sums_beyond_64_bits_survive_a_file() -> None:
    small = sums_of(np.full((1, 2, 2, 3), 255, np.uint8))
    huge = ColorSums(10, small.pixel_sums, small.products * 2**60)
    restored = ColorSums.from_arrays(huge.arrays()).products
    assert np.array_equal(restored, huge.products) and restored.max() > 2**64
