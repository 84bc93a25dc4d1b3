"""Estimators that code descriptor sets over a learned dictionary and pool the codes over a pyramid.

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

from alexnet.baselines.chunked_map import one_thread_each
from alexnet.baselines.descriptor_coding import l1_codes, largest_codes, largest_lengths, locality_codes
from alexnet.baselines.descriptors import DescriptorSet, checked_sets
from alexnet.baselines.spatial_pyramid import Levels, num_regions, parse_pyramid, region_of
from alexnet.errors import RequestError

BATCH = 512
"""Descriptors of one step of learning an l1 dictionary."""


class DictionaryEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What both codings share. It keeps the contract of lists of descriptor sets (`alexnet.baselines.descriptors`).

    Attributes:
        atoms_: float32 (atoms, D).
    """

    arrays = ("atoms_",)
    atoms: int
    pyramid: str
    seed: int

    def fit(self, X: Sequence[DescriptorSet], y: Any = None) -> Self:
        """Learn the dictionary from all descriptors of the list together.

        Raises:
            RequestError: fewer descriptors than atoms, or a setting out of its range.
            ValueError: the list breaks the contract.
        """
        self._check()
        values = np.concatenate([one.values for one in checked_sets(X)]).astype(np.float32, copy=False)
        if not 1 <= self.atoms <= len(values):
            raise RequestError(
                f"a dictionary of {self.atoms} atoms from {len(values)} descriptors; allowed is 1 to as many as there "
                "are descriptors: take fewer, or more images"
            )
        self.atoms_ = self._learned(values)
        return self

    def transform(self, X: Sequence[DescriptorSet]) -> NDArray[np.float32]:
        """A row for each set: the pooled codes of all regions, the whole of length 1 (all 0 where there is no code).

        Returns:
            float32 (N, regions * atoms).
        """
        check_is_fitted(self)
        levels = parse_pyramid(self.pyramid)
        rows = []
        for one in checked_sets(X, self.atoms_.shape[1]):
            pooled = self._pooled(np.asarray(one.values, np.float32), region_of(one.places, levels), levels)
            rows.append(pooled.ravel() / max(float(np.linalg.norm(pooled)), 1e-12))
        return np.stack(rows)

    def _check(self) -> None:
        parse_pyramid(self.pyramid)

    def _learned(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        raise NotImplementedError

    def _pooled(self, values: NDArray[np.float32], regions: NDArray[np.int64], levels: Levels) -> NDArray[np.float32]:
        raise NotImplementedError


class LocalityCodes(DictionaryEncoder):
    """Locality-constrained linear coding: each descriptor by its nearest atoms, the largest code pooled.

    Args:
        atoms: of the dictionary, which is scikit-learn's k-means.
        neighbors: atoms that code a descriptor.
        pyramid: levels of rows x columns.
        seed: of k-means.

    Paper: J. Wang et al., CVPR 2010: 5 neighbors, pyramid 1x1,2x2,4x4.
    """

    def __init__(self, atoms: int = 1024, *, neighbors: int = 5, pyramid: str = "1x1,2x2,4x4", seed: int = 0) -> None:
        self.atoms = atoms
        self.neighbors = neighbors
        self.pyramid = pyramid
        self.seed = seed

    def _check(self) -> None:
        super()._check()
        if not 1 <= self.neighbors <= self.atoms:
            raise RequestError(f"neighbors is {self.neighbors}; allowed is 1 to the number of atoms, {self.atoms}")

    def _learned(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return nearest_means(values, self.atoms, self.seed)

    def _pooled(self, values: NDArray[np.float32], regions: NDArray[np.int64], levels: Levels) -> NDArray[np.float32]:
        places, codes = locality_codes(values, self.atoms_, self.neighbors)
        return largest_codes(places, codes, regions, num_regions(levels), len(self.atoms_))


class SparseCodes(DictionaryEncoder):
    """Sparse coding by an l1 penalty, the largest absolute code pooled.

    Args:
        atoms: of the dictionary, of length 1 each.
        penalty: on the sum of absolute codes, beside half of the squared error.
        passes: over the sample while the dictionary is learned.
        pyramid: levels of rows x columns.
        seed: of the first atoms and of the order of the sample.

    The dictionary is learned online (J. Mairal et al., ICML 2009, algorithms 1 and 2) with the codes of `l1_codes`:
    scikit-learn's `MiniBatchDictionaryLearning` does the same with slower codes.

    Paper: J. Yang et al., CVPR 2009: 1,024 atoms, lambda 0.15, which is a penalty of 0.075 here.
    """

    def __init__(
        self,
        atoms: int = 1024,
        *,
        penalty: float = 0.075,
        passes: int = 2,
        pyramid: str = "1x1,2x2,4x4",
        seed: int = 0,
    ) -> None:
        self.atoms = atoms
        self.penalty = penalty
        self.passes = passes
        self.pyramid = pyramid
        self.seed = seed

    def _check(self) -> None:
        super()._check()
        if not 0 < self.penalty < math.inf or self.passes < 1:
            raise RequestError(f"penalty is {self.penalty}, passes {self.passes}; allowed are above 0, and 1 or more")

    def _learned(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        with one_thread_each():
            return l1_dictionary(values, self.atoms, self.penalty, self.passes, self.seed)

    def _pooled(self, values: NDArray[np.float32], regions: NDArray[np.int64], levels: Levels) -> NDArray[np.float32]:
        codes = l1_codes(values, self.atoms_, self.atoms_ @ self.atoms_.T, self.penalty)
        return largest_lengths(codes, regions, num_regions(levels))


def nearest_means(values: NDArray[np.float32], num: int, seed: int) -> NDArray[np.float32]:
    """The centers that scikit-learn's k-means finds, float32 (num, D)."""
    # With threads of its own it takes four times the processor time where anything else runs.
    with one_thread_each():
        found = MiniBatchKMeans(num, batch_size=4096, n_init=1, max_iter=8, random_state=seed).fit(values)
    return np.ascontiguousarray(found.cluster_centers_, np.float32)


def l1_dictionary(values: NDArray[np.float32], num: int, penalty: float, passes: int, seed: int) -> NDArray[np.float32]:
    """Atoms of length 1 over which the values have short sparse codes, float32 (num, D).

    A batch of values is coded at a time; the sums of products of codes, and of codes and values, say where each atom
    would best lie, given the others. Atoms that nothing uses are replaced by values drawn at random.
    """
    random = np.random.Generator(np.random.Philox(seed))
    atoms = _of_length_1(values[random.permutation(len(values))[:num]], random)
    of_codes = np.zeros((num, num), np.float32)
    of_values = np.zeros((num, values.shape[1]), np.float32)
    seen = 0
    for _ in range(passes):
        order = random.permutation(len(values))
        for first in range(0, len(order), BATCH):
            batch = values[order[first : first + BATCH]]
            codes = l1_codes(batch, atoms, atoms @ atoms.T, penalty)
            # What early, worse codes said is forgotten. Paper: Mairal et al., section 3.4.
            seen += 1
            kept = ((seen - 1) / seen) ** 2 if seen > 1 else 0.0
            of_codes = kept * of_codes + codes.T @ codes
            of_values = kept * of_values + codes.T @ batch
            for atom in range(num):
                weight = of_codes[atom, atom]
                if weight < 1e-8:
                    atoms[atom] = _of_length_1(values[random.integers(len(values), size=1)], random)[0]
                    continue
                atoms[atom] += (of_values[atom] - of_codes[atom] @ atoms) / weight
                atoms[atom] /= max(float(np.linalg.norm(atoms[atom])), 1e-12)
    return atoms


def _of_length_1(values: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Rows of length 1; where a row is all zeros, a random one."""
    rows = np.array(values, np.float32)
    empty = np.linalg.norm(rows, axis=1) < 1e-6
    rows[empty] = random.standard_normal((int(empty.sum()), rows.shape[1]), np.float32)
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
