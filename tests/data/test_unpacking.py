"""Unpacking: the same files as other programs find, and one error for what is damaged, too large or leads outside."""

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet.data.sources.matlab import read_numbers
from alexnet.data.unpacking import NamedFile, files_of_inner_tar, folder_files, tar_files, unpack, zip_files
from alexnet.errors import AlexNetError, RequestError, WorkError

PARTS = st.text("ab.é ", min_size=1, max_size=8).filter(lambda part: part not in (".", ".."))
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
FILES = st.dictionaries(NAMES, st.binary(max_size=3000), min_size=1, max_size=6)
FORMATS = st.sampled_from((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def a_tar(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def read_all(files: Iterator[NamedFile]) -> list[tuple[str, bytes]]:
    return [(name, b"".join(content)) for name, content in files]


@given(FILES, FORMATS, st.booleans())
@FEW
def test_the_files_of_archives(tmp_path: Path, files: dict[str, bytes], form: int, is_gzipped: bool) -> None:
    content = a_tar(files, form)
    content = gzip.compress(content) if is_gzipped else content
    path = tmp_path / "a.tgz"
    path.write_bytes(content)
    assert read_all(tar_files(path, 1 << 20)) == [*files.items()]
    # Those that are not read are passed over.
    assert [name for name, _ in tar_files(path, 1 << 20)] == [*files]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/the.tgz", content)
        for name, other in files.items():
            archive.writestr(f"at/{name}", other)
    found = dict(read_all(zip_files(path)))
    assert found == {"in/the.tgz": content} | {f"at/{name}": other for name, other in files.items()}
    assert read_all(files_of_inner_tar(path, "in/the.tgz", 1 << 20)) == [*files.items()]
    with pytest.raises(WorkError, match=r"a.zip is corrupt or another version: it has no in/other"):
        read_all(files_of_inner_tar(path, "in/other", 1 << 20))


@given(st.data())
@FEW
def test_damaged_archives_are_one_error(tmp_path: Path, data: st.DataObject) -> None:
    files = {"one": bytes(range(256)) * 9, "two/three": b"text" * 300}
    content = bytearray(gzip.compress(a_tar(files), 1))
    end = data.draw(st.integers(0, len(content)))
    flips = data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)), max_size=3))
    for at, bits in flips:
        content[at] ^= bits
    path = tmp_path / "a.tgz"
    path.write_bytes(content[:end])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.tgz", bytes(content[:end]))
    for found in (tar_files(path, 1 << 20), files_of_inner_tar(tmp_path / "a.zip", "a.tgz", 1 << 20)):
        try:
            assert len(read_all(found)) <= 2
        except WorkError as error:
            assert "a.tgz" in str(error) and "is corrupt or another version" in str(error)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    whole = a_tar({"one": b"x" * 700, "two": b"y" * 100})
    end = len(whole.rstrip(b"\0"))
    path = tmp_path / "a.tgz"
    for size in (*range(0, end, 97), end):
        path.write_bytes(gzip.compress(whole[:size]))
        where = "a file" if 512 < size < 1212 else ""
        with pytest.raises(WorkError, match=rf"a.tgz is corrupt or another version: it .*{where}"):
            read_all(tar_files(path, 1 << 20))


def test_what_unpacks_to_more_than_allowed_is_refused_in_little_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("large")
    header.size = 1 << 30
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    zeros = gzip.compress(bytes(1 << 24), 9)  # joined ones unpack to all of theirs
    for number, first in enumerate((header, long_name)):
        content = gzip.compress(first.tobuf(tarfile.GNU_FORMAT)) + zeros * 64
        (tmp_path / f"{number}.tgz").write_bytes(content)
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr("inner", content)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from alexnet.data.unpacking import files_of_inner_tar, tar_files, unpack\n"
        "from alexnet.errors import WorkError\n"
        "folder = Path(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for number in range(2):\n"
        "    for files in (tar_files(folder / f'{number}.tgz', 1 << 26),\n"
        "                  files_of_inner_tar(folder / f'{number}.zip', 'inner', 1 << 26)):\n"
        "        try:\n"
        "            unpack(files, lambda name: name, folder / 'out', max_files=9, origin='it', progress=False)\n"
        "        except WorkError as error:\n"
        "            print(error)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 30_000, grown\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is corrupt or another version: ") == 4 and "1,073,741,824 bytes" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["../x", "a/../../x", "/x", "a//b", "./a", "a/", "", "a\0b"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(WorkError, match="outside of its folder"):
        unpack([("n", iter([b"x"]))], lambda name: target, tmp_path / "in", max_files=9, origin="it", progress=False)
    assert [*tmp_path.rglob("*")] == [tmp_path / "in"]


def test_files_are_counted_and_never_replaced(tmp_path: Path) -> None:
    files = [(name, iter([name.encode(), b"!"])) for name in ("a", "b", "skip", "c/d")]
    place = {name: name for name in ("a", "b", "c/d")}.get
    assert unpack(files, place, tmp_path, max_files=3, origin="it", progress=False) == 1
    assert {
        path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    } == {name: name.encode() + b"!" for name in ("a", "b", "c/d")}
    with pytest.raises(WorkError, match="it has two files b"):
        unpack([("b", iter([b"other"]))], place, tmp_path, max_files=3, origin="it", progress=False)
    assert (tmp_path / "b").read_bytes() == b"b!"
    with pytest.raises(WorkError, match="it has more than 0 files"):
        unpack([("a", iter([b""]))], place, tmp_path, max_files=0, origin="it", progress=False)


def test_links_to_folders_and_other_things_of_a_folder_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "top" / "b").mkdir(parents=True)
    (tmp_path / "top" / "b" / "1").write_bytes(b"one")
    (tmp_path / "top" / "a").write_bytes(b"two")
    (tmp_path / "top" / "loop").symlink_to(tmp_path / "top")
    (tmp_path / "top" / "file link").symlink_to(tmp_path / "top" / "a")
    (tmp_path / "top" / "broken").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "top" / "pipe")
    assert read_all(folder_files(tmp_path / "top")) == [("a", b"two"), ("file link", b"two"), ("b/1", b"one")]


def test_zips_with_links_passwords_or_wrong_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good", b"content of it")
    assert read_all(zip_files(path)) == [("good", b"content of it")]
    content = bytearray(path.read_bytes())
    content[content.index(b"content of it")] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorkError, match=r"good in a.zip is corrupt or another version: .*its checksum is wrong"):
        read_all(zip_files(path))
    path.write_bytes(bytes(content[:-1]))
    with pytest.raises(RequestError, match="is not a zip, or a damaged one"):
        read_all(zip_files(path))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float64])
def test_numbers_of_matlab_files(dtype: type, compressed: bool) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    numbers = np.arange(12).reshape(3, 4).astype(dtype)
    file = io.BytesIO()
    scipy_io.savemat(
        file, {"text": "abc", "x": numbers, "row": numbers[:1], "none": numbers[:0]}, do_compression=compressed
    )
    content = file.getvalue()
    assert read_numbers(content, "x") == tuple(numbers.T.ravel())
    assert read_numbers(content, "row") == (0, 1, 2, 3) and read_numbers(content, "none") == ()
    for name, message in (("text", "is an array of class 4"), ("y", "no variable y")):
        with pytest.raises(ValueError, match=message):
            read_numbers(content, name)


def matlab_file(num: int) -> bytes:
    """A file with the numbers 0 to 19, said to be `num`."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack("<2I", kind, len(content)) + content + bytes(-len(content) % 8)

    parts = element(6, struct.pack("<2I", 11, 0)) + element(5, struct.pack("<2i", 1, num)) + element(1, b"x")
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    return head + element(14, parts + element(4, struct.pack("<20H", *range(20))))


@given(st.lists(st.tuples(st.integers(124, 400), st.integers(0, 255)), max_size=4), st.integers(100, 500))
@settings(max_examples=100, deadline=None)
def test_damaged_matlab_files_are_errors_or_numbers(changes: list[tuple[int, int]], end: int) -> None:
    content = bytearray(matlab_file(20))
    assert read_numbers(bytes(content), "x") == tuple(range(20))
    with pytest.raises(ValueError, match="x has 20 numbers; expected 19"):
        read_numbers(matlab_file(19), "x")
    for at, value in changes:
        if at < len(content):
            content[at] = value
    try:
        assert len(read_numbers(bytes(content[:end]), "x")) <= 40
    except ValueError as error:
        assert not isinstance(error, AlexNetError)
