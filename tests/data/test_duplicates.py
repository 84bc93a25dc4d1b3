"""Exact copies: found, told apart from leaks, counted."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alexnet.data.preparation.duplicates import describe_duplicates, duplicate_counts, find_duplicates


@given(st.lists(st.tuples(st.sampled_from(["train", "val", "test"]), st.integers(0, 6), st.integers(0, 2))))
def test_groups_are_those_of_a_dictionary(images: list[tuple[str, int, int]]) -> None:
    names = ["train", "val", "test"]
    digests = {
        name: np.array([[picture] * 16 for split, picture, _ in images if split == name], np.uint8).reshape(-1, 16)
        for name in names
    }
    labels = {name: np.array([label for split, _, label in images if split == name], np.int64) for name in names}
    expected: dict[int, list[tuple[str, int]]] = {}
    for name in names:
        for index, row in enumerate(digests[name]):
            expected.setdefault(int(row[0]), []).append((name, index))
    found = list(find_duplicates(digests, labels))
    assert [list(one.images) for one in found] == [places for places in expected.values() if len(places) > 1]
    for one in found:
        splits = {split for split, _ in one.images}
        assert one.is_leak == ("train" in splits and splits != {"train"})
        assert one.has_other_label == (len({int(labels[split][index]) for split, index in one.images}) > 1)


def test_counts_and_descriptions() -> None:
    digests = {"train": np.repeat(np.array([[1], [1], [2]], np.uint8), 16, 1), "val": np.full((2, 16), 1, np.uint8)}
    labels = {"train": np.array([0, 1, 0]), "val": np.array([0, 0])}
    found = list(find_duplicates(digests, labels))
    assert duplicate_counts(found) == {"pictures": 1, "surplus_images": 3, "leaked_images": 2, "other_label": 1}
    keys = {"train": ["t0", "t1", "t2"], "val": ["v0", "v1"]}
    (described,) = describe_duplicates(found, keys, ["cat", "dog"], labels)
    assert json.loads(json.dumps(described)) == {
        "leak": True,
        "other_label": True,
        "images": [
            {"split": "train", "path": "t0", "class": "cat"},
            {"split": "train", "path": "t1", "class": "dog"},
            {"split": "val", "path": "v0", "class": "cat"},
            {"split": "val", "path": "v1", "class": "cat"},
        ],
    }
