"""What binary codes cost and what they find: recall and precision beside exact search, bytes, microseconds."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, TypedDict

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from alexnet.data.dataset_files import NO_LABEL
from alexnet.evaluation.metrics import mean_interval
from alexnet.explore.code_training import CodeEncoder
from alexnet.explore.hamming import HammingCodes, unpack_bits
from alexnet.explore.nearest import ABSENT, nearest, nearest_of_candidates
from alexnet.storage.typed_files import Count, Fraction, Size

MAX_QUERIES = 1000
QUERY_SHARE = 0.1
"""Of all vectors, at most, are queries: the auto-encoder is trained on the others."""
NUM_NEIGHBORS = 10
AMONG = (10, 100, 1000)
TIMED_QUERIES = 64
MIN_ROUNDS, MAX_ROUNDS, ENOUGH_S = 3, 15, 2.0
RARE_BIT = 0.001
"""A bit that fewer of the vectors than this have as 0, or as 1, carries almost no information."""
_BLOCK_CODES = 1 << 16

Microseconds = Annotated[float, Meta(ge=0, le=1e15)]
Interval = Annotated[list[Fraction], Meta(min_length=2, max_length=2)]


class Recall(TypedDict):
    """Of the nearest vectors by Euclidean distance, the share among the `among` codes of least Hamming distance."""

    among: Size
    recall: Fraction
    interval: Interval


class Precision(TypedDict):
    """Of the nearest, the share of the query's class: by Hamming distance, and by Euclidean distance."""

    queries: Size
    codes: Fraction
    codes_interval: Interval
    exact: Fraction
    exact_interval: Interval


class ClassPrecision(Precision):
    """The same for the queries of one class."""

    id: str
    name: str


class RerankTime(TypedDict):
    """Time of ordering the first `among` codes by exact distance, in addition to the search among codes."""

    among: Size
    microseconds: Microseconds


class CodeMeasures(TypedDict):
    """What was measured of codes. Times are medians for a query, of a batch of `timed_queries`, on one machine."""

    queries: Size
    """Vectors of the index, not trained on; each is searched without itself."""
    neighbors: Size
    """Of the nearest vectors; recall and precision count these."""
    recall: list[Recall]
    precision: Precision | None
    """None without labels."""
    classes: list[ClassPrecision]
    reconstructed: float
    code_bytes: Size
    vector_bytes: Size
    timed_queries: Size
    encoding_us: Microseconds
    search_us: Microseconds
    exact_us: Microseconds
    rerank: list[RerankTime]
    distinct_codes: Size
    constant_bits: Count
    """Bits that are the same in nearly all codes, see `RARE_BIT`."""


def held_out_queries(num_vectors: int, seed: int) -> NDArray[np.int64]:
    """Indices of the vectors that measure and are not trained on, int64, ascending: a tenth, at most `MAX_QUERIES`."""
    num = min(MAX_QUERIES, max(1, int(num_vectors * QUERY_SHARE)))
    chosen: NDArray[np.int64] = np.sort(np.random.default_rng(seed).permutation(num_vectors)[:num])
    return chosen


def recall_among(true: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each query, the share of its true neighbors (Q, k) that are among those found (Q, R): (Q,)."""
    shares = [np.isin(one, other[other != ABSENT]).mean() for one, other in zip(true, found, strict=True)]
    return np.array(shares, np.float64)


def measure_codes(
    vectors: NDArray[Any],
    encoder: CodeEncoder,
    codes: NDArray[np.uint8],
    queries: NDArray[np.int64],
    true: NDArray[np.int64],
    labels: NDArray[np.int64] | None,
    classes: Sequence[tuple[str, str]],
    reconstructed: float,
) -> CodeMeasures:
    """Measure the codes of vectors.

    Args:
        vectors: (N, D), which were encoded.
        codes: uint8 (N, bits / 8).
        queries: indices of vectors, (Q,).
        true: int64 (Q, k), the nearest vectors of each query by Euclidean distance, without itself.
        labels: int64 (N,), or None.
        classes: id and name of each class.
        reconstructed: as in `TrainedEncoder`.
    """
    num_others, num_neighbors = len(vectors) - 1, true.shape[1]
    among = sorted({num_neighbors, *(one for one in AMONG if num_neighbors < one <= num_others)})
    search = HammingCodes(codes)
    found = search.nearest(codes[queries], among[-1], exclude=queries).indices
    constant_bits, distinct_codes = _bit_usage(codes)
    precision, by_class = _precisions(labels, classes, queries, found[:, :num_neighbors], true)
    timed = queries[:TIMED_QUERIES]
    values = np.asarray(vectors[timed], np.float32)
    methods: dict[str, Callable[[], object]] = {
        "exact": lambda: nearest(vectors, values, num_neighbors, exclude=timed),
        "encoding": lambda: encoder.encode(values),
        "search": lambda: search.nearest(codes[timed], num_neighbors, exclude=timed),
    }
    for one in among[1:]:
        methods[f"rerank {one}"] = partial(
            nearest_of_candidates, vectors, values, found[: len(timed), :one], num_neighbors
        )
    microseconds = {name: 1e6 * seconds / len(timed) for name, seconds in alternating_medians(methods).items()}
    return {
        "queries": len(queries),
        "neighbors": num_neighbors,
        "recall": [_recall(true, found[:, :one]) for one in among],
        "precision": precision,
        "classes": by_class,
        "reconstructed": reconstructed,
        "code_bytes": codes.shape[1],
        "vector_bytes": vectors.shape[1] * vectors.dtype.itemsize,
        "timed_queries": len(timed),
        "encoding_us": microseconds["encoding"],
        "search_us": microseconds["search"],
        "exact_us": microseconds["exact"],
        "rerank": [{"among": one, "microseconds": microseconds[f"rerank {one}"]} for one in among[1:]],
        "distinct_codes": distinct_codes,
        "constant_bits": constant_bits,
    }


def alternating_medians(methods: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each method; they alternate, so that all see the same load of the machine."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    start_s = time.perf_counter()
    for number in range(1 + MAX_ROUNDS):
        for name, method in methods.items():
            begin_s = time.perf_counter()
            method()
            if number > 0:  # the first round compiles and fills caches
                seconds[name].append(time.perf_counter() - begin_s)
        if number >= MIN_ROUNDS and time.perf_counter() - start_s > ENOUGH_S:
            break
    return {name: statistics.median(values) for name, values in seconds.items()}


def describe_measures(measures: CodeMeasures) -> dict[str, str]:
    """The measures of a length, and of the exact search beside it, in words: shares in percent with their intervals."""
    precision, rerank = measures["precision"], measures["rerank"]
    return {
        "bytes a code": f"{measures['code_bytes']:,}",
        "bytes a vector": f"{measures['vector_bytes']:,}",
        **{f"in first {one['among']:,}": _share(one["recall"], one["interval"]) for one in measures["recall"]},
        **(
            {}
            if precision is None
            else {
                "class": _share(precision["codes"], precision["codes_interval"]),
                "class, exact": _share(precision["exact"], precision["exact_interval"]),
            }
        ),
        "µs": f"{measures['encoding_us'] + measures['search_us']:,.0f}",
        **{f"µs, order {one['among']:,}": f"{one['microseconds']:,.0f}" for one in rerank},
        "µs, exact": f"{measures['exact_us']:,.0f}",
    }


def _share(share: float, interval: Interval) -> str:
    low, high = interval
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _recall(true: NDArray[np.int64], found: NDArray[np.int64]) -> Recall:
    shares = recall_among(true, found)
    return {"among": found.shape[1], "recall": float(shares.mean()), "interval": _interval(shares)}


def _interval(shares: NDArray[np.float64]) -> list[float]:
    return list(mean_interval(float(shares.mean()), len(shares)))


def _precisions(
    labels: NDArray[np.int64] | None,
    classes: Sequence[tuple[str, str]],
    queries: NDArray[np.int64],
    found: NDArray[np.int64],
    true: NDArray[np.int64],
) -> tuple[Precision | None, list[ClassPrecision]]:
    """Over all queries with a class, and of each class that has queries."""
    if labels is None or (labels[queries] == NO_LABEL).all():
        return None, []
    of_queries = labels[queries]
    by_codes, exact = ((labels[one] == of_queries[:, None]).mean(axis=1) for one in (found, true))

    def precision(chosen: NDArray[np.bool_]) -> Precision:
        return {
            "queries": int(chosen.sum()),
            "codes": float(by_codes[chosen].mean()),
            "codes_interval": _interval(by_codes[chosen]),
            "exact": float(exact[chosen].mean()),
            "exact_interval": _interval(exact[chosen]),
        }

    by_class: list[ClassPrecision] = [
        {"id": classes[label][0], "name": classes[label][1], **precision(of_queries == label)}
        for label in np.unique(of_queries[of_queries != NO_LABEL]).tolist()
    ]
    return precision(of_queries != NO_LABEL), by_class


def _bit_usage(codes: NDArray[np.uint8]) -> tuple[int, int]:
    """How many bits are the same in nearly all codes, and how many distinct codes there are."""
    ones = np.zeros(8 * codes.shape[1], np.int64)
    for first in range(0, len(codes), _BLOCK_CODES):
        ones += unpack_bits(codes[first : first + _BLOCK_CODES]).sum(axis=0)
    rarer = np.minimum(ones, len(codes) - ones)
    as_bytes = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1])))
    return int((rarer < max(1, RARE_BIT * len(codes))).sum()), len(np.unique(as_bytes))
