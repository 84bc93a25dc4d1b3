"""Images in files: the same as from an array, verified when they are read first, and never the end of the process."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prepared_files import SIDE, write_prepared

from alexnet.cli.main import main
from alexnet.data.concatenated import ConcatenatedImages, open_data
from alexnet.data.dataset import PreparedData
from alexnet.data.dataset_files import DataFiles
from alexnet.data.loader import read_crops
from alexnet.data.preparation.prepare import prepare
from alexnet.data.shards import StoredFiles, UnreadableSample
from alexnet.data.verification import Damage, verify_data
from alexnet.errors import WorkError
from alexnet.storage.npy import ArrayFile

NUM = 6
ROW_BYTES = SIDE * SIDE * 3
HEADER_BYTES = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    write_prepared(folder, {"train": NUM, "val": 3})
    return folder


def array_of(folder: Path, split: str = "train") -> np.ndarray:
    """The pixels, read by NumPy."""
    pixels: np.ndarray = np.load(folder / f"{split}-images.npy")
    return pixels


def change(path: Path, image: int) -> None:
    """Flip a bit of an image in an array of pixels."""
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + image * ROW_BYTES + 7] ^= 1
    path.write_bytes(content)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_crops_are_those_of_the_array(folder: Path, data: st.DataObject) -> None:
    crop = data.draw(st.integers(1, SIDE))
    samples = np.array(data.draw(st.lists(st.integers(0, NUM - 1), max_size=9)), np.int64)
    corner = st.tuples(st.integers(0, SIDE - crop), st.integers(0, SIDE - crop))
    corners = np.array([data.draw(corner) for _ in samples], np.int16).reshape(-1, 2)
    pixels, images = array_of(folder), PreparedData.open(folder).splits["train"].images
    expected = [
        pixels[sample, row : row + crop, column : column + crop]
        for sample, (row, column) in zip(samples, corners, strict=True)
    ]
    for _ in range(2):  # unverified, and verified
        crops = read_crops(images, samples, corners, crop)
        assert crops.shape == (len(samples), crop, crop, 3) and crops.dtype == np.uint8
        assert all(np.array_equal(one, other) for one, other in zip(crops, expected, strict=True))
    both = ConcatenatedImages([images, images])
    assert np.array_equal(read_crops(both, samples + NUM, corners, crop), crops)
    assert np.array_equal(both[samples], pixels[samples])


def test_indices_select_as_from_an_array(folder: Path) -> None:
    pixels, images = array_of(folder), PreparedData.open(folder).splits["train"].images
    for which in (slice(None), slice(1, 4), slice(4, 1), slice(None, None, -2), np.array([5, 0, 5]), 3, np.int64(2)):
        assert np.array_equal(images[which], pixels[which])
    for image in (-1, NUM):
        with pytest.raises(IndexError):
            images[image]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, NUM), st.integers(0, NUM), st.lists(st.integers(0, NUM - 1)))
def test_rows_of_a_file_are_those_of_the_array(folder: Path, first: int, stop: int, rows: list[int]) -> None:
    pixels = array_of(folder)
    file = ArrayFile(folder / "train-images.npy", pixels.dtype, pixels.shape, HEADER_BYTES)
    assert np.array_equal(file[first:stop], pixels[first:stop])
    assert np.array_equal(file[np.array(rows, np.int64)], pixels[np.array(rows, np.int64)])
    assert len(file) == NUM


def test_a_cut_file_of_rows_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((4, 5), np.float16))
    file = ArrayFile(tmp_path / "rows.npy", np.dtype(np.float16), (4, 5), HEADER_BYTES)
    os.truncate(tmp_path / "rows.npy", HEADER_BYTES + 25)
    assert file[:2].sum() == 10
    with pytest.raises(OSError, match=r"rows\.npy was truncated while it was read"):
        file[np.array([0, 2])]


def test_a_changed_image_is_noticed_when_it_is_read_first(tmp_path: Path) -> None:
    write_prepared(tmp_path / "set", {"train": NUM})
    change(tmp_path / "set" / "train-images.npy", 4)
    images = PreparedData.open(tmp_path / "set").splits["train"].images
    assert images[3].shape == (SIDE, SIDE, 3)
    whole, corner = np.zeros((2, 2), np.int16), np.array([[1, 0], [0, 1]], np.int16)
    for read in (
        lambda: images[4],
        lambda: images[2:6],
        lambda: read_crops(images, np.array([0, 4]), whole, SIDE),
        lambda: read_crops(images, np.array([0, 4]), corner, SIDE - 1),
    ):
        with pytest.raises(UnreadableSample, match=r"image 4 in .*train-images\.npy is damaged: .*checksum") as caught:
            read()
        assert caught.value.image == 4


def test_an_image_is_verified_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = []
    verify = StoredFiles._verify

    def counted(self: StoredFiles, image: int, content: bytes | memoryview) -> None:
        verified.append(image)
        verify(self, image, content)

    monkeypatch.setattr(StoredFiles, "_verify", counted)
    images = PreparedData.open(folder).splits["train"].images
    for crop in (SIDE, SIDE - 1, SIDE):
        read_crops(images, np.array([1, 2, 1]), np.zeros((3, 2), np.int16), crop)
    assert images[2:4].shape[0] == 2
    assert sorted(set(verified)) == [1, 2, 3] and verified.count(2) == 1 and verified.count(3) == 1


@pytest.mark.parametrize("store", ["pixels", pytest.param("jpeg", marks=pytest.mark.slow)])
def test_a_file_that_is_cut_while_it_is_read_is_an_error(store: str, make_tree, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A memory-mapped array would end the process with SIGBUS."""
    data = prepare(make_tree("photographs"), tmp_path / "set", side=32, store=store)
    file = tmp_path / "set" / ("train-images.npy" if store == "pixels" else "train-000000.tar")
    script = f"""
import os, sys
from alexnet.cli.main import main
from alexnet.data.dataset import PreparedData
open_sound = PreparedData.open.__func__
def open_and_cut(cls, path):
    data = open_sound(cls, path)
    os.truncate({str(file)!r}, 700)
    return data
PreparedData.open = classmethod(open_and_cut)
sys.exit(main(["train", {str(data.folder)!r}, "--recipe", "quick", "--run", {str(tmp_path / "run")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and "cannot be read from" in errors[0] and file.name in errors[0]
    assert "Traceback" not in done.stderr


def test_training_on_changed_pixels_ends_with_their_name(make_tree, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    data = prepare(make_tree("photographs"), tmp_path / "set", side=32)
    sound = (data.folder / "train-images.npy").read_bytes()
    (data.folder / "train-images.npy").write_bytes(sound[:5000] + bytes(3072) + sound[8072:])
    assert main(["train", str(data.folder), "--recipe", "quick", "--run", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "train-images.npy is damaged: it is not what was written" in said and "alexnet inspect" in said
    assert main(["inspect", str(data.folder), "--verify"]) == 1
    assert "train-images.npy: images 1 to 2 of split train (from " in capsys.readouterr().out
    (data.folder / "train-images.npy").write_bytes(sound)
    assert main(["inspect", str(data.folder), "--verify"]) == 0


def test_verification_names_every_damaged_range_and_file(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_prepared(folder, {"train": NUM, "val": 3})
    found = verify_data(folder)
    assert found.damages == () and found.num_images == NUM + 3
    assert found.num_files == len(list(folder.iterdir()))
    for image in (0, 1, 4):
        change(folder / "train-images.npy", image)
    change(folder / "val-images.npy", 2)
    for name in ("statistics.npz", "val-sizes.npy", "train-keys.npy"):
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)
    (folder / "val-key-ends.npy").unlink()
    found = verify_data(folder)
    assert {(one.file, one.split, one.first, one.last) for one in found.damages if one.num_images} == {
        ("train-images.npy", "train", 0, 1),
        ("train-images.npy", "train", 4, 4),
        ("val-images.npy", "val", 2, 2),
    }
    assert found.num_damaged_images == 4
    others = {one.file: one.problem for one in found.damages if not one.num_images}
    assert others.keys() == {"statistics.npz", "val-sizes.npy", "train-keys.npy", "val-key-ends.npy"}
    assert others.pop("val-key-ends.npy") == "is missing"
    assert all("is damaged" in problem for problem in others.values())
    (folder / "val-digests.npy").write_bytes(b"")
    assert "val-digests.npy" in {one.file for one in verify_data(folder).damages}


def test_verification_of_shards(make_tree, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = prepare(make_tree("photographs"), tmp_path / "set", side=32, store="jpeg", shard_images=2)
    assert verify_data(data.folder).damages == ()
    first = data.folder / "train-000000.tar"
    content = bytearray(first.read_bytes())
    content[5] ^= 1  # the name of a member, which only other readers use
    first.write_bytes(content)
    (data.folder / "train-000001.tar").unlink()
    damages = verify_data(data.folder).damages
    assert {(one.file, one.first, one.last) for one in damages} == {
        ("train-000000.tar", None, None),
        ("train-000001.tar", None, None),
        ("train-000001.tar", 2, 3),
    }
    with pytest.raises(WorkError, match=r"train-000001\.tar is missing"):
        open_data(data.folder)


def test_damage_reads_as_a_sentence() -> None:
    damage = Damage("train-images.npy", "is damaged", "train", 1200, 1200, "train/a/7.png")
    assert str(damage) == "train-images.npy: image 1,200 of split train (train/a/7.png) is damaged"
    assert str(Damage("statistics.npz", "is missing")) == "statistics.npz is missing"


def test_shards_must_be_those_of_the_index(make_tree, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = prepare(make_tree("photographs"), tmp_path / "set", side=32, store="jpeg")
    path = data.folder / "train-index.npy"
    sound = np.load(path)
    files = DataFiles(data.folder)
    files.checksums.pop(path.name)  # as in a data set of version 2
    for row, column, value in ((0, 0, 1), (0, 0, -1), (1, 1, -5), (1, 2, 0), (2, 2, 1 << 40), (2, 1, (1 << 63) - 1)):
        changed = sound.copy()
        changed[row, column] = value
        np.save(path, changed)
        with pytest.raises(WorkError, match=r"train-index\.npy is damaged \(it points outside of the shards"):
            files.images("train")


def test_the_error_of_an_image_can_be_sent_to_another_process() -> None:
    sent = pickle.loads(pickle.dumps(UnreadableSample("image 4 is damaged", 4)))
    assert (str(sent), sent.image) == ("image 4 is damaged", 4)
