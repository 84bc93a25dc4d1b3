"""Archives made to hang or to fill memory give one error, at once, in little memory; sound ones stay readable."""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alexnet.data.sources.formats import open_source
from alexnet.data.sources.listing import NOT_A_FILE, SkippedFiles
from alexnet.data.sources.matlab import read_struct_array
from alexnet.data.sources.pickles import read_pickled_entries
from alexnet.data.sources.tar_archive import TarMember, inner_path, members_of, tar_members
from alexnet.data.sources.zip_archive import read_zip_member, zip_members
from alexnet.errors import RequestError

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CONTTYPE)
TEXT = st.characters(exclude_categories=("Cs",), exclude_characters="\0")


def listed(content: bytes) -> list[tuple[str, TarMember]]:
    return list(members_of(lambda size, at: content[at : at + size], 0, len(content)))


def a_tar(members: list[tuple[str, bytes, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of members, each with name, type and content."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "target" * 30
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return file.getvalue()


@given(
    st.lists(
        st.tuples(st.text(TEXT, min_size=1, max_size=300), st.sampled_from(KINDS), st.binary(max_size=1500)), min_size=1
    ),
    st.sampled_from(FORMATS),
)
@settings(max_examples=200)
@example([("x/" * 70 + "name", tarfile.REGTYPE, b"content")], tarfile.USTAR_FORMAT)
@example([("ü" * 200, tarfile.REGTYPE, b"content")], tarfile.GNU_FORMAT)
def test_members_are_those_that_the_library_finds(members: list[tuple[str, bytes, bytes]], form: int) -> None:
    # With a slash at its end it is a folder, to a reader.
    members = [(name, kind, b"" if kind == b"\0" and name.endswith("/") else rest) for name, kind, rest in members]
    try:
        content = a_tar(members, form)
    except ValueError:
        return  # a name too long for ustar
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [
            (inner_path(one.name) or "", one.offset_data, one.size if one.isreg() else 0, one.isdir(), one.isreg())
            for one in archive
        ]
    found = [one for _, one in listed(content)]
    assert [(one.name, one.offset, one.size_bytes, one.is_folder, one.is_regular) for one in found] == expected


def header(name: str, size: bytes, kind: bytes = b"0", more: dict[int, bytes] | None = None) -> bytes:
    """A ustar header with the given 12 bytes of size and further fields by offset, and a right checksum."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[156:157] = size.ljust(12, b"\0"), kind
    for offset, content in (more or {}).items():
        block[offset : offset + len(content)] = content
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def octal(size: int) -> bytes:
    return b"%011o" % size


def pax(*records: tuple[str, str]) -> bytes:
    content = b""
    for key, value in records:
        text = f" {key}={value}\n".encode()
        length = len(text) + len(str(len(text) + 3))
        content += str(length if len(str(length)) + len(text) == length else length + 1).encode() + text
    return header("pax", octal(len(content)), b"x") + content + bytes(-len(content) % 512)


SOUND = a_tar([("a/x.png", tarfile.REGTYPE, b"first")])[:1024]
GIGABYTES = 20 * 2**30
HOSTILE: dict[str, tuple[list[bytes | int], str]] = {
    # Content, in which a number is a hole of as many bytes; and what the error says.
    "negative octal": ([SOUND, header("a/y.png", b"-0000001000")], r"byte 1,024 has the number '-0000001000'"),
    "negative base-256": ([header("y", b"\xff" * 10 + b"\xfe\x00")], r"byte 0 has the number '-512'"),
    "negative to zero": ([SOUND, header("y", b"-0000002000"), bytes(1024)], r"has the number '-0000002000'"),
    "no number": ([SOUND, header("y", b"12x")], "has the number '12x'"),
    "beyond the file": ([SOUND, header("y", octal(2**32))], r"ends inside y, which the header at byte 1,024 says has"),
    "beyond all files": ([header("y", b"\x80" + b"\xff" * 11)], "ends inside y"),
    "folder of any size": ([SOUND, header("y", octal(2**32), b"D")], "ends inside y"),
    "pax size negative": ([pax(("size", "-512")), header("y", octal(0))], "has the size '-512'"),
    "pax keys without end": (
        [
            *(pax(*((str(first + key), "x") for key in range(60))) for first in range(10**6, 10**6 + 240_000, 60)),
            header("y", b"12x"),
        ],
        "has the number '12x'",
    ),
    "pax size giant": ([pax(("size", "9" * 19)), header("y", octal(0))], "ends inside y"),
    "pax size of many digits": ([pax(("size", "9" * 5000)), header("y", octal(0))], "has the size '999"),
    "pax size for all": ([header("g", octal(9), b"g"), b"9 size=1\n".ljust(512, b"\0")], "gives all members one"),
    "pax record without end": ([header("x", octal(9), b"x"), b"99 path=a".ljust(512, b"\0")], "damaged record"),
    "pax record of no bytes": ([header("x", octal(9), b"x"), b"0 path=a\n".ljust(512, b"\0")], "damaged record"),
    "pax of digits alone": ([header("x", octal(2**20), b"x"), b"1" * 2**20], "damaged record"),
    "pax of gigabytes": ([header("x", octal(8 * 2**30 - 1), b"x"), GIGABYTES], "claims 8,589,934,591 bytes; allowed"),
    "name of gigabytes": ([header("x", octal(8 * 2**30 - 1), b"L"), GIGABYTES], "claims 8,589,934,591 bytes; allowed"),
    "name beyond the file": ([header("x", octal(9000), b"L"), b"name"], "ends inside the header at byte 0"),
    "a name and nothing": ([header("x", octal(512), b"L"), b"n" * 512], "ends after an extended header"),
    "20,000 names": ([header("x", octal(0), b"L") * 20_000], "ends after an extended header|it is empty"),
    "a header cut short": ([SOUND, b"half a header"], "ends inside the header at byte 1,024"),
    "a changed header": ([SOUND, header("y", octal(0)).replace(b"y", b"z")], "at byte 1,024 has a wrong checksum"),
    "sparse map without end": (
        [header("s", octal(0), b"S", {482: b"\x01"}), (bytes(504) + b"\x01" + bytes(7)) * 20_000],
        "ends inside the header at byte 0",
    ),
    "no header": ([GIGABYTES - 512, b"\1" * 512], "it is empty|two"),
}

# Lists or opens a source with little memory and time.
LIMITED = """
import json, resource, sys, time
from pathlib import Path
from tempfile import TemporaryDirectory
import numpy, torch, PIL.Image
from alexnet.data.sources.formats import open_source
from alexnet.data.sources.formats import open_source
from alexnet.data.sources.listing import NOT_A_FILE, SkippedFiles
from alexnet.data.sources.pickles import read_pickled_entries
from alexnet.data.sources.tar_archive import tar_members
from alexnet.data.sources.pickles import read_pickled_entries
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), used + int(sys.argv[2])))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for path, call in json.loads(sys.argv[1]):
    start, error = time.process_time(), ""
    try:
        if call == "tar":
            list(tar_members(Path(path)))
        elif call == "pickle":
            read_pickled_entries(Path(path))
        else:
            source = open_source(Path(path), call)
            for listing in source.splits.values():
                for number in range(len(listing)):
                    try:
                        listing.read(number)
                    except OSError as failure:
                        error += f"{listing.keys[number]}: {failure}; "
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([error, time.process_time() - start, grown / 1024]), flush=True)
"""


def write(path: Path, parts: list[bytes | int]) -> Path:
    """A file of parts; a number is a hole."""
    with path.open("wb") as file:
        for part in parts:
            if isinstance(part, int):
                file.seek(part, os.SEEK_CUR)
            else:
                file.write(part)
        file.truncate(file.tell())
    return path


def limited(calls: list[tuple[Path, str]], mebibytes: int) -> list[tuple[str, float, float]]:
    """The error, processor seconds and MiB of growth of each call, in a process with that much memory to grow."""
    words = [json.dumps([[str(path), call] for path, call in calls]), str(mebibytes * 2**20)]
    done = subprocess.run([sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_hostile_tars_give_one_error_in_little_time_and_memory(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.tar", parts) for number, (parts, _) in enumerate(HOSTILE.values())]
    outcomes = limited([(path, "tar") for path in paths], 64)
    for (name, (_, expected)), path, (error, seconds, grown) in zip(HOSTILE.items(), paths, outcomes, strict=True):
        print(f"{name:24} {seconds:6.3f} s {grown:6.1f} MiB  {error}")
        if name == "no header":
            assert error == ""  # a tar that ends at once
            continue
        assert error.startswith(f"RequestError: {path} is not a tar, or a damaged one ("), (name, error)
        with pytest.raises(RequestError, match=expected):
            list(tar_members(path))
        assert seconds < 10 and grown < 32, (name, seconds, grown)


@given(st.data())
@settings(max_examples=200)
def test_any_change_of_a_header_ends_in_members_or_one_error(data: Any) -> None:
    content = bytearray(
        a_tar(
            [("a" * 120, tarfile.REGTYPE, b"x" * 700), ("b", tarfile.DIRTYPE, b""), ("c", tarfile.REGTYPE, b"y")],
            data.draw(st.sampled_from(FORMATS[1:])),
        )[:6144]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        block = 512 * data.draw(st.integers(0, len(content) // 512 - 1))
        at = block + data.draw(st.integers(0, 511) | st.integers(124, 135) | st.just(156))
        content[at] = data.draw(st.integers(0, 255) | st.sampled_from(b"-\xff\x800LxgKS"))
        if data.draw(st.booleans()):  # with a right checksum
            content[block + 148 : block + 156] = b" " * 8
            content[block + 148 : block + 156] = b"%06o\0 " % sum(content[block : block + 512])
    last = -1
    try:
        for _, member in members_of(lambda size, at: bytes(content[at : at + size]), 0, len(content)):
            assert last < member.offset <= len(content) - member.size_bytes and member.size_bytes >= 0
            last = member.offset
    except ValueError as error:
        assert "\n" not in str(error)


def a_zip(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return bytearray(file.getvalue())


def changed_list(content: bytearray, offset: int, values: bytes, entry: int = 0) -> bytes:
    """A zip whose list of members has other values at an offset within an entry."""
    start = -1
    for _ in range(entry + 1):
        start = content.index(b"PK\x01\x02", start + 1)
    content[start + offset : start + offset + len(values)] = values
    return bytes(content)


TWO = [("train/a/0.png", bytes(5000)), ("train/b/0.png", bytes(5000))]
FAR = zipfile.ZIP_STORED


def quoted(depth: int) -> bytes:
    """A zip in which many entries of the list stand for the same bytes."""
    content = a_zip([("train/a/0.png", bytes(2**20))])
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = bytes(content[start:end])
    listed_ = entry * depth
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, depth, depth, len(listed_), start, 0)
    return bytes(content[:start]) + listed_ + tail


def zip64(list_bytes: int, list_offset: int) -> list[bytes | int]:
    """A zip with a list of members of any size, in a hole."""
    end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, list_bytes, list_offset)
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    size = list_offset + list_bytes
    return [b"PK\x03\x04", size - 4, end, struct.pack("<4sIQI", b"PK\x06\x07", 0, size, 1), tail]


HOSTILE_ZIPS: dict[str, tuple[list[bytes | int], str]] = {
    "claims gigabytes": ([changed_list(a_zip(TWO), 24, struct.pack("<I", 3 * 10**9))], "cannot hold more than"),
    "stored, claims more": ([changed_list(a_zip(TWO, FAR), 24, struct.pack("<I", 9000))], "cannot hold more than 5,0"),
    "ends inside": ([changed_list(a_zip(TWO), 20, struct.pack("<I", 10**9), 1)], "it ends inside train/b/0.png at"),
    "shared bytes": ([changed_list(a_zip(TWO), 42, struct.pack("<I", 0), 1)], "overlaps train/a/0.png at byte 0"),
    "1,000 entries of one": ([quoted(1000)], "overlaps"),
    "before the file": ([changed_list(a_zip(TWO), 42, b"\xff\xff\xff\xff", 1)], "ends inside|zip"),
    "a list of gigabytes": (zip64(18 * 2**30, 100), "its list of members claims 19,327,352,832 bytes"),
    "a list of zeros": (zip64(2**20, 100), "Bad magic number"),
}


@pytest.mark.slow
def test_hostile_zips_give_one_error_in_little_time_and_memory(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.zip", parts) for number, (parts, _) in enumerate(HOSTILE_ZIPS.values())]
    for (name, (_, expected)), path in zip(HOSTILE_ZIPS.items(), paths, strict=True):
        with pytest.raises(RequestError, match=expected) as caught:
            open_source(path, "zip")
        assert str(caught.value).startswith(f"{path} is not a zip, or a damaged one ("), name
    # Members whose claim is possible, of bytes that unpack to more: no more than claimed is unpacked.
    bomb = a_zip([(f"train/{one}/0.png", bytes(2**27)) for one in "ab"])
    for entry in range(2):
        changed_list(bomb, 24, struct.pack("<I", 2**20), entry)
    paths.append(write(tmp_path / "bomb.zip", [bytes(bomb)]))
    outcomes = limited([(path, "zip") for path in paths], 256)
    for name, (error, seconds, grown) in zip([*HOSTILE_ZIPS, "bomb"], outcomes, strict=True):
        print(f"{name:24} {seconds:6.3f} s {grown:6.1f} MiB  {error}")
        assert error and seconds < 10 and grown < 100, (name, seconds, grown)
    assert "its checksum is wrong" in outcomes[-1][0]


@given(st.data())
@settings(max_examples=150)
def test_any_change_of_a_list_of_members_ends_in_members_or_one_error(data: Any) -> None:
    content = a_zip([("train/a/0.png", b"x" * 300), ("train/b/0.png", b"y" * 3)], zipfile.ZIP_STORED)
    start = content.index(b"PK\x01\x02")
    for _ in range(data.draw(st.integers(1, 4))):
        at = start + data.draw(st.integers(0, 180))
        if at < len(content):
            content[at] = data.draw(st.integers(0, 255))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.zip"
        path.write_bytes(content)
        try:
            for _, location in zip_members(path, SkippedFiles()):
                if location is not None and location != NOT_A_FILE:
                    with suppress(OSError):
                        read_zip_member(path, location)
        except RequestError as error:
            assert "\n" not in str(error)


def pickled(operations: bytes) -> bytes:
    return b"\x80\x02" + operations + b"."


NESTED = b"".join(bytes((ord("h"), one, ord("h"), one, 0x86, ord("q"), one + 1)) for one in range(60))
HOSTILE_PICKLES: dict[str, tuple[list[bytes | int], str]] = {
    "bytes of gigabytes": ([b"\x80\x04\x8e" + struct.pack("<Q", 10**10) + b"x."], "not a pickle"),
    "an entry far away": ([pickled(b"}r" + struct.pack("<I", 0xFFFFFFF0))], "number 4,294,967,280 at byte 3"),
    "an entry far, as text": ([pickled(b"}p99999999999\n")], "an entry under the number 99,999,999,999"),
    "nested tuples as a key": (
        [pickled(b"]})q\x00" + NESTED + b"0" * 61 + b"h<K\x01sa")],
        "holds a list",
    ),
    "copies": ([pickled(b"}(" + b"2" * 50)], "the operation DUP"),
    "a number of megabytes": ([pickled(b"}\x8b" + struct.pack("<I", 2**24) + bytes(2**24))], "the operation LONG4"),
    "digits": ([pickled(b"}I" + b"9" * 2**20 + b"\n")], "not a pickle"),
    "many lists": ([pickled(b"]" * (2**21 + 9))], "more operations than allowed"),
    "deep lists": ([pickled(b"]" + b"]" * 2**19 + b"a" * 2**19)], "holds a list"),
    "a hole": ([pickled(b"}"), GIGABYTES], "more than 268,435,456 bytes"),
}


@pytest.mark.slow
def test_hostile_pickles_give_one_error_in_little_time_and_memory(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}", parts) for number, (parts, _) in enumerate(HOSTILE_PICKLES.values())]
    outcomes = limited([(path, "pickle") for path in paths], 700)
    for (name, (_, expected)), (error, seconds, grown) in zip(HOSTILE_PICKLES.items(), outcomes, strict=True):
        print(f"{name:24} {seconds:6.3f} s {grown:6.1f} MiB  {error}")
        assert error.startswith("ValueError") and re.search(expected, error), (name, error)
        assert seconds < 20 and grown < 600, (name, seconds, grown)


def test_pickles_of_every_protocol_are_read(tmp_path: Path) -> None:
    pixels, labels = np.arange(6144, dtype=np.uint8).reshape(2, -1), [3, 4]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file = tmp_path / f"{protocol}"
        names = ["a.png"] * 3
        file.write_bytes(pickle.dumps({b"data": pixels, b"labels": labels, "names": names}, protocol))
        content = read_pickled_entries(file)
        assert np.array_equal(content["data"].values, pixels) and content["labels"] == labels
        assert content["names"] == names


def test_compressed_variables_of_matlab_unpack_to_a_bounded_size_together() -> None:
    def variable(size: int) -> bytes:
        """A compressed variable that is an element of zeros."""
        packed = zlib.compress(struct.pack("<2I", 1, size) + bytes(size))
        return struct.pack("<2I", 15, len(packed)) + packed

    start = b"MATLAB".ljust(124, b" ") + struct.pack("<H", 0x0100) + b"IM"
    for variables in (variable(2**24 + 8), variable(2**22) * 400):
        began_s = time.process_time()
        with pytest.raises(ValueError, match="a variable is truncated, or all are larger than 16,777,216 bytes"):
            read_struct_array(start + variables, "synsets", [])
        assert time.process_time() - began_s < 10
    with pytest.raises(ValueError, match="no variable synsets"):
        read_struct_array(start + variable(2**20) * 3, "synsets", [])
    with pytest.raises(ValueError, match="allowed are 16,777,216"):
        read_struct_array(start + bytes(2**24), "synsets", [])
