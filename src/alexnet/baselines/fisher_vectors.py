"""Fisher vectors: the gradient of a Gaussian mixture's log-likelihood at the descriptors of an image.

F. Perronnin, J. Sanchez, T. Mensink: Improving the Fisher kernel for large-scale image classification, ECCV 2010;
J. Sanchez and F. Perronnin: High-dimensional signature compression for large-scale image classification, CVPR 2011.
The encoder is our own, since scikit-image's takes many times as long (`benchmarks/baselines.py` measures both), and is
tested against it.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from alexnet.baselines.descriptors import DescriptorSet, check_descriptor_sets, concatenate_values
from alexnet.baselines.gaussian_mixture import DiagonalGaussianMixture, MixtureParameters, posteriors
from alexnet.baselines.spatial_pyramid import Levels, num_regions, parse_pyramid, region_indices
from alexnet.baselines.tensor_conversion import as_tensor
from alexnet.errors import RequestError


class Moments(NamedTuple):
    """Moments of a set of descriptors, weighted by their posteriors; those of two sets add up."""

    num: int
    """Descriptors, n."""
    total: torch.Tensor
    """(K,): sum of posteriors."""
    first: torch.Tensor
    """(K, D): weighted sum of descriptors."""
    second: torch.Tensor
    """(K, D): weighted sum of squares."""


def moments(values: torch.Tensor, posterior: torch.Tensor) -> Moments:
    """Moments of descriptors (n, D) with posteriors (n, K)."""
    both = posterior.T @ torch.cat([values, values.square()], dim=1)
    width = values.shape[1]
    return Moments(len(values), posterior.sum(dim=0), both[:, :width], both[:, width:])


def fisher_gradients(sums: Moments, mixture: MixtureParameters) -> torch.Tensor:
    """Gradients of the mean log-likelihood to means and standard deviations, whitened by the Fisher information.

    For Gaussian k with weight w, mean m and standard deviation s, over n descriptors x with posteriors p (elementwise):

        G_m = sum p (x - m) / s / (n sqrt w),    G_s = sum p ((x - m)^2 / s^2 - 1) / (n sqrt(2 w))

    Returns:
        (2 K D,): G_m of all Gaussians, then G_s; zeros where n is 0. scikit-image's G_s has the opposite sign, and its
        vector starts with the gradients to the weights, which the paper leaves out.

    Paper: ECCV 2010, equations 8 to 11.
    """
    if sums.num == 0:
        return mixture.means.new_zeros(2 * mixture.means.numel())
    total = sums.total[:, None]  # (K, 1)
    mean_gradients = (sums.first - total * mixture.means) / mixture.variances.sqrt()
    spread = sums.second - 2 * sums.first * mixture.means + total * mixture.means.square()
    std_gradients = (spread / mixture.variances - total) / math.sqrt(2)
    both = torch.stack([mean_gradients, std_gradients]) / (sums.num * mixture.weights.sqrt()[:, None])
    return both.flatten()


def power_normalize(vectors: torch.Tensor) -> torch.Tensor:
    """sign(z) sqrt(|z|), then unit norm along the last axis; zeros stay zeros. Paper: ECCV 2010, section 3."""
    rooted = vectors.sign() * vectors.abs().sqrt()
    normalized: torch.Tensor = rooted / rooted.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return normalized


class MixtureEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of Fisher vectors and bags of words: a mixture of Gaussians as vocabulary, and a spatial pyramid.

    It keeps the contract of `alexnet.baselines.descriptors`.

    Args:
        components: Gaussians, K.
        pyramid: rows x columns of each level, such as `1x1,3x1`.
        seed: of the mixture's first means.

    Attributes:
        weights_: float32 (K,).
        means_: float32 (K, D).
        variances_: float32 (K, D).
    """

    def __init__(self, components: int = 64, *, pyramid: str = "1x1,3x1", seed: int = 0) -> None:
        self.components = components
        self.pyramid = pyramid
        self.seed = seed

    def fit(self, X: Sequence[DescriptorSet], y: Any = None) -> Self:
        """Fit the mixture to all descriptors of the list together (`DiagonalGaussianMixture`).

        Raises:
            RequestError: fewer descriptors than components, or an invalid pyramid.
            ValueError: the list breaks the contract.
        """
        parse_pyramid(self.pyramid)
        values = concatenate_values(X)
        if not 1 <= self.components <= len(values):
            raise RequestError(
                f"a mixture of {self.components} Gaussians from {len(values)} descriptors; allowed is 1 to the number "
                "of descriptors: use fewer components, or more images"
            )
        mixture = DiagonalGaussianMixture(self.components, seed=self.seed).fit(values)
        self.weights_ = np.asarray(mixture.weights_, np.float32)
        self.means_ = np.asarray(mixture.means_, np.float32)
        self.variances_ = np.asarray(mixture.variances_, np.float32)
        return self

    @property
    def mixture(self) -> MixtureParameters:
        """The fitted mixture."""
        check_is_fitted(self)
        return MixtureParameters(*(as_tensor(one) for one in (self.weights_, self.means_, self.variances_)))

    @property
    def num_features(self) -> int:
        """Length of a row of `transform`, after `fit`."""
        return num_regions(parse_pyramid(self.pyramid)) * self._region_features

    def transform(self, X: Sequence[DescriptorSet]) -> NDArray[np.float32]:
        """One row per set: the normalized vectors of all regions, divided by the square root of their number.

        Returns:
            float32 (N, num_features), of unit norm, or less where regions have no descriptors or no contrast.
        """
        mixture, levels = self.mixture, parse_pyramid(self.pyramid)
        rows = []
        with torch.inference_mode():
            for one in check_descriptor_sets(X, self.means_.shape[1]):
                vectors = torch.stack([self._vector(sums, mixture) for sums in _region_moments(one, levels, mixture)])
                rows.append(power_normalize(vectors).flatten() / math.sqrt(num_regions(levels)))
        return torch.stack(rows).numpy()

    @property
    def _region_features(self) -> int:
        raise NotImplementedError

    def _vector(self, sums: Moments, mixture: MixtureParameters) -> torch.Tensor:
        raise NotImplementedError


def _region_moments(descriptors: DescriptorSet, levels: Levels, mixture: MixtureParameters) -> list[Moments]:
    """The moments of a set's descriptors in each region of each level.

    They are computed once for each part of the image that no level divides, and added up to regions.
    """
    values = as_tensor(descriptors.values, np.float32)
    regions = region_indices(descriptors.positions, levels)  # (levels, n)
    count = num_regions(levels)
    numbers = np.zeros(len(values), np.int64)
    for of_level in regions:
        numbers = count * numbers + of_level
        _, numbers = np.unique(numbers, return_inverse=True)  # small again, whatever the number of levels
    found: list[Moments | None] = [None] * count
    for part in range(numbers.max(initial=-1) + 1):
        members = np.flatnonzero(numbers == part)
        within = values[members]
        sums = moments(within, posteriors(within, mixture))
        for region in regions[:, members[0]].tolist():
            before = found[region]
            found[region] = sums if before is None else Moments(*map(operator.add, before, sums))
    empty = moments(values[:0], values.new_empty(0, len(mixture.weights)))
    return [empty if one is None else one for one in found]


class FisherVectorEncoder(MixtureEncoder):
    """Descriptor sets to Fisher vectors: 2 K D features per region, `fisher_gradients` after `power_normalize`."""

    @property
    def _region_features(self) -> int:
        return int(2 * self.means_.size)

    def _vector(self, sums: Moments, mixture: MixtureParameters) -> torch.Tensor:
        return fisher_gradients(sums, mixture)


class BagOfWordsEncoder(MixtureEncoder):
    """Descriptor sets to soft bags of words: K sums of posteriors per region, after `power_normalize`.

    It shares the vocabulary of Fisher vectors and omits the gradients, for comparison with them.
    """

    @property
    def _region_features(self) -> int:
        return self.components

    def _vector(self, sums: Moments, mixture: MixtureParameters) -> torch.Tensor:
        return sums.total
