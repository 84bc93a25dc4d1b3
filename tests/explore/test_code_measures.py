"""Recall, precision and how bits vary, against counts by hand."""

import numpy as np
import pytest

from alexnet.evaluation.metrics import wilson_interval
from alexnet.explore import code_measures
from alexnet.explore.code_measures import (
    alternating_medians,
    describe_measures,
    held_out_queries,
    measure_codes,
    recall_among,
)
from alexnet.explore.code_training import CodeEncoder
from alexnet.explore.nearest import nearest


def test_recall_is_the_share_of_true_neighbors_found() -> None:
    true = np.array([[0, 1], [2, 3], [4, 5]])
    found = np.array([[1, 9, 0], [3, 8, 7], [9, -1, -1]])
    np.testing.assert_array_equal(recall_among(true, found), [1.0, 0.5, 0.0])


def test_queries_are_a_tenth_of_the_vectors_at_most_a_thousand() -> None:
    for num_vectors, num in ((2, 1), (40, 4), (999, 99), (50_000, 1000)):
        queries = held_out_queries(num_vectors, 3)
        assert len(queries) == num and (np.diff(queries) > 0).all() and queries[-1] < num_vectors
    assert held_out_queries(1000, 0).tolist() != held_out_queries(1000, 1).tolist()


def test_methods_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(code_measures.time, "perf_counter", lambda: float(next(clock)))
    calls: list[str] = []

    def slow() -> None:
        calls.append("slow")
        next(clock)

    found = alternating_medians({"fast": lambda: calls.append("fast"), "slow": slow})
    assert found == {"fast": 1.0, "slow": 2.0}
    assert calls == ["fast", "slow"] * 4  # one round to warm up, and three


def test_codes_are_measured_as_defined() -> None:
    """Vectors on a line whose codes are thermometers: Hamming distance is Euclidean distance, rounded down."""
    values = np.arange(32, dtype=np.float32)
    thermometer = (np.arange(32) < values[:, None] // 4 * 4).astype(np.bool_)  # four neighbors share a code
    codes = np.packbits(thermometer, axis=1)
    encoder = CodeEncoder(
        center=np.zeros(1, np.float32),
        scale=np.ones(1, np.float32),
        hidden_weight=np.ones((1, 1), np.float32),
        hidden_bias=np.zeros(1, np.float32),
        code_weight=np.ones((32, 1), np.float32),
        code_bias=-np.arange(1, 33, dtype=np.float32),
    )
    vectors = values[:, None]
    queries = np.array([0, 10])
    true = nearest(vectors, vectors[queries], 3, exclude=queries).indices
    assert true.tolist() == [[1, 2, 3], [9, 11, 8]]
    labels = np.where(values < 11, 0, 1)
    labels[9] = -1
    found = measure_codes(vectors, encoder, codes, queries, true, labels, [("a", "first"), ("b", "second")], 0.5)
    # Of the query 0, the same code have 1, 2, 3; of the query 10, that is 8, 9, 11.
    assert found["recall"] == [
        {"among": 3, "recall": 1.0, "interval": list(wilson_interval(2, 2))},
        {"among": 10, "recall": 1.0, "interval": list(wilson_interval(2, 2))},
    ]
    # 1, 2, 3 are of the class of 0; of 8, 9, 11 only 8 is of the class of 10.
    expected = (1 + 1 / 3) / 2
    precision = {"codes": expected, "exact": expected}
    assert found["precision"] is not None
    assert {name: pytest.approx(found["precision"][name]) for name in ("codes", "exact")} == precision  # type: ignore[literal-required]
    assert found["precision"]["queries"] == 2
    assert found["precision"]["codes_interval"] == pytest.approx(list(wilson_interval(4 / 3, 2)))
    assert [(one["id"], one["name"], one["queries"]) for one in found["classes"]] == [("a", "first", 2)]
    assert (found["code_bytes"], found["vector_bytes"], found["queries"], found["neighbors"]) == (4, 4, 2, 3)
    # Bits 28 to 31 are 0 in all codes; codes change at 4, 8, ... 28.
    assert (found["constant_bits"], found["distinct_codes"], found["reconstructed"]) == (4, 8, 0.5)
    assert [one["among"] for one in found["rerank"]] == [10]
    assert all(found[name] > 0 for name in ("search_us", "encoding_us", "exact_us"))  # type: ignore[literal-required]
    # Wilson's interval is not centered on the share: its ends are said, and are never beyond 0 and 100.
    described = describe_measures(found)
    assert described["in first 3"] == "100.0 [34.2, 100.0]" and described["class"] == "66.7 [15.9, 95.5]"
    assert list(described)[-4:] == ["class, exact", "µs", "µs, order 10", "µs, exact"]


def test_codes_that_find_nothing_and_images_without_classes() -> None:
    random = np.random.default_rng(1)
    vectors = random.normal(size=(400, 2)).astype(np.float32)
    codes = random.integers(0, 256, (400, 4)).astype(np.uint8)
    arrays = {
        "center": 2,
        "scale": 1,
        "hidden_weight": (1, 2),
        "hidden_bias": 1,
        "code_weight": (32, 1),
        "code_bias": 32,
    }
    encoder = CodeEncoder(**{name: np.ones(shape, np.float32) for name, shape in arrays.items()})
    queries = held_out_queries(400, 0)
    true = nearest(vectors, vectors[queries], 10, exclude=queries).indices
    found = measure_codes(vectors, encoder, codes, queries, true, None, [], 0.0)
    assert found["precision"] is None and found["classes"] == [] and found["constant_bits"] == 0
    # Chance finds 10 of 399 among 10, and 100 of 399 among 100.
    recalls = {one["among"]: one["recall"] for one in found["recall"]}
    assert list(recalls) == [10, 100] and recalls[10] < 0.1 and 0.15 < recalls[100] < 0.35
    unlabeled = np.full(400, -1)
    assert measure_codes(vectors, encoder, codes, queries, true, unlabeled, [], 0.0)["precision"] is None
