"""Search among codes: what counting unpacked bits finds, in the same order, whatever the sizes and the threads."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.errors import RequestError
from alexnet.explore import hamming
from alexnet.explore.hamming import HammingCodes, pack_bits, unpack_bits
from alexnet.system import numba_jit


def expected(codes: Any, queries: Any, num: int, exclude: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """From the definition; what is missing is absent."""
    indices = np.full((len(queries), num), -1)
    distances = np.full((len(queries), num), np.inf)
    for row, query in enumerate(queries):
        different = np.unpackbits(codes ^ query, axis=1).sum(axis=1)
        rows = [one for one in range(len(codes)) if exclude is None or one != exclude[row]]
        order = sorted(rows, key=lambda one: (different[one], one))[:num]
        indices[row, : len(order)], distances[row, : len(order)] = order, different[order]
    return indices, distances


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_nearest_codes_are_those_of_the_definition(data: Any) -> None:
    num, num_bytes = data.draw(st.integers(1, 2500)), 4 * data.draw(st.integers(1, 10))
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    codes = random.integers(0, 256, (num, num_bytes)).astype(np.uint8)
    if data.draw(st.booleans()):  # many equal codes, and many at the same distance
        codes &= 1
    if data.draw(st.booleans()):  # the nearest come last: lists are full again and again
        codes = codes[np.argsort(-np.unpackbits(codes, axis=1).sum(axis=1), kind="stable")]
    queries = random.integers(0, 2, (data.draw(st.integers(0, 4)), num_bytes)).astype(np.uint8)
    exclude = random.integers(-1, num, len(queries)) if data.draw(st.booleans()) else None
    wanted = data.draw(st.sampled_from([1, 2, 10, 300, 3000]))
    found = HammingCodes(codes).nearest(queries, wanted, exclude=exclude)
    indices, distances = expected(codes, queries, wanted, exclude)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.distances, distances)
    assert found.indices.dtype == np.int64 and found.distances.dtype == np.float32


def test_threads_and_batches_of_queries_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    codes = random.integers(0, 4, (7000, 4)).astype(np.uint8)
    queries = codes[:30]
    one_thread = HammingCodes(codes).nearest(queries, 40, exclude=np.arange(30))
    monkeypatch.setattr(hamming, "_LEAST_BLOCKS", 1)
    monkeypatch.setattr(hamming, "_QUERIES_AT_ONCE", 7)
    threads, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        found = HammingCodes(codes).nearest(
            queries, 40, exclude=np.arange(30), progress=lambda done, total: seen.append((done, total))
        )
        assert HammingCodes(codes[:2]).nearest(queries, 3).indices[:, 2].tolist() == [-1] * 30
    finally:
        torch.set_num_threads(threads)
    indices, distances = expected(codes, queries, 40, np.arange(30))
    for one in (one_thread, found):
        np.testing.assert_array_equal(one.indices, indices)
        np.testing.assert_array_equal(one.distances, distances)
    assert seen == [(7, 30), (14, 30), (21, 30), (28, 30), (30, 30)]


def test_bits_are_packed_from_the_highest_on() -> None:
    bits = np.zeros((2, 32), np.bool_)
    bits[0, [0, 9]] = True
    bits[1, 31] = True
    codes = pack_bits(bits)
    assert codes.tolist() == [[128, 64, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(unpack_bits(codes), bits)


def test_other_forms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.zeros((5, 8), np.uint8)
    for wrong in (
        codes[:, :6],
        codes.astype(np.int8),
        codes[0],
        codes[:0],
        np.zeros((5, 0), np.uint8),
        np.zeros((1, 132), np.uint8),
    ):
        with pytest.raises(RequestError, match=r"codes (are|have shape) .*; allowed is"):
            HammingCodes(wrong)
    search = HammingCodes(codes)
    assert len(search) == 5 and search.bits == 64
    with pytest.raises(RequestError, match=r"queries have shape \(5, 4\); allowed is \(Q, 8\)"):
        search.nearest(codes[:, :4], 1)
    with pytest.raises(RequestError, match="the number of neighbors is 0; allowed is 1 or more"):
        search.nearest(codes, 0)
    with pytest.raises(RequestError, match=r"exclude has shape \(2,\); allowed is \(5,\)"):
        search.nearest(codes, 1, exclude=np.zeros(2, np.int64))
    monkeypatch.setattr(numba_jit, "unavailable_reason", "No module named 'numba'")
    with pytest.raises(RequestError, match=r"compiled by Numba, which cannot be imported \(No module named 'numba'\)"):
        HammingCodes(codes)
