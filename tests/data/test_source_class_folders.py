"""Folders, tars and zips of a class-per-folder tree: what is found in them, and what is refused."""

import io
import json
import os
import shutil
import tarfile
import tracemalloc
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.cli.main import main
from alexnet.data.sources.class_folders import parse_description
from alexnet.data.sources.formats import SOURCE_FORMATS, open_source
from alexnet.data.sources.listing import Listing, SkippedFiles, Source, with_hold_out
from alexnet.data.sources.zip_archive import read_zip_member_start, zip_members
from alexnet.errors import RequestError


def write_tree(folder: Path, places: list[str]) -> Path:
    """Files whose content is their own place."""
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.encode())
    return folder


def keys(source: Source, split: str) -> list[str]:
    return list(source.splits[split].keys)


def contents(listing: Listing) -> list[object]:
    return [listing.read(index) for index in range(len(listing))]


def classes(source: Source, split: str) -> list[str]:
    return [source.class_ids[label] for label in source.splits[split].labels]


SPLIT_TREE = ["train/b/2.png", "train/b/1.png", "train/n01440764/1.png", "val/b/9.png", "val/n01440764/8.png"]


def test_a_folder_tree_is_listed_in_order_of_keys(tmp_path: Path) -> None:
    write_tree(tmp_path, [*SPLIT_TREE, "train/b/.hidden", "train/b/Thumbs.db", ".git/x", "README.txt"])
    source = open_source(tmp_path)
    assert source.format == "folder" and source.side is None and not source.generated
    assert source.class_ids == ["b", "n01440764"]
    assert source.class_names == {"b": "b", "n01440764": "tench"}
    assert keys(source, "train") == ["train/b/1.png", "train/b/2.png", "train/n01440764/1.png"]
    assert keys(source, "val") == ["val/b/9.png", "val/n01440764/8.png"]
    assert classes(source, "val") == ["b", "n01440764"]
    assert source.splits["val"].read(1) == b"val/n01440764/8.png"


@pytest.mark.parametrize("kind", ["tar", "zip", "zip stored"])
def test_an_archive_gives_what_its_folder_gives(tmp_path: Path, kind: str) -> None:
    tree = write_tree(tmp_path / "pictures", SPLIT_TREE)
    path = tmp_path / f"pictures.{kind[:3]}"
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            tar.add(tree, "pictures")
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED) as packed:
            for place in SPLIT_TREE:
                packed.write(tree / place, f"pictures/{place}")
    folder, archive = open_source(tree), open_source(path)
    assert archive.format == kind[:3] and archive.title == folder.title == "pictures"
    for split in ("train", "val"):
        assert keys(archive, split) == keys(folder, split)
        assert classes(archive, split) == classes(folder, split)
        assert contents(archive.splits[split]) == contents(folder.splits[split])


@settings(max_examples=10, deadline=None)
@given(
    st.dictionaries(st.text("abcé ", min_size=1, max_size=5), st.binary(max_size=2000), min_size=2, max_size=6),
    st.booleans(),
)
def test_any_bytes_come_out_of_a_zip(files: dict[str, bytes], is_packed: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.zip"
        with zipfile.ZipFile(path, "w") as packed:
            for index, (name, content) in enumerate(files.items()):
                method = zipfile.ZIP_DEFLATED if is_packed else zipfile.ZIP_STORED
                packed.writestr(f"class{index % 2}/{name}", content, method)
        listing = open_source(path).splits["train"]
        read = {listing.keys[index].partition("/")[2]: listing.read(index) for index in range(len(listing))}
        assert read == files


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_members_of_one_name_the_last_counts(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    files = (("a/1", b"old"), ("b/1", b"b"), ("a/1", b"new one"))
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            for name, content in files:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    else:
        with zipfile.ZipFile(path, "w") as packed:
            for name, content in files:
                packed.writestr(name, content)
    listing = open_source(path).splits["train"]
    assert list(listing.keys) == ["a/1", "b/1"] and contents(listing) == [b"new one", b"b"]


def test_damage_and_traps_in_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name in ("a/1", "a/2", "b/1", "../b/outside", "/b/absolute"):
            packed.writestr(name, b"abc" * 100)
        link = zipfile.ZipInfo("b/link")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    content = bytearray(path.read_bytes())
    content[content.index(b"abc") + 5] ^= 1
    path.write_bytes(content)
    source = open_source(path)
    assert keys(source, "train") == ["a/1", "a/2", "b/1", "b/absolute", "b/link"]
    listing = source.splits["train"]
    with pytest.raises(OSError, match="its checksum is wrong"):
        listing.read(0)
    assert listing.read(1) == b"abc" * 100
    with pytest.raises(OSError, match="links inside an archive are not followed"):
        listing.read(4)
    path.write_bytes(content[:-30])
    with pytest.raises(RequestError, match="is not a zip, or a damaged one"):
        open_source(path)


def test_a_zip_that_lies_about_its_size_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/1", bytes(10**7))
        packed.writestr("b/1", b"x")
    content = path.read_bytes().replace((10**7).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    path.write_bytes(content)
    with pytest.raises(OSError, match="its checksum is wrong"):
        open_source(path).splits["train"].read(0)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_name_of_many_folders_does_not_fill_the_memory(tmp_path: Path, kind: str) -> None:
    deep = "/".join(["d"] * 20_000) + "/1.png"
    path = tmp_path / f"x.{kind}"
    names = ["a/1.png", "b/1.png", "c/" + "/".join(["d"] * 62) + "/1.png", deep]
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
    else:
        with zipfile.ZipFile(path, "w") as packed:
            for name in names:
                packed.writestr(name, b"")
    tracemalloc.start()
    try:
        source = open_source(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6  # all folders above it take 400 MB
    finally:
        tracemalloc.stop()
    assert source.class_ids == ["a", "b", "c"]
    assert list(source.skipped) == [(deep, "in more than 63 folders")]


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
        source.splits["train"].read(1)


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


def pack(folder: Path, kind: str) -> Path:
    """The folder itself, or a tar or a zip of it."""
    if kind == "folder":
        return folder
    return Path(shutil.make_archive(str(folder.with_name("packed")), kind, folder))


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"side": 20000}', "side: expected int <= 1024"),
        (b'{"side": -7}', "side: expected int >= 8"),
        (b'{"side": true}', "side: expected int, got bool"),
        (b'{"side": 32.5}', "side: expected int, got float"),
        (b'{"side": 1e400}', "side: expected int, got float"),
        (b'{"side": 99999999999999999999999}', "out of range"),
        (b'{"generated": "yes"}', "generated: expected bool, got str"),
        (b'{"title": 5}', "title: expected str, got int"),
        (b'{"title": ""}', "title: expected str of length >= 1"),
        (b'{"title": "\\ud800"}', "title: this text is not allowed"),
        (b'{"title": "\\u001b[2J"}', "title: this text is not allowed"),
        (b'{"title": "a\\nb"}', "title: this text is not allowed"),
        (b'{"title": "\xff"}', "byte 11 is not UTF-8"),
        (b"[" * 2000, "nesting is deeper|Expecting value"),
        (b"[" * 200_000, "4,096 bytes or more"),
        (b'{"title": "' + b"x" * 300 + b'"}', "title: expected str of length <= 200"),
        (b"[1]", "expected object, got array"),
        (b"", "Expecting value"),
        (b'{"side": 32, "side": 64}', "the key 'side' occurs twice"),
    ],
)
def test_a_description_that_cannot_be_right_is_refused(tmp_path: Path, content: bytes, said: str, kind: str) -> None:
    write_tree(tmp_path / "tree", ["a/1", "b/1"])
    (tmp_path / "tree" / "SOURCE.json").write_bytes(content)
    with pytest.raises(RequestError, match=rf"SOURCE\.json is damaged \(.*({said}).*\); fix or remove it; allowed are"):
        open_source(pack(tmp_path / "tree", kind))


def test_a_description_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a/1", "b/1"])
    with (tmp_path / "SOURCE.json").open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it whole would end the process
    with pytest.raises(RequestError, match="4,096 bytes or more"):
        open_source(tmp_path)


@given(
    st.binary(max_size=80)
    | st.dictionaries(st.text(), st.none() | st.integers() | st.text()).map(json.dumps).map(str.encode)
)
def test_any_description_is_read_or_refused(content: bytes) -> None:
    try:
        described = parse_description(content, Path("SOURCE.json"))
    except RequestError:
        return
    assert 8 <= described.get("side", 8) <= 1024
    title = described.get("title", "title")
    assert title and not {unicodedata.category(letter) for letter in title} & {"Cc", "Cs"}


@pytest.mark.parametrize(
    ("places", "folders", "message"),
    [
        ([], [], "has no files"),
        (["1.png", "2.png"], [], "no class folder with images; expected is one folder per class"),
        (["a/1"], [], "1 class with images"),
        (["train/a/1", "train/b/1", "val/b/1", "val/zebra/1"], [], "class zebra, which the training split lacks"),
        (
            ["train/Ko\u0308ln/1", "train/b/1", "val/b/1", "val/K\u00f6ln/1"],
            [],
            "K\u00f6ln, which the training split lacks; there the accents are encoded in another way",
        ),
        (["train/a/1", "train/b/1", "val/zebra/1"], [], "val of .* has zebra and no folder called like one in train"),
        (["val/a/1", "val/b/1"], [], "has val and no train"),
        (["train/a/1", "train/b/1", "val/a/1", "valid/a/1"], [], "has both val and valid for its val split"),
    ],
)
def test_trees_that_make_no_sense(tmp_path: Path, places: list[str], folders: list[str], message: str) -> None:
    write_tree(tmp_path, places)
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(RequestError, match=message):
        open_source(tmp_path)


def test_files_that_are_no_source(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        open_source(tmp_path / "missing")
    (tmp_path / "note.txt").write_text("no tar " * 200)
    with pytest.raises(RequestError, match="is not a tar"):
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
    assert with_hold_out(source, 0.0, 0) is source
    with pytest.raises(RequestError, match="--hold-out is 1"):
        with_hold_out(source, 1.0, 0)
    held = with_hold_out(source, 0.2, 7)
    assert np.bincount(held.splits["val"].labels, minlength=3).tolist() == [4, 2, 0]
    assert held.class_ids == source.class_ids == ["a", "b", "c"]
    assert sorted(keys(held, "train") + keys(held, "val")) == keys(source, "train")
    assert keys(with_hold_out(source, 0.2, 7), "val") == keys(held, "val")
    assert keys(with_hold_out(source, 0.2, 8), "val") != keys(held, "val")
    assert with_hold_out(held, 0.2, 0) is held


def test_odd_files_of_a_folder_are_refused_when_their_turn_comes(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a/1", "b/1"])
    (tmp_path / "a" / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "looping").symlink_to(tmp_path / "a" / "looping")
    os.mkfifo(tmp_path / "a" / "pipe")
    unprintable = os.fsencode(tmp_path / "a") + b"/\xff\xfe.png"
    Path(os.fsdecode(unprintable)).write_bytes(b"named in no UTF-8")
    listing = open_source(tmp_path).splits["train"]
    reasons = {}
    for index, key in enumerate(listing.keys):
        try:
            reasons[key] = listing.read(index)
        except OSError as error:
            reasons[key] = error.strerror or str(error)
    assert reasons == {
        "a/1": b"a/1",
        "a/dangling": "No such file or directory",
        "a/looping": "Too many levels of symbolic links",
        "a/pipe": "not a regular file",
        "a/\udcff\udcfe.png": b"named in no UTF-8",
        "b/1": b"b/1",
    }


def test_the_digest_of_a_source_sees_every_change(tmp_path: Path) -> None:
    write_tree(tmp_path, ["train/a/1", "train/b/1", "val/a/1"])
    before = open_source(tmp_path).digest()
    assert open_source(tmp_path).digest() == before
    (tmp_path / "train/a/1").write_bytes(b"changed")
    changed = open_source(tmp_path).digest()
    (tmp_path / "val/a/1").rename(tmp_path / "val/a/2")
    assert len({before, changed, open_source(tmp_path).digest()}) == 3


def test_a_kind_can_be_said_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, ["train/a/1", "train/b/1"])
    assert open_source(tmp_path, "folder").format == "folder"
    with pytest.raises(RequestError, match=r"--source-format is 'foldr'; allowed are .*folder"):
        open_source(tmp_path, "foldr")
    with pytest.raises(RequestError, match="cannot read"):
        open_source(tmp_path, "zip")


def test_the_help_lists_all_formats(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"format of SOURCE: {', '.join(list(SOURCE_FORMATS)[:-1])} or {list(SOURCE_FORMATS)[-1]} (default" in text
    with pytest.raises(RequestError, match=rf"--source-format is 'foo'; allowed are {', '.join(SOURCE_FORMATS)}$"):
        open_source(Path("any"), "foo")


def test_a_zip_with_backslashes_of_windows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("train\\a\\1.png", "train\\b\\1.png", "val\\a\\2.png", "val\\b\\"):
            archive.writestr(name, name.encode())
    source = open_source(tmp_path / "x.zip")
    assert keys(source, "train") == ["train/a/1.png", "train/b/1.png"] and keys(source, "val") == ["val/a/2.png"]
    assert source.splits["val"].read(0) == b"val\\a\\2.png"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 100_000])
@pytest.mark.parametrize("is_noise", [False, True])
def test_the_start_of_a_member_of_a_zip(tmp_path: Path, method: int, size: int, is_noise: bool) -> None:
    content = np.random.default_rng(size).bytes(size) if is_noise else bytes(size)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("a/x.bin", content)
    ((_, location),) = zip_members(tmp_path / "x.zip", SkippedFiles())
    assert location is not None
    assert read_zip_member_start(tmp_path / "x.zip", location, 4096) == content[:4096]
