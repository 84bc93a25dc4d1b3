"""Fisher vectors: how a mixture of Gaussians would have to move to fit the descriptors of an image.

F. Perronnin, J. Sanchez, T. Mensink: Improving the Fisher kernel for large-scale image classification, ECCV 2010;
J. Sanchez and F. Perronnin: High-dimensional signature compression for large-scale image classification, CVPR 2011.
The encoder is ours, since scikit-image's takes many times as long (`alexnet bench baselines` has both), and is tested
against it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from alexnet.baselines.descriptors import DescriptorSet, checked_sets
from alexnet.baselines.gaussian_mixture import DiagonalMixture, Mixture, posteriors
from alexnet.baselines.spatial_pyramid import Levels, num_regions, parse_pyramid, region_of
from alexnet.baselines.tensor_conversion import as_tensor
from alexnet.errors import RequestError


class Moments(NamedTuple):
    """What a set of descriptors says to a mixture; those of two sets are added."""

    num: int
    """Descriptors, n."""
    total: torch.Tensor
    """(K,): sum of the shares of each Gaussian."""
    first: torch.Tensor
    """(K, D): sum of shared descriptors."""
    second: torch.Tensor
    """(K, D): sum of shared squares."""


def moments(values: torch.Tensor, shares: torch.Tensor) -> Moments:
    """Moments of descriptors (n, D) with their shares (n, K)."""
    both = shares.T @ torch.cat([values, values.square()], dim=1)
    width = values.shape[1]
    return Moments(len(values), shares.sum(dim=0), both[:, :width], both[:, width:])


def fisher_gradients(found: Moments, mixture: Mixture) -> torch.Tensor:
    """Gradients of the mean log-likelihood to means and deviations, scaled by the Fisher information's inverse root.

    For Gaussian k with weight w, mean m and deviation s, over n descriptors x with shares p (operations on vectors are
    element by element):

        G_m = sum p (x - m) / s / (n sqrt w),    G_s = sum p ((x - m)^2 / s^2 - 1) / (n sqrt(2 w))

    Returns:
        (2 K D,): G_m of all Gaussians, then G_s; zeros where n is 0. scikit-image has G_s with the other sign, and
        before both the gradients to the weights, which the paper leaves out.

    Paper: ECCV 2010, equations 8 to 11.
    """
    if found.num == 0:
        return mixture.means.new_zeros(2 * mixture.means.numel())
    total = found.total[:, None]  # (K, 1)
    of_means = (found.first - total * mixture.means) / mixture.variances.sqrt()
    spread = found.second - 2 * found.first * mixture.means + total * mixture.means.square()
    of_deviations = (spread / mixture.variances - total) / math.sqrt(2)
    both = torch.stack([of_means, of_deviations]) / (found.num * mixture.weights.sqrt()[:, None])
    return both.flatten()


def signed_root(vectors: torch.Tensor) -> torch.Tensor:
    """sign(z) sqrt(|z|) of each number, then length 1 along the last axis; zeros stay zeros. Paper: ECCV 2010, 3.1."""
    rooted = vectors.sign() * vectors.abs().sqrt()
    scaled: torch.Tensor = rooted / rooted.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return scaled


class MixtureEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What Fisher vectors and bags of words share: a mixture of Gaussians as vocabulary, and a pyramid of regions.

    It keeps the contract of lists of descriptor sets (`alexnet.baselines.descriptors`).

    Args:
        components: Gaussians, K.
        pyramid: levels of rows x columns, such as `1x1,3x1`.
        seed: of the mixture's first values.

    Attributes:
        weights_: float32 (K,).
        means_: float32 (K, D).
        variances_: float32 (K, D).
    """

    arrays = ("weights_", "means_", "variances_")

    def __init__(self, components: int = 64, *, pyramid: str = "1x1,3x1", seed: int = 0) -> None:
        self.components = components
        self.pyramid = pyramid
        self.seed = seed

    def fit(self, X: Sequence[DescriptorSet], y: Any = None) -> Self:
        """Learn the mixture of all descriptors of the list together (`DiagonalMixture`).

        Raises:
            RequestError: fewer descriptors than components, or a pyramid that is not understood.
            ValueError: the list breaks the contract.
        """
        parse_pyramid(self.pyramid)
        values = np.concatenate([one.values for one in checked_sets(X)])
        if not 1 <= self.components <= len(values):
            raise RequestError(
                f"a mixture of {self.components} Gaussians from {len(values)} descriptors; allowed is 1 to as many as "
                "there are descriptors: take fewer, or more images"
            )
        found = DiagonalMixture(self.components, seed=self.seed).fit(values)
        self.weights_, self.means_, self.variances_ = (
            np.asarray(getattr(found, name), np.float32) for name in self.arrays
        )
        return self

    def transform(self, X: Sequence[DescriptorSet]) -> NDArray[np.float32]:
        """A row for each set: of each region its vector of length 1, all divided by the root of their number.

        Returns:
            float32 (N, regions * vector), rows of length 1, shorter where regions have no descriptor or no contrast.
        """
        check_is_fitted(self)
        levels = parse_pyramid(self.pyramid)
        mixture = Mixture(*(as_tensor(getattr(self, name)) for name in self.arrays))
        rows = []
        with torch.inference_mode():
            for one in checked_sets(X, self.means_.shape[1]):
                found = _moments_of_regions(one, levels, mixture)
                vectors = torch.stack([self._vector(region, mixture) for region in found])
                rows.append(signed_root(vectors).flatten() / math.sqrt(num_regions(levels)))
        return torch.stack(rows).numpy()

    def _vector(self, found: Moments, mixture: Mixture) -> torch.Tensor:
        raise NotImplementedError


def _moments_of_regions(one: DescriptorSet, levels: Levels, mixture: Mixture) -> list[Moments]:
    """The moments of a set's descriptors in each region of each level."""
    values = as_tensor(one.values, np.float32)
    shares = posteriors(values, mixture)
    regions = region_of(one.places, levels)
    of_levels: list[list[Moments]] = []
    first = 0
    for number, (rows, columns) in enumerate(levels):
        within = [np.flatnonzero(regions[number] == region) for region in range(first, first + rows * columns)]
        # The whole image is the sum of the parts that another level has.
        whole_by_parts = rows * columns == 1 and len(levels) > 1
        of_levels.append([] if whole_by_parts else [moments(values[at], shares[at]) for at in within])
        first += rows * columns
    cut = next((level for level in of_levels if level), None)
    if cut is None:
        return [moments(values, shares)] * len(levels)
    whole = Moments(*(sum(parts[1:], start=parts[0]) for parts in zip(*cut, strict=True)))
    return [found for level in of_levels for found in level or [whole]]


class FisherVectors(MixtureEncoder):
    """Descriptor sets to Fisher vectors: for each region 2 K D numbers, `fisher_gradients` under `signed_root`."""

    def _vector(self, found: Moments, mixture: Mixture) -> torch.Tensor:
        return fisher_gradients(found, mixture)


class BagOfWords(MixtureEncoder):
    """Descriptor sets to bags of words: for each region the sum of the shares of each Gaussian, under `signed_root`.

    The same vocabulary as that of Fisher vectors, without the gradients: what those are to be compared with.
    """

    def _vector(self, found: Moments, mixture: Mixture) -> torch.Tensor:
        return found.total
