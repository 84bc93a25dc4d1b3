"""Nearest binary codes by Hamming distance, exact, compiled by Numba.

Codes are kept in blocks whose words are transposed, so that a vector register counts the bits of several codes at once.
A block stays in the L1 cache while all queries pass over it. Each query keeps the codes that are nearer than a bound;
when its list is full it is sorted by counting, cut to the number asked for, and the bound falls.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.explore.nearest import ABSENT, Nearest
from alexnet.system import numba_jit
from alexnet.system.thread_split import parallel_for

if not numba_jit.unavailable_reason:
    from numba.extending import intrinsic

WORD_BITS = 32
"""Codes have a multiple of this number of bits."""
MAX_BITS = 1024

_BLOCK_CODES = 1024
_RUN = 64
"""Codes of a block whose distances are compared with the bound at once."""
_QUERIES_AT_ONCE = 256
_LEAST_BLOCKS = 64
"""Blocks for each thread, at least: starting a thread takes as long as a few of them."""

_compiled = numba_jit.jit(error_model="numpy")


class HammingCodes:
    """Binary codes in memory, laid out for searching.

    Args:
        codes: uint8 (N, bits / 8), N of 1 or more, as `pack_bits` returns them; 32 to `MAX_BITS` bits in steps of 32.

    Raises:
        RequestError: codes of another form, or Numba cannot be imported.
    """

    def __init__(self, codes: NDArray[np.uint8]) -> None:
        if numba_jit.unavailable_reason:
            raise RequestError(
                f"the search among codes is compiled by Numba, which cannot be imported "
                f"({numba_jit.unavailable_reason}); `pip install --force-reinstall numba` usually helps"
            )
        self._num_bytes: int = codes.shape[-1]
        self._num = len(codes)
        words = _words(codes)
        if not self._num or not WORD_BITS <= self.bits <= MAX_BITS:
            raise RequestError(
                f"codes have shape {codes.shape}; allowed is (N, bits / 8), N of 1 or more, 32 to {MAX_BITS} bits"
            )
        num_blocks = -(-self._num // _BLOCK_CODES)
        self._blocks = np.zeros((num_blocks, words.shape[1], _BLOCK_CODES), np.uint32)
        for number, block in enumerate(self._blocks):
            rows = words[number * _BLOCK_CODES : (number + 1) * _BLOCK_CODES]
            block[:, : len(rows)] = rows.T

    def __len__(self) -> int:
        return self._num

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 8 * self._num_bytes

    def nearest(
        self,
        queries: NDArray[np.uint8],
        num: int,
        *,
        exclude: NDArray[np.int64] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Nearest:
        """The codes that differ in the fewest bits from each query, in as many threads as torch uses.

        Args:
            queries: uint8 (Q, bits / 8).
            num: codes for each query, 1 or more.
            exclude: int64 (Q,), a code that is no neighbor of each query, such as the query itself; `ABSENT` for none.
            progress: called with (queries done, Q).

        Returns:
            Indices and Hamming distances (whole numbers), nearest first, at the same distance by index; where there
            are fewer codes, `ABSENT` and infinity.

        Raises:
            RequestError: queries of another form, or `num` below 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self._num_bytes:
            raise RequestError(f"queries have shape {queries.shape}; allowed is (Q, {self._num_bytes})")
        if num < 1:
            raise RequestError(f"the number of neighbors is {num}; allowed is 1 or more")
        if exclude is not None and exclude.shape != (len(queries),):
            raise RequestError(
                f"exclude has shape {exclude.shape}; allowed is {(len(queries),)}: a code for each query"
            )
        words = _words(queries)
        result = Nearest(
            np.full((len(queries), num), ABSENT, np.int64), np.full((len(queries), num), np.inf, np.float32)
        )
        wanted = min(num + (exclude is not None), self._num)
        for first in range(0, len(queries), _QUERIES_AT_ONCE):
            part = slice(first, first + _QUERIES_AT_ONCE)
            indices, distances = self._search(words[part], wanted)
            if exclude is not None:
                indices, distances = _without(indices, distances, exclude[part], num)
            result.indices[part, : indices.shape[1]] = indices
            result.distances[part, : indices.shape[1]] = distances
            if progress is not None:
                progress(min(first + _QUERIES_AT_ONCE, len(queries)), len(queries))
        return result

    def _search(self, queries: NDArray[np.uint32], num: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The `num` nearest codes, of which there are at least as many, and their distances, (Q, num)."""
        found: dict[int, tuple[NDArray[np.int64], NDArray[np.int32]]] = {}

        def search_blocks(first: int, stop: int) -> None:
            room = num + max(num, _RUN) + _BLOCK_CODES
            indices = np.full((len(queries), room), ABSENT, np.int64)
            distances = np.full((len(queries), room), _BEYOND, np.int32)
            _scan(self._blocks, first, stop, self._num, queries, num, indices, distances)
            found[first] = indices[:, :num], distances[:, :num]

        parallel_for(len(self._blocks), search_blocks, _LEAST_BLOCKS)
        # In the order of their codes: then a stable sort leaves codes of equal distance in order.
        parts = [found[first] for first in sorted(found)]
        indices, distances = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
        if len(parts) > 1:
            order = np.argsort(distances, axis=1, kind="stable")[:, :num]
            indices, distances = np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)
        return indices, distances.astype(np.float32)


def pack_bits(bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Codes of bits (N, bits): uint8 (N, bits / 8), the first bit in the highest place of the first byte."""
    return np.packbits(bits, axis=1)


def unpack_bits(codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The bits of codes, (N, bits)."""
    return np.unpackbits(codes, axis=1).view(np.bool_)


def _words(codes: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Codes as words (N, bits / 32): which word holds which bit makes no difference to distances."""
    if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] % (WORD_BITS // 8):
        raise RequestError(
            f"codes are {codes.dtype} {codes.shape}; allowed is uint8 (N, bits / 8) of a multiple of 32 bits"
        )
    return np.ascontiguousarray(codes).view(np.uint32)


def _without(
    indices: NDArray[np.int64], distances: NDArray[np.float32], exclude: NDArray[np.int64], num: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest codes but the excluded ones, at most `num`; where nothing is left, `ABSENT` and infinity."""
    is_excluded = indices == exclude[:, None]
    indices, distances = np.where(is_excluded, ABSENT, indices), np.where(is_excluded, np.float32(np.inf), distances)
    order = np.argsort(is_excluded, axis=1, kind="stable")[:, :num]  # excluded ones last
    return np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)


_BEYOND = MAX_BITS + 1
"""A distance that no code has."""


def popcount(word: Any) -> Any:
    """The number of bits set in a word."""
    raise NotImplementedError


if not numba_jit.unavailable_reason:

    @intrinsic
    def popcount(_: Any, word: Any) -> Any:
        def instruction(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.ctpop(arguments[0])

        return word(word), instruction


@_compiled
def _scan(
    blocks: Any, first: Any, stop: Any, num_codes: Any, queries: Any, num: Any, indices: Any, distances: Any
) -> None:  # pragma: no cover (compiled)
    """The nearest codes of blocks first .. stop - 1, sorted, in the first `num` columns of `indices` and `distances`.

    The other columns are room for codes that are not sorted yet, more than a block of them.
    """
    num_words, size = blocks.shape[1], blocks.shape[2]
    num_queries, room = indices.shape
    of_block = np.empty(size, np.uint32)
    counts = np.zeros(num_queries, np.int64)
    bounds = np.full(num_queries, _BEYOND, np.uint32)
    for number in range(first, stop):
        block = blocks[number]
        in_block = min(size, num_codes - number * size)
        for query in range(num_queries):
            _distances(block, queries[query], num_words, of_block)
            count, bound = counts[query], bounds[query]
            for start in range(0, in_block, _RUN):
                if not _num_below(of_block, start, bound):
                    continue
                for place in range(start, min(start + _RUN, in_block)):
                    if of_block[place] < bound:
                        indices[query, count] = number * size + place
                        distances[query, count] = of_block[place]
                        count += 1
            if count + size > room:
                count = _keep_nearest(indices[query], distances[query], count, num)
                bounds[query] = distances[query, num - 1]
            counts[query] = count
    for query in range(num_queries):
        _keep_nearest(indices[query], distances[query], counts[query], num)


# Unsigned indices: signed ones cost a check for wraparound, which keeps the loops from being vectorized.


@_compiled
def _distances(block: Any, query: Any, num_words: Any, distances: Any) -> None:  # pragma: no cover (compiled)
    first_word = query[0]
    for place in range(np.uint64(block.shape[1])):
        distances[place] = popcount(block[0, place] ^ first_word)
    for number in range(1, num_words):
        word = query[number]
        for place in range(np.uint64(block.shape[1])):
            distances[place] += popcount(block[number, place] ^ word)


@_compiled
def _num_below(distances: Any, start: Any, bound: Any) -> Any:  # pragma: no cover (compiled)
    """How many distances of a run are below the bound; a loop without a branch, which is vectorized."""
    num, begin = np.uint32(0), np.uint64(start)
    for place in range(np.uint64(_RUN)):
        num += np.uint32(distances[begin + place] < bound)
    return num


@_compiled
def _keep_nearest(indices: Any, distances: Any, count: Any, num: Any) -> Any:  # pragma: no cover (compiled)
    """Sort the first `count` codes by distance, those of equal distance as they are; returns how many are kept."""
    starts = np.zeros(_BEYOND + 1, np.int64)
    for place in range(count):
        starts[distances[place] + 1] += 1
    for distance in range(1, starts.size):
        starts[distance] += starts[distance - 1]
    old_indices, old_distances = indices[:count].copy(), distances[:count].copy()
    for place in range(count):
        target = starts[old_distances[place]]
        starts[old_distances[place]] += 1
        indices[target] = old_indices[place]
        distances[target] = old_distances[place]
    return min(count, num)
