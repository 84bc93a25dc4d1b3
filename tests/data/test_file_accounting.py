"""Every file, member and row of a source is accounted for: stored, refused, skipped, or read as a label or description.

A format has one builder or several here. Each makes a source with sound, damaged, oddly named, duplicate and foreign
entries, links and special files, and says what becomes of each entry.
"""

import io
import json
import os
import pickle
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.test_source_idx import idx
from tests.data.test_source_ilsvrc import meta

from alexnet.data.preparation.prepare import prepare
from alexnet.data.sources.formats import SOURCE_FORMATS, open_source
from alexnet.errors import RequestError

STORED, REFUSED, SKIPPED, READ = "stored", "refused", "skipped", "read"
"""What becomes of an entry; `READ` is a label, a description or an archive that is read."""
LINK, PIPE = "link", "pipe"
WEB_PAGE = b"<!DOCTYPE html><title>404</title>"


def picture(shade: int = 0, image_format: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (12, 10), (shade % 256, 255 - shade % 256, 90)).save(content, image_format)
    return content.getvalue()


@dataclass
class Expected:
    """A source, and what becomes of each entry: as the preparation names it, which for a folder is the folder."""

    path: Path
    source_format: str
    entries: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, name: str, outcome: str) -> None:
        self.entries[name, outcome] += 1


# Contents and outcomes of files in a class folder, alike in folders, tars and zips.
CLASS_FILES: dict[str, tuple[bytes, str]] = {
    "0.png": (picture(0), STORED),
    "copy of 0.png": (picture(0), STORED),
    "1.JPG": (picture(1, "JPEG"), STORED),
    "2.tif": (picture(2, "TIFF"), STORED),
    "photograph": (picture(3), STORED),
    "2023.05.04": (picture(4), STORED),
    "4.dat": (picture(5), STORED),
    "wrong name.txt": (picture(6), STORED),
    "ü \U0001f600\u200d.png": (picture(7), STORED),
    "deeper/8.png": (picture(8), STORED),
    "page.jpg": (WEB_PAGE, REFUSED),
    "empty.png": (b"", REFUSED),
    "cut.png": (picture(9)[:60], REFUSED),
    "part.jpg.part": (picture(9, "JPEG")[:60], REFUSED),
    "no ending": (b"anything", REFUSED),
    "drawing.svg": (b"<svg/>", REFUSED),
    "alone.NEF": (picture(10, "TIFF"), REFUSED),
    "1.CR2": (picture(1, "TIFF"), SKIPPED),
    "1.1.CR2": (picture(1, "TIFF"), REFUSED),
    "notes.txt": (b"text", SKIPPED),
    "0.AAE": (b"<plist/>", SKIPPED),
    "0.png.json": (b"{}", SKIPPED),
    "0.MOV": (b"\0\0\0\x14ftypqt  ", SKIPPED),
    "what.unknown": (b"anything", SKIPPED),
    "._0.png": (picture(0), SKIPPED),
    ".DS_Store": (b"", SKIPPED),
    "Thumbs.db": (b"", SKIPPED),
    "0.THM": (picture(0, "JPEG"), SKIPPED),
}
BESIDE: dict[str, tuple[bytes, str]] = {
    "README.md": (b"about", SKIPPED),
    "SOURCE.json": (b"{}", READ),
    "train/labels.csv": (b"path,label", SKIPPED),
    "train/no class.png": (picture(1), STORED),
}


def tree() -> dict[str, tuple[bytes, str]]:
    """Files of two classes in two splits, and beside them."""
    folders = [f"{split}/{class_id}" for split in ("train", "val") for class_id in ("a", "b c")]
    return BESIDE | {f"{folder}/{name}": one for folder in folders for name, one in CLASS_FILES.items()}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def tar_of(members: list[tuple[str, bytes | str]]) -> bytes:
    """A tar; the same name may come twice."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type = {LINK: tarfile.SYMTYPE, PIPE: tarfile.FIFOTYPE}[content]
                info.linkname = "0.png"
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def build_folder(place: Path) -> Expected:
    expected = Expected(place / "source", "folder")
    write_files(expected.path, {name: content for name, (content, _) in tree().items()})
    for name, (_, outcome) in tree().items():
        expected.add(name, outcome)
    train = expected.path / "train" / "a"
    write_files(train, {"@eaDir/0.png/M.jpg": picture(0), "@eaDir/1.JPG/M.jpg": picture(1)})
    write_files(expected.path, {".git/config": b"", "train/.hidden/0.png": picture(0)})
    for name in ("train/a/@eaDir/", ".git/", "train/.hidden/"):
        expected.add(name, SKIPPED)
    (train / "link.png").symlink_to("0.png")
    (train / "dangling.png").symlink_to("nothing")
    (train / "linked folder").symlink_to("deeper")
    os.mkfifo(train / "pipe.png")
    os.mkfifo(train / "pipe.foo")
    write_files(train, {os.fsdecode(b"\xff.png"): picture(3)})
    for name, outcome in (
        ("link.png", STORED),
        ("dangling.png", REFUSED),
        ("linked folder/8.png", STORED),
        ("pipe.png", REFUSED),
        ("pipe.foo", REFUSED),
        (os.fsdecode(b"\xff.png"), STORED),
    ):
        expected.add(f"train/a/{name}", outcome)
    return expected


def build_tar(place: Path) -> Expected:
    expected = Expected(place / "source.tar", "tar")
    members: list[tuple[str, bytes | str]] = [("./train/a/0.png", b"replaced later"), ("train/a/again.png", b"1")]
    expected.add("train/a/0.png", SKIPPED)
    expected.add("train/a/again.png", SKIPPED)
    for name, (content, outcome) in tree().items():
        members.append((name, content))
        expected.add(name, outcome)
    for name, content, named, outcome in (
        ("/train/a/absolute.png", picture(1), "train/a/absolute.png", STORED),
        ("train/a/again.png", picture(2), "train/a/again.png", STORED),
        ("train/a/link.png", LINK, "train/a/link.png", REFUSED),
        ("train/a/pipe.png", PIPE, "train/a/pipe.png", REFUSED),
        ("train/a/pipe.foo", PIPE, "train/a/pipe.foo", REFUSED),
        ("../outside.png", picture(1), "../outside.png", SKIPPED),
        ("train/a/../../../outside.png", picture(1), "train/a/../../../outside.png", SKIPPED),
        ("__MACOSX/train/a/._0.png", b"", "__MACOSX/", SKIPPED),
    ):
        members.append((name, content))
        expected.add(named, outcome)
    expected.path.write_bytes(tar_of(members))
    return expected


def build_zip(place: Path) -> Expected:
    expected = Expected(place / "source.zip", "zip")
    with zipfile.ZipFile(expected.path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the same name twice
        archive.writestr("train/a/0.png", b"replaced later")
        expected.add("train/a/0.png", SKIPPED)
        archive.writestr("empty folder/", b"")
        for name, (content, outcome) in tree().items():
            archive.writestr(name, content)
            expected.add(name, outcome)
        link = zipfile.ZipInfo("train/a/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "0.png")
        expected.add("train/a/link.png", REFUSED)
        archive.writestr("../outside.png", picture(1))
        expected.add("../outside.png", SKIPPED)
        archive.writestr("train/a/@eaDir/0.png/M.jpg", picture(1))
        expected.add("train/a/@eaDir/", SKIPPED)
    return expected


def build_csv(place: Path) -> Expected:
    expected = Expected(place / "list.csv", "csv")
    lines = []
    for name, (content, outcome) in CLASS_FILES.items():
        write_files(place, {f"img/{name}": content})
        # Of the hidden files of a table only those that look like images are taken.
        outcome = STORED if name == "._0.png" else outcome
        lines.append(f'"img/{name}",{"ab"[len(lines) % 2]},train')
        expected.add(f"img/{name}", outcome)
    write_files(place, {"img/3.jpeg": picture(3, "JPEG"), "img/v.png": picture(0), "outside.png": picture(0)})
    (place / "img" / "out.png").symlink_to("/etc/hostname")
    os.mkfifo(place / "img" / "pipe.png")
    for listed, named, outcome in (
        ("img\\0.png", "img/0.png", STORED),
        ("img/3", "img/3.jpeg", STORED),
        ("img/v.png", "img/v.png", STORED),
        ("img/missing.png", "img/missing.png", REFUSED),
        ("../elsewhere.png", "../elsewhere.png", REFUSED),
        ("C:\\img\\0.png", "C:\\img\\0.png", REFUSED),
        ("img/out.png", "img/out.png", REFUSED),
        ("img/pipe.png", "img/pipe.png", REFUSED),
        ("img/deeper", "img/deeper", REFUSED),
    ):
        lines.append(f"{listed},{'ab'[len(lines) % 2]},val")
        expected.add(named, outcome)
    expected.path.write_text("\n".join(["path,label,split", *lines]) + "\n", encoding="utf-8")
    return expected


def build_webdataset(place: Path) -> Expected:
    expected = Expected(place / "shards", "webdataset")
    shards: dict[str, list[tuple[str, bytes | str]]] = {"train": [], "val": []}

    def member(split: str, name: str, content: bytes | str, outcome: str, named: str = "") -> None:
        shards[split].append((name, content))
        expected.add(named or f"{split}-0.tar/{name}", outcome)

    for split in shards:
        for number, (name, (content, outcome)) in enumerate(CLASS_FILES.items()):
            if name.endswith(("png", "JPG", "tif", "jpg", "dat", "svg")) and not name.startswith("._"):
                key = f"{number}. and dots" if number % 2 else str(number)
                member(split, f"{key}.{name.rpartition('.')[2]}", content, outcome)
                member(split, f"{key}.cls", str(number % 3 // 2).encode(), READ)
        member(split, "x.jpg", picture(9), STORED)
        member(split, "x.json", b'{"label": 1}', READ)
        member(split, "x.mask.png", picture(1), SKIPPED)
        member(split, "x.txt", b"a caption", SKIPPED)
        member(split, "y.mask.png", picture(1), SKIPPED)
        member(split, "y.cls", b"1", SKIPPED)
        member(split, "z.npy", b"\x93NUMPY", SKIPPED)
        member(split, "z.cls", b"1", SKIPPED)
        member(split, "link.jpg", LINK, REFUSED)
        member(split, "link.cls", b"1", READ)
        member(split, "v.png", picture(1), STORED)
        member(split, "v.json", LINK, SKIPPED)
        member(split, "v.cls", b"0", READ)
        member(split, "w.png", b"replaced later", SKIPPED)
        member(split, "w.png", picture(1), STORED)
        member(split, "w.cls", b"1", READ)
        member(split, "notes.txt", b"text", SKIPPED)
        member(split, "__MACOSX/._x.jpg", b"", SKIPPED, f"{split}-0.tar/__MACOSX/")
        member(split, "../out.jpg", b"", SKIPPED)
    write_files(expected.path, {f"{split}-0.tar": tar_of(members) for split, members in shards.items()})
    write_files(expected.path, {"README.md": b"about", "extra/0.png": picture(0), ".git/config": b""})
    for name in ("README.md", "extra/", ".git/"):
        expected.add(name, SKIPPED)
    return expected


def synset_members(expected: Expected, prefix: str) -> bytes:
    """A synset's tar with the files of a class folder, and what becomes of them."""
    members: list[tuple[str, bytes | str]] = [("0.png", b"replaced later"), ("link.JPEG", LINK), ("../out.JPEG", b"")]
    for name, outcome in (("0.png", SKIPPED), ("link.JPEG", REFUSED), ("../out.JPEG", SKIPPED)):
        expected.add(prefix + name, outcome)
    for name, (content, outcome) in CLASS_FILES.items():
        members.append((name, content))
        expected.add(prefix + name, outcome)
    return tar_of(members)


def build_synset_tars(place: Path) -> Expected:
    expected = Expected(place / "synsets", "synset-tars")
    for split in ("train", "val"):
        for class_id in ("n01440764", "n02102040"):
            content = synset_members(expected, f"{split}/{class_id}/")
            write_files(expected.path, {f"{split}/{class_id}.tar": content})
    write_files(
        expected.path, {"train/n00000001.tar": b"", "urls.txt": b"", "n00000002.tar": b"", "train/more.tar": b""}
    )
    for name in ("train/n00000001.tar", "urls.txt", "n00000002.tar", "train/more.tar"):
        expected.add(name, SKIPPED)
    return expected


def build_outer_synset_tar(place: Path) -> Expected:
    expected = Expected(place / "whole.tar", "synset-tars")
    members: list[tuple[str, bytes | str]] = [("n01440764.tar", b""), ("readme.txt", b""), ("n00000001.tar", LINK)]
    for name in ("n01440764.tar", "readme.txt", "n00000001.tar"):
        expected.add(name, SKIPPED)
    members += [(f"{name}.tar", synset_members(expected, f"{name}/")) for name in ("n01440764", "n02102040")]
    expected.path.write_bytes(tar_of(members))
    return expected


def build_ilsvrc(place: Path) -> Expected:
    expected = Expected(place / "ilsvrc", "ilsvrc")
    train: list[tuple[str, bytes | str]] = [("notes.txt", b"")]
    expected.add("notes.txt", SKIPPED)
    for class_id in ("n03126707", "n01440764", "n02012849"):
        train.append((f"{class_id}.tar", synset_members(expected, f"train/{class_id}/")))
    held_out: list[tuple[str, bytes | str]] = []
    for number in range(1, 5):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        held_out.append((name, WEB_PAGE if number == 4 else picture(number, "JPEG")))
        expected.add(f"val/{name}", REFUSED if number == 4 else STORED)
    held_out.append(("ILSVRC2012_val_00000001.png", picture(1)))
    expected.add("ILSVRC2012_img_val.tar/ILSVRC2012_val_00000001.png", SKIPPED)
    kit = "ILSVRC2012_devkit_t12/data/"
    write_files(
        expected.path,
        {
            "ILSVRC2012_img_train.tar": tar_of(train),
            "ILSVRC2012_img_val.tar": tar_of(held_out),
            f"{kit}meta.mat": meta(),
            f"{kit}ILSVRC2012_validation_ground_truth.txt": b"2\n3\n1\n2\n",
            "ILSVRC2012_bbox_train.tar.gz": b"",
        },
    )
    expected.add("ILSVRC2012_bbox_train.tar.gz", SKIPPED)
    return expected


def build_ilsvrc_2010(place: Path) -> Expected:
    expected = Expected(place / "ilsvrc", "ilsvrc")
    classes = ("n03126707", "n01440764", "n02012849")
    train = [(f"{one}.tar", tar_of([(f"{one}_{n}.JPEG", picture(n, "JPEG")) for n in range(2)])) for one in classes]
    for class_id in classes:
        for number in range(2):
            expected.add(f"train/{class_id}/{class_id}_{number}.JPEG", STORED)
    expected.add("train/n01440764/n01440764_1.JPEG", SKIPPED)  # the one that is corrected
    expected.add("patch_images.tar/train/n01440764_9.JPEG", SKIPPED)
    patches = [(f"patch_images/train/n01440764_{number}.JPEG", picture(99, "JPEG")) for number in (1, 9)]
    held_out = [(f"val/ILSVRC2010_val_{number:08d}.JPEG", picture(number, "JPEG")) for number in range(1, 4)]
    for name, _ in held_out:
        expected.add(name, STORED)
    write_files(
        expected.path,
        {
            "ILSVRC2010_images_train.tar": tar_of(list(train)),
            "ILSVRC2010_images_val.tar": tar_of(list(held_out)),
            "patch_images.tar": tar_of(list(patches)),
            "devkit-1.0/data/meta.mat": meta(2010),
            "devkit-1.0/data/ILSVRC2010_validation_ground_truth.txt": b"2\n3\n1\n",
        },
    )
    return expected


def build_arrow(place: Path, ending: str) -> Expected:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    expected = Expected(place / "hub", "parquet")
    expected.path.mkdir()
    cells = [picture(0), picture(0), picture(1, "JPEG"), WEB_PAGE, b"", None, picture(2)[:60], picture(3)]
    outcomes = [STORED, STORED, STORED, REFUSED, REFUSED, REFUSED, REFUSED, STORED]
    for split, labels in (("train", [0, 1] * 4), ("validation", [1, 0] * 4), ("test", [-1] * 8)):
        made = pa.table({"image": pa.array(cells, pa.binary()), "label": pa.array(labels)})
        name = f"{split}-00000-of-00001.{ending}"
        if ending == "parquet":
            parquet.write_table(made, expected.path / name, row_group_size=3)
        else:
            with pa.ipc.new_stream(str(expected.path / name), made.schema) as writer:
                writer.write_table(made, max_chunksize=3)
        for row, outcome in enumerate(outcomes):
            expected.add(f"{name}/{row:07d}", outcome)
    write_files(expected.path, {"README.md": b"about", ".gitattributes": b"", "state.json": b"{}"})
    write_files(expected.path, {f"cache-1.{ending}": b"", ".git/config": b"", f"a/b/c/d/e/deep.{ending}": b""})
    for name in ("README.md", ".gitattributes", "state.json", f"cache-1.{ending}", ".git/", "a/b/c/d/e/"):
        expected.add(name, SKIPPED)
    return expected


def build_parquet(place: Path) -> Expected:
    return build_arrow(place, "parquet")


def build_arrow_stream(place: Path) -> Expected:
    return build_arrow(place, "arrow")


def build_idx(place: Path) -> Expected:
    expected = Expected(place / "digits", "idx")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 9), np.uint8)
    files = {}
    for split, images in (("train", pixels), ("t10k", np.ones_like(pixels))):
        files[f"{split}-images-idx3-ubyte"] = idx(images)
        files[f"{split}-labels-idx1-ubyte"] = idx(np.arange(6) % 2)
        for number in range(6):
            expected.add(f"{'train' if split == 'train' else 'test'}/{number:06d}", STORED)
    write_files(
        expected.path, files | {"classes.txt": b"zero\none\n", "README": b"", "train-images-idx3-ubyte.gz": b""}
    )
    for name in ("README", "train-images-idx3-ubyte.gz"):
        expected.add(name, SKIPPED)
    return expected


def build_cifar10(place: Path) -> Expected:
    expected = Expected(place / "cifar", "cifar")
    random = np.random.default_rng(0)
    stems = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    files = {"batches.meta.txt": b"cat\ndog\n", "readme.html": b"about", "SOURCE.json": b"{}"}
    for stem in stems:
        pixels = random.integers(0, 256, (2, 3072), np.uint8)
        files[f"{stem}.bin"] = np.column_stack([np.arange(2, dtype=np.uint8), pixels]).tobytes()
        for record in range(2):
            expected.add(f"{stem}/{record:05d}", STORED)
    write_files(expected.path / "cifar-10-batches-bin", files)
    write_files(expected.path, {"cifar-10-binary.tar.gz": b""})
    expected.add("cifar-10-batches-bin/readme.html", SKIPPED)
    expected.add("cifar-10-binary.tar.gz", SKIPPED)
    return expected


def build_cifar100(place: Path) -> Expected:
    expected = Expected(place / "cifar", "cifar-100-coarse")
    names = {"fine_label_names": ["ant", "bee", "cat"], "coarse_label_names": ["insect", "beast"]}
    files = {"meta": pickle.dumps(names), "file.txt~": b""}
    expected.add("file.txt~", SKIPPED)
    for split in ("train", "test"):
        pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), np.uint8)
        labels = {"fine_labels": [0, 1, 2, 0], "coarse_labels": [0, 0, 1, 0]}
        files[split] = pickle.dumps({"data": pixels, **labels}, 2)
        for record in range(4):
            expected.add(f"{split}/{record:05d}", STORED)
    write_files(expected.path, files)
    return expected


BUILDERS: dict[str, list[Callable[[Path], Expected]]] = {
    "cifar": [build_cifar10],
    "cifar-100-coarse": [build_cifar100],
    "idx": [build_idx],
    "ilsvrc": [build_ilsvrc, build_ilsvrc_2010],
    "synset-tars": [build_synset_tars, build_outer_synset_tar],
    "parquet": [build_parquet, build_arrow_stream],
    "csv": [build_csv],
    "webdataset": [build_webdataset],
    "zip": [build_zip],
    "tar": [build_tar],
    "folder": [build_folder],
}


def test_every_format_is_accounted_for() -> None:
    assert BUILDERS.keys() == SOURCE_FORMATS.keys(), "a new format needs a builder here"


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
@pytest.mark.parametrize("build", [one for builders in BUILDERS.values() for one in builders])
def test_every_entry_has_the_outcome_that_is_expected(
    build: Callable[[Path], Expected], store: str, tmp_path: Path
) -> None:
    expected = build(tmp_path)
    out = tmp_path / "out"
    data = prepare(
        expected.path, out, source_format=expected.source_format, side=8, store=store, max_refused=1, shard_images=7
    )
    found: Counter[tuple[str, str]] = Counter()
    for split in data.splits.values():
        found.update((key, STORED) for key in split.keys)
    for outcome in (REFUSED, SKIPPED):
        lines = [json.loads(line) for line in (out / f"{outcome}.jsonl").read_text().splitlines()]
        found.update((line["path"], outcome) for line in lines)
        assert all(line["reason"] for line in lines)
        assert data.description[f"num_{outcome}"] == len(lines)
    wanted = Counter({one: number for one, number in expected.entries.items() if one[1] != READ})
    assert dict(wanted - found) == {} and dict(found - wanted) == {}
    listed = sum(split["listed"] for split in data.description["splits"].values())
    assert listed == sum(len(split) for split in data.splits.values()) + data.description["num_refused"]


NAMES = st.sampled_from(
    [
        *CLASS_FILES,
        "a",
        "b",
        "train",
        "x.jpg",
        "x.cls",
        "x.json",
        "x.y.jpg",
        "x.y.cls",
        "x.a.png",
        ".x",
        "x.",
        "..png",
        "é.cls",
    ]
)
CONTENTS = st.sampled_from([picture(0), WEB_PAGE, b"", b"1", b"{}"])


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["folder", "tar", "zip", "webdataset"]),
    st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=4), CONTENTS), max_size=12),
)
def test_any_tree_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, source_format: str, drawn: list[tuple[list[str], bytes]]
) -> None:
    place = tmp_path_factory.mktemp("tree")
    base = "" if source_format == "webdataset" else "train/"
    sound = {f"{base}{class_id}/{number}.png": picture(number) for class_id in "ab" for number in range(2)}
    if source_format == "webdataset":
        sound |= {f"{class_id}/{number}.cls": class_id.encode() for class_id in "ab" for number in range(2)}
    files = dict(sound)
    for parts, content in drawn:
        name = "/".join(parts)
        # A file cannot be a folder as well.
        if not any(f"{one}/".startswith(f"{name}/") or f"{name}/".startswith(f"{one}/") for one in files):
            files[name] = content
    path = place / "source"
    if source_format == "folder":
        write_files(path, files)
    elif source_format == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        path.write_bytes(tar_of(list(files.items())))
    try:
        source = open_source(path, source_format)
    except RequestError:
        return
    prefix = "source/" if source_format == "webdataset" else ""
    skipped = [name for name, _ in source.skipped]
    accounted = [*(key for listing in source.splits.values() for key in listing.keys), *skipped]
    assert len(set(accounted)) == len(accounted)
    for name in files:
        is_label = source_format == "webdataset" and name.lower().endswith((".cls", ".json"))
        above = [f"{prefix}{name[: index + 1]}" for index, letter in enumerate(name) if letter == "/"]
        times = sum(one in accounted for one in [prefix + name, *above])
        assert times == 1 or (times == 0 and is_label), name
    extra = set(accounted) - {prefix + name for name in files}
    assert all(name.endswith("/") for name in extra)
