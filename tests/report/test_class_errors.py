"""Confused classes from a stored evaluation: the matrix is that of the counts, the block is the most confused one."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.html_page import Page

from alexnet.report.class_errors import (
    class_rows,
    confused_block,
    confused_rows,
    confusion_counts,
    confusion_section,
)


def stored(matrix: np.ndarray[Any, Any]) -> dict[str, Any]:
    """An evaluation with this confusion matrix, (K, K), as its file has it."""
    totals = matrix.sum(axis=1)
    pairs = [
        {"true": f"c{true}", "predicted": f"c{predicted}", "num_images": int(matrix[true, predicted])}
        for true, predicted in zip(*np.nonzero(matrix), strict=True)
        if true != predicted
    ]
    return {
        "num_classes": len(matrix),
        "per_class": [
            {
                "id": f"c{number}",
                "name": f"<class {number}>",
                "num_images": int(total),
                "top1_error": float(1 - matrix[number, number] / total) if total else None,
            }
            for number, total in enumerate(totals)
        ],
        "confused_pairs": sorted(pairs, key=lambda one: -one["num_images"]),
    }


matrices = st.integers(1, 7).flatmap(
    lambda size: st.lists(st.lists(st.integers(0, 9), min_size=size, max_size=size), min_size=size, max_size=size)
)


@settings(max_examples=30)
@given(matrices, st.data())
def test_the_matrix_is_that_of_the_evaluation(rows: list[list[int]], draw: st.DataObject) -> None:
    matrix = np.array(rows)
    classes = draw.draw(st.lists(st.integers(0, len(matrix) - 1), unique=True, min_size=1))
    counts, others = confusion_counts(stored(matrix), classes)
    np.testing.assert_array_equal(counts, matrix[np.ix_(classes, classes)])
    np.testing.assert_array_equal(others, np.delete(matrix, classes, axis=1)[classes].sum(axis=1))


@settings(max_examples=30)
@given(matrices, st.integers(1, 7))
def test_the_block_grows_by_the_most_confused_class(rows: list[list[int]], size: int) -> None:
    matrix = np.array(rows)
    both = matrix + matrix.T - 2 * np.diag(np.diag(matrix))
    block = confused_block(stored(matrix), max(2, size))
    if not both.any():
        assert block == []
        return
    expected = [int(np.flatnonzero((both == both.max()).any(axis=1))[0])]
    while len(expected) < max(2, size):
        gains = [-1 if one in expected else int(both[one, expected].sum()) for one in range(len(both))]
        if max(gains) <= 0:
            break
        expected.append(int(np.argmax(gains)))
    assert block == sorted(expected)


def test_classes_have_wilsons_intervals_and_those_without_images_come_last() -> None:
    rows = class_rows(stored(np.array([[3, 1, 0], [0, 0, 0], [5, 0, 5]])))
    assert [one["name"] for one in rows] == ["<class 2>", "<class 0>", "<class 1>"]
    z, rate, num = 1.959963984540054, 0.25, 4
    middle, half = rate + z * z / (2 * num), z * (rate * (1 - rate) / num + z * z / (4 * num * num)) ** 0.5
    expected = ((middle - half) / (1 + z * z / num), (middle + half) / (1 + z * z / num))
    assert rows[1]["interval"] == pytest.approx(expected)
    assert (rows[2]["top1_error"], rows[2]["interval"]) == (None, None)


def test_pairs_are_fractions_of_the_true_class() -> None:
    pairs = confused_rows(stored(np.array([[6, 2], [5, 5]])))
    assert [(one["true"], one["predicted"], one["num_images"], one["fraction"]) for one in pairs] == [
        ("<class 1>", "<class 0>", 5, 0.5),
        ("<class 0>", "<class 1>", 2, 0.25),
    ]


@pytest.mark.parametrize("num", [3, 41])
def test_the_figure_has_all_of_few_classes_and_a_block_of_many(num: int) -> None:
    matrix = np.random.default_rng(0).integers(0, 3, (num, num)) + 50 * np.eye(num, dtype=int)
    found = confusion_section(stored(matrix))
    page = Page(f"<main>{found.content}</main>")
    assert page.text.count("<class ") == 2 * (num if num <= 40 else 15)
    assert ("other classes" in page.text) == (num > 40) == (f"15 of {num} classes" in found.note)
    assert "percentage" in found.note


def test_without_mistakes_there_is_nothing_to_show() -> None:
    assert "No image was misclassified" in confusion_section(stored(np.diag([3, 4]))).missing
