"""Dissimilarities, their agreement and CKA: against SciPy and against the formulas, written in float64 NumPy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.errors import RequestError
from alexnet.explore import activation_rows
from alexnet.explore.representations import cka, compare_dissimilarities, dissimilarity, require_same_images

scipy_distance = pytest.importorskip("scipy.spatial.distance")
scipy_stats = pytest.importorskip("scipy.stats")

SEEDS = st.integers(0, 2**32 - 1)
BLOCKS = st.sampled_from([(1, 1), (200, 3), (1 << 20, 4096)])
"""Bytes and rows of a block."""


def in_blocks(patch: pytest.MonkeyPatch, blocks: tuple[int, int]) -> None:
    patch.setattr(activation_rows, "BLOCK_BYTES", blocks[0])
    patch.setattr(activation_rows, "MOST_BLOCK_ROWS", blocks[1])


@settings(max_examples=20, deadline=None)
@given(
    num_images=st.integers(2, 12),
    num_values=st.integers(2, 9),
    seed=SEEDS,
    blocks=BLOCKS,
    metric=st.sampled_from(["correlation", "euclidean", "cosine"]),
)
def test_dissimilarities_are_scipys(
    num_images: int, num_values: int, seed: int, blocks: tuple[int, int], metric: Any
) -> None:
    rows = (np.random.default_rng(seed).normal(size=(num_images, num_values)) * 3 + 50).astype(np.float32)
    rows[-1] = rows[0]
    with pytest.MonkeyPatch.context() as patch:
        in_blocks(patch, blocks)
        found = dissimilarity(rows.reshape(num_images, num_values, 1), metric)
    want = scipy_distance.pdist(rows.astype(np.float64), metric)
    np.testing.assert_allclose(found.condensed, want, rtol=1e-7, atol=1e-12)
    np.testing.assert_array_equal(found.square(), scipy_distance.squareform(found.condensed))
    assert found.num_images == num_images and found.to_dict()["condensed"] == found.condensed.tolist()
    assert found.square()[0, -1] == 0  # equal rows, not only almost


def test_equal_images_are_tied_in_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 3000)).astype(np.float32)[[0, 1, 0, 2, 1, 0, 3, 2, 0]]
    is_same = rows[:, :1] == rows[:, 0]
    for blocks in ((1, 1), (1 << 20, 2), (1 << 20, 5), (1 << 20, 4096)):
        in_blocks(monkeypatch, blocks)
        for metric in ("correlation", "cosine", "euclidean"):
            np.testing.assert_array_equal(dissimilarity(rows, metric).square() == 0, is_same)  # type: ignore[arg-type]


def test_euclidean_distances_lose_nothing_to_a_common_mean() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 40)) + 300
    want = scipy_distance.pdist(rows, "euclidean")
    np.testing.assert_allclose(dissimilarity(rows, "euclidean").condensed, want, rtol=1e-13)


def test_undefined_dissimilarities_are_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    rows[2] = 0.1
    with pytest.raises(RequestError, match=r"of 1 images are constant, such as those of image 2, so their correlation"):
        dissimilarity(rows)
    assert dissimilarity(rows, "cosine").condensed.shape == (10,)
    rows[2:4] = 0
    with pytest.raises(RequestError, match=r"of 2 images are zero, such as those of image 2, so their cosine is not"):
        dissimilarity(rows, "cosine")
    assert dissimilarity(rows, "euclidean").square()[2, 3] == 0
    rows[0, 0] = np.nan
    for bad, message in [
        (rows, r"of images 0 to 4 are not finite; leave them out"),
        (rows[:1], "dissimilarities of 1 images; allowed is 2 to 20,000"),
        (rows[0], r"an array of float32 \(4,\); allowed are real numbers, \(N, ...\)"),
        (rows.astype(complex), "an array of complex128"),
        (np.zeros((3, 0)), r"an array of float64 \(3, 0\)"),
        (np.zeros((20_001, 1)), "dissimilarities of 20,001 images"),
    ]:
        with pytest.raises(RequestError, match=message):
            dissimilarity(bad, "euclidean")
    with pytest.raises(RequestError, match="the metric is 'manhattan'; allowed is correlation, euclidean, cosine"):
        dissimilarity(rows, "manhattan")  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(num=st.integers(3, 30), num_levels=st.integers(2, 9), seed=SEEDS)
def test_agreement_is_scipys(num: int, num_levels: int, seed: int) -> None:
    """Also of tied values."""
    random = np.random.default_rng(seed)
    a, b = random.integers(0, num_levels, num) + 1.0, random.normal(size=num)
    if (a == a[0]).all():
        with pytest.raises(RequestError, match="not all equal"):
            compare_dissimilarities(a, b)
        return
    for method, want in [
        ("spearman", scipy_stats.spearmanr(a, b).statistic),
        ("kendall", scipy_stats.kendalltau(a, b).statistic),
        ("pearson", scipy_stats.pearsonr(a, b).statistic),
        ("cosine", 1 - scipy_distance.cosine(a, b)),
    ]:
        np.testing.assert_allclose(compare_dissimilarities(a, b, method), want, atol=1e-12)  # type: ignore[arg-type]
    np.testing.assert_allclose(compare_dissimilarities(a, a), 1, rtol=1e-12)


def test_matrices_of_different_images_are_refused() -> None:
    a = dissimilarity(np.random.default_rng(0).normal(size=(5, 4)))
    with pytest.raises(RequestError, match="dissimilarities of 10 and 6 pairs; name the same images"):
        compare_dissimilarities(a, np.arange(6.0))
    with pytest.raises(RequestError, match="the method is 'tau'; allowed is spearman, kendall, pearson, cosine"):
        compare_dissimilarities(a, a, "tau")  # type: ignore[arg-type]


def centered_alignment(a: np.ndarray, b: np.ndarray) -> float:
    """As Kornblith et al. define it, by the centering matrix."""
    num = len(a)
    center = np.eye(num) - 1 / num
    k, m = center @ a @ a.T @ center, center @ b @ b.T @ center
    return float(np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))


def unbiased_criterion(a: np.ndarray, b: np.ndarray) -> float:
    """Song et al. 2012, equation 5, on uncentered kernels."""
    num, ones = len(a), np.ones(len(a))
    k, m = a @ a.T, b @ b.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    total = np.trace(k @ m) + ones @ k @ ones * (ones @ m @ ones) / ((num - 1) * (num - 2))
    return float((total - 2 / (num - 2) * (ones @ k @ m @ ones)) / (num * (num - 3)))


def debiased_alignment(a: np.ndarray, b: np.ndarray) -> float:
    return unbiased_criterion(a, b) / np.sqrt(unbiased_criterion(a, a) * unbiased_criterion(b, b))


@settings(max_examples=20, deadline=None)
@given(num_images=st.integers(6, 14), widths=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=SEEDS, blocks=BLOCKS)
def test_alignment_is_that_of_the_formulas(
    num_images: int, widths: tuple[int, int], seed: int, blocks: tuple[int, int]
) -> None:
    random = np.random.default_rng(seed)
    a, b = (random.normal(size=(num_images, width)).astype(np.float32) + 2 for width in widths)
    with pytest.MonkeyPatch.context() as patch:
        in_blocks(patch, blocks)
        np.testing.assert_allclose(cka(a, b), centered_alignment(a.astype(float), b.astype(float)), atol=1e-9)
        if min(unbiased_criterion(one.astype(float), one.astype(float)) for one in (a, b)) < 1e-3:
            return
        found = cka(a, b, debiased=True)
    np.testing.assert_allclose(found, debiased_alignment(a.astype(float), b.astype(float)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("debiased", [False, True])
def test_alignment_ignores_rotation_and_scale_but_not_other_maps(debiased: bool) -> None:
    random = np.random.default_rng(4)
    a, noise = random.normal(size=(60, 8)), random.normal(size=(60, 8))
    b = a + 0.7 * noise
    rotation = np.linalg.qr(random.normal(size=(8, 8)))[0]
    before = cka(a, b, debiased=debiased)
    np.testing.assert_allclose(cka(a @ rotation * 7 + 3, b, debiased=debiased), before, rtol=1e-9)
    np.testing.assert_allclose(cka(b, a, debiased=debiased), before, rtol=1e-12)
    np.testing.assert_allclose(cka(a, a, debiased=debiased), 1, rtol=1e-12)
    np.testing.assert_allclose(cka(a, a @ rotation, debiased=debiased), 1, rtol=1e-9)
    order = random.permutation(60)
    np.testing.assert_allclose(cka(a[order], b[order], debiased=debiased), before, rtol=1e-9)
    assert 0.2 < before < 0.95
    assert abs(cka(a @ np.diag(np.geomspace(1, 50, 8)), b, debiased=debiased) - before) > 0.05
    np.testing.assert_allclose(cka(a.reshape(60, 2, 2, 2), b, debiased=debiased), before, rtol=1e-12)


def test_noise_is_alike_only_without_the_correction() -> None:
    """Twenty images of two layers of 500 units with nothing in common."""
    random = np.random.default_rng(0)
    biased, corrected = [], []
    for _ in range(40):
        a, b = random.normal(size=(2, 20, 500))
        biased.append(cka(a, b))
        corrected.append(cka(a, b, debiased=True))
    assert np.mean(biased) > 0.9
    assert abs(np.mean(corrected)) < 4 * np.std(corrected) / np.sqrt(40)


def test_wrong_alignments_are_refused() -> None:
    a = np.random.default_rng(0).normal(size=(5, 3))
    for first, second, debiased, message in [
        (a, a[:4], False, "the activations are of 5 and 4 images; name the same images"),
        (a[:3], a[:3], True, "the activations are of 3 images; allowed is 4 or more"),
        (a[:1], a[:1], False, "the activations are of 1 images; allowed is 2 or more"),
        (a, np.full((5, 3), 0.1, np.float32), False, "the second activations of 5 images vary too little"),
        (np.full((5, 3), 0.1), a, True, "the first activations of 5 images vary too little"),
        (a, np.eye(5), True, "vary too little, or the images are too few"),  # all as similar: nothing but the diagonal
    ]:
        with pytest.raises(RequestError, match=message):
            cka(first, second, debiased=debiased)


@pytest.mark.parametrize("debiased", [False, True])
def test_what_is_constant_but_for_rounding_has_no_alignment(debiased: bool) -> None:
    """Its centered values are not zeros, and have an alignment as any noise has."""
    noise = np.random.default_rng(0).integers(-2, 3, (8, 3))
    a, rounded = np.random.default_rng(1).normal(size=(8, 3)), 0.1 + noise * 2.0**-56
    assert (rounded.std(axis=0) > 0).all()
    for first, second, name in [(rounded, a, "first"), (a, rounded, "second")]:
        with pytest.raises(RequestError, match=f"the {name} activations of 8 images vary too little"):
            cka(first, second, debiased=debiased)
    np.testing.assert_allclose(cka(1 + 1e-6 * a, a, debiased=debiased), 1, rtol=1e-6)  # small, but no rounding


def test_alignment_is_at_most_1() -> None:
    for seed in range(50):
        a = np.random.default_rng(seed).normal(size=(7, 3))
        assert cka(a, 3 * a) <= 1 and cka(a, 3 * a, debiased=True) <= 1


def test_folders_of_other_images_are_refused() -> None:
    class Opened:
        def __init__(self, *paths: str) -> None:
            self.paths, self.folder = paths, "/".join(paths)

    require_same_images(Opened("a", "b"), Opened("a", "b"))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="a/b and b/a have different images; write them with one command"):
        require_same_images(Opened("a", "b"), Opened("a", "b"), Opened("b", "a"))  # type: ignore[arg-type]


def test_the_picture_has_classes_in_order() -> None:
    random = np.random.default_rng(0)
    labels = np.array([2, 0, 1, 0, 2, 1])
    found = dissimilarity(random.normal(size=(6, 5)))
    figure = found.figure(labels, ["cat", "$dog$", "n\n1"], "of relu7")
    axes = figure.axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    order = [1, 3, 2, 5, 0, 4]
    want = found.square()[np.ix_(order, order)]
    np.fill_diagonal(want, np.nan)
    np.testing.assert_array_equal(shown, want)
    assert [one.get_text() for one in axes.get_yticklabels()] == ["cat", "$dog$", "n\\n1"]
    assert axes.get_yticks().tolist() == [1, 3, 5] and axes.get_title() == "of relu7"
    assert figure.axes[1].get_ylabel() == "1 - Pearson correlation"
    assert "<svg" in dissimilarity(random.normal(size=(720, 2)), "euclidean")._repr_html_()
    with pytest.raises(RequestError, match="dissimilarities and labels are of 6 and 5 images"):
        found.figure(labels[:5])
