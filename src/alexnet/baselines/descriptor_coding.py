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

_TOLERANCE = 2e-6
"""An atom is added where its correlation with the residual exceeds the penalty by more: rounding of float32 is less."""
_ADDED_SHARE = 0.8
"""Atoms are added together whose excess over the penalty is at least this share of the largest one's."""
_MAX_ADDED = 8
_MAX_ROUNDS = 1000
_MIN_PIVOT = 1e-7
"""Of the squared diagonal of Cholesky factors: atoms that depend on each other still have a direction of descent."""


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

    Feature-sign search: an active set grows by the atoms most correlated with the residual. For fixed signs, the codes
    of the active atoms are the solution of a linear system; the codes move towards it until the first would change its
    sign, whose atom leaves the set, and the rest is solved again. It ends when no other atom would lower the objective.

    Args:
        values: float32 (n, D).
        atoms: float32 (A, D), of unit norm.
        gram: float32 (A, A), `atoms @ atoms.T`.
        l1_penalty: above 0.

    Returns:
        float32 (n, A), mostly zeros.

    Paper: CVPR 2009, equation 3, without the half: its lambda is twice this penalty. The search is that of H. Lee et
    al.: Efficient sparse coding algorithms, NIPS 2006, algorithm 1, with several atoms added at a time.
    """
    codes = np.zeros((len(values), len(atoms)), np.float32)
    _l1(np.ascontiguousarray(values @ atoms.T), np.ascontiguousarray(gram), float(l1_penalty), codes)
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
    sign, code, target = np.empty(num_atoms), np.empty(num_atoms), np.empty(num_atoms)
    # Lower triangles, row after row: the Gram matrix of the active atoms and its Cholesky factor.
    active_gram = np.empty(num_atoms * (num_atoms + 1) // 2)
    factor = np.empty(num_atoms * (num_atoms + 1) // 2)
    residual_correlation = np.empty(num_atoms, np.float32)
    for sample in range(num):
        size = 0
        residual_correlation[:] = correlations[sample]
        for _ in range(_MAX_ROUNDS):
            known = size
            size = _activate(residual_correlation, gram, l1_penalty, size, active, sign, code, active_gram)
            if size == known:
                break
            while True:
                _factorize(active_gram, known, size, factor)
                for slot in range(size):
                    target[slot] = correlations[sample, active[slot]] - l1_penalty * sign[slot]
                _solve_factorized(factor, size, target)
                leaving = _move(code, target, sign, size)
                if leaving < 0:
                    break
                known = min(known, leaving)
                size = _deactivate(leaving, size, active, sign, code, active_gram)
            _correlate_residual(correlations[sample], gram, active, code, size, residual_correlation)
        for slot in range(size):
            codes[sample, active[slot]] = code[slot]


@jit(fastmath=ANY_ORDER)
def _activate(
    residual_correlation: Any,
    gram: Any,
    l1_penalty: Any,
    size: Any,
    active: Any,
    sign: Any,
    code: Any,
    active_gram: Any,
) -> Any:  # pragma: no cover (compiled)
    """Add the atoms most correlated with the residual, in which active atoms have 0; return the size of the set."""
    most = np.float32(0)
    for atom in range(len(residual_correlation)):
        most = max(most, abs(residual_correlation[atom]))
    if most <= l1_penalty + _TOLERANCE:
        return size
    least = np.float32(max(l1_penalty + _ADDED_SHARE * (most - l1_penalty), l1_penalty + _TOLERANCE))
    added = 0
    for atom in range(len(residual_correlation)):
        if abs(residual_correlation[atom]) >= least and added < _MAX_ADDED:
            active[size], code[size] = atom, 0.0
            sign[size] = 1.0 if residual_correlation[atom] > 0 else -1.0
            first = size * (size + 1) // 2
            for slot in range(size + 1):
                active_gram[first + slot] = gram[atom, active[slot]]
            size += 1
            added += 1
    return size


@jit()
def _deactivate(
    leaving: Any, size: Any, active: Any, sign: Any, code: Any, active_gram: Any
) -> Any:  # pragma: no cover (compiled)
    """Remove the atom of the slot `leaving`; return the size of the set."""
    for slot in range(leaving, size - 1):
        active[slot], sign[slot], code[slot] = active[slot + 1], sign[slot + 1], code[slot + 1]
        first, following = slot * (slot + 1) // 2, (slot + 1) * (slot + 2) // 2
        for column in range(slot + 1):
            active_gram[first + column] = active_gram[following + column + (column >= leaving)]
    return size - 1


@jit(fastmath=ANY_ORDER)
def _factorize(active_gram: Any, known: Any, size: Any, factor: Any) -> None:  # pragma: no cover (compiled)
    """The Cholesky factor of the first `size` rows, of which the first `known` are there."""
    for row in range(known, size):
        first = row * (row + 1) // 2
        for column in range(row + 1):
            other = column * (column + 1) // 2
            total = active_gram[first + column]
            for inner in range(column):
                total -= factor[first + inner] * factor[other + inner]
            factor[first + column] = (
                np.sqrt(max(total, _MIN_PIVOT)) if row == column else total / factor[other + column]
            )


@jit(fastmath=ANY_ORDER)
def _solve_factorized(factor: Any, size: Any, target: Any) -> None:  # pragma: no cover (compiled)
    """Replace the right-hand side by the solution."""
    for row in range(size):
        first = row * (row + 1) // 2
        total = target[row]
        for inner in range(row):
            total -= factor[first + inner] * target[inner]
        target[row] = total / factor[first + row]
    for back in range(size):
        row = size - 1 - back
        first = row * (row + 1) // 2
        target[row] /= factor[first + row]
        for inner in range(row):
            target[inner] -= factor[first + inner] * target[row]


@jit()
def _move(code: Any, target: Any, sign: Any, size: Any) -> Any:  # pragma: no cover (compiled)
    """Move the codes to the target, or up to where the first would change its sign: return its slot, or -1."""
    share, leaving = 1.0, -1
    for slot in range(size):
        if target[slot] * sign[slot] <= 0:
            distance = code[slot] - target[slot]
            until_zero = code[slot] / distance if distance != 0 else 0.0
            if leaving < 0 or until_zero < share:
                share, leaving = until_zero, slot
    for slot in range(size):
        code[slot] = target[slot] if leaving < 0 else code[slot] + share * (target[slot] - code[slot])
    return leaving


@jit(fastmath=ANY_ORDER)
def _correlate_residual(
    correlation: Any, gram: Any, active: Any, code: Any, size: Any, residual_correlation: Any
) -> None:  # pragma: no cover (compiled)
    """The products of all atoms with the residual; 0 for the active ones, whose correlations are the penalty."""
    residual_correlation[:] = correlation
    slot = 0
    while slot < size:
        # Four rows at a time: the sums are read and written less often.
        if slot + 4 <= size:
            a, b, c, d = gram[active[slot]], gram[active[slot + 1]], gram[active[slot + 2]], gram[active[slot + 3]]
            of_a, of_b = np.float32(code[slot]), np.float32(code[slot + 1])
            of_c, of_d = np.float32(code[slot + 2]), np.float32(code[slot + 3])
            for atom in range(len(residual_correlation)):
                residual_correlation[atom] -= of_a * a[atom] + of_b * b[atom] + of_c * c[atom] + of_d * d[atom]
            slot += 4
        else:
            a, of_a = gram[active[slot]], np.float32(code[slot])
            for atom in range(len(residual_correlation)):
                residual_correlation[atom] -= of_a * a[atom]
            slot += 1
    for slot in range(size):
        residual_correlation[active[slot]] = 0


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
