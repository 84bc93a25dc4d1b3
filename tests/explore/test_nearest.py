"""Exact nearest neighbors: those of float64 differences, in order, for near copies and long vectors too."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.errors import RequestError
from alexnet.explore.nearest import ABSENT, Nearest, _lower_bounds, _products, _squares, distances_to_all, nearest


def expected(vectors: Any, queries: Any, num: int, exclude: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """From the definition, in float64; what is missing is absent."""
    indices = np.full((len(queries), num), ABSENT)
    distances = np.full((len(queries), num), np.inf)
    for row, query in enumerate(np.asarray(queries, np.float64)):
        squared = np.sum((np.asarray(vectors, np.float64) - query) ** 2, axis=1)
        rows = [one for one in range(len(vectors)) if exclude is None or one != exclude[row]]
        order = sorted(rows, key=lambda one: (squared[one], one))[:num]
        indices[row, : len(order)], distances[row, : len(order)] = order, np.sqrt(squared[order])
    return indices, distances


def require_same(found: Nearest, indices: np.ndarray, distances: np.ndarray) -> None:
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1.2e-7)
    assert found.indices.dtype == np.int64 and found.distances.dtype == np.float32


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_nearest_rows_are_those_of_the_definition(data: Any) -> None:
    num_rows, length = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 12))
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    # Few levels: many rows are equal, and many distances.
    levels = data.draw(st.sampled_from([2, 4, 1 << 20]))
    vectors = random.integers(0, levels, (num_rows, length)).astype(
        data.draw(st.sampled_from(["f4", "f8", "u4", "u1", "i1"]))
    )
    queries = random.integers(0, levels, (data.draw(st.integers(0, 5)), length)).astype(np.float32)
    exclude = random.integers(-1, num_rows, len(queries)) if data.draw(st.booleans()) else None
    num = data.draw(st.integers(1, 30))
    block_rows = data.draw(st.sampled_from([None, 1, 7, 64]))
    found = nearest(vectors, queries, num, exclude=exclude, block_rows=block_rows)
    require_same(found, *expected(vectors, queries, num, exclude))


@pytest.mark.parametrize("num_near", [8, 300])
def test_near_copies_keep_their_digits_and_their_order(num_near: int) -> None:
    """The product |a|^2 - 2ab + |b|^2 has no right digit of these distances; 300 are more than there are candidates."""
    random = np.random.default_rng(0)
    query = random.uniform(10, 100, (1, 256)).astype(np.float32)
    vectors = random.uniform(10, 100, (2000, 256)).astype(np.float32)
    near = random.permutation(2000)[:num_near]
    for step, row in enumerate(near):
        vectors[row] = query
        vectors[row, step % 256] = np.nextafter(query[0, step % 256], np.float32(1e9))
    naive = (vectors**2).sum(1) - 2 * vectors @ query[0] + (query**2).sum()
    indices, distances = expected(vectors, query, 6)
    assert not np.array_equal(np.argsort(naive, kind="stable")[:6], indices[0])  # the test can fail
    require_same(nearest(vectors, query, 6, block_rows=128), indices, distances)
    everything = np.sqrt(np.square(vectors.astype(np.float64) - query).sum(1))
    np.testing.assert_allclose(distances_to_all(vectors, query)[0], everything, rtol=1.2e-7)


def test_long_vectors_and_large_values() -> None:
    """As raw pixels are long, and beyond what float32 multiplies."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (40, 30_000)).astype(np.uint8)
    pixels[7] = pixels[3]
    pixels[7, :5] ^= 1
    require_same(nearest(pixels, pixels[:8].astype(np.float32), 5), *expected(pixels, pixels[:8], 5))
    large = random.uniform(1e20, 2e20, (60, 5)).astype(np.float32)
    require_same(nearest(large, large[:4], 3), *expected(large, large[:4], 3))


@pytest.mark.parametrize("length", [3, 300, 40_000])
def test_no_bound_is_above_its_distance(length: int) -> None:
    """Else a neighbor could be missed; and they are close, else every search would be direct."""
    random = np.random.default_rng(length)
    queries = random.uniform(1, 2, (6, length)).astype(np.float32)
    vectors = (queries[random.integers(0, 6, 40)] * random.choice([1, 1 + 1e-6, 1.001], (40, 1))).astype(np.float32)
    squares = [np.square(one.astype(np.float64)).sum(1) for one in (queries, vectors)]
    low = _lower_bounds(queries, squares[0], vectors, squares[1])
    exact = np.square(vectors.astype(np.float64)[None] - queries.astype(np.float64)[:, None]).sum(2)
    assert (low <= exact).all() and (exact - low < 0.02 * (squares[0][:, None] + squares[1])).all()
    huge = np.full((1, length), 1e30, np.float32)
    assert np.isneginf(_lower_bounds(huge, _squares(huge), huge, _squares(huge))).all()


@pytest.mark.parametrize("scale", [1e-22, 1e-24, 1e-30])
def test_products_that_underflow_hide_no_neighbor(scale: float) -> None:
    random = np.random.default_rng(4)
    vectors, queries = (scale * random.uniform(1, 2, (num, 8)).astype(np.float32) for num in (300, 20))
    require_same(nearest(vectors, queries, 3), *expected(vectors, queries, 3))


@pytest.mark.parametrize("precision", ["ieee", "bf16"])
@pytest.mark.parametrize("threads", [1, 3])
def test_products_are_float32_in_any_number_of_threads(
    threads: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of bytes and, in steps of 2^-9, of what bfloat16 does not hold: such sums of 4,096 are exact in float32."""
    random = np.random.default_rng(5)
    rows = random.integers(-128, 128, (50, 9000)).astype(np.int8)
    queries = random.choice([0, 0, 0, 1, 513], (4, 9000)).astype(np.float32) / 512
    queries.flags.writeable = False
    settings_of_torch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    chosen, before = settings_of_torch.fp32_precision, torch.get_num_threads()
    if precision == "bf16":
        monkeypatch.setattr(torch, "from_numpy", None)
    try:
        settings_of_torch.fp32_precision = precision
        torch.set_num_threads(threads)
        found = _products(queries.copy(), rows)
        nearest(rows, queries, 3)  # no warning of read-only queries
    finally:
        settings_of_torch.fp32_precision = chosen
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found, queries.astype(np.float64) @ rows.astype(np.float64).T)


def test_one_further_pass_serves_all_uncertain_queries() -> None:
    """Of 300 copies, the first are found; all queries share the second pass."""
    vectors, seen = np.ones((400, 5), np.float32), []
    vectors[:100] += np.arange(1, 101, dtype=np.float32)[:, None]

    class Counted:
        shape = vectors.shape

        def __getitem__(self, which: Any) -> np.ndarray:
            seen.append(which)
            return vectors[which]

    queries = np.ones((4, 5), np.float32)
    exclude = np.array([-1, 100, 102, -1])
    require_same(nearest(Counted(), queries, 3, exclude=exclude), *expected(vectors, queries, 3, exclude))
    assert sum(isinstance(one, slice) for one in seen) == 2


def test_differences_of_long_vectors_take_little_memory() -> None:
    """As of pixels: 60 candidates of 50,000 values are 12 MB, and 24 MB in float64."""
    vectors = np.random.default_rng(3).integers(0, 256, (60, 50_000)).astype(np.float32)
    tracemalloc.start()
    try:
        nearest(vectors, vectors[:1], 30, block_rows=10)
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most_bytes < 30e6


def test_all_distances_are_those_of_the_definition() -> None:
    random = np.random.default_rng(2)
    vectors, queries = random.normal(size=(50, 9)).astype(np.float16), random.normal(size=(7, 9)).astype(np.float32)
    differences = vectors.astype(np.float64)[None] - queries.astype(np.float64)[:, None]
    seen: list[tuple[int, int]] = []
    found = distances_to_all(vectors, queries, progress=lambda *words: seen.append(words))
    np.testing.assert_allclose(found, np.sqrt((differences**2).sum(2)), rtol=1.2e-7)
    assert found.dtype == np.float32 and seen == [(50, 50)]
    np.testing.assert_array_equal(distances_to_all(vectors, vectors[:3].astype(np.float32))[:, :3].diagonal(), 0)


class Generated:
    """More rows than memory is allowed here: each block is made when it is read."""

    shape = (40_000, 512)

    def __init__(self) -> None:
        self.most_rows = 0

    def __getitem__(self, which: Any) -> np.ndarray:
        rows = np.arange(which.start, which.stop) if isinstance(which, slice) else which
        self.most_rows = max(self.most_rows, len(rows))
        return np.broadcast_to((rows[:, None] % 1000).astype(np.float32), (len(rows), 512))


def test_memory_stays_bounded_and_progress_is_told() -> None:
    """82 MB of vectors, of which a few blocks of 1 MB are held."""
    vectors, seen = Generated(), []
    tracemalloc.start()
    try:
        found = nearest(vectors, np.full((2, 512), 5.2), 3, block_rows=500, progress=lambda *words: seen.append(words))
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found.indices, [[5, 1005, 2005]] * 2)  # of 40 equal ones
    assert most_bytes < 8e6 and vectors.most_rows == 500
    assert seen[-1] == (40_000, 40_000) and [done for done, _ in seen] == sorted({done for done, _ in seen})


@pytest.mark.parametrize(
    ("vectors", "queries", "num", "message"),
    [
        (np.zeros((3, 2)), np.zeros((1, 3)), 1, r"vectors have shape \(3, 2\) and queries \(1, 3\)"),
        (np.zeros((0, 2)), np.zeros((1, 2)), 1, r"vectors have shape \(0, 2\)"),
        (np.zeros((3, 2)), np.zeros((1, 2)), 0, "number of neighbors is 0; allowed is 1 or more"),
        (np.zeros((3, 2)), np.full((1, 2), np.nan), 1, "the queries have values that are not finite"),
        (np.array([[0.0], [np.inf]]), np.zeros((1, 1)), 1, "row 1 of the vectors has values that are not finite"),
    ],
)
def test_what_cannot_be_searched_is_refused(vectors: Any, queries: Any, num: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        nearest(vectors, queries, num)


def test_a_wrong_number_of_excluded_rows_is_refused() -> None:
    with pytest.raises(RequestError, match=r"exclude has shape \(2,\); allowed is \(1,\)"):
        nearest(np.zeros((3, 2)), np.zeros((1, 2)), 1, exclude=np.array([0, 1]))
