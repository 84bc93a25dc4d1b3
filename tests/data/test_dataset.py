"""Opening a prepared data set: what is there, and what is said where it is not."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.prepared_files import redescribe, write_prepared

from alexnet.data.dataset import PreparedData, renumber_labels
from alexnet.data.dataset_files import NO_LABEL, data_checksum
from alexnet.data.shards import UnreadableSample
from alexnet.errors import AlexNetError, RequestError, WorkError
from alexnet.storage.typed_files import SEAL, sealed

Arrays = dict[str, np.ndarray]


def read_everything(folder: Path) -> list[object]:
    """All that commands read of a data set."""
    data = PreparedData.open(folder)
    read: list[object] = [data.statistics.mean_image.tobytes(), data.title, [vars(one) for one in data.classes]]
    for name, split in data.splits.items():
        read += [list(split.keys), split.labels.tobytes(), split.images[:].tobytes()]
        read += [data.original_sizes(name).tobytes(), data.digests(name).tobytes()]
    return read


def test_a_prepared_data_set_opens(tmp_path: Path) -> None:
    write_prepared(tmp_path / "set", {"train": 5, "test": 3})
    data = PreparedData.open(tmp_path / "set")
    assert (data.title, data.generated, data.side, data.num_classes) == ("tiny", True, 4, 2)
    assert [one.name for one in data.classes] == ["first", "second"]
    assert len(data.splits["train"]) == 5
    assert data.splits["train"].keys[4] == "train/é/4"
    assert np.array_equal(data.splits["train"].images[:], np.load(tmp_path / "set" / "train-images.npy"))
    assert data.evaluation_split == "test"
    assert data.original_sizes("test").tolist() == [[9, 9]] * 3
    assert data.digests("train").shape == (5, 16)


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
    description = json.loads(path.read_text())
    del description[SEAL]
    path.write_text(json.dumps(sealed({**description, "format_version": 99})))
    with pytest.raises(RequestError, match=r"format version 99; this version of alexnet reads 2 to 3\. Prepare it"):
        PreparedData.open(tmp_path / "set")


FILES = ["dataset.json", "statistics.npz", "train-images.npy", "train-labels.npy", "train-keys.npy"]
FILES += ["train-key-ends.npy", "train-sizes.npy", "train-digests.npy"]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_cut_is_named(tmp_path: Path, name: str, version: int) -> None:
    write_prepared(tmp_path / "set", {"train": 40}, version)
    path = tmp_path / "set" / name
    content = path.read_bytes()
    longer = [content + b"0"] if (name, version) != ("statistics.npz", 2) else []  # which changes nothing there
    for changed in (content[:150], content[:-1], *longer, b"", None):
        path.unlink() if changed is None else path.write_bytes(changed)
        with pytest.raises(AlexNetError, match=f"{name} is (damaged|missing)|no dataset.json|has no split") as caught:
            read_everything(tmp_path / "set")
        assert "alexnet prepare SOURCE" in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_noticed_in_every_file(tmp_path: Path, name: str) -> None:
    write_prepared(tmp_path / "set", {"train": 3})
    path = tmp_path / "set" / name
    content, sound = path.read_bytes(), read_everything(tmp_path / "set")
    assert read_everything(tmp_path / "set") == sound
    for position in range(0, len(content), max(1, len(content) // 150)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises((AlexNetError, UnreadableSample), match=name):
            read_everything(tmp_path / "set")


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train-labels.npy", np.array([0, 1, 2]), r"labels are 0 to 2, and there are 2 classes"),
        ("train-labels.npy", np.array([0, -2, 1]), r"labels are -2 to 1"),
        ("train-labels.npy", np.array([0.0, 1.0, 1.0]), r"it is <f8 \(3,\), expected <i8 \(3,\)"),
        ("train-labels.npy", np.array([0, 1]), r"it is <i8 \(2,\), expected <i8 \(3,\)"),
        ("train-labels.npy", np.array([0, 1, object()]), r"header is not that of an array"),
        (
            "train-labels.npy",
            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }"),
            "10000000000",
        ),
        ("train-labels.npy", npy("(" * 9000), r"does not begin as an array"),
        ("train-labels.npy", npy("(" * 300), r"header is not that of an array"),
        ("train-labels.npy", npy("{'descr': '<i8', 'fortran_order': False, 'shape': (3, 1e400), }"), "header is not"),
        ("train-images.npy", npy("{'descr': '|u1', 'fortran_order': True, 'shape': (3, 4, 4, 3), }"), "header is not"),
        ("train-images.npy", np.zeros((3, 5, 5, 3), np.uint8), r"expected \|u1 \(3, 4, 4, 3\)"),
        ("train-key-ends.npy", np.array([3, 2, 30]), "not the ends of the keys"),
        ("statistics.npz", {"mean_image": np.zeros((5, 4, 3), np.float32)}, r"mean_image: it is <f4 \(5, 4, 3\)"),
        ("statistics.npz", {"mean_image": np.full((4, 4, 3), np.nan, np.float32)}, r"mean_image is not finite"),
        ("statistics.npz", {"mean_image": np.full((4, 4, 3), 256, np.float32)}, r"mean_image is outside of 0..255"),
        ("statistics.npz", {"covariance": np.eye(3, dtype=np.float32)}, r"covariance: it is <f4"),
        ("statistics.npz", {"more": np.eye(3)}, r"it holds .*more; expected"),
        ("statistics.npz", b"PK", r"not a zip"),
    ],
)
def test_what_cannot_be_right_is_named_whatever_its_checksum(
    tmp_path: Path, name: str, content: np.ndarray | Arrays | bytes, said: str, version: int
) -> None:
    write_prepared(tmp_path / "set", {"train": 3}, version)
    path = tmp_path / "set" / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        with np.load(path) as arrays:
            np.savez(path, **{**arrays, **content})
    else:
        np.save(path, content, allow_pickle=True)
    redescribe(tmp_path / "set")
    with pytest.raises(WorkError, match=rf"{name} is damaged \(.*{said}"):
        read_everything(tmp_path / "set")


def deflated(content: bytes) -> bytes:
    """An .npz file whose first member is said to be deflated, which it cannot be."""
    changed = bytearray(content)
    changed[content.index(b"\x93NUMPY")] = 0x07  # no block of deflate begins so
    for place in (8, content.index(b"PK\x01\x02") + 10):
        changed[place] = zipfile.ZIP_DEFLATED
    return bytes(changed)


def doubled(content: bytes) -> bytes:
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("mean_image.npy", archive.read("mean_image.npy"))
    return file.getvalue()


@pytest.mark.parametrize("change", [deflated, doubled])
def test_statistics_of_another_archive_are_named(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    write_prepared(tmp_path / "set", {"train": 3}, 2)
    path = tmp_path / "set" / "statistics.npz"
    path.write_bytes(change(path.read_bytes()))
    redescribe(tmp_path / "set")
    with pytest.raises(WorkError, match=r"statistics.npz is damaged \((Error -3 while decompressing|it holds two)"):
        read_everything(tmp_path / "set")


@pytest.mark.parametrize("version", [2, 3])
def test_statistics_larger_than_the_memory_are_named(tmp_path: Path, version: int) -> None:
    write_prepared(tmp_path / "set", {"train": 3}, version)
    os.truncate(tmp_path / "set" / "statistics.npz", 1 << 40)  # sparse: reading it whole would end the process
    with pytest.raises(WorkError, match=r"statistics.npz is damaged \(it is larger than 65,728 bytes"):
        read_everything(tmp_path / "set")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"splits": {}}, "there is no train"),
        ({"classes": []}, "classes: expected array of length >= 1"),
        ({"classes": [{"id": "a", "name": "first"}]}, "labels are 0 to 1, and there are 1 classes"),
        ({"classes": [{"id": "a", "name": "x"}, {"id": "a", "name": "y"}]}, "an id occurs twice"),
        ({"classes": [{"id": "a"}, {"id": "b", "name": "y"}]}, "missing required field name"),
        ({"side": -4}, "side: expected int >= 1"),
        ({"side": True}, "side: expected int"),
        ({"side": 20_000}, "side: expected int <= 1024"),
        ({"side": 5}, r"expected \|u1 \(3, 5, 5, 3\)"),
        ({"store": "tape"}, "store: invalid enum value"),
        ({"title": 5}, "title: expected str"),
        ({"num_refused": -1}, "num_refused: expected int >= 0"),
        ({"plan": 3}, "plan: expected object"),
    ],
)
def test_a_description_that_cannot_be_right_is_named(
    tmp_path: Path, change: dict[str, Any], said: str, version: int
) -> None:
    write_prepared(tmp_path / "set", {"train": 3}, version)
    redescribe(tmp_path / "set", **change)
    with pytest.raises(WorkError, match=rf"is damaged \(.*{said}.*alexnet prepare SOURCE"):
        read_everything(tmp_path / "set")


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 100_000, b"\xff", b"[]", b"3", b"", b'{"side": 1e999}'])
def test_a_description_that_is_no_object_is_named(tmp_path: Path, content: bytes) -> None:
    write_prepared(tmp_path / "set", {"train": 3})
    (tmp_path / "set" / "dataset.json").write_bytes(content)
    with pytest.raises(WorkError, match=r"dataset\.json is damaged"):
        PreparedData.open(tmp_path / "set")


def test_a_description_of_this_version_must_have_its_checksum(tmp_path: Path) -> None:
    write_prepared(tmp_path / "set", {"train": 3})
    path = tmp_path / "set" / "dataset.json"
    description = json.loads(path.read_text())
    del description[SEAL]
    path.write_text(json.dumps(description))
    with pytest.raises(WorkError, match="its checksum content_sha256 is missing"):
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
    redescribe(tmp_path / "set")
    data = PreparedData.open(tmp_path / "set")
    assert data.require_labels("train") is data.splits["train"]
    with pytest.raises(RequestError, match=r"1 of 3 images of split 'val' .* have no label"):
        data.require_labels("val")


@given(st.lists(st.integers(-1, 6), max_size=30), st.permutations(range(7)))
def test_labels_follow_their_classes_and_a_missing_one_stays_missing(labels: list[int], numbers: list[int]) -> None:
    renumbered = renumber_labels(np.array(labels, np.int64), numbers)
    assert renumbered.dtype == np.int64
    assert renumbered.tolist() == [-1 if label == -1 else numbers[label] for label in labels]
