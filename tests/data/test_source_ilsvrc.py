"""ILSVRC's archives: nested tars read in place, the development kit and its MATLAB file, and what is refused."""

import gzip
import io
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.sources import ilsvrc_kit, matlab
from alexnet.data.sources.formats import is_format
from alexnet.data.sources.ilsvrc import open_ilsvrc
from alexnet.data.sources.listing import Source
from alexnet.data.sources.matlab import read_struct_array
from alexnet.errors import RequestError

# --- A writer of MATLAB's level 5, from MathWorks' description of the format.

Field = str | float | list[float]


def element(order: str, kind: int, content: bytes, small: bool = True) -> bytes:
    """A tag and its content, in the small form where that is allowed."""
    if small and 0 < len(content) <= 4:
        return struct.pack(f"{order}I", len(content) << 16 | kind) + content.ljust(4, b"\0")
    return struct.pack(f"{order}2I", kind, len(content)) + content + bytes(-len(content) % 8)


def array(order: str, array_class: int, sizes: tuple[int, int], name: str, *parts: bytes) -> bytes:
    head = element(order, 6, struct.pack(f"{order}2I", array_class, 0))
    head += element(order, 5, struct.pack(f"{order}2i", *sizes)) + element(order, 1, name.encode())
    return element(order, 14, head + b"".join(parts), small=False)


def field(order: str, value: Field) -> bytes:
    """Numbers are of class double and stored as bytes where they fit, as MATLAB does."""
    if isinstance(value, str):
        return array(
            order, 4, (1, len(value)), "", element(order, 4, value.encode(f"utf-16-{'le' if order == '<' else 'be'}"))
        )
    numbers = value if isinstance(value, list) else [value]
    fits = all(number == int(number) and 0 <= number < 256 for number in numbers)
    content = bytes(map(int, numbers)) if fits else struct.pack(f"{order}{len(numbers)}d", *numbers)
    return array(order, 6, (len(numbers), 1), "", element(order, 2 if fits else 9, content))


def struct_array(order: str, name: str, rows: list[dict[str, Field]]) -> bytes:
    names = b"".join(one.encode().ljust(32, b"\0") for one in rows[0])
    values = [field(order, value) for row in rows for value in row.values()]
    parts = [element(order, 5, struct.pack(f"{order}i", 32)), element(order, 1, names, small=False), *values]
    return array(order, 2, (len(rows), 1), name, *parts)


def mat_file(*variables: bytes, order: str = "<", compress: bool = True) -> bytes:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100) + (b"IM" if order == "<" else b"MI")
    for variable in variables:
        packed = zlib.compress(variable)
        head += struct.pack(f"{order}2I", 15, len(packed)) + packed if compress else variable
    return head


def synset(year: int, number: int, wnid: str, words: str, children: list[float]) -> dict[str, Field]:
    row: dict[str, Field] = {f"ILSVRC{year}_ID": number, "WNID": wnid, "words": words, "gloss": "what it is"}
    return row | {"num_children": len(children), "children": children, "wordnet_height": 0, "num_train_images": 2}


CLASSES = [  # in the order of the competition's numbers, which is not that of the ids
    (1, "n03126707", "crane", []),
    (2, "n01440764", "tench, Tinca tinca", []),
    (3, "n02012849", "crane", []),
    (1001, "n00001740", "entity", [1.0, 2.0, 3.0]),
]


def meta(year: int = 2012, **kind: bool | str) -> bytes:
    order = str(kind.get("order", "<"))
    costs = array(order, 6, (2, 2), "cost_matrix", element(order, 9, bytes(32)))
    rows = [synset(year, *one) for one in CLASSES]
    return mat_file(costs, struct_array(order, "synsets", rows), order=order, compress=bool(kind.get("compress", True)))


# --- Archives.


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_bytes(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def picture(name: str) -> bytes:
    return b"\xff\xd8 a picture: " + name.encode()


TRAIN = {wnid: [f"{wnid}_{number}.JPEG" for number in (2, 10)] for _, wnid, _, children in CLASSES if not children}
LABELS = [2, 3, 1, 2]


def write_2012(folder: Path, labels: bytes = b"2\n3\n1\n2\n") -> Path:
    tars = {f"{wnid}.tar": tar_bytes({name: picture(name) for name in names}) for wnid, names in TRAIN.items()}
    write_tar(folder / "ILSVRC2012_img_train.tar", tars)
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 5)]
    write_tar(folder / "ILSVRC2012_img_val.tar", {name: picture(name) for name in reversed(names)})
    kit = {"meta.mat": meta(), "ILSVRC2012_validation_ground_truth.txt": labels}
    files = {f"ILSVRC2012_devkit_t12/data/{name}": content for name, content in kit.items()}
    write_tar(
        folder / "ILSVRC2012_devkit_t12.tar.gz", {"ILSVRC2012_devkit_t12/readme.txt": b"read me", **files}, "w:gz"
    )
    return folder


def contents(source: Source, split: str) -> dict[str, tuple[str, object]]:
    listing = source.splits[split]
    return {
        key: (source.class_ids[listing.labels[index]], listing.read(index)) for index, key in enumerate(listing.keys)
    }


def test_2012_is_read_in_place(tmp_path: Path) -> None:
    source = open_ilsvrc(write_2012(tmp_path))
    assert (source.format, source.title, source.upright, source.side) == ("ilsvrc", "ILSVRC-2012", False, None)
    assert list(source.class_ids) == ["n01440764", "n02012849", "n03126707"]
    assert source.class_numbers == {"n03126707": 1, "n01440764": 2, "n02012849": 3}
    assert source.class_names == {
        "n01440764": "tench",
        "n02012849": "crane (n02012849)",
        "n03126707": "crane (n03126707)",
    }
    assert contents(source, "train") == {
        f"train/{wnid}/{name}": (wnid, picture(name)) for wnid, names in TRAIN.items() for name in names
    }
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 5)]
    wnids = {number: wnid for number, wnid, _, _ in CLASSES}
    assert contents(source, "val") == {
        f"val/{name}": (wnids[label], picture(name)) for name, label in zip(names, LABELS, strict=True)
    }
    assert list(source.splits["val"].keys) == [f"val/{name}" for name in names]


def test_an_unpacked_kit_gives_the_same(tmp_path: Path) -> None:
    folder = write_2012(tmp_path)
    digest = open_ilsvrc(folder).digest()
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    assert open_ilsvrc(folder).digest() == digest


def write_2010(folder: Path) -> Path:
    tars = {f"{wnid}.tar": tar_bytes({name: picture(name) for name in names}) for wnid, names in TRAIN.items()}
    tars["n01440764.tar"] = tar_bytes({name: gzip.compress(picture(name)) for name in TRAIN["n01440764"]})
    write_tar(folder / "ILSVRC2010_images_train.tar", tars)
    for split in ("val", "test"):
        names = [f"{split}/ILSVRC2010_{split}_{number:08d}.JPEG" for number in (1, 2)]
        write_tar(folder / f"ILSVRC2010_images_{split}.tar", {name: picture(name) for name in names})
    (folder / "ILSVRC2010_test_ground_truth.txt").write_text("3\n3\n")
    kit = {"meta.mat": meta(2010), "ILSVRC2010_validation_ground_truth.txt": b"1\n2"}
    write_tar(
        folder / "devkit-1.0.tar.gz", {f"devkit-1.0/data/{name}": content for name, content in kit.items()}, "w:gz"
    )
    patches = {
        "patch_images/train/n02012849_2.JPEG": b"mended",
        "patch_images/val/ILSVRC2010_val_00000002.JPEG": b"too",
    }
    write_tar(folder / "patch_images.tar", patches)
    return folder


def test_2010_has_test_labels_mended_and_compressed_pictures(tmp_path: Path) -> None:
    source = open_ilsvrc(write_2010(tmp_path))
    assert source.title == "ILSVRC-2010" and set(source.splits) == {"train", "val", "test"}
    train = contents(source, "train")
    assert train["train/n01440764/n01440764_10.JPEG"] == ("n01440764", picture("n01440764_10.JPEG"))
    assert train["train/n02012849/n02012849_2.JPEG"] == ("n02012849", b"mended")
    assert train["train/n02012849/n02012849_10.JPEG"] == ("n02012849", picture("n02012849_10.JPEG"))
    assert contents(source, "val") == {
        "val/ILSVRC2010_val_00000001.JPEG": ("n03126707", picture("val/ILSVRC2010_val_00000001.JPEG")),
        "val/ILSVRC2010_val_00000002.JPEG": ("n01440764", b"too"),
    }
    assert [class_id for class_id, _ in contents(source, "test").values()] == ["n02012849", "n02012849"]
    (tmp_path / "ILSVRC2010_test_ground_truth.txt").unlink()
    with pytest.raises(
        RequestError, match=r"has no ILSVRC2010_test_ground_truth\.txt; download it from image-net\.org"
    ):
        open_ilsvrc(tmp_path)
    (tmp_path / "ILSVRC2010_images_test.tar").unlink()
    (tmp_path / "patch_images.tar").unlink()
    source = open_ilsvrc(tmp_path)
    assert set(source.splits) == {"train", "val"}
    assert contents(source, "train")["train/n02012849/n02012849_2.JPEG"][1] == picture("n02012849_2.JPEG")


def test_a_damaged_compressed_picture_is_refused_when_read(tmp_path: Path) -> None:
    write_2010(tmp_path)
    cut = gzip.compress(picture("n01440764_2.JPEG"))[:-9]
    tars = {f"{wnid}.tar": tar_bytes({name: cut for name in names}) for wnid, names in TRAIN.items()}
    write_tar(tmp_path / "ILSVRC2010_images_train.tar", tars)
    with pytest.raises(OSError, match="damaged gzip"):
        open_ilsvrc(tmp_path).splits["train"].read(0)


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"])
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    (write_2012(tmp_path) / name).unlink()
    with pytest.raises(RequestError, match=f"has no {name}.*download it from image-net.org"):
        open_ilsvrc(tmp_path)


def test_other_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"has no ILSVRC2012_img_train\.tar"):
        open_ilsvrc(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(RequestError, match="is not a folder"):
        open_ilsvrc(tmp_path / "file")
    write_2010(write_2012(tmp_path))
    with pytest.raises(
        RequestError, match=r"ILSVRC2012_img_train\.tar and ILSVRC2010_images_train\.tar; put each year"
    ):
        open_ilsvrc(tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (b"2\n3\n1\n", "has 4 images and .* 3 labels"),
        (b"2\n3\n1\n2\n1\n", "has 4 images and .* 5 labels"),
        (b"2\n3\n4\n2\n", "label 3 of .* is '4'; allowed are the numbers of the kit's 3 classes"),
        (b"2\n3\n1001\n2\n", "is '1001'"),
        (b"0\n3\n1\n2\n", "label 1 of .* is '0'"),
        (b"2\n3\n1\nn01440764\n", "label 4 of .* is 'n01440764'"),
        (b"2\n3\n-1\n\xb2\n", "is '-1'"),
        (b"2\n3\n1\n" + b"9" * 10**5, "is '999999999'"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_ilsvrc(write_2012(tmp_path, labels))


def test_a_gap_among_validation_images_is_named(tmp_path: Path) -> None:
    write_2012(tmp_path)
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 4, 5)]
    write_tar(tmp_path / "ILSVRC2012_img_val.tar", {name: b"x" for name in names})
    with pytest.raises(RequestError, match=r"has no ILSVRC2012_val_00000003\.JPEG but has ILSVRC2012_val_00000004"):
        open_ilsvrc(tmp_path)


def test_classes_that_kit_and_training_images_do_not_share(tmp_path: Path) -> None:
    write_2012(tmp_path)
    tars = {f"{wnid}.tar": tar_bytes({"x.JPEG": b"x"}) for wnid in [*TRAIN, "n99999999"]}
    write_tar(tmp_path / "ILSVRC2012_img_train.tar", tars)
    with pytest.raises(RequestError, match=r"has n99999999\.tar, a class that .* lacks"):
        open_ilsvrc(tmp_path)
    write_tar(tmp_path / "ILSVRC2012_img_train.tar", dict(list(tars.items())[1:3]))
    with pytest.raises(RequestError, match=r"the class n03126707 of .* has no training images"):
        open_ilsvrc(tmp_path)


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    kit = write_2012(tmp_path) / "ILSVRC2012_devkit_t12.tar.gz"
    content = kit.read_bytes()
    for damaged in (b"no gzip", content[:-30], b""):
        kit.write_bytes(damaged)
        with pytest.raises(RequestError, match=r"devkit_t12\.tar\.gz is not a development kit, or a damaged one"):
            open_ilsvrc(tmp_path)
    write_tar(kit, {"ILSVRC2012_devkit_t12/data/meta.mat": meta()}, "w:gz")
    with pytest.raises(RequestError, match=r"has no data/ILSVRC2012_validation_ground_truth\.txt in it"):
        open_ilsvrc(tmp_path)
    kit.write_bytes(content)
    inner = {"n01440764.tar": tar_bytes({"n01440764_1.JPEG": bytes(3000)})[:1500]}
    write_tar(tmp_path / "ILSVRC2012_img_train.tar", inner)
    with pytest.raises(RequestError, match=r"n01440764\.tar inside a tar cannot be read"):
        open_ilsvrc(tmp_path)


def test_recognition(tmp_path: Path) -> None:
    assert not is_format("ilsvrc", tmp_path) and not is_format("ilsvrc", tmp_path / "missing")
    assert is_format("ilsvrc", write_2012(tmp_path / "2012")) and is_format("ilsvrc", write_2010(tmp_path / "2010"))
    (tmp_path / "2012" / "ILSVRC2012_img_train.tar").unlink()
    assert is_format("ilsvrc", tmp_path / "2012")
    (tmp_path / "2012" / "train" / "n01440764").mkdir(parents=True)
    assert not is_format("ilsvrc", tmp_path / "2012")
    assert not is_format("ilsvrc", tmp_path / "2010" / "ILSVRC2010_images_train.tar")
    shutil.copy(tmp_path / "2010" / "ILSVRC2010_images_train.tar", tmp_path / "other.tar")
    assert not is_format("ilsvrc", tmp_path)


# --- The MATLAB file by itself.

FIELDS = ["ILSVRC2012_ID", "WNID", "words", "num_children"]
WHOLE_FILES = [meta(compress=False), meta(compress=True)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compress", [False, True])
def test_struct_arrays_in_both_byte_orders(order: str, compress: bool) -> None:
    rows = read_struct_array(meta(order=order, compress=compress), "synsets", FIELDS)
    assert [tuple(row.values()) for row in rows] == [
        (number, wnid, words, len(children)) for number, wnid, words, children in CLASSES
    ]


def test_numbers_texts_and_empty_fields() -> None:
    rows: list[dict[str, Field]] = [{"a": 2.5, "b": "Grüße, Ω"}, {"a": [], "b": ""}, {"a": 70000, "b": "z"}]
    content = mat_file(struct_array("<", "x", rows))
    assert read_struct_array(content, "x", ["b", "a"]) == [
        {"b": "Grüße, Ω", "a": 2.5},
        {"b": "", "a": None},
        {"b": "z", "a": 70000},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a MATLAB file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM", "of another version"),
        (mat_file(), "no variable synsets"),
        (mat_file(array("<", 6, (1, 1), "synsets", element("<", 2, b"\1"))), "synsets is not a struct array"),
        (mat_file(struct_array("<", "synsets", [{"WNID": "n1"}])), "no field ILSVRC2012_ID"),
        (mat_file(struct_array("<", "synsets", [{name: [1.0, 2.0] for name in FIELDS}])), "holds 2 numbers"),
    ],
)
def test_matlab_files_that_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_struct_array(content, "synsets", FIELDS)


def test_what_claims_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matlab, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="larger than 1,000 bytes"):
        read_struct_array(meta(), "synsets", FIELDS)
    monkeypatch.undo()
    monkeypatch.setattr(ilsvrc_kit, "MAX_KIT_BYTES", 1000)
    with pytest.raises(RequestError, match=r"unpacks to more than 1,000 bytes"):
        open_ilsvrc(write_2012(tmp_path))


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_damage_to_a_matlab_file_is_refused_or_harmless(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(WHOLE_FILES)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    try:
        rows = read_struct_array(bytes(content[:length]), "synsets", FIELDS)
    except ValueError:
        return
    assert all(list(row) == FIELDS for row in rows)


def test_what_scipy_writes_is_read() -> None:
    scipy_io = pytest.importorskip("scipy.io")
    numpy = pytest.importorskip("numpy")
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    rows = numpy.array([(7.0, "n1", "a, b", numpy.uint8(0)), (1000, "n2", "ä", 3.0)], kinds)
    for do_compression in (False, True):
        file = io.BytesIO()
        scipy_io.savemat(file, {"before": numpy.eye(3), "synsets": rows[:, None]}, do_compression=do_compression)
        read = read_struct_array(file.getvalue(), "synsets", FIELDS)
        assert [tuple(row.values()) for row in read] == [(7, "n1", "a, b", 0), (1000, "n2", "ä", 3)]
