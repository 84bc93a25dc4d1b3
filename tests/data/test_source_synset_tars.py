"""One tar for each synset: in a folder, in split folders, in one outer tar."""

import io
import tarfile
from pathlib import Path

import pytest

from alexnet.data.sources.formats import is_format
from alexnet.data.sources.listing import Source
from alexnet.data.sources.synset_tars import open_synset_tars
from alexnet.errors import RequestError

ONE, TWO, THREE = "n00004475", "n01440764", "n12345678"


def tar_bytes(files: dict[str, bytes | None]) -> bytes:
    """A tar; None stands for a symbolic link."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return file.getvalue()


def synset_tar(class_id: str, *numbers: int) -> bytes:
    """Images whose content is their own name."""
    return tar_bytes({f"{class_id}_{number}.JPEG": f"{class_id} {number}".encode() for number in numbers})


def write(folder: Path, tars: dict[str, bytes]) -> Path:
    for name, content in tars.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(source: Source, split: str) -> dict[str, tuple[str, object]]:
    listing = source.splits[split]
    return {
        key: (source.class_ids[listing.labels[index]], listing.read(index)) for index, key in enumerate(listing.keys)
    }


EXPECTED = {
    f"{ONE}/{ONE}_1.JPEG": (ONE, f"{ONE} 1".encode()),
    f"{ONE}/{ONE}_20.JPEG": (ONE, f"{ONE} 20".encode()),
    f"{TWO}/{TWO}_7.JPEG": (TWO, f"{TWO} 7".encode()),
}
TARS = {f"{TWO}.tar": synset_tar(TWO, 7), f"{ONE}.tar": synset_tar(ONE, 20, 1)}


def test_a_folder_of_tars(tmp_path: Path) -> None:
    empty = {f"{THREE}.tar": tar_bytes({}), "n00000001.tar": b""}
    source = open_synset_tars(write(tmp_path / "fall11", {**TARS, **empty, "readme.txt": b"x", "n1.tar": b"x"}))
    assert (source.format, source.title, source.upright) == ("synset-tars", "fall11", False)
    assert list(source.class_ids) == [ONE, TWO]
    assert source.class_names == {ONE: ONE, TWO: "tench"}
    assert set(source.splits) == {"train"}
    assert contents(source, "train") == EXPECTED
    assert list(source.splits["train"].keys) == list(EXPECTED)


def test_an_outer_tar_gives_the_same_images(tmp_path: Path) -> None:
    outer = tmp_path / "fall11_whole.tar"
    outer.write_bytes(tar_bytes({**{f"fall11/{name}": content for name, content in TARS.items()}, "readme": b"x"}))
    assert is_format("synset-tars", outer)
    source = open_synset_tars(outer)
    assert source.title == "fall11_whole"
    assert contents(source, "train") == EXPECTED


def test_split_folders(tmp_path: Path) -> None:
    tars = {f"train/{name}": content for name, content in TARS.items()}
    source = open_synset_tars(write(tmp_path, {**tars, f"Validation/{ONE}.tar": synset_tar(ONE, 5), "x/y": b""}))
    assert contents(source, "train") == {f"train/{key}": value for key, value in EXPECTED.items()}
    assert contents(source, "val") == {f"Validation/{ONE}/{ONE}_5.JPEG": (ONE, f"{ONE} 5".encode())}
    assert is_format("synset-tars", tmp_path)


def test_names_inside_a_tar(tmp_path: Path) -> None:
    files = {f"{ONE}/{ONE}_1.JPEG": b"a", "./deep/2.JPEG": b"b", "../out.JPEG": b"c", "._3.JPEG": b"d", "link": None}
    source = open_synset_tars(write(tmp_path, {f"{ONE}.tar": tar_bytes(files), f"{TWO}.tar": synset_tar(TWO, 1)}))
    listing = source.splits["train"]
    keys = list(listing.keys)
    assert keys == [f"{ONE}/deep/2.JPEG", f"{ONE}/link", f"{ONE}/{ONE}_1.JPEG", f"{TWO}/{TWO}_1.JPEG"]
    assert listing.read(0) == b"b"
    with pytest.raises(OSError, match="links inside an archive are not followed"):
        listing.read(1)


def test_of_two_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w") as archive:
        for content in (b"first", b"second"):
            info = tarfile.TarInfo("1.JPEG")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    source = open_synset_tars(write(tmp_path, {f"{ONE}.tar": twice.getvalue(), f"{TWO}.tar": synset_tar(TWO, 1)}))
    assert contents(source, "train")[f"{ONE}/1.JPEG"] == (ONE, b"second")
    assert len(source.splits["train"]) == 2


@pytest.mark.parametrize(
    ("tars", "message"),
    [
        ({"a.txt": b""}, "has no tar of a synset"),
        ({f"{ONE}.tar": b"", f"{TWO}.tar": tar_bytes({})}, "all 2 tars of .* are empty"),
        (
            {f"{ONE}.tar": synset_tar(ONE, 1), f"{TWO}.tar": b"no tar" * 200},
            rf"{TWO}\.tar is not a tar, or a damaged one",
        ),
        (
            {f"{ONE}.tar": synset_tar(ONE, 1), f"{TWO}.tar": synset_tar(TWO, 1)[:515]},
            rf"{TWO}\.tar is not a tar, or a da",
        ),
        ({f"{ONE}.tar": synset_tar(ONE, 1), f"{TWO}.tar": tar_bytes({})}, "has 1 class with images"),
        ({f"val/{ONE}.tar": synset_tar(ONE, 1)}, "has val and no train"),
        (
            {f"{split}/{ONE}.tar": synset_tar(ONE, 1) for split in ("train", "val", "valid")},
            "has both val and valid for its val split",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, tars: dict[str, bytes], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_synset_tars(write(tmp_path, tars))


def test_a_damaged_tar_inside_the_outer_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "whole.tar").write_bytes(
        tar_bytes({f"{ONE}.tar": synset_tar(ONE, 1), f"{TWO}.tar": bytes(range(256)) * 6})
    )
    with pytest.raises(RequestError, match=rf"{TWO}\.tar inside a tar cannot be read"):
        open_synset_tars(tmp_path / "whole.tar")


def test_recognition(tmp_path: Path) -> None:
    folder = write(tmp_path / "tars", TARS)
    assert is_format("synset-tars", folder)
    assert not is_format("synset-tars", folder / f"{ONE}.tar")  # a plain tar
    assert not is_format("synset-tars", tmp_path / "missing")
    tree = write(tmp_path / "tree", {f"train/{ONE}/1.JPEG": b"x", f"{ONE}.tar.gz": b"", "notes.tar": b""})
    assert not is_format("synset-tars", tree)
    (tmp_path / "tree.tar").write_bytes(tar_bytes({f"{ONE}/1.JPEG": b"x", f"{TWO}/1.JPEG": b"x"}))
    assert not is_format("synset-tars", tmp_path / "tree.tar")
    (folder / ONE).mkdir()  # unpacked beside its tar
    assert not is_format("synset-tars", folder)
