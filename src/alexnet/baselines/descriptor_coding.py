"""Coding of descriptors over a codebook, and max pooling of the codes.

J. Wang et al.: Locality-constrained linear coding for image classification, CVPR 2010. J. Yang et al.: Linear spatial
pyramid matching using sparse coding, CVPR 2009. Compiled by Numba without the GIL, one thread per image: no library
that we use has the former, and scikit-learn's `sparse_encode` takes many times as long for the latter
(`benchmarks/baselines.py`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.patch_cells import ANY_ORDER
from alexnet.system.numba_jit import jit

Floats = NDArray[np.float32]

_TOLERANCE = 1e-6
"""A code that changes by less (descriptors have unit norm) has converged."""
_LOOSE_TOLERANCE = 3e-3
"""The same while the active set still grows."""
_MAX_SWEEPS = 1000


def locality_codes(
    values: Floats, atoms: Floats, neighbors: int = 5, regularization: float = 1e-4
) -> tuple[NDArray[np.int64], Floats]:
    """Locality-constrained linear coding (LLC): each descriptor as a combination of its nearest atoms.

    The codes c minimize |x - sum c_i b_i|^2 over the k nearest atoms b_i subject to sum c = 1, where the covariance of
    the differences from x is regularized by `regularization` times its trace.

    Args:
        values: float32 (n, D).
        atoms: float32 (A, D).
        neighbors: k, 1 .. A.

    Returns:
        Indices of the atoms, int64 (n, k), nearest first, and their codes, float32 (n, k).

    Paper: CVPR 2010, section 3, "approximated LLC", and the closed form of its footnote.
    """
    # The descriptor's own norm does not change which atoms are nearest.
    distances = (atoms * atoms).sum(axis=1) - 2 * (values @ atoms.T)
    indices = np.empty((len(values), neighbors), np.int64)
    codes = np.empty((len(values), neighbors), np.float32)
    _locality(np.ascontiguousarray(values), distances, np.ascontiguousarray(atoms), regularization, indices, codes)
    return indices, codes


def l1_codes(values: Floats, atoms: Floats, gram: Floats, l1_penalty: float) -> Floats:
    """Sparse coding (the lasso): the codes a that minimize |x - sum a_i b_i|^2 / 2 + l1_penalty sum |a_i|.

    An active set grows by the atom most correlated with the residual; between two additions coordinate descent
    optimizes the codes of the active atoms. It ends when no other atom would lower the objective.

    Args:
        values: float32 (n, D).
        atoms: float32 (A, D), of unit norm.
        gram: float32 (A, A), `atoms @ atoms.T`.
        l1_penalty: above 0.

    Returns:
        float32 (n, A), mostly zeros.

    Paper: CVPR 2009, equation 3, without the half: its lambda is twice this penalty.
    """
    codes = np.zeros((len(values), len(atoms)), np.float32)
    _l1(np.ascontiguousarray(values @ atoms.T), np.ascontiguousarray(gram), l1_penalty, codes)
    return codes


def max_pool(
    indices: NDArray[np.int64], codes: Floats, regions: NDArray[np.int64], num_regions: int, num_atoms: int
) -> Floats:
    """The largest code of each atom in each region; atoms that no descriptor there uses count as 0.

    Args:
        indices: (n, k), atoms.
        codes: (n, k).
        regions: (levels, n), see `region_indices`.

    Returns:
        float32 (num_regions, num_atoms), 0 or more.
    """
    pooled = np.zeros((num_regions, num_atoms), np.float32)
    _max_pool(indices, codes, regions, pooled)
    return pooled


def max_pool_absolute(codes: Floats, regions: NDArray[np.int64], num_regions: int) -> Floats:
    """The largest absolute code of each atom in each region, of codes (n, A): float32 (num_regions, A)."""
    pooled = np.zeros((num_regions, codes.shape[1]), np.float32)
    _max_pool_absolute(codes, regions, pooled)
    return pooled


@jit(fastmath=ANY_ORDER)
def _locality(
    values: Any, distances: Any, atoms: Any, regularization: Any, indices: Any, codes: Any
) -> None:  # pragma: no cover (compiled)
    num, width = values.shape
    k = indices.shape[1]
    nearest = np.empty(k, np.float32)
    difference = np.empty((k, width), np.float32)
    system = np.empty((k, k), np.float64)
    for sample in range(num):
        for slot in range(k):
            nearest[slot] = np.inf
            indices[sample, slot] = 0
        for atom in range(distances.shape[1]):
            distance = distances[sample, atom]
            if distance < nearest[k - 1]:
                slot = k - 1
                while slot > 0 and nearest[slot - 1] > distance:
                    nearest[slot] = nearest[slot - 1]
                    indices[sample, slot] = indices[sample, slot - 1]
                    slot -= 1
                nearest[slot] = distance
                indices[sample, slot] = atom
        for slot in range(k):
            for column in range(width):
                difference[slot, column] = atoms[indices[sample, slot], column] - values[sample, column]
        trace = 0.0
        for row in range(k):
            for column in range(row + 1):
                total = np.float32(0)
                for axis in range(width):
                    total += difference[row, axis] * difference[column, axis]
                system[row, column] = total
            trace += system[row, row]
        # A descriptor equal to all of its atoms: any codes of sum 1 are optimal; the regularized limit is equal ones.
        added = regularization * trace if trace > 0 else 1.0
        for row in range(k):
            system[row, row] += added
        solution = _solve_ones(system, k)
        total_code = 0.0
        for slot in range(k):
            total_code += solution[slot]
        for slot in range(k):
            codes[sample, slot] = solution[slot] / total_code


@jit()
def _solve_ones(system: Any, k: Any) -> Any:  # pragma: no cover (compiled)
    """Solve system x = 1 by the Cholesky factors of the lower half, which is overwritten."""
    for row in range(k):
        for column in range(row + 1):
            total = system[row, column]
            for inner in range(column):
                total -= system[row, inner] * system[column, inner]
            system[row, column] = np.sqrt(max(total, 1e-300)) if row == column else total / system[column, column]
    solution = np.ones(k, np.float64)
    for row in range(k):
        for inner in range(row):
            solution[row] -= system[row, inner] * solution[inner]
        solution[row] /= system[row, row]
    for back in range(k):
        row = k - 1 - back
        for inner in range(row + 1, k):
            solution[row] -= system[inner, row] * solution[inner]
        solution[row] /= system[row, row]
    return solution


@jit(fastmath=ANY_ORDER)
def _l1(correlations: Any, gram: Any, l1_penalty: Any, codes: Any) -> None:  # pragma: no cover (compiled)
    num, num_atoms = correlations.shape
    active = np.empty(num_atoms, np.int64)
    is_active = np.zeros(num_atoms, np.bool_)
    code = np.empty(num_atoms, np.float32)
    before = np.empty(num_atoms, np.float32)
    active_correlation = np.empty(num_atoms, np.float32)
    residual_correlation = np.empty(num_atoms, np.float32)
    # Gram matrix of the active atoms; rows whose length is not a power of 2 share the cache better.
    active_gram = np.empty((num_atoms, num_atoms + 16), np.float32)
    threshold = np.float32(l1_penalty)
    for sample in range(num):
        size, converged = 0, True
        for atom in range(num_atoms):
            residual_correlation[atom] = correlations[sample, atom]
            is_active[atom] = False
        while True:
            best, most = -1, threshold + np.float32(_TOLERANCE)
            for atom in range(num_atoms):
                magnitude = abs(residual_correlation[atom])
                if magnitude > most and not is_active[atom]:
                    best, most = atom, magnitude
            if best < 0 and converged:
                break
            if best >= 0:
                for slot in range(size):
                    active_gram[size, slot] = active_gram[slot, size] = gram[best, active[slot]]
                active_gram[size, size] = gram[best, best]
                active[size], code[size], is_active[best] = best, np.float32(0), True
                size += 1
            # While the active set grows, the codes need not be exact.
            tolerance = np.float32(_TOLERANCE if best < 0 else _LOOSE_TOLERANCE)
            converged = best < 0
            for slot in range(size):
                before[slot] = code[slot]
                active_correlation[slot] = residual_correlation[active[slot]]
            for _ in range(_MAX_SWEEPS):
                largest = np.float32(0)
                for slot in range(size):
                    row = active_gram[slot]
                    partial = active_correlation[slot] + row[slot] * code[slot]
                    if partial > threshold:
                        new = (partial - threshold) / row[slot]
                    elif partial < -threshold:
                        new = (partial + threshold) / row[slot]
                    else:
                        new = np.float32(0)
                    change = new - code[slot]
                    if change != 0:
                        code[slot] = new
                        for other in range(size):
                            active_correlation[other] -= change * row[other]
                        largest = max(largest, abs(change))
                if largest < tolerance:
                    break
            for slot in range(size):
                change = code[slot] - before[slot]
                if change != 0:
                    gram_row = gram[active[slot]]
                    for atom in range(num_atoms):
                        residual_correlation[atom] -= change * gram_row[atom]
        for slot in range(size):
            codes[sample, active[slot]] = code[slot]


@jit()
def _max_pool(indices: Any, codes: Any, regions: Any, pooled: Any) -> None:  # pragma: no cover (compiled)
    for level in range(regions.shape[0]):
        for sample in range(indices.shape[0]):
            region = regions[level, sample]
            for slot in range(indices.shape[1]):
                atom = indices[sample, slot]
                pooled[region, atom] = max(pooled[region, atom], codes[sample, slot])


@jit()
def _max_pool_absolute(codes: Any, regions: Any, pooled: Any) -> None:  # pragma: no cover (compiled)
    for sample in range(codes.shape[0]):
        for atom in range(codes.shape[1]):
            magnitude = abs(codes[sample, atom])
            if magnitude > 0:
                for level in range(regions.shape[0]):
                    region = regions[level, sample]
                    pooled[region, atom] = max(pooled[region, atom], magnitude)
