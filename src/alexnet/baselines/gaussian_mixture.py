"""A mixture of Gaussians with diagonal covariances, fitted by expectation-maximization (EM).

scikit-learn's `GaussianMixture` fits the same; in float32 it loses components of small variance, and one of its
iterations takes several times as long (`benchmarks/baselines.py`). Ours starts from scikit-learn's k-means; from the
same start both reach the same mixture (a test).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.cluster import MiniBatchKMeans
from sklearn.utils.validation import check_is_fitted, validate_data

from alexnet.baselines.chunked_map import map_chunks, single_threaded_libraries
from alexnet.baselines.tensor_conversion import as_tensor
from alexnet.system.machine import num_cores

CHUNK_ROWS = 8192
_KMEANS_SAMPLES_PER_COMPONENT = 100
"""Samples from which the first means are found: more do not change them."""


class MixtureParameters(NamedTuple):
    """Gaussians with diagonal covariances; all of one float type."""

    weights: torch.Tensor
    """(K,), above 0, sum 1."""
    means: torch.Tensor
    """(K, D)."""
    variances: torch.Tensor
    """(K, D), above 0."""


def log_densities(values: torch.Tensor, mixture: MixtureParameters) -> torch.Tensor:
    """Log of weight times density of each Gaussian at each row, (n, D) -> (n, K)."""
    precision = 1 / mixture.variances
    constant = (
        mixture.weights.log()
        - 0.5 * (2 * math.pi * mixture.variances).log().sum(dim=1)
        - 0.5 * (mixture.means.square() * precision).sum(dim=1)
    )
    logs = torch.addmm(constant, values, (mixture.means * precision).T)
    return logs.addmm_(values.square(), precision.T, alpha=-0.5)


def posteriors(values: torch.Tensor, mixture: MixtureParameters) -> torch.Tensor:
    """The posterior probability of each Gaussian for each row, (n, D) -> (n, K); rows sum to 1."""
    return log_densities(values, mixture).softmax(dim=1)


class DiagonalGaussianMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """A mixture of Gaussians with diagonal covariances, for arrays (N, D).

    Args:
        components: Gaussians, K.
        max_iter: EM iterations at most.
        tol: stop when the mean log-likelihood grows by less, nats.
        variance_floor: least variance, as a fraction of the data's own in each dimension (and at least 1e-9).
        seed: of the first means.

    Attributes:
        weights_: (K,).
        means_: (K, D).
        variances_: (K, D).
        lower_bound_: mean log-likelihood before the last iteration, nats.
        n_iter_: iterations made.
    """

    def __init__(
        self,
        components: int = 1,
        *,
        max_iter: int = 60,
        tol: float = 1e-3,
        variance_floor: float = 1e-4,
        seed: int = 0,
    ) -> None:
        self.components = components
        self.max_iter = max_iter
        self.tol = tol
        self.variance_floor = variance_floor
        self.seed = seed

    def fit(self, X: NDArray[Any], y: Any = None) -> Self:
        """Fit the mixture.

        Args:
            X: float32 or float64 (N, D), which is also the type of the computation.

        Raises:
            ValueError: fewer samples than components, or non-finite values.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        if not 1 <= self.components <= len(X):
            raise ValueError(
                f"a mixture of {self.components} Gaussians from {len(X)} samples; allowed is 1 to the number of "
                "samples: use fewer components, or more samples"
            )
        values = as_tensor(X)
        min_variances = (self.variance_floor * values.var(dim=0)).clamp_min(1e-9)
        with torch.inference_mode():
            mixture = self._initial_mixture(X, values, min_variances)
            self.lower_bound_, self.n_iter_ = -math.inf, 0
            for iteration in range(self.max_iter):
                likelihood, mixture = em_step(values, mixture, min_variances)
                gain, self.lower_bound_ = likelihood - self.lower_bound_, likelihood
                self.n_iter_ = iteration + 1
                if gain < self.tol:
                    break
        self.weights_, self.means_, self.variances_ = (one.numpy() for one in mixture)
        return self

    def score_samples(self, X: NDArray[Any]) -> NDArray[Any]:
        """Log-likelihood of each sample, (N,), nats."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        mixture = MixtureParameters(*(as_tensor(one) for one in (self.weights_, self.means_, self.variances_)))
        likelihoods: NDArray[Any] = log_densities(as_tensor(X, self.means_.dtype), mixture).logsumexp(dim=1).numpy()
        return likelihoods

    def score(self, X: NDArray[Any], y: Any = None) -> float:
        """Mean log-likelihood of the samples, nats."""
        return float(self.score_samples(X).mean())

    def _initial_mixture(self, X: NDArray[Any], values: torch.Tensor, min_variances: torch.Tensor) -> MixtureParameters:
        """The mixture in which each sample belongs to the nearest k-means center."""
        if self.components == 1:
            responsibilities = values.new_ones(len(values), 1)
            return _from_sums(_weighted_sums(values, responsibilities), len(values), min_variances)
        random = np.random.RandomState(self.seed)
        num = min(len(X), max(10_000, _KMEANS_SAMPLES_PER_COMPONENT * self.components))
        drawn = X if num == len(X) else X[np.sort(random.choice(len(X), num, replace=False))]
        kmeans = MiniBatchKMeans(self.components, batch_size=2048, n_init=1, max_iter=50, random_state=random)
        with single_threaded_libraries():
            kmeans.fit(drawn)
        centers = torch.from_numpy(np.asarray(kmeans.cluster_centers_, X.dtype))

        def nearest_center_sums(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
            labels = torch.cdist(rows, centers).argmin(dim=1)
            return _weighted_sums(rows, torch.nn.functional.one_hot(labels, self.components).to(rows.dtype))

        return _from_sums(_sum_over_chunks(values, nearest_center_sums), len(values), min_variances)


def em_step(
    values: torch.Tensor, mixture: MixtureParameters, min_variances: torch.Tensor
) -> tuple[float, MixtureParameters]:
    """One EM iteration over (N, D): the mean log-likelihood under `mixture`, and the re-estimated mixture.

    Args:
        min_variances: the smallest variance allowed in each dimension, (D,).
    """

    def expectation(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logs = log_densities(rows, mixture)
        likelihoods = logs.logsumexp(dim=1, keepdim=True)
        return (likelihoods.sum(dtype=torch.float64), *_weighted_sums(rows, logs.sub_(likelihoods).exp_()))

    likelihood, *sums = _sum_over_chunks(values, expectation)
    return float(likelihood) / len(values), _from_sums(tuple(sums), len(values), min_variances)


def _sum_over_chunks(
    values: torch.Tensor, work: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
) -> tuple[torch.Tensor, ...]:
    """The sums of the results of `work` for chunks of rows, computed in threads and added in order."""

    def of_chunk(first: int, last: int) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            return work(values[first:last])

    parts = [part for _, part in map_chunks(of_chunk, len(values), CHUNK_ROWS, workers=num_cores())]
    return tuple(sum(terms[1:], start=terms[0]) for terms in zip(*parts, strict=True))


def _weighted_sums(values: torch.Tensor, responsibilities: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Sums of responsibilities, of weighted values and of weighted squares: float64 (K,), (K, D), (K, D)."""
    sums = (responsibilities.sum(dim=0), responsibilities.T @ values, responsibilities.T @ values.square())
    return tuple(one.double() for one in sums)


def _from_sums(sums: tuple[torch.Tensor, ...], num: int, min_variances: torch.Tensor) -> MixtureParameters:
    """The mixture, in the type of `min_variances`; a Gaussian without samples keeps a weight above 0."""
    total, first, second = sums
    total = total + 10 * torch.finfo(torch.float64).eps
    means = first / total[:, None]
    variances = (second / total[:, None] - means.square()).maximum(min_variances.double())
    weights = (total / num).clamp_min(1e-10)
    return MixtureParameters(*(one.to(min_variances.dtype) for one in (weights / weights.sum(), means, variances)))
