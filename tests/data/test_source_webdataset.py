"""WebDataset shards: images and labels by key, splits by name or folder, and what is refused."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.sources.formats import is_format, open_source
from alexnet.data.sources.listing import Source
from alexnet.data.sources.webdataset import open_webdataset
from alexnet.errors import RequestError


def write_shard(path: Path, files: dict[str, bytes | None]) -> Path:
    """A tar; None stands for a symbolic link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return path


def samples(**labels: int | str) -> dict[str, bytes | None]:
    """An image and a label for each key."""
    files: dict[str, bytes | None] = {}
    for key, label in labels.items():
        files[f"{key}.jpg"] = f"picture {key}".encode()
        files[f"{key}.cls"] = str(label).encode()
    return files


def contents(source: Source, split: str) -> dict[str, tuple[str, object]]:
    listing = source.splits[split]
    return {
        key: (source.class_ids[listing.labels[index]], listing.read(index)) for index, key in enumerate(listing.keys)
    }


def classes(source: Source, split: str = "train") -> dict[str, str]:
    return {key.rpartition("/")[2]: class_id for key, (class_id, _) in contents(source, split).items()}


def test_shards_split_by_their_names(tmp_path: Path) -> None:
    write_shard(tmp_path / "imagenet1k-train-0000.tar", samples(a=10, b=9))
    write_shard(tmp_path / "imagenet1k-train-0001.tar", samples(a=2))
    write_shard(tmp_path / "imagenet1k-validation-00.tar", samples(a=9))
    source = open_webdataset(tmp_path)
    assert (source.format, source.title) == ("webdataset", tmp_path.name)
    assert list(source.class_ids) == ["2", "9", "10"]  # in numeric order
    assert contents(source, "train") == {
        "imagenet1k-train-0000.tar/a.jpg": ("10", b"picture a"),
        "imagenet1k-train-0000.tar/b.jpg": ("9", b"picture b"),
        "imagenet1k-train-0001.tar/a.jpg": ("2", b"picture a"),
    }
    assert contents(source, "val") == {"imagenet1k-validation-00.tar/a.jpg": ("9", b"picture a")}


def test_shards_split_by_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_shard(tmp_path / split / "0.tar", samples(a=0, b=1))
    write_shard(tmp_path / "beside.tar", samples(c=5))
    source = open_webdataset(tmp_path)
    assert {split: list(listing.keys) for split, listing in source.splits.items()} == {
        "train": ["0.tar/a.jpg", "0.tar/b.jpg"],
        "val": ["0.tar/a.jpg", "0.tar/b.jpg"],  # test serves as val where there is none
    }


def test_classes_by_a_list(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("tench\ncrane, bird\nn01440764\n\n", encoding="utf-8")
    shard = write_shard(tmp_path / "any.tar", samples(a=2, b="00", c="1\n", d="tench"))
    for path in (tmp_path, shard):
        source = open_webdataset(path)
        assert list(source.class_ids) == ["tench", "crane, bird", "n01440764"]
        assert source.class_names["n01440764"] == "tench"
        assert classes(source) == {"a.jpg": "n01440764", "b.jpg": "tench", "c.jpg": "crane, bird", "d.jpg": "tench"}


def test_labels_that_are_names(tmp_path: Path) -> None:
    source = open_webdataset(write_shard(tmp_path / "x.tar", samples(a="wolf\n", b="Ähre", c="7")))
    assert list(source.class_ids) == ["7", "wolf", "Ähre"]
    assert classes(source) == {"a.jpg": "wolf", "b.jpg": "Ähre", "c.jpg": "7"}


def test_keys_endings_and_json(tmp_path: Path) -> None:
    files: dict[str, bytes | None] = {
        "one/00.JPEG": b"1",
        "one/00.json": json.dumps({"cls": 9, "label": 3}).encode(),
        "one/00.txt": b"a caption",
        "two/00.json": b'{"class": "4", "label_name": "x"}',
        "two/00.png": b"2",
        "c.d/e.seg.png": b"no image of its own key",
        "c.d/e.webp": b"3",
        "c.d/e.json": b"no json, and not needed",
        "c.d/e.cls": b" 5 ",
        "._e.jpg": b"left by a desktop",
        "lonely.cls": b"8",
        "link.jpg": None,
        "link.cls": b"3",
    }
    source = open_webdataset(write_shard(tmp_path / "x.tar", files))
    assert list(source.class_ids) == ["3", "4", "5"]
    listing = source.splits["train"]
    assert list(listing.keys) == ["x.tar/c.d/e.webp", "x.tar/link.jpg", "x.tar/one/00.JPEG", "x.tar/two/00.png"]
    assert [listing.read(index) for index in (0, 2, 3)] == [b"3", b"1", b"2"]
    with pytest.raises(OSError, match="links inside an archive are not followed"):
        listing.read(1)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jpg": b""}, "the key a of .* has an image and no label"),
        ({"a.jpg": b"", "a.txt": b"1"}, "the key a of .* has an image and no label"),
        ({"a.jpg": b"", "a.cls": None}, "the key a of .* has an image and no label"),
        ({"x/a.jpg": b"", "x/a.PNG": b"", "x/a.cls": b"1"}, r"the key x/a of .* has two images, x/a\.jpg and x/a\.PNG"),
        ({"a.jpg": b"", "a.cls": b"-1"}, "the key a of .* has the label -1"),
        ({"a.jpg": b"", "a.cls": b" \n"}, "is ''; allowed is a number from 0"),
        ({"a.jpg": b"", "a.cls": b"\xff"}, "cannot be read: 'utf-8' codec"),
        ({"a.jpg": b"", "a.cls": b"7" * 1025}, "has 1,025 bytes; allowed are 1,024"),
        ({"a.jpg": b"", "a.json": b" " * 65537}, "has 65,537 bytes"),
        ({"a.jpg": b"", "a.json": b"[" * 60000}, "cannot be read"),
        ({"a.jpg": b"", "a.json": b"{"}, "cannot be read"),
        (
            {"a.jpg": b"", "a.json": b'[{"label": 1}]'},
            "cannot be read: it has none of the keys label, class, cls; fix it, or put",
        ),
        (
            {"a.jpg": b"", "a.json": b'{"caption": "x"}'},
            "cannot be read: it has none of the keys label, class, cls; fix it, or put",
        ),
        ({"a.jpg": b"", "a.json": b'{"label": true}'}, "is True; allowed"),
        ({"a.jpg": b"", "a.json": b'{"label": 1.5}'}, "is 1.5; allowed"),
        ({"a.jpg": b"", "a.cls": b"1"}, "has 1 class with images"),
        ({"a.cls": b"1"}, "has no training images"),
    ],
)
def test_samples_that_are_refused(tmp_path: Path, files: dict[str, bytes | None], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_webdataset(write_shard(tmp_path / "x.tar", files))


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([], r"has no \.tar file"),
        (["train-0.tar", "other.tar"], "other.tar has no split"),
        (["val-0.tar"], "has val and no train"),
        (["train-0.tar", "val-0.tar", "validation-0.tar"], "has both val and validation for its val split"),
    ],
)
def test_splits_that_make_no_sense(tmp_path: Path, shards: list[str], message: str) -> None:
    for name in shards:
        write_shard(tmp_path / name, samples(a=0, b=1))
    with pytest.raises(RequestError, match=message):
        open_webdataset(tmp_path)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (b"a\nb\na\n", "lines 1 and 3 of .* are both 'a'"),
        (b"a\n\nb\n", "line 2 of .* is empty"),
        (b"\xff\n", "is not a list of classes .*codec"),
        (b"0\n" * 2**23 + b"\n", "it is larger than 16,777,216 bytes"),
        (b"a\nb\n", "label '2'; allowed are the names in classes.txt and their numbers"),
        (b"a\nb\nc\nd\n", "the class a of .* has no training images"),
    ],
)
def test_lists_of_classes_that_do_not_fit(tmp_path: Path, listed: bytes, message: str) -> None:
    (tmp_path / "classes.txt").write_bytes(listed)
    write_shard(tmp_path / "x.tar", samples(a=1, b=2, c=3))
    with pytest.raises(RequestError, match=message):
        open_webdataset(tmp_path)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.tar", samples(a=0, b=1))
    content = (tmp_path / "train-0.tar").read_bytes()
    (tmp_path / "train-1.tar").write_bytes(content[:515])
    with pytest.raises(RequestError, match=r"train-1\.tar is not a tar, or a damaged one"):
        open_webdataset(tmp_path)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=600), st.sampled_from(["jpg", "png"])), max_size=9))
def test_every_image_keeps_its_bytes_and_its_label(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, bytes, str]]
) -> None:
    made += [(6, b"", "jpg"), (7, b"", "jpg")]  # so that there are two classes
    files: dict[str, bytes | None] = {}
    for number, (label, content, ending) in enumerate(made):
        files |= {f"{number:03d}.{ending}": content, f"{number:03d}.cls": str(label).encode()}
    source = open_webdataset(write_shard(tmp_path_factory.mktemp("shards") / "x.tar", files))
    assert contents(source, "train") == {
        f"x.tar/{number:03d}.{ending}": (str(label), content) for number, (label, content, ending) in enumerate(made)
    }


def test_recognition(tmp_path: Path) -> None:
    assert is_format("webdataset", write_shard(tmp_path / "a" / "x.tar", samples(a=0)))
    assert is_format("webdataset", tmp_path / "a")
    assert is_format("webdataset", write_shard(tmp_path / "j.tar", {"a.json": b"{}", "a.jpg": b""}))
    write_shard(tmp_path / "b" / "val" / "0.tar", samples(a=0))
    assert is_format("webdataset", tmp_path / "b")
    (tmp_path / "b" / "val" / "n01440764").mkdir()
    assert not is_format("webdataset", tmp_path / "b")
    (tmp_path / "a" / "n01440764").mkdir()
    assert not is_format("webdataset", tmp_path / "a")


def test_shards_with_tables_next_to_them_are_shards(tmp_path: Path) -> None:
    write_shard(tmp_path / "00000.tar", samples(a=0, b=1))
    (tmp_path / "00000.parquet").write_bytes(b"PAR1")
    source = open_source(tmp_path)
    assert source.format == "webdataset" and [name for name, _ in source.skipped] == ["00000.parquet"]


@pytest.mark.parametrize(
    "files",
    [
        {"train/n01440764/1.jpg": b"", "train/n02102040/1.jpg": b""},
        {"cat/1.jpg": b"", "cat/1.json": b"{}", "dog/1.jpg": b"", "dog/1.json": b"{}"},
        {"cat/1.jpg": b"", "dog/2.jpg": b"", "labels.json": b"{}", "classes.cls": b""},
        {},
    ],
)
def test_plain_tars_are_left_to_others(tmp_path: Path, files: dict[str, bytes | None]) -> None:
    assert not is_format("webdataset", write_shard(tmp_path / "x.tar", files))
    assert not is_format("webdataset", tmp_path)
    assert not is_format("webdataset", tmp_path / "missing.tar")
    (tmp_path / "y.tar").write_bytes(b"no tar at all")
    assert not is_format("webdataset", tmp_path / "y.tar")


def skipped(source: Source) -> dict[str, str]:
    return dict(source.skipped)


def test_keys_with_dots_and_images_of_all_formats(tmp_path: Path) -> None:
    files: dict[str, bytes | None] = {}
    names = ("2023.05.04.jpg", "2023.05.05.JPG", "v1.2/a.b.png", "a.tif", "b.heic", "c.jfif", "2023.gif")
    for number, name in enumerate(names):
        files |= {name: name.encode(), f"{name.rpartition('.')[0]}.cls": str(number % 2).encode()}
    source = open_webdataset(write_shard(tmp_path / "x.tar", files))
    assert is_format("webdataset", tmp_path / "x.tar")
    found = {key.removeprefix("x.tar/"): value for key, value in contents(source, "train").items()}
    images = [name for name in files if not name.endswith(".cls")]
    assert found == {name: (str(number % 2), name.encode()) for number, name in enumerate(images)}
    assert skipped(source) == {}


def test_dotted_images_share_or_do_not_share_a_label(tmp_path: Path) -> None:
    files: dict[str, bytes | None] = {
        "0.image.jpg": b"0", "0.cls": b"0",  # the only picture of its key
        "1.jpg": b"1", "1.mask.png": b"no", "1.cls": b"1", "1.json": b"{}", "1.txt": b"a caption",
        "2.mask.png": b"the mask of an image that is missing", "2.cls": b"1",
        "3.left.jpg": b"no", "3.right.jpg": b"no", "3.cls": b"0",
        "4.cls": b"0",
        "5.a.jpg": b"5a", "5.a.cls": b"0", "5.b.jpg": b"5b", "5.b.json": b'{"label": 1}', "5.jpg": b"5", "5.cls": b"1",
    }  # fmt: skip
    source = open_webdataset(write_shard(tmp_path / "x.tar", files))
    assert classes(source) == {
        "0.image.jpg": "0", "1.jpg": "1", "5.a.jpg": "0", "5.b.jpg": "1", "5.jpg": "1",
    }  # fmt: skip
    alone, other = "a label without an image", "not the image of its key"
    assert skipped(source) == {
        "x.tar/1.mask.png": other, "x.tar/1.txt": other, "x.tar/2.mask.png": other, "x.tar/2.cls": alone,
        "x.tar/3.left.jpg": other, "x.tar/3.right.jpg": other, "x.tar/3.cls": alone, "x.tar/4.cls": alone,
    }  # fmt: skip


def test_the_content_decides_where_a_name_does_not(tmp_path: Path) -> None:
    files: dict[str, bytes | None] = {
        "0.jpg": b"0", "0.cls": b"0", "1.jpg": b"1", "1.cls": b"1",
        "2.dat": b"\x89PNG\r\n\x1a\nmore", "2.cls": b"1", "3.dat": b"something else", "3.cls": b"1",
        "4.psd": b"an image that is not read", "4.cls": b"0", "classes.txt": b"a list",
    }  # fmt: skip
    source = open_webdataset(write_shard(tmp_path / "x.tar", files))
    assert set(classes(source)) == {"0.jpg", "1.jpg", "2.dat", "4.psd"}
    assert set(skipped(source)) == {"x.tar/3.dat", "x.tar/3.cls", "x.tar/classes.txt"}
