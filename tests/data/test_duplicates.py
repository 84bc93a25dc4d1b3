"""Exact copies: found, told apart from leaks, counted."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alexnet.data.preparation.duplicates import describe_duplicates, duplicate_counts, find_duplicates

SPLITS = ["train", "val", "test", "unlabeled"]


@given(st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(0, 6), st.integers(0, 2))))
def test_groups_are_those_of_a_dictionary(images: list[tuple[str, int, int]]) -> None:
    names = SPLITS
    images = [(split, picture, -1 if split == "unlabeled" else label) for split, picture, label in images]
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
        splits = {split for split, _ in one.images} - {"unlabeled"}
        assert one.is_leak == ("train" in splits and splits != {"train"})
        assert one.has_other_label == (len({int(labels[split][index]) for split, index in one.images} - {-1}) > 1)


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


def test_a_copy_without_a_label_is_neither_a_leak_nor_of_another_class() -> None:
    digests = {"train": np.full((1, 16), 1, np.uint8), "unlabeled": np.full((2, 16), 1, np.uint8)}
    labels = {"train": np.array([0]), "unlabeled": np.array([-1, -1])}
    found = list(find_duplicates(digests, labels))
    assert duplicate_counts(found) == {"pictures": 1, "surplus_images": 2, "leaked_images": 0, "other_label": 0}
    keys = {"train": ["t0"], "unlabeled": ["u0", "u1"]}
    (described,) = describe_duplicates(found, keys, ["cat", "dog"], labels)
    assert [one["class"] for one in described["images"]] == ["cat", "", ""]
    with_val = digests | {"val": np.full((3, 16), 1, np.uint8)}
    found = list(find_duplicates(with_val, labels | {"val": np.array([0, 0, 0])}))
    assert duplicate_counts(found)["leaked_images"] == 3
