"""Exact nearest neighbors by Euclidean distance, streamed in blocks of rows: all queries share one pass.

A matrix product gives, for each pair, a number that the squared distance provably is not below: |a|^2 - 2ab + |b|^2
less the most by which float32 can be wrong. The rows with the smallest of these are candidates, whose distances are
then computed in float64 from the differences, since the product loses the distances of nearly equal vectors. If a row
that is no candidate might still belong to the nearest, as among many copies of one vector, all distances of such
queries are computed directly, in one further pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.system.thread_split import parallel_for

SLACK = 16
"""Candidates beyond the number of neighbors, at least."""
ABSENT = -1
"""Index where there is no further neighbor; its distance is infinite."""
_BLOCK_BYTES = 1 << 27
_SEARCH_BLOCK_BYTES = 3 << 23
"""As float32. Larger memory goes back to the system when it is freed, and new pages cost as much as the products."""
_PAIRS_BYTES = 1 << 27
_PRODUCT_LENGTH = 1 << 12
"""Values that float32 adds up; sums of longer vectors are added in float64. Of more, the bound would tell less."""
_THREAD_ROWS = 8
"""Rows whose products one thread computes, at least."""
_CANDIDATES_BYTES = 1 << 26
_DIFFERENCES_BYTES = 1 << 23
_ROUNDING = 2.0**-24
_UNDERFLOW = 2.0**-126
"""The smallest normal number of float32: a smaller product may have become 0."""
_ABOVE = 1 + 2.0**-20
"""A distance in float32, squared, times this is above the squared distance."""
_LOST = 1e-5
"""Of |a|^2 + |b|^2: below this, a squared distance from a product in float64 may be wrong in float32."""


class Rows(Protocol):
    """Vectors, (N, D), of which parts are read when asked for: an array, a memory-mapped one, or stored images."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, which: Any, /) -> Any:
        """Some rows: those of a slice, or of an int64 array."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest rows of each query, the nearest first; at the same distance, that of the smaller index."""

    indices: NDArray[np.int64]
    """(Q, num); `ABSENT` where there are fewer rows."""
    distances: NDArray[np.float32]
    """Euclidean, (Q, num); infinite where there are fewer rows."""

    def __repr__(self) -> str:
        return f"Nearest({self.indices.shape[1]:,} rows for each of {self.indices.shape[0]:,} queries)"


def nearest(
    vectors: Rows,
    queries: NDArray[Any],
    num: int,
    *,
    exclude: NDArray[np.int64] | None = None,
    block_rows: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Nearest:
    """The rows of `vectors` that are nearest to each query, by exact Euclidean distance.

    Args:
        vectors: (N, D), N of 1 or more; floating-point or integers that float32 holds exactly.
        queries: (Q, D).
        num: rows for each query, 1 or more.
        exclude: int64 (Q,), a row that is no neighbor of each query, such as the query itself; `ABSENT` for none.
        block_rows: rows read at once; None takes what fits in about 200 MB with its distances.
        progress: called with (rows done, N).

    Raises:
        RequestError: shapes do not fit, `num` is below 1, or a value is not finite.
    """
    queries = _checked(vectors, queries, num, exclude)
    num_rows = vectors.shape[0]
    excluded = np.full(len(queries), ABSENT, np.int64) if exclude is None else np.asarray(exclude, np.int64)
    num_kept = min(num_rows, num + max(SLACK, num))
    if block_rows is None:
        block_rows = _rows_at_once(vectors.shape[1], len(queries), _SEARCH_BLOCK_BYTES)
    squares = _squares(queries)
    bounds = np.empty((len(queries), 0))
    candidates = np.empty((len(queries), 0), np.int64)
    for start in range(0, num_rows, block_rows):
        block = _read_block(vectors, start, block_rows, keep_bytes=True)
        stop = start + len(block)
        low = _lower_bounds(queries, squares, block, _finite_squares(block, start))
        in_block = np.flatnonzero((excluded >= start) & (excluded < stop))
        low[in_block, excluded[in_block] - start] = np.inf
        first = _smallest(low, num_kept)
        bounds = np.concatenate([bounds, np.take_along_axis(low, first, 1)], 1)
        candidates = np.concatenate([candidates, first + start], 1)
        kept = _smallest(bounds, num_kept)
        bounds, candidates = np.take_along_axis(bounds, kept, 1), np.take_along_axis(candidates, kept, 1)
        if progress is not None:
            progress(stop, num_rows)
    candidates[bounds == np.inf] = ABSENT
    result = nearest_of_candidates(vectors, queries, candidates, num)
    if num_kept == num_rows:
        return result
    # Rows that are no candidates are at least as far as the largest bound.
    is_certain = np.square(result.distances[:, -1].astype(np.float64)) * _ABOVE < bounds.max(1)
    uncertain = np.flatnonzero(~is_certain)
    found = _nearest_directly(vectors, queries[uncertain], num, excluded[uncertain], block_rows)
    for number, (indices, squared) in zip(uncertain.tolist(), found, strict=True):
        result.indices[number, : len(indices)] = indices
        result.distances[number, : len(indices)] = np.sqrt(squared)
    return result


def nearest_of_candidates(vectors: Rows, queries: NDArray[Any], candidates: NDArray[np.int64], num: int) -> Nearest:
    """The nearest of some rows of `vectors` to each query, by exact Euclidean distance.

    Args:
        vectors: (N, D).
        queries: (Q, D).
        candidates: int64 (Q, any), rows of each query in any order, once each; negative ones are left out.
        num: rows for each query.
    """
    result = Nearest(np.full((len(queries), num), ABSENT, np.int64), np.full((len(queries), num), np.inf, np.float32))
    if isinstance(vectors, np.ndarray):
        vectors = np.asarray(vectors)  # parts of a memory-mapped array would be such arrays, which are slow to make
    at_once = max(1, _CANDIDATES_BYTES // (4 * vectors.shape[1]))
    for number, (query, rows) in enumerate(zip(queries, candidates, strict=True)):
        usable = np.sort(rows[rows >= 0])
        squared = np.empty(len(usable))
        for first in range(0, len(usable), at_once):
            part = slice(first, first + at_once)
            squared[part] = _direct(vectors[usable[part]], query)
        order = np.argsort(squared, kind="stable")[:num]  # stable: rows of smaller index come first
        result.indices[number, : len(order)] = usable[order]
        result.distances[number, : len(order)] = np.sqrt(squared[order])
    return result


def distances_to_all(
    vectors: Rows, queries: NDArray[Any], *, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.float32]:
    """Euclidean distances of all queries to all rows, float32 (Q, N), from products in float64.

    Distances so small that the product loses their digits are computed from the differences.

    Args:
        vectors: (N, D).
        queries: (Q, D).
        progress: called with (rows done, N).
    """
    queries = _checked(vectors, queries, 1, None).astype(np.float64)
    num_rows, length = vectors.shape
    squares = np.einsum("qd,qd->q", queries, queries)
    result = np.empty((len(queries), num_rows), np.float32)
    block_rows = _rows_at_once(2 * length, len(queries), _BLOCK_BYTES)
    for start in range(0, num_rows, block_rows):
        block = _read_block(vectors, start, block_rows).astype(np.float64)
        sums = squares[:, None] + _finite_squares(block, start)
        squared = sums - 2 * (queries @ block.T)
        is_lost = squared < _LOST * sums
        for number in np.flatnonzero(is_lost.any(1)).tolist():
            squared[number, is_lost[number]] = _direct(block[is_lost[number]], queries[number])
        result[:, start : start + len(block)] = np.sqrt(squared)
        if progress is not None:
            progress(start + len(block), num_rows)
    return result


def _checked(vectors: Rows, queries: NDArray[Any], num: int, exclude: NDArray[np.int64] | None) -> NDArray[np.float32]:
    """The queries as float32."""
    if num < 1:
        raise RequestError(f"the number of neighbors is {num}; allowed is 1 or more")
    if len(vectors.shape) != 2 or queries.ndim != 2 or vectors.shape[1] != queries.shape[1] or not vectors.shape[0]:
        raise RequestError(f"vectors have shape {vectors.shape} and queries {queries.shape}; allowed is (N, D), (Q, D)")
    if exclude is not None and exclude.shape != (len(queries),):
        raise RequestError(f"exclude has shape {exclude.shape}; allowed is {(len(queries),)}: a row for each query")
    queries = np.require(queries, np.float32, ["C", "W"])  # torch warns of what cannot be written
    if not np.isfinite(queries).all():
        raise RequestError("the queries have values that are not finite")
    return queries


def _rows_at_once(length: int, num_queries: int, block_bytes: int) -> int:
    """Rows whose values and whose distances to all queries fit in the memory of a block."""
    return max(1, min(block_bytes // (4 * length), _PAIRS_BYTES // (24 * max(1, num_queries))))


def _read_block(vectors: Rows, start: int, block_rows: int, *, keep_bytes: bool = False) -> NDArray[Any]:
    """Some rows as float32, or, if wanted, integers of one byte as they are."""
    block = vectors[start : min(start + block_rows, vectors.shape[0])]
    is_kept = keep_bytes and block.dtype in (np.int8, np.uint8)
    return np.ascontiguousarray(block, None if is_kept else np.float32)


def _squares(rows: NDArray[Any]) -> NDArray[np.float64]:
    """The squared length of each row, (n,)."""
    squares: NDArray[np.float64] = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
    return squares


def _finite_squares(block: NDArray[Any], start: int) -> NDArray[np.float64]:
    squares = _squares(block)
    if not np.isfinite(squares).all():
        row = start + int(np.flatnonzero(~np.isfinite(squares))[0])
        raise RequestError(f"row {row:,} of the vectors has values that are not finite")
    return squares


def _lower_bounds(
    queries: NDArray[np.float32],
    query_squares: NDArray[np.float64],
    block: NDArray[Any],
    block_squares: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What the squared distances are not below, (Q, n).

    A sum of D products in float32, in any order, is wrong by at most about D 2^-24 |a| |b|, and 2 |a| |b| is at most
    |a|^2 + |b|^2. (N. J. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.) Each product that
    underflows is wrong by another 2^-126.
    """
    length = queries.shape[1]
    products = _products(queries, block)
    with np.errstate(over="ignore", invalid="ignore"):
        error = (min(length, _PRODUCT_LENGTH) + 8) * _ROUNDING
        low: NDArray[np.float64] = (1 - 1.01 * error) * (query_squares[:, None] + block_squares) - 2 * products
        low -= 2 * length * _UNDERFLOW
    low[~np.isfinite(low)] = -np.inf  # float32 could not hold a product: nothing is known
    return low


def _products(queries: NDArray[np.float32], block: NDArray[Any]) -> NDArray[np.float64]:
    """Scalar products of queries and rows, (Q, n): sums in float32 of `_PRODUCT_LENGTH` values, added in float64.

    Each thread multiplies rows of its own, as few queries make products too small to share. NumPy's library would split
    each one over threads that wait for one another without sleeping: on busy cores, twenty times as long.
    """
    products = np.zeros((len(queries), len(block)))
    # Torch may be set to multiply float32 in fewer digits.
    in_torch = torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee")  # type: ignore[attr-defined]

    def multiply(first_row: int, stop_row: int) -> None:
        for first in range(0, queries.shape[1], _PRODUCT_LENGTH):
            part = slice(first, first + _PRODUCT_LENGTH)
            some = queries[:, part]
            # Converted in the cache: of bytes, four times as many rows fit in memory.
            rows = np.array(block[first_row:stop_row, part], np.float32)
            with np.errstate(over="ignore", invalid="ignore"):
                product = (torch.from_numpy(some) @ torch.from_numpy(rows).T).numpy() if in_torch else some @ rows.T
                products[:, first_row:stop_row] += product

    parallel_for(len(block), multiply, _THREAD_ROWS)
    return products


def _smallest(values: NDArray[np.float64], num: int) -> NDArray[np.int64]:
    """Where the `num` smallest values of each row are, in any order, (Q, at most num)."""
    if values.shape[1] <= num:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, num - 1, axis=1)[:, :num]


def _direct(rows: NDArray[Any], query: NDArray[Any]) -> NDArray[np.float64]:
    """Squared distances of rows (n, D) to a query (D,), from the differences."""
    squared, exact_query = np.empty(len(rows)), query.astype(np.float64)
    at_once = max(1, _DIFFERENCES_BYTES // (8 * max(1, rows.shape[1])))
    for first in range(0, len(rows), at_once):
        part = slice(first, first + at_once)
        differences = rows[part].astype(np.float64)
        differences -= exact_query
        squared[part] = np.square(differences, out=differences).sum(1)
    return squared


def _nearest_directly(
    vectors: Rows, queries: NDArray[np.float32], num: int, excluded: NDArray[np.int64], block_rows: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """The nearest rows of each query and their squared distances, without candidates, in one pass for all queries."""
    found = [(np.empty(0, np.int64), np.empty(0)) for _ in queries]
    for start in range(0, vectors.shape[0] if found else 0, block_rows):
        block = _read_block(vectors, start, block_rows)
        rows = np.arange(start, start + len(block))
        for number, (query, own) in enumerate(zip(queries, excluded.tolist(), strict=True)):
            is_usable = rows != own
            indices = np.concatenate([found[number][0], rows[is_usable]])
            squared = np.concatenate([found[number][1], _direct(block, query)[is_usable]])
            # Stable: rows of smaller index come first.
            order = np.argsort(squared, kind="stable")[:num]
            found[number] = indices[order], squared[order]
    return found
