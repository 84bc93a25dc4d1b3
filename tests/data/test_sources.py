"""Folders, tars and CIFAR-10 files: what is found in them, and what is refused."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from alexnet.data.sources import Source, open_source, with_hold_out
from alexnet.data.synsets import readable_name
from alexnet.errors import RequestError


def write_tree(folder: Path, places: list[str]) -> Path:
    """Files whose content is their own place."""
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.encode())
    return folder


def keys(source: Source, split: str) -> list[str]:
    return [entry.key for entry in source.splits[split]]


SPLIT_TREE = ["train/b/2.png", "train/b/1.png", "train/n01440764/1.png", "val/b/9.png", "val/n01440764/8.png"]


def test_a_folder_tree_is_listed_in_order_of_keys(tmp_path: Path) -> None:
    write_tree(tmp_path, [*SPLIT_TREE, "train/b/.hidden", "train/b/Thumbs.db", ".git/x", "README.txt"])
    source = open_source(tmp_path)
    assert source.kind == "folder" and source.side is None and not source.generated
    assert source.class_ids == ["b", "n01440764"]
    assert source.class_names == {"b": "b", "n01440764": "tench"}
    assert keys(source, "train") == ["train/b/1.png", "train/b/2.png", "train/n01440764/1.png"]
    assert keys(source, "val") == ["val/b/9.png", "val/n01440764/8.png"]
    assert source.splits["val"][1].class_id == "n01440764"
    assert source.splits["val"][1].read() == b"val/n01440764/8.png"


def test_a_tar_gives_what_its_folder_gives(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "pictures", SPLIT_TREE)
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        archive.add(tree, "pictures")
    folder, tar = open_source(tree), open_source(tmp_path / "pictures.tar")
    assert tar.kind == "tar" and tar.title == folder.title == "pictures"
    for split in ("train", "val"):
        assert keys(tar, split) == keys(folder, split)
        assert [one.read() for one in tar.splits[split]] == [one.read() for one in folder.splits[split]]


def test_links_of_a_tar_are_entries_that_cannot_be_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("a/1", "b/1", "../a/outside"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("a/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    source = open_source(tmp_path / "x.tar")
    assert keys(source, "train") == ["a/1", "a/link", "b/1"]
    with pytest.raises(OSError, match="links inside an archive are not followed"):
        source.splits["train"][1].read()


@pytest.mark.parametrize(("folder", "split"), [("valid", "val"), ("Validation", "val"), ("test", "val")])
def test_other_names_of_the_validation_split(tmp_path: Path, folder: str, split: str) -> None:
    write_tree(tmp_path, ["train/a/1", "train/b/1", f"{folder}/a/2"])
    assert set(open_source(tmp_path).splits) == {"train", split}


def test_test_stays_test_beside_val(tmp_path: Path) -> None:
    write_tree(tmp_path, ["train/a/1", "train/b/1", "val/a/2", "test/b/3"])
    assert set(open_source(tmp_path).splits) == {"train", "val", "test"}


def test_source_json_describes(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a/1", "b/1"])
    (tmp_path / "SOURCE.json").write_text('{"title": "drawn", "generated": true, "side": 32}')
    source = open_source(tmp_path)
    assert (source.title, source.generated, source.side) == ("drawn", True, 32)


@pytest.mark.parametrize(
    ("places", "folders", "message"),
    [
        ([], [], "is empty"),
        (["1.png", "2.png"], [], "0 classes"),
        (["a/1"], [], "1 class with images"),
        (["a/1", "b/1"], ["c"], "class folder c of .* has no images"),
        (["train/a/1", "train/b/1"], ["val/a"], "class folder val/a of .* has no images"),
        (["train/a/1", "train/b/1", "val/zebra/1"], [], "class zebra, which the training split does not have"),
        (["val/a/1", "val/b/1"], [], "no train/"),
        (["train/a/1", "train/b/1", "val/a/1", "valid/a/1"], [], "both val/ and valid/"),
    ],
)
def test_trees_that_make_no_sense(tmp_path: Path, places: list[str], folders: list[str], message: str) -> None:
    write_tree(tmp_path, places)
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(RequestError, match=message):
        open_source(tmp_path)


def test_files_that_are_no_source(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is nothing at"):
        open_source(tmp_path / "missing")
    (tmp_path / "note.txt").write_text("no tar " * 200)
    with pytest.raises(RequestError, match="is no tar"):
        open_source(tmp_path / "note.txt")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz"):
        pass
    with pytest.raises(RequestError, match=r"compressed \(gzip\)"):
        open_source(tmp_path / "x.tar.gz")


def test_a_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a/1", "b/1"])
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    with pytest.raises(RequestError, match="leads back"):
        open_source(tmp_path)


def test_holding_out_takes_the_same_share_of_each_class(tmp_path: Path) -> None:
    write_tree(tmp_path, [f"{name}/{i:02d}" for name, num in (("a", 20), ("b", 10), ("c", 1)) for i in range(num)])
    source = open_source(tmp_path)
    with pytest.raises(RequestError, match=r"--hold-out 0\.1"):
        with_hold_out(source, 0.0, 0)
    with pytest.raises(RequestError, match="--hold-out is 1"):
        with_hold_out(source, 1.0, 0)
    held = with_hold_out(source, 0.2, 7)
    assert [sum(entry.class_id == one for entry in held.splits["val"]) for one in "abc"] == [4, 2, 0]
    assert sorted(keys(held, "train") + keys(held, "val")) == keys(source, "train")
    assert keys(with_hold_out(source, 0.2, 7), "val") == keys(held, "val")
    assert keys(with_hold_out(source, 0.2, 8), "val") != keys(held, "val")
    with pytest.raises(RequestError, match="leave --hold-out away"):
        with_hold_out(held, 0.2, 0)


def write_cifar(folder: Path, num: int = 4) -> np.ndarray:
    """Random records in all six files; returns those of the first."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    for name in ["test_batch", *(f"data_batch_{i}" for i in range(5, 0, -1))]:
        records = generator.integers(0, 256, (num, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(num) % 3
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return records


def test_cifar_records_become_images(tmp_path: Path) -> None:
    records = write_cifar(tmp_path / "cifar")
    source = open_source(tmp_path / "cifar")
    assert (source.kind, source.title, source.side) == ("cifar-10-binary", "CIFAR-10", 32)
    assert [len(source.splits[name]) for name in ("train", "test")] == [20, 4]
    entry = source.splits["train"][1]
    assert (entry.key, entry.class_id) == ("data_batch_1/00001", "automobile")
    image = entry.read()
    assert isinstance(image, np.ndarray) and image.shape == (32, 32, 3)
    for row, column, channel in ((0, 0, 0), (3, 31, 1), (31, 2, 2)):
        assert image[row, column, channel] == records[1, 1 + channel * 1024 + row * 32 + column]


def test_damaged_cifar_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar")
    path = tmp_path / "cifar" / "data_batch_3.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(RequestError, match=r"data_batch_3.bin is damaged"):
        open_source(tmp_path / "cifar")
    path.write_bytes(b"\x09" + content[1:])
    with pytest.raises(RequestError, match="label 9"):
        open_source(tmp_path / "cifar")
    path.unlink()
    with pytest.raises(RequestError, match=r"data_batch_3.bin is missing"):
        open_source(tmp_path / "cifar")


def test_unknown_ids_are_their_own_names() -> None:
    assert (readable_name("n03888257"), readable_name("my_class")) == ("parachute", "my_class")
