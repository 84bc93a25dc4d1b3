"""CIFAR-10 and CIFAR-100 in both versions: what is read from them, and that nothing in a pickle is run."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet.data.sources.cifar_files import open_cifar
from alexnet.data.sources.formats import is_format
from alexnet.data.sources.listing import Listing, Source
from alexnet.errors import RequestError

NAMES = ["zebra", "airplane", "bird"]
COARSE_NAMES = ["vehicles", "animals"]
TRAIN_STEMS = [f"data_batch_{number}" for number in range(1, 6)]


def random_images(stems: list[str], num: int = 4) -> dict[str, np.ndarray]:
    """Pixels, uint8 (num, 3072), by file."""
    random = np.random.default_rng(0)
    return {stem: random.integers(0, 256, (num, 3072), np.uint8) for stem in stems}


def write_binary10(folder: Path, images: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    for stem, pixels in images.items():
        labels = (np.arange(len(pixels)) % 3).astype(np.uint8)
        (folder / f"{stem}.bin").write_bytes(np.column_stack([labels, pixels]).tobytes())
    return folder


def write_python10(folder: Path, images: dict[str, np.ndarray], protocol: int = 2) -> Path:
    folder.mkdir(parents=True)
    dump(folder / "batches.meta", {"label_names": NAMES, "num_vis": 3072}, protocol)
    for stem, pixels in images.items():
        labels = [number % 3 for number in range(len(pixels))]
        dump(folder / stem, {"batch_label": stem, "labels": labels, "data": pixels, "filenames": ["a"] * 4}, protocol)
    return folder


def dump(path: Path, content: object, protocol: int) -> None:
    path.write_bytes(pickle.dumps(content, protocol))


def python2_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """As Python 2 and its NumPy wrote it, byte for byte by the pickle format: names and pixels are strings of bytes."""

    def string(content: bytes) -> bytes:
        return b"T" + len(content).to_bytes(4, "little") + content

    def whole(number: int) -> bytes:
        return b"J" + number.to_bytes(4, "little", signed=True)

    kind = b"cnumpy\ndtype\n" + b"(" + string(b"u1") + whole(0) + whole(1) + b"tR"
    kind += b"(" + whole(3) + string(b"|") + b"NNN" + whole(-1) + whole(-1) + whole(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"(cnumpy\nndarray\n(" + whole(0) + b"t" + string(b"b") + b"tR"
    shape = b"(" + b"".join(whole(number) for number in pixels.shape) + b"t"
    array += b"(" + whole(1) + shape + kind + b"\x89" + string(pixels.tobytes()) + b"tb"
    listed = b"(" + b"".join(whole(label) for label in labels) + b"l"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + listed + b"u."


def everything(listing: Listing) -> list[tuple[str, int, bytes]]:
    """Keys, labels and pixels."""
    contents = [listing.read(index) for index in range(len(listing))]
    return [(listing.keys[i], int(listing.labels[i]), bytes(content)) for i, content in enumerate(contents)]


def require_same(first: Source, second: Source) -> None:
    assert first.digest() == second.digest() and first.class_ids == second.class_ids
    for split in ("train", "test"):
        assert everything(first.splits[split]) == everything(second.splits[split])


def test_records_of_cifar10_become_images(tmp_path: Path) -> None:
    images = random_images([*reversed(TRAIN_STEMS), "test_batch"])
    write_binary10(tmp_path / "cifar", images)
    source = open_cifar(tmp_path / "cifar")
    assert (source.format, source.title, source.side, source.generated) == ("cifar-10", "CIFAR-10", 32, False)
    assert list(source.class_ids) == NAMES
    assert {name: len(listing) for name, listing in source.splits.items()} == {"train": 20, "test": 4}
    train = source.splits["train"]
    assert (train.keys[1], train.keys[19]) == ("data_batch_1/00001", "data_batch_5/00003")
    assert source.class_ids[train.labels[1]] == "airplane"
    image = train.read(1)
    assert isinstance(image, np.ndarray) and image.shape == (32, 32, 3) and image.dtype == np.uint8
    for row, column, channel in ((0, 0, 0), (3, 31, 1), (31, 2, 2)):
        assert image[row, column, channel] == images["data_batch_1"][1, channel * 1024 + row * 32 + column]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_both_versions_of_cifar10_are_the_same(tmp_path: Path, protocol: int) -> None:
    images = random_images([*TRAIN_STEMS, "test_batch"])
    images["data_batch_2"] = np.asfortranarray(images["data_batch_2"])
    binary = open_cifar(write_binary10(tmp_path / "bin", images))
    require_same(binary, open_cifar(write_python10(tmp_path / "py", images, protocol)))


def test_files_as_python_2_wrote_them(tmp_path: Path) -> None:
    images = random_images([*TRAIN_STEMS, "test_batch"])
    binary = open_cifar(write_binary10(tmp_path / "bin", images))
    folder = write_python10(tmp_path / "py", images)
    for stem, pixels in images.items():
        (folder / stem).write_bytes(python2_pickle(pixels, [0, 1, 2, 0]))
    require_same(binary, open_cifar(folder))


def test_arrays_as_newer_numpy_names_them(tmp_path: Path) -> None:
    images = random_images([*TRAIN_STEMS, "test_batch"])
    folder = write_python10(tmp_path / "py", images, protocol=2)
    for stem in images:
        content = (folder / stem).read_bytes()
        newer = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        assert newer.count(b"numpy.core.multiarray") == 1
        (folder / stem).write_bytes(newer.replace(b"numpy.core.multiarray", b"numpy._core.multiarray"))
    require_same(open_cifar(folder), open_cifar(write_binary10(tmp_path / "bin", images)))


def write_cifar100(root: Path, images: dict[str, np.ndarray]) -> tuple[Path, Path]:
    binary, python = root / "cifar-100-binary", root / "cifar-100-python"
    binary.mkdir(parents=True)
    python.mkdir()
    (binary / "fine_label_names.txt").write_text("\n".join(NAMES) + "\n")
    (binary / "coarse_label_names.txt").write_text("\n".join(COARSE_NAMES) + "\n")
    dump(python / "meta", {"fine_label_names": NAMES, "coarse_label_names": COARSE_NAMES}, 2)
    fine, coarse = np.array([2, 0, 1, 2], np.uint8), np.array([1, 1, 0, 1], np.uint8)
    for stem, pixels in images.items():
        (binary / f"{stem}.bin").write_bytes(np.column_stack([coarse, fine, pixels]).tobytes())
        entries = {"data": pixels, "fine_labels": fine.tolist(), "coarse_labels": coarse.tolist()}
        dump(python / stem, entries, 2)
    return binary, python


def test_cifar100_by_classes_and_by_superclasses(tmp_path: Path) -> None:
    images = random_images(["train", "test"])
    binary, python = write_cifar100(tmp_path, images)
    fine, coarse = open_cifar(binary), open_cifar(binary, coarse=True)
    assert (fine.format, coarse.format, fine.title) == ("cifar-100", "cifar-100-coarse", "CIFAR-100")
    assert (fine.class_ids, coarse.class_ids) == (NAMES, COARSE_NAMES)
    assert fine.splits["test"].labels.tolist() == [2, 0, 1, 2]
    assert coarse.splits["train"].labels.tolist() == [1, 1, 0, 1]
    image = fine.splits["train"].read(3)
    assert isinstance(image, np.ndarray) and image[31, 2, 1] == images["train"][3, 1024 + 31 * 32 + 2]
    assert fine.splits["train"].keys[3] == "train/00003"
    require_same(fine, open_cifar(python))
    require_same(coarse, open_cifar(python, coarse=True))


def test_the_folder_that_the_archive_makes(tmp_path: Path) -> None:
    images = random_images([*TRAIN_STEMS, "test_batch"])
    write_binary10(tmp_path / "cifar-10-batches-bin", images)
    write_python10(tmp_path / "cifar-10-batches-py", images)
    assert is_format("cifar", tmp_path) and is_format("cifar", tmp_path / "cifar-10-batches-py")
    assert len(open_cifar(tmp_path).splits["train"]) == 20
    write_cifar100(tmp_path, random_images(["train", "test"]))
    with pytest.raises(RequestError, match="both CIFAR-10 and CIFAR-100"):
        open_cifar(tmp_path)
    assert open_cifar(tmp_path / "cifar-100-python").format == "cifar-100"


def test_source_json_describes(tmp_path: Path) -> None:
    folder = write_binary10(tmp_path / "cifar", random_images([*TRAIN_STEMS, "test_batch"]))
    (folder / "SOURCE.json").write_text('{"title": "drawn", "generated": true}')
    source = open_cifar(folder)
    assert (source.title, source.generated) == ("drawn", True)
    (folder / "SOURCE.json").write_text("[")
    with pytest.raises(RequestError, match=r"SOURCE\.json is damaged .*fix or remove it"):
        open_cifar(folder)


def test_other_folders_are_not_claimed(tmp_path: Path) -> None:
    for place in ("train/a/1.png", "test/a/1.png", "meta/a/1.png", "data_batch_1/x"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(b"x")
    (tmp_path / "train.bin").write_bytes(b"x")
    assert not is_format("cifar", tmp_path) and not is_format("cifar", tmp_path / "train.bin")
    assert not is_format("cifar", tmp_path / "missing")
    with pytest.raises(RequestError, match="no files of CIFAR"):
        open_cifar(tmp_path)


def test_cifar10_has_no_superclasses(tmp_path: Path) -> None:
    folder = write_binary10(tmp_path / "cifar", random_images([*TRAIN_STEMS, "test_batch"]))
    with pytest.raises(RequestError, match="no superclasses"):
        open_cifar(folder, coarse=True)


def test_damaged_binary_files_are_refused(tmp_path: Path) -> None:
    folder = write_binary10(tmp_path / "cifar", random_images([*TRAIN_STEMS, "test_batch"]))
    path = folder / "data_batch_3.bin"
    content = path.read_bytes()
    for damaged in (content[:-1], b""):
        path.write_bytes(damaged)
        with pytest.raises(RequestError, match=r"data_batch_3.bin is damaged.*run: alexnet fetch cifar10 DEST"):
            open_cifar(folder)
    path.write_bytes(b"\x09" + content[1:])
    with pytest.raises(RequestError, match="label 9"):
        open_cifar(folder)
    path.write_bytes(content)
    source = open_cifar(folder)
    path.write_bytes(content[:-1])
    with pytest.raises(OSError, match="ends inside"):
        source.splits["train"].read(11)
    path.unlink()
    with pytest.raises(
        RequestError, match=r"data_batch_3.bin is missing; get a complete copy with: alexnet fetch cifar10"
    ):
        open_cifar(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a pickle"),
        (b"not a pickle at all", "not a pickle"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({"labels": [0, 1]}), "no entry data"),
        (pickle.dumps({"data": [0] * 3072, "labels": [0]}), "not an array of bytes"),
        (pickle.dumps({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}), "3072 columns"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.int32), "labels": [0, 1]}), "not an array of bytes"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1, 2]}), "for 2 images"),
        (pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []}), "for 0 images"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, -1]}), "the label -1"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "a"]}), "not a list of integers"),
        (pickle.dumps({"data": np.zeros((2, 3072), object), "labels": [0, 1]}, 2), "allowed are integers"),
        (pickle.dumps({"data": np.zeros((2, 3072), "V8"), "labels": [0, 1]}, 2), "allowed are integers"),
    ],
)
def test_damaged_pickles_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write_python10(tmp_path / "cifar", random_images([*TRAIN_STEMS, "test_batch"]))
    (folder / "data_batch_2").write_bytes(content)
    with pytest.raises(RequestError, match=message):
        open_cifar(folder)


def test_labels_may_be_an_array(tmp_path: Path) -> None:
    images = random_images([*TRAIN_STEMS, "test_batch"])
    folder = write_python10(tmp_path / "py", images)
    dump(folder / "data_batch_4", {"data": images["data_batch_4"], "labels": np.array([0, 1, 2, 0])}, 2)
    require_same(open_cifar(folder), open_cifar(write_binary10(tmp_path / "bin", images)))


class _Runs:
    """Runs a command where it is unpickled."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    ("place", "protocol", "kind"),
    [
        ("data_batch_1", 0, "eval"),
        ("data_batch_1", 2, "system"),
        ("data_batch_1", 2, "array"),
        ("data_batch_5", 5, "array"),
        ("test_batch", 4, "eval"),
        ("batches.meta", 2, "system"),
    ],
)
def test_nothing_in_a_pickle_is_run(tmp_path: Path, place: str, protocol: int, kind: str) -> None:
    folder = write_python10(tmp_path / "cifar", random_images([*TRAIN_STEMS, "test_batch"]))
    witness = tmp_path / "witness"
    bad: object = {
        "system": _Runs(os.system, f"touch {witness}"),
        "eval": _Runs(eval, f"open({str(witness)!r}, 'w').close()"),
        "array": np.array([_Runs(os.mkdir, str(witness))], object),
    }[kind]
    dump(folder / place, {"data": bad, "labels": [0], "label_names": bad}, protocol)
    # The file does its work where it is unpickled freely: the refusal below is no accident.
    pickle.loads((folder / place).read_bytes())
    assert witness.exists()
    witness.rmdir() if witness.is_dir() else witness.unlink()
    with pytest.raises(
        RequestError,
        match=r"(refers to '(posix\.system|(__builtin__|builtins)\.eval|posix\.mkdir)'.*from its authors|integers.*)$",
    ):
        open_cifar(folder)
    assert not witness.exists()


def test_a_pickle_does_not_change_what_it_names(tmp_path: Path) -> None:
    images = random_images([*TRAIN_STEMS, "test_batch"])
    folder = write_python10(tmp_path / "py", images)
    good = (folder / "data_batch_1").read_bytes()
    # Writes default arguments and an attribute into three of the allowed globals.
    writes = b"".join(
        b"c" + name + b"\nN}(X\x0c\x00\x00\x00__defaults__)X\x01\x00\x00\x00aNu\x86b0"
        for name in (b"numpy\ndtype", b"numpy.core.multiarray\n_reconstruct", b"_codecs\nencode")
    )
    (folder / "data_batch_1").write_bytes(b"\x80\x02" + writes + good[2:])
    require_same(open_cifar(folder), open_cifar(write_binary10(tmp_path / "bin", images)))
    (folder / "data_batch_1").write_bytes(good)
    require_same(open_cifar(folder), open_cifar(tmp_path / "bin"))


def test_a_list_of_names_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    folder = write_binary10(tmp_path / "cifar", random_images([*TRAIN_STEMS, "test_batch"]))
    os.truncate(folder / "batches.meta.txt", 1 << 40)  # sparse: reading it whole would end the process
    with pytest.raises(RequestError, match=r"batches\.meta\.txt is damaged: .*larger than 65,536 bytes"):
        open_cifar(folder)
