"""Fisher vectors, mixtures and codes against scikit-image, scikit-learn and formulas; the contract of sets."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from alexnet.baselines.descriptor_coding import l1_codes, locality_codes, max_pool, max_pool_absolute
from alexnet.baselines.descriptor_pca import DescriptorPCA
from alexnet.baselines.descriptors import DescriptorSet
from alexnet.baselines.dictionary_encoders import LocalityEncoder, SparseEncoder, l1_dictionary
from alexnet.baselines.fisher_vectors import BagOfWordsEncoder, FisherVectorEncoder, fisher_gradients, moments
from alexnet.baselines.gaussian_mixture import DiagonalGaussianMixture, MixtureParameters, em_step, posteriors
from alexnet.baselines.spatial_pyramid import num_regions, parse_pyramid, region_indices
from alexnet.errors import RequestError


def some_sets(num: int = 6, size: int = 40, width: int = 8, seed: int = 0) -> list[DescriptorSet]:
    random = np.random.default_rng(seed)
    return [
        DescriptorSet(
            random.standard_normal((size + n, width)).astype(np.float32),
            random.random((size + n, 2)).astype(np.float32),
        )
        for n in range(num)
    ]


def a_mixture(k: int = 5, d: int = 8, seed: int = 1) -> tuple[NDArray[np.float64], ...]:
    random = np.random.default_rng(seed)
    weights = random.random(k) + 0.1
    return weights / weights.sum(), random.standard_normal((k, d)), random.random((k, d)) + 0.3


SETS = [
    DescriptorPCA(4),
    FisherVectorEncoder(3),
    FisherVectorEncoder(3, pyramid="2x2"),
    BagOfWordsEncoder(3, pyramid="1x1,2x1"),
    LocalityEncoder(8, neighbors=3),
    SparseEncoder(8, l1_penalty=0.3),
]


@pytest.mark.parametrize("estimator", SETS, ids=repr)
def test_the_contract_of_estimators_that_take_lists_of_descriptor_sets(estimator: Any) -> None:
    sets = some_sets()
    before = [(one.values.copy(), one.positions.copy()) for one in sets]
    params = estimator.get_params()
    with pytest.raises(NotFittedError):
        estimator.transform(sets)
    copy = clone(estimator)
    assert copy is not estimator and copy.get_params() == params and estimator.set_params(**params) is estimator
    assert copy.fit(sets) is copy and copy.get_params() == params
    whole = copy.transform(sets)
    assert len(whole) == len(sets)
    for number, one in enumerate(sets):  # a row depends on its own set alone
        alone = copy.transform([one])[0]
        np.testing.assert_allclose(
            getattr(alone, "values", alone), getattr(whole[number], "values", whole[number]), atol=1e-6
        )
    again = clone(estimator).fit(sets).transform(sets)  # deterministic
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(getattr(one, "values", one), getattr(other, "values", other))
    for one, (values, places) in zip(sets, before, strict=True):
        np.testing.assert_array_equal(one.values, values)
        np.testing.assert_array_equal(one.positions, places)
    with pytest.raises(ValueError, match="0 descriptor sets"):
        copy.transform([])
    with pytest.raises(ValueError, match=r"allowed are \(n, 8\)"):
        copy.transform(some_sets(width=7))
    broken = some_sets()
    broken[2].values[3, 1] = np.nan
    for call in (clone(estimator).fit, copy.transform):
        with pytest.raises(ValueError, match="set 2 has non-finite values"):
            call(broken)
    empty = DescriptorSet(np.empty((0, 8), np.float32), np.empty((0, 2), np.float32))
    rows = copy.transform([empty])[0]
    assert (np.asarray(getattr(rows, "values", rows)) == 0).all()


def test_the_mixture_passes_scikit_learns_own_checks() -> None:
    outcome = check_estimator(DiagonalGaussianMixture(), on_fail=None, on_skip=None)
    assert [(one["check_name"], one["exception"]) for one in outcome if one["status"] == "failed"] == []
    assert sum(one["status"] == "passed" for one in outcome) > 30


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_fisher_gradients_equal_scikit_images(dtype: type) -> None:
    feature = pytest.importorskip("skimage.feature")
    from sklearn.mixture import GaussianMixture

    weights, means, variances = a_mixture()
    theirs = GaussianMixture(len(weights), covariance_type="diag")
    theirs.weights_, theirs.means_, theirs.covariances_ = weights, means, variances
    theirs.precisions_cholesky_ = 1 / np.sqrt(variances)
    values = np.random.default_rng(2).standard_normal((300, 8))
    expected = feature.fisher_vector(values, theirs)[len(weights) :]  # after the gradients to the weights
    expected[means.size :] *= -1  # scikit-image has the opposite sign
    mixture = MixtureParameters(*(torch.from_numpy(one.astype(dtype)) for one in (weights, means, variances)))
    given_values = torch.from_numpy(values.astype(dtype))
    ours = fisher_gradients(moments(given_values, posteriors(given_values, mixture)), mixture).numpy()
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, expected, atol=1e-10 if dtype is np.float64 else 1e-5)


def test_fisher_gradients_follow_the_formula() -> None:
    weights, means, variances = a_mixture(3, 2)
    values = np.random.default_rng(3).standard_normal((7, 2))
    of_means, of_deviations = np.zeros((3, 2)), np.zeros((3, 2))
    for x in values:
        density = weights * np.exp(-((x - means) ** 2 / variances).sum(axis=1) / 2) / np.sqrt(variances.prod(axis=1))
        for k, share in enumerate(density / density.sum()):
            of_means[k] += share * (x - means[k]) / np.sqrt(variances[k]) / (7 * np.sqrt(weights[k]))
            of_deviations[k] += share * ((x - means[k]) ** 2 / variances[k] - 1) / (7 * np.sqrt(2 * weights[k]))
    mixture = MixtureParameters(*map(torch.from_numpy, (weights, means, variances)))
    rows = torch.from_numpy(values)
    ours = fisher_gradients(moments(rows, posteriors(rows, mixture)), mixture).numpy()
    np.testing.assert_allclose(ours, np.concatenate([of_means.ravel(), of_deviations.ravel()]), rtol=1e-9)


def test_a_fisher_vector_has_power_normalized_regions_of_equal_norm() -> None:
    (one,) = some_sets(1, 60)
    one.positions[:, 1] *= 0.4  # so the right half has no descriptors
    encoder = FisherVectorEncoder(3, pyramid="3x1,1x1,2x2").fit([one])
    row = encoder.transform([one])[0].reshape(8, -1) * 8**0.5 / 2
    np.testing.assert_allclose(np.linalg.norm(row, axis=1), [0.5] * 5 + [0, 0.5, 0], rtol=1e-5)
    mixture = encoder.mixture
    strip, half = (np.minimum((one.positions[:, 0] * rows).astype(int), rows - 1) for rows in (3, 2))
    regions = {0: strip == 0, 1: strip == 1, 2: strip == 2, 3: strip >= 0, 4: half == 0, 6: half == 1}
    for number, within in regions.items():
        values = torch.from_numpy(one.values[within])
        raw = fisher_gradients(moments(values, posteriors(values, mixture)), mixture).numpy()
        rooted = np.sign(raw) * np.sqrt(np.abs(raw))
        np.testing.assert_allclose(
            row[number], rooted / np.linalg.norm(rooted) / 2, atol=2e-4
        )  # square roots of values near zero


def test_the_mixture_equals_scikit_learns_from_the_same_start() -> None:
    from sklearn.mixture import GaussianMixture

    random = np.random.default_rng(5)
    data = np.concatenate([random.normal(at, 0.5, (200, 3)) for at in (-2, 0, 3)])
    first = DiagonalGaussianMixture(3, max_iter=1, variance_floor=1e-12).fit(data)
    theirs = GaussianMixture(
        3, covariance_type="diag", max_iter=15, tol=0, reg_covar=0,
        weights_init=first.weights_, means_init=first.means_, precisions_init=1 / first.variances_,
    )  # fmt: skip
    with pytest.warns(match="did not converge"):
        theirs.fit(data)
    mixture = MixtureParameters(*(torch.from_numpy(one) for one in (first.weights_, first.means_, first.variances_)))
    likelihoods = []
    for _ in range(15):
        likelihood, mixture = em_step(torch.from_numpy(data), mixture, torch.full((3,), 1e-12, dtype=torch.float64))
        likelihoods.append(likelihood)
    assert (np.diff(likelihoods) > -1e-9).all()
    for ours, other in zip(mixture, (theirs.weights_, theirs.means_, theirs.covariances_), strict=True):
        np.testing.assert_allclose(ours.numpy(), other, rtol=1e-6, atol=1e-9)


def test_too_few_descriptors_and_constant_ones() -> None:
    few = some_sets(1, 5)
    for estimator in (FisherVectorEncoder(16), LocalityEncoder(16), SparseEncoder(16), DescriptorPCA(8)):
        with pytest.raises(RequestError, match=r"(from|of) 5 descriptors"):
            estimator.fit(few)
    same = [
        DescriptorSet(np.full((50, 8), 0.25, np.float32), np.random.default_rng(0).random((50, 2)).astype(np.float32))
    ]
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns that equal points give fewer clusters
        for estimator in (
            FisherVectorEncoder(4),
            BagOfWordsEncoder(4),
            LocalityEncoder(4, neighbors=2),
            SparseEncoder(4),
        ):
            assert np.isfinite(estimator.fit(same).transform(same)).all()


@given(seed=st.integers(0, 1000), neighbors=st.integers(1, 5), width=st.integers(2, 12))
@settings(max_examples=25)
def test_locality_codes_solve_the_constrained_least_squares(seed: int, neighbors: int, width: int) -> None:
    random = np.random.default_rng(seed)
    atoms, values = (
        random.standard_normal((9, width)).astype(np.float32),
        random.standard_normal((4, width)).astype(np.float32),
    )
    places, codes = locality_codes(values, atoms, neighbors, regularization=1e-2)
    for x, where, code in zip(values.astype(np.float64), places, codes, strict=True):
        distances = ((atoms - x) ** 2).sum(axis=1)
        nearest = np.argsort(distances)[:neighbors]
        np.testing.assert_array_equal(where, nearest)
        base = atoms[nearest] - x
        covariance = base @ base.T
        covariance += 1e-2 * np.trace(covariance) * np.eye(neighbors)
        # With a Lagrange multiplier: minimize c' C c, sum c = 1.
        system = np.block([[2 * covariance, np.ones((neighbors, 1))], [np.ones((1, neighbors)), np.zeros((1, 1))]])
        expected = np.linalg.solve(system, np.append(np.zeros(neighbors), 1))[:neighbors]
        np.testing.assert_allclose(code, expected, atol=2e-4)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@given(seed=st.integers(0, 1000), penalty=st.floats(0.02, 0.6), width=st.sampled_from([10, 40]))
@settings(max_examples=15)
def test_l1_codes_equal_scikit_learns(seed: int, penalty: float, width: int) -> None:
    from sklearn.decomposition import sparse_encode

    random = np.random.default_rng(seed)
    atoms = random.standard_normal((20, width)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    values = random.standard_normal((5, width)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    ours = l1_codes(values, atoms, atoms @ atoms.T, penalty)
    theirs = sparse_encode(
        values.astype(np.float64), atoms.astype(np.float64), algorithm="lasso_cd", alpha=penalty, max_iter=10_000
    )

    def height(codes: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = ((values - codes @ atoms) ** 2).sum(axis=1) / 2 + penalty * np.abs(codes).sum(axis=1)
        return found

    assert (height(ours) <= height(theirs) + 1e-4).all()
    if width == 40:  # with more atoms than dimensions, very different codes have nearly the same objective
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@given(
    seed=st.integers(0, 1000),
    num_atoms=st.integers(1, 90),
    width=st.integers(1, 40),
    penalty=st.floats(0.01, 0.6),
    positive=st.booleans(),
    repeated=st.booleans(),
)
@settings(max_examples=60)
def test_l1_codes_meet_the_conditions_of_the_optimum(
    seed: int, num_atoms: int, width: int, penalty: float, positive: bool, repeated: bool
) -> None:
    """Karush, Kuhn and Tucker: atoms in use correlate with the residual by exactly the penalty, others by less."""
    random = np.random.default_rng(seed)
    atoms, values = random.standard_normal((num_atoms, width)), random.standard_normal((6, width))
    if positive:  # as histograms are, so that all atoms resemble each other
        atoms, values = np.abs(atoms), np.abs(values)
    if repeated:  # the optimum is not unique
        atoms[num_atoms // 2 :] = atoms[: num_atoms - num_atoms // 2]
    atoms, values = ((one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32) for one in (atoms, values))
    values[0] /= 100  # a descriptor of low contrast
    codes = l1_codes(values, atoms, atoms @ atoms.T, penalty).astype(np.float64)
    correlations = (values - codes @ atoms.astype(np.float64)) @ atoms.T.astype(np.float64)
    used = codes != 0
    np.testing.assert_allclose(correlations[used], penalty * np.sign(codes[used]), atol=1e-5)
    assert np.abs(correlations).max() <= penalty + 1e-5


def test_l1_codes_of_zeros_and_of_an_identity() -> None:
    atoms = np.eye(4, dtype=np.float32)
    assert (l1_codes(np.zeros((2, 4), np.float32), atoms, atoms, 0.1) == 0).all()
    np.testing.assert_allclose(
        l1_codes(np.array([[1, -0.5, 0.05, 0]], np.float32), atoms, atoms, 0.1), [[0.9, -0.4, 0, 0]], atol=1e-6
    )


def test_max_pooling_over_regions() -> None:
    random = np.random.default_rng(6)
    levels = parse_pyramid("1x1,2x2")
    places = random.random((30, 2)).astype(np.float32)
    regions = region_indices(places, levels)
    dense = (random.standard_normal((30, 7)) * (random.random((30, 7)) < 0.3)).astype(np.float32)
    row, column = (places[:, 0] >= 0.5).astype(int), (places[:, 1] >= 0.5).astype(int)
    where = [np.full(30, True)] + [(row == i) & (column == j) for i in (0, 1) for j in (0, 1)]
    expected = np.stack([np.abs(dense[one]).max(axis=0) for one in where])
    np.testing.assert_array_equal(max_pool_absolute(dense, regions, num_regions(levels)), expected)
    slots = np.stack([random.permutation(7)[:2] for _ in range(30)]).astype(np.int64)
    codes = random.standard_normal((30, 2)).astype(np.float32)
    scattered = np.zeros((30, 7), np.float32)
    np.put_along_axis(scattered, slots, codes, axis=1)
    signed = np.stack([np.maximum(scattered[one].max(axis=0), 0) for one in where])
    np.testing.assert_array_equal(max_pool(slots, codes, regions, num_regions(levels), 7), signed)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_l1_dictionary_is_as_good_as_scikit_learns() -> None:
    from sklearn.decomposition import MiniBatchDictionaryLearning

    random = np.random.default_rng(7)
    truth = random.standard_normal((12, 10))
    values = ((random.random((600, 12)) < 0.2) * random.standard_normal((600, 12))) @ truth
    values = (values / (np.linalg.norm(values, axis=1, keepdims=True) + 1e-9)).astype(np.float32)
    first = values[np.random.Generator(np.random.Philox(0)).permutation(600)[:12]]  # the first atoms of ours
    theirs = MiniBatchDictionaryLearning(
        12, alpha=0.1, batch_size=256, max_iter=4, fit_algorithm="cd", dict_init=first, random_state=0
    ).fit(values)

    def height(atoms: NDArray[np.float32]) -> float:
        codes = l1_codes(values, atoms, atoms @ atoms.T, 0.1)
        return float((((values - codes @ atoms) ** 2).sum(axis=1) / 2 + 0.1 * np.abs(codes).sum(axis=1)).mean())

    ours = l1_dictionary(values, 12, 0.1, 4, 0)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-5)
    assert height(ours) <= 1.03 * height(theirs.components_.astype(np.float32))


@pytest.mark.parametrize("text", ["", "0x1", "1x", "1x1;2x2", "a"])
def test_an_invalid_pyramid_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="rows x columns"):
        parse_pyramid(text)
