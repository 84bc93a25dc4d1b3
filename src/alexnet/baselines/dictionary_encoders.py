"""Estimators that code descriptor sets over a learned dictionary and max-pool the codes over a spatial pyramid.

X. Lin et al.: Large-scale image classification: fast feature extraction and SVM training, CVPR 2011, the winner of
2010: several descriptors, two codings, max pooling over a pyramid.
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import MiniBatchKMeans
from sklearn.utils.validation import check_is_fitted

from alexnet.baselines.chunked_map import single_threaded_libraries
from alexnet.baselines.descriptor_coding import l1_codes, locality_codes, max_pool, max_pool_absolute
from alexnet.baselines.descriptors import DescriptorSet, check_descriptor_sets, concatenate_values
from alexnet.baselines.spatial_pyramid import Levels, num_regions, parse_pyramid, region_indices
from alexnet.errors import RequestError

BATCH_SIZE = 512
"""Descriptors per step of dictionary learning."""


class DictionaryEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of both codings. It keeps the contract of `alexnet.baselines.descriptors`.

    Attributes:
        atoms_: float32 (atoms, D).
    """

    atoms: int
    pyramid: str
    seed: int

    def fit(self, X: Sequence[DescriptorSet], y: Any = None) -> Self:
        """Learn the dictionary from all descriptors of the list together.

        Raises:
            RequestError: fewer descriptors than atoms, or a parameter out of range.
            ValueError: the list breaks the contract.
        """
        self._check_parameters()
        values = concatenate_values(X).astype(np.float32, copy=False)
        if not 1 <= self.atoms <= len(values):
            raise RequestError(
                f"a dictionary of {self.atoms} atoms from {len(values)} descriptors; allowed is 1 to the number of "
                "descriptors: use fewer atoms, or more images"
            )
        self.atoms_ = self._learn_atoms(values)
        return self

    @property
    def num_features(self) -> int:
        """Length of a row of `transform`."""
        return num_regions(parse_pyramid(self.pyramid)) * self.atoms

    def transform(self, X: Sequence[DescriptorSet]) -> NDArray[np.float32]:
        """One row per set: the pooled codes of all regions, of unit norm together (0 where all codes are 0).

        Returns:
            float32 (N, num_features).
        """
        check_is_fitted(self)
        levels = parse_pyramid(self.pyramid)
        rows = []
        for values, positions in check_descriptor_sets(X, self.atoms_.shape[1]):
            pooled = self._pool(np.asarray(values, np.float32), region_indices(positions, levels), levels)
            rows.append(pooled.ravel() / max(float(np.linalg.norm(pooled)), 1e-12))
        return np.stack(rows)

    def _check_parameters(self) -> None:
        parse_pyramid(self.pyramid)

    def _learn_atoms(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        raise NotImplementedError

    def _pool(self, values: NDArray[np.float32], regions: NDArray[np.int64], levels: Levels) -> NDArray[np.float32]:
        raise NotImplementedError


class LocalityEncoder(DictionaryEncoder):
    """Locality-constrained linear coding (LLC) by the nearest atoms, then max pooling.

    Args:
        atoms: of the dictionary, which is scikit-learn's k-means.
        neighbors: atoms that code a descriptor.
        pyramid: rows x columns of each level.
        seed: of k-means.

    Paper: J. Wang et al., CVPR 2010: 5 neighbors, pyramid 1x1,2x2,4x4.
    """

    def __init__(self, atoms: int = 1024, *, neighbors: int = 5, pyramid: str = "1x1,2x2,4x4", seed: int = 0) -> None:
        self.atoms = atoms
        self.neighbors = neighbors
        self.pyramid = pyramid
        self.seed = seed

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not 1 <= self.neighbors <= self.atoms:
            raise RequestError(f"neighbors is {self.neighbors}; allowed is 1 to the number of atoms, {self.atoms}")

    def _learn_atoms(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return kmeans_dictionary(values, self.atoms, self.seed)

    def _pool(self, values: NDArray[np.float32], regions: NDArray[np.int64], levels: Levels) -> NDArray[np.float32]:
        indices, codes = locality_codes(values, self.atoms_, self.neighbors)
        return max_pool(indices, codes, regions, num_regions(levels), len(self.atoms_))


class SparseEncoder(DictionaryEncoder):
    """Sparse coding with an l1 penalty, then max pooling of absolute codes.

    Args:
        atoms: of the dictionary, each of unit norm.
        l1_penalty: factor on the sum of absolute codes, which is added to half of the squared error.
        epochs: passes over the sample while the dictionary is learned.
        pyramid: rows x columns of each level.
        seed: of the first atoms and of the order of the sample.

    The dictionary is learned online (J. Mairal et al., ICML 2009, algorithms 1 and 2) with the codes of `l1_codes`:
    scikit-learn's `MiniBatchDictionaryLearning` does the same with slower codes.

    Paper: J. Yang et al., CVPR 2009: 1,024 atoms, lambda 0.15, which is a penalty of 0.075 here.
    """

    def __init__(
        self,
        atoms: int = 1024,
        *,
        l1_penalty: float = 0.075,
        epochs: int = 2,
        pyramid: str = "1x1,2x2,4x4",
        seed: int = 0,
    ) -> None:
        self.atoms = atoms
        self.l1_penalty = l1_penalty
        self.epochs = epochs
        self.pyramid = pyramid
        self.seed = seed

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not 0 < self.l1_penalty < math.inf or self.epochs < 1:
            raise RequestError(
                f"l1_penalty is {self.l1_penalty}, epochs {self.epochs}; allowed are above 0, and 1 or more"
            )

    def _learn_atoms(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        with single_threaded_libraries():
            return l1_dictionary(values, self.atoms, self.l1_penalty, self.epochs, self.seed)

    def _pool(self, values: NDArray[np.float32], regions: NDArray[np.int64], levels: Levels) -> NDArray[np.float32]:
        codes = l1_codes(values, self.atoms_, self.atoms_ @ self.atoms_.T, self.l1_penalty)
        return max_pool_absolute(codes, regions, num_regions(levels))


def kmeans_dictionary(values: NDArray[np.float32], num_atoms: int, seed: int) -> NDArray[np.float32]:
    """The centers of scikit-learn's k-means, float32 (num_atoms, D)."""
    # On several threads it takes four times the processor time when other programs run.
    with single_threaded_libraries():
        kmeans = MiniBatchKMeans(num_atoms, batch_size=4096, n_init=1, max_iter=8, random_state=seed).fit(values)
    return np.ascontiguousarray(kmeans.cluster_centers_, np.float32)


def l1_dictionary(
    values: NDArray[np.float32], num_atoms: int, l1_penalty: float, epochs: int, seed: int
) -> NDArray[np.float32]:
    """A dictionary of unit-norm atoms over which the values have short sparse codes, float32 (num_atoms, D).

    For each batch: code it, add the products of codes, and of codes and values, to running sums, and move each atom to
    its optimum given the others. Unused atoms are replaced by values drawn at random.
    """
    random = np.random.Generator(np.random.Philox(seed))
    atoms = _unit_rows(values[random.permutation(len(values))[:num_atoms]], random)
    code_products = np.zeros((num_atoms, num_atoms), np.float32)
    value_products = np.zeros((num_atoms, values.shape[1]), np.float32)
    step = 0
    for _ in range(epochs):
        order = random.permutation(len(values))
        for first in range(0, len(order), BATCH_SIZE):
            batch = values[order[first : first + BATCH_SIZE]]
            codes = l1_codes(batch, atoms, atoms @ atoms.T, l1_penalty)
            # Early codes are worse, so their weight decays. Paper: Mairal et al., section 3.4.
            step += 1
            decay = ((step - 1) / step) ** 2 if step > 1 else 0.0
            code_products = decay * code_products + codes.T @ codes
            value_products = decay * value_products + codes.T @ batch
            for atom in range(num_atoms):
                weight = code_products[atom, atom]
                if weight < 1e-8:
                    atoms[atom] = _unit_rows(values[random.integers(len(values), size=1)], random)[0]
                    continue
                atoms[atom] += (value_products[atom] - code_products[atom] @ atoms) / weight
                atoms[atom] /= max(float(np.linalg.norm(atoms[atom])), 1e-12)
    return atoms


def _unit_rows(values: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Rows scaled to unit norm; a zero row is replaced by a random one."""
    rows = np.array(values, np.float32)
    empty = np.linalg.norm(rows, axis=1) < 1e-6
    rows[empty] = random.standard_normal((int(empty.sum()), rows.shape[1]), np.float32)
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
