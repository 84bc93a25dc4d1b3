"""Opening a prepared data set: what is there, and what is said where it is not."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.data.dataset import FORMAT_VERSION, NO_LABEL, PreparedData, data_checksum, renumber_labels
from alexnet.errors import RequestError


def write_prepared(folder: Path, splits: dict[str, int]) -> None:
    """A tiny data set, written by hand from the format's description."""
    folder.mkdir()
    for name, count in splits.items():
        np.save(folder / f"{name}-images.npy", np.full((count, 4, 4, 3), 7, np.uint8))
        np.save(folder / f"{name}-labels.npy", np.arange(count, dtype=np.int64) % 2)
        keys = [f"{name}/é/{i}".encode() for i in range(count)]
        np.save(folder / f"{name}-keys.npy", np.frombuffer(b"".join(keys), np.uint8))
        np.save(folder / f"{name}-key-ends.npy", np.cumsum([len(key) for key in keys]))
        np.save(folder / f"{name}-sizes.npy", np.full((count, 2), 9, np.int32))
    np.savez(
        folder / "statistics.npz",
        mean_image=np.zeros((4, 4, 3), np.float32),
        covariance=np.eye(3),
        eigenvalues=np.ones(3),
        eigenvectors=np.eye(3),
    )
    description = {
        "format_version": FORMAT_VERSION,
        "title": "tiny",
        "generated": True,
        "classes": [{"id": "a", "name": "first"}, {"id": "b", "name": "second"}],
        "splits": {name: {"count": count} for name, count in splits.items()},
        "side": 4,
        "store": "pixels",
        "checksum": "c",
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def test_a_prepared_data_set_opens(tmp_path: Path) -> None:
    write_prepared(tmp_path / "set", {"train": 5, "test": 3})
    data = PreparedData.open(tmp_path / "set")
    assert (data.title, data.generated, data.side, data.num_classes, data.checksum) == ("tiny", True, 4, 2, "c")
    assert [one.name for one in data.classes] == ["first", "second"]
    assert len(data.splits["train"]) == 5
    assert data.splits["train"].keys[4] == "train/é/4"
    assert not data.splits["train"].images.flags.writeable
    assert data.evaluation_split == "test"
    assert data.original_sizes("test").tolist() == [[9, 9]] * 3
    with pytest.raises(RequestError, match=r"train-digests\.npy.*prepare it again"):
        data.digests("train")


def test_val_is_measured_before_test(tmp_path: Path) -> None:
    write_prepared(tmp_path / "set", {"train": 2, "val": 2, "test": 2})
    assert PreparedData.open(tmp_path / "set").evaluation_split == "val"


def test_what_is_no_prepared_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nothing does not exist; prepare a data set with: alexnet prepare"):
        PreparedData.open(tmp_path / "nothing")
    with pytest.raises(RequestError, match=r"not a prepared data set .*alexnet prepare"):
        PreparedData.open(tmp_path)


def test_another_format_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_prepared(tmp_path / "set", {"train": 2})
    path = tmp_path / "set" / "dataset.json"
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 99'))
    with pytest.raises(RequestError, match=r"format version 99; this version of alexnet reads 2\. Prepare it again"):
        PreparedData.open(tmp_path / "set")


@pytest.mark.parametrize(
    "name",
    ["dataset.json", "train-images.npy", "train-labels.npy", "train-keys.npy", "train-key-ends.npy", "statistics.npz"],
)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    write_prepared(tmp_path / "set", {"train": 40})
    path = tmp_path / "set" / name
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(RequestError, match="is damaged"):
        PreparedData.open(tmp_path / "set")


def test_the_checksum_sees_pixels_labels_and_classes() -> None:
    base = data_checksum({"train": ("x", "y"), "val": ("z", "w")}, ["a", "b"])
    assert base == data_checksum({"val": ("z", "w"), "train": ("x", "y")}, ["a", "b"])
    assert base != data_checksum({"train": ("x", "y"), "val": ("z", "w")}, ["b", "a"])
    assert base != data_checksum({"train": ("x", "Y"), "val": ("z", "w")}, ["a", "b"])
    assert len(base) == 64


def test_without_validation_and_test_split_there_is_nothing_to_measure_on(tmp_path: Path) -> None:
    write_prepared(tmp_path / "set", {"train": 2, "unlabeled": 2})
    data = PreparedData.open(tmp_path / "set")
    assert not data.has_evaluation_split
    with pytest.raises(RequestError, match=r"no validation or test split; it has train, unlabeled.*--hold-out"):
        _ = data.evaluation_split


def test_a_split_without_labels_is_refused_where_labels_are_needed(tmp_path: Path) -> None:
    write_prepared(tmp_path / "set", {"train": 4, "val": 3})
    np.save(tmp_path / "set" / "val-labels.npy", np.array([0, NO_LABEL, 1], np.int64))
    data = PreparedData.open(tmp_path / "set")
    assert data.require_labels("train") is data.splits["train"]
    with pytest.raises(RequestError, match=r"1 of 3 images of split 'val' .* have no label"):
        data.require_labels("val")


@given(st.lists(st.integers(-1, 6), max_size=30), st.permutations(range(7)))
def test_labels_follow_their_classes_and_a_missing_one_stays_missing(labels: list[int], numbers: list[int]) -> None:
    renumbered = renumber_labels(np.array(labels, np.int64), numbers)
    assert renumbered.dtype == np.int64
    assert renumbered.tolist() == [-1 if label == -1 else numbers[label] for label in labels]
