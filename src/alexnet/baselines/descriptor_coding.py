"""Codes of descriptors over a dictionary: locality-constrained, and sparse by an l1 penalty; pooled by their largest.

J. Wang et al.: Locality-constrained linear coding for image classification, CVPR 2010. J. Yang et al.: Linear spatial
pyramid matching using sparse coding, CVPR 2009. Compiled by Numba, without Python's lock, one thread an image: no
library at hand has the former, and scikit-learn's `sparse_encode` takes many times as long for the latter (`alexnet
bench baselines`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.patch_cells import ANY_ORDER
from alexnet.system.numba_jit import jit

Floats = NDArray[np.float32]

_CLOSE = 1e-6
"""A code that changes by less (descriptors have length 1) is done."""
_ENTERING = 3e-3
"""The same while further atoms still enter."""
_MOST_SWEEPS = 1000


def locality_codes(
    values: Floats, atoms: Floats, neighbors: int = 5, regularisation: float = 1e-4
) -> tuple[NDArray[np.int64], Floats]:
    """Each descriptor as a combination of its nearest atoms.

    The codes c make |x - sum c_i b_i|^2 least over the k nearest atoms b_i, with sum c = 1 and the covariance of
    their differences from x regularised by `regularisation` times its trace.

    Args:
        values: float32 (n, D).
        atoms: float32 (A, D).
        neighbors: k, 1 .. A.

    Returns:
        Which atoms, int64 (n, k), nearest first, and their codes, float32 (n, k).

    Paper: CVPR 2010, section 3, "approximated LLC", and its footnote's closed form.
    """
    # The descriptor's own length does not change which atoms are nearest.
    distances = (atoms * atoms).sum(axis=1) - 2 * (values @ atoms.T)
    places = np.empty((len(values), neighbors), np.int64)
    codes = np.empty((len(values), neighbors), np.float32)
    _locality(np.ascontiguousarray(values), distances, np.ascontiguousarray(atoms), regularisation, places, codes)
    return places, codes


def l1_codes(values: Floats, atoms: Floats, gram: Floats, penalty: float) -> Floats:
    """The codes a that make |x - sum a_i b_i|^2 / 2 + penalty sum |a_i| least.

    Atoms enter one at a time, the one that explains most of what is left first; between two entries the codes of those
    within are optimized in turn. It ends when no atom outside would lower the sum.

    Args:
        values: float32 (n, D).
        atoms: float32 (A, D), of length 1.
        gram: float32 (A, A), `atoms @ atoms.T`.
        penalty: above 0.

    Returns:
        float32 (n, A), mostly zeros.

    Paper: CVPR 2009, equation 3, without the half: its lambda is twice this penalty.
    """
    codes = np.zeros((len(values), len(atoms)), np.float32)
    _l1(np.ascontiguousarray(values @ atoms.T), np.ascontiguousarray(gram), penalty, codes)
    return codes


def largest_codes(
    places: NDArray[np.int64], codes: Floats, regions: NDArray[np.int64], num_regions: int, num_atoms: int
) -> Floats:
    """The largest code of each atom in each region; atoms that no descriptor there uses count 0.

    Args:
        places: (n, k), atoms.
        codes: (n, k).
        regions: (levels, n), see `region_of`.

    Returns:
        float32 (num_regions, num_atoms), 0 or more.
    """
    pooled = np.zeros((num_regions, num_atoms), np.float32)
    _largest(places, codes, regions, pooled)
    return pooled


def largest_lengths(codes: Floats, regions: NDArray[np.int64], num_regions: int) -> Floats:
    """The largest absolute code of each atom in each region, of codes (n, A): float32 (num_regions, A)."""
    pooled = np.zeros((num_regions, codes.shape[1]), np.float32)
    _largest_absolute(codes, regions, pooled)
    return pooled


@jit(fastmath=ANY_ORDER)
def _locality(
    values: Any, distances: Any, atoms: Any, regularisation: Any, places: Any, codes: Any
) -> None:  # pragma: no cover (compiled)
    num, width = values.shape
    k = places.shape[1]
    nearest = np.empty(k, np.float32)
    away = np.empty((k, width), np.float32)
    system = np.empty((k, k), np.float64)
    for one in range(num):
        for place in range(k):
            nearest[place] = np.inf
            places[one, place] = 0
        for atom in range(distances.shape[1]):
            distance = distances[one, atom]
            if distance < nearest[k - 1]:
                slot = k - 1
                while slot > 0 and nearest[slot - 1] > distance:
                    nearest[slot] = nearest[slot - 1]
                    places[one, slot] = places[one, slot - 1]
                    slot -= 1
                nearest[slot] = distance
                places[one, slot] = atom
        for place in range(k):
            for column in range(width):
                away[place, column] = atoms[places[one, place], column] - values[one, column]
        trace = 0.0
        for row in range(k):
            for column in range(row + 1):
                total = np.float32(0)
                for axis in range(width):
                    total += away[row, axis] * away[column, axis]
                system[row, column] = total
            trace += system[row, row]
        # A descriptor that is all of its atoms: any codes of sum 1 are right, equal ones are the regularised limit.
        added = regularisation * trace if trace > 0 else 1.0
        for row in range(k):
            system[row, row] += added
        solution = _solved(system, k)
        total_code = 0.0
        for place in range(k):
            total_code += solution[place]
        for place in range(k):
            codes[one, place] = solution[place] / total_code


@jit()
def _solved(system: Any, k: Any) -> Any:  # pragma: no cover (compiled)
    """The solution of system x = 1 by Cholesky's factors of the lower half, which is overwritten."""
    for row in range(k):
        for column in range(row + 1):
            total = system[row, column]
            for inner in range(column):
                total -= system[row, inner] * system[column, inner]
            system[row, column] = np.sqrt(max(total, 1e-300)) if row == column else total / system[column, column]
    found = np.ones(k, np.float64)
    for row in range(k):
        for inner in range(row):
            found[row] -= system[row, inner] * found[inner]
        found[row] /= system[row, row]
    for back in range(k):
        row = k - 1 - back
        for inner in range(row + 1, k):
            found[row] -= system[inner, row] * found[inner]
        found[row] /= system[row, row]
    return found


@jit(fastmath=ANY_ORDER)
def _l1(correlations: Any, gram: Any, penalty: Any, codes: Any) -> None:  # pragma: no cover (compiled)
    num, num_atoms = correlations.shape
    within = np.empty(num_atoms, np.int64)
    inside = np.zeros(num_atoms, np.bool_)
    code = np.empty(num_atoms, np.float32)
    before = np.empty(num_atoms, np.float32)
    left_within = np.empty(num_atoms, np.float32)
    left = np.empty(num_atoms, np.float32)
    # Products of the atoms within, row by row; rows of another length than a power of 2 share the cache better.
    small = np.empty((num_atoms, num_atoms + 16), np.float32)
    limit = np.float32(penalty)
    for one in range(num):
        size, settled = 0, True
        for atom in range(num_atoms):
            left[atom] = correlations[one, atom]
            inside[atom] = False
        while True:
            best, most = -1, limit + np.float32(_CLOSE)
            for atom in range(num_atoms):
                height = abs(left[atom])
                if height > most and not inside[atom]:
                    best, most = atom, height
            if best < 0 and settled:
                break
            if best >= 0:
                for place in range(size):
                    small[size, place] = small[place, size] = gram[best, within[place]]
                small[size, size] = gram[best, best]
                within[size], code[size], inside[best] = best, np.float32(0), True
                size += 1
            # While atoms still enter their codes need not be exact.
            close = np.float32(_CLOSE if best < 0 else _ENTERING)
            settled = best < 0
            for place in range(size):
                before[place] = code[place]
                left_within[place] = left[within[place]]
            for _ in range(_MOST_SWEEPS):
                largest = np.float32(0)
                for place in range(size):
                    row = small[place]
                    wanted = left_within[place] + row[place] * code[place]
                    if wanted > limit:
                        new = (wanted - limit) / row[place]
                    elif wanted < -limit:
                        new = (wanted + limit) / row[place]
                    else:
                        new = np.float32(0)
                    change = new - code[place]
                    if change != 0:
                        code[place] = new
                        for other in range(size):
                            left_within[other] -= change * row[other]
                        largest = max(largest, abs(change))
                if largest < close:
                    break
            for place in range(size):
                change = code[place] - before[place]
                if change != 0:
                    whole = gram[within[place]]
                    for atom in range(num_atoms):
                        left[atom] -= change * whole[atom]
        for place in range(size):
            codes[one, within[place]] = code[place]


@jit()
def _largest(places: Any, codes: Any, regions: Any, pooled: Any) -> None:  # pragma: no cover (compiled)
    for level in range(regions.shape[0]):
        for one in range(places.shape[0]):
            region = regions[level, one]
            for slot in range(places.shape[1]):
                atom = places[one, slot]
                pooled[region, atom] = max(pooled[region, atom], codes[one, slot])


@jit()
def _largest_absolute(codes: Any, regions: Any, pooled: Any) -> None:  # pragma: no cover (compiled)
    for one in range(codes.shape[0]):
        for atom in range(codes.shape[1]):
            height = abs(codes[one, atom])
            if height > 0:
                for level in range(regions.shape[0]):
                    region = regions[level, one]
                    pooled[region, atom] = max(pooled[region, atom], height)
