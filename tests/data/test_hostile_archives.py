"""Archives made to hang or to fill memory give one error, at once, in little memory; sound ones stay readable."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alexnet.data.sources.tar_archive import TarMember, inner_path, members_of, tar_members
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
import numpy, torch, PIL.Image
from alexnet.data.sources.formats import open_source
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
@settings(max_examples=400)
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
