"""Principal components of descriptors: what every descriptor set is projected to before it is coded."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted

from alexnet.baselines.descriptors import DescriptorSet, checked_sets
from alexnet.errors import RequestError


class DescriptorPca(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Projects the descriptors of each set to their first principal components; not whitened.

    It keeps the contract of lists of descriptor sets (`alexnet.baselines.descriptors`); the components are
    scikit-learn's.

    Args:
        dimensions: components kept.

    Attributes:
        mean_: float32 (D,).
        components_: float32 (dimensions, D), orthonormal rows.

    Paper: J. Sanchez and F. Perronnin, CVPR 2011, section 5.1: 64 dimensions.
    """

    arrays = ("mean_", "components_")

    def __init__(self, dimensions: int = 64) -> None:
        self.dimensions = dimensions

    def fit(self, X: Sequence[DescriptorSet], y: Any = None) -> Self:
        """Learn the components of all descriptors of the list together.

        Raises:
            RequestError: fewer descriptors, or shorter ones, than components.
            ValueError: the list breaks the contract.
        """
        values = np.concatenate([one.values for one in checked_sets(X)])
        if not 1 <= self.dimensions <= min(values.shape):
            raise RequestError(
                f"{self.dimensions} principal components of {len(values)} descriptors of length {values.shape[1]}; "
                f"allowed is 1 to {min(values.shape)}: take fewer, or more images"
            )
        found = PCA(self.dimensions, svd_solver="covariance_eigh").fit(values)
        self.mean_ = np.asarray(found.mean_, np.float32)
        self.components_ = np.asarray(found.components_, np.float32)
        return self

    def transform(self, X: Sequence[DescriptorSet]) -> list[DescriptorSet]:
        """The sets with projected values, float32 (n, dimensions), and the same places."""
        check_is_fitted(self)
        sets = checked_sets(X, len(self.mean_))
        projected = []
        for one in sets:
            centered = np.asarray(one.values, np.float32) - self.mean_
            projected.append(DescriptorSet(np.asarray(centered @ self.components_.T, np.float32), one.places))
        return projected
