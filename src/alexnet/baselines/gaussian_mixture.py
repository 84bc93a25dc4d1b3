"""A mixture of Gaussians with diagonal covariances, learned by expectation and maximization.

scikit-learn's `GaussianMixture` learns the same; in float32 it loses components whose variance is small, and a pass of
it takes several times as long (`alexnet bench baselines`). Ours begins with scikit-learn's k-means, and from the same
beginning both come to the same mixture (a test).
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

from alexnet.baselines.chunked_map import in_pieces, one_thread_each
from alexnet.baselines.tensor_conversion import as_tensor
from alexnet.system.machine import num_cores

ROWS_AT_ONCE = 8192
_ROWS_OF_KMEANS = 100
"""Samples a component from which the first means are found: more do not move them."""


class Mixture(NamedTuple):
    """Gaussians with diagonal covariance; all of one float type."""

    weights: torch.Tensor
    """(K,), above 0, their sum 1."""
    means: torch.Tensor
    """(K, D)."""
    variances: torch.Tensor
    """(K, D), above 0."""


def log_densities(values: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    """Logarithm of weight times density of each Gaussian at each row, (n, D) -> (n, K)."""
    precision = 1 / mixture.variances
    constant = (
        mixture.weights.log()
        - 0.5 * (2 * math.pi * mixture.variances).log().sum(dim=1)
        - 0.5 * (mixture.means.square() * precision).sum(dim=1)
    )
    logs = torch.addmm(constant, values, (mixture.means * precision).T)
    return logs.addmm_(values.square(), precision.T, alpha=-0.5)


def posteriors(values: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    """The share of each Gaussian in each row, (n, D) -> (n, K); rows sum to 1."""
    return log_densities(values, mixture).softmax(dim=1)


class DiagonalMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """A mixture of Gaussians with diagonal covariances, for arrays (N, D).

    Args:
        components: Gaussians, K.
        passes: of expectation and maximization, at most.
        tolerance: it ends when the mean log-likelihood grows by less, nats.
        floor: least variance, as a share of the data's own in each dimension (and at least 1e-9).
        seed: of the first means.

    Attributes:
        weights_: (K,).
        means_: (K, D).
        variances_: (K, D).
        lower_bound_: mean log-likelihood before the last pass, nats.
        n_iter_: passes made.
    """

    def __init__(
        self, components: int = 1, *, passes: int = 60, tolerance: float = 1e-3, floor: float = 1e-4, seed: int = 0
    ) -> None:
        self.components = components
        self.passes = passes
        self.tolerance = tolerance
        self.floor = floor
        self.seed = seed

    def fit(self, X: NDArray[Any], y: Any = None) -> Self:
        """Learn the mixture.

        Args:
            X: float32 or float64 (N, D); it is computed in the same.

        Raises:
            ValueError: fewer samples than components, or values that are not finite.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        if not 1 <= self.components <= len(X):
            raise ValueError(
                f"a mixture of {self.components} Gaussians from {len(X)} samples; allowed is 1 to as many as there "
                "are samples: take fewer components, or more samples"
            )
        values = as_tensor(X)
        least = (self.floor * values.var(dim=0)).clamp_min(1e-9)
        with torch.inference_mode():
            mixture = self._first(X, values, least)
            self.lower_bound_, self.n_iter_ = -math.inf, 0
            for number in range(self.passes):
                likelihood, improved = maximized(values, mixture, least)
                grown, self.lower_bound_ = likelihood - self.lower_bound_, likelihood
                mixture, self.n_iter_ = improved, number + 1
                if grown < self.tolerance:
                    break
        self.weights_, self.means_, self.variances_ = (one.numpy() for one in mixture)
        return self

    def score_samples(self, X: NDArray[Any]) -> NDArray[Any]:
        """Log-likelihood of each sample, (N,), nats."""
        found: NDArray[Any] = self._logs(X).logsumexp(dim=1).numpy()
        return found

    def score(self, X: NDArray[Any], y: Any = None) -> float:
        """Mean log-likelihood of the samples, nats."""
        return float(self.score_samples(X).mean())

    def predict_proba(self, X: NDArray[Any]) -> NDArray[Any]:
        """The share of each Gaussian in each sample, (N, K)."""
        found: NDArray[Any] = self._logs(X).softmax(dim=1).numpy()
        return found

    def predict(self, X: NDArray[Any]) -> NDArray[np.int64]:
        """The Gaussian with the largest share in each sample, (N,)."""
        found: NDArray[np.int64] = self.predict_proba(X).argmax(axis=1)
        return found

    def _logs(self, X: NDArray[Any]) -> torch.Tensor:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        mixture = Mixture(*(as_tensor(one) for one in (self.weights_, self.means_, self.variances_)))
        return log_densities(as_tensor(X, self.means_.dtype), mixture)

    def _first(self, X: NDArray[Any], values: torch.Tensor, least: torch.Tensor) -> Mixture:
        """Each sample belongs to the nearest of the means that k-means finds."""
        if self.components == 1:
            shares = values.new_ones(len(values), 1)
            return _from_sums(_sums(values, shares), len(values), least)
        random = np.random.RandomState(self.seed)
        num = min(len(X), max(10_000, _ROWS_OF_KMEANS * self.components))
        drawn = X if num == len(X) else X[np.sort(random.choice(len(X), num, replace=False))]
        means = MiniBatchKMeans(self.components, batch_size=2048, n_init=1, max_iter=50, random_state=random)
        with one_thread_each():
            found = means.fit(drawn)
        centers = torch.from_numpy(np.asarray(found.cluster_centers_, X.dtype))

        def nearest(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
            labels = torch.cdist(rows, centers).argmin(dim=1)
            return _sums(rows, torch.nn.functional.one_hot(labels, self.components).to(rows.dtype))

        return _from_sums(_over_pieces(values, nearest), len(values), least)


def maximized(values: torch.Tensor, mixture: Mixture, least: torch.Tensor) -> tuple[float, Mixture]:
    """One pass: the mean log-likelihood of (N, D) under `mixture`, and the mixture that follows from its shares.

    Args:
        least: the smallest variance allowed in each dimension, (D,).
    """

    def shared(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logs = log_densities(rows, mixture)
        whole = logs.logsumexp(dim=1, keepdim=True)
        return (whole.sum(dtype=torch.float64), *_sums(rows, logs.sub_(whole).exp_()))

    likelihood, *sums = _over_pieces(values, shared)
    return float(likelihood) / len(values), _from_sums(tuple(sums), len(values), least)


def _over_pieces(
    values: torch.Tensor, work: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
) -> tuple[torch.Tensor, ...]:
    """The sums of what `work` makes of some rows at a time, a thread each, added up in order."""

    def piece(first: int, last: int) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            return work(values[first:last])

    found = [part for _, part in in_pieces(piece, 0, len(values), ROWS_AT_ONCE, num_cores())]
    return tuple(sum(parts[1:], start=parts[0]) for parts in zip(*found, strict=True))


def _sums(values: torch.Tensor, shares: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Sums of shares, of shared values and of shared squares: float64 (K,), (K, D), (K, D)."""
    found = (shares.sum(dim=0), shares.T @ values, shares.T @ values.square())
    return tuple(one.double() for one in found)


def _from_sums(sums: tuple[torch.Tensor, ...], num: int, least: torch.Tensor) -> Mixture:
    """The mixture of the type of `least`; a Gaussian that no sample belongs to keeps a weight above 0."""
    total, first, second = sums
    total = total + 10 * torch.finfo(torch.float64).eps
    means = first / total[:, None]
    variances = (second / total[:, None] - means.square()).maximum(least.double())
    weights = (total / num).clamp_min(1e-10)
    return Mixture(*(one.to(least.dtype) for one in (weights / weights.sum(), means, variances)))
