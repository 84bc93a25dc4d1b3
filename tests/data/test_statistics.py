"""The exact sums against whole-number arithmetic of Python, and the statistics against NumPy's."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.statistics import ColourSums


@settings(max_examples=25, deadline=None)
@given(num=st.integers(0, 4), side=st.integers(1, 23), seed=st.integers(0, 99), bright=st.booleans())
def test_sums_are_exact(num: int, side: int, seed: int, bright: bool) -> None:
    images = np.random.default_rng(seed).integers(254 if bright else 0, 256, (num, side, side, 3), dtype=np.uint8)
    sums = ColourSums.of(images)
    assert sums.num_images == num
    assert np.array_equal(sums.pixel_sums, images.astype(np.int64).sum(axis=0))
    pixels = images.reshape(-1, 3).astype(object)  # Python integers: no rounding anywhere
    for row in range(3):
        for column in range(3):
            assert sums.products[row][column] == sum(pixels[:, row] * pixels[:, column])


def test_sums_of_white_images_of_full_size_are_exact() -> None:
    images = np.full((3, 256, 256, 3), 255, np.uint8)
    assert ColourSums.of(images).products[0][2] == 3 * 256 * 256 * 255 * 255


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
