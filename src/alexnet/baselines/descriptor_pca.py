"""Principal component analysis of descriptors."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted

from alexnet.baselines.descriptors import DescriptorSet, check_descriptor_sets, concatenate_values
from alexnet.errors import RequestError


class DescriptorPCA(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Project the descriptors of each set to their first principal components, without whitening.

    It keeps the contract of `alexnet.baselines.descriptors`; scikit-learn computes the components.

    Args:
        dimensions: components kept.

    Attributes:
        mean_: float32 (D,).
        components_: float32 (dimensions, D), orthonormal rows.

    Paper: J. Sanchez and F. Perronnin, CVPR 2011, section 5.1: 64 dimensions.
    """

    def __init__(self, dimensions: int = 64) -> None:
        self.dimensions = dimensions

    def fit(self, X: Sequence[DescriptorSet], y: Any = None) -> Self:
        """Learn the components of all descriptors of the list together.

        Raises:
            RequestError: fewer descriptors than components, or shorter ones.
            ValueError: the list breaks the contract.
        """
        values = concatenate_values(X)
        if not 1 <= self.dimensions <= min(values.shape):
            raise RequestError(
                f"{self.dimensions} principal components of {len(values)} descriptors of length {values.shape[1]}; "
                f"allowed is 1 to {min(values.shape)}: use fewer components, or more images"
            )
        pca = PCA(self.dimensions, copy=False, svd_solver="covariance_eigh").fit(values)
        self.mean_ = np.asarray(pca.mean_, np.float32)
        self.components_ = np.asarray(pca.components_, np.float32)
        return self

    def transform(self, X: Sequence[DescriptorSet]) -> list[DescriptorSet]:
        """The sets with projected values, float32 (n, dimensions), and unchanged positions."""
        check_is_fitted(self)
        # scikit-learn's components are columns in memory, stored ones are rows: of few descriptors, the products would
        # differ in their last bits.
        columns = np.ascontiguousarray(self.components_.T)
        projected = []
        for values, positions in check_descriptor_sets(X, len(self.mean_)):
            centered = np.asarray(values, np.float32) - self.mean_
            projected.append(DescriptorSet(np.asarray(centered @ columns, np.float32), positions))
        return projected
