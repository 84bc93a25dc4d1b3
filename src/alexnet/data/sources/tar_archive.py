"""Tar archives, read at the offsets of their members: nothing is unpacked, so no name can lead out of an archive."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from alexnet.data.sources.file_ranges import read_range
from alexnet.data.sources.listing import NOT_A_FILE, Location, SkippedFiles
from alexnet.errors import RequestError

BLOCK_BYTES = 512
MAX_EXTENDED_BYTES = 2**20
"""Of a long name, or of the attributes of a member: no file system has longer ones."""
LONG_NAME, LONG_LINK, OLD_SPARSE, FOLDER = b"L", b"K", b"S", b"5"
PAX_HEADERS, PAX_GLOBAL = (b"x", b"X"), b"g"
EXTENDED_HEADERS = (LONG_NAME, LONG_LINK, *PAX_HEADERS, PAX_GLOBAL)
REGULAR = (b"0", b"\0", b"7")
_PAX_KEYS = {b"path": "path", b"size": "size", b"GNU.sparse.name": "sparse_path"}
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, folders and pipes, whatever their size is said to be."""
COMPRESSION_MARKS = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

LEADS_OUT = "its name is empty or leads out of the archive"
SAME_NAME = "a later file of the archive has the same name"
"""Why a member of an archive is skipped."""


@dataclass(frozen=True)
class TarMember:
    """A file or a folder in a tar."""

    name: str
    """Its path without leading `/` or `./`; never leads upwards."""
    offset: int
    """Of its bytes in the outermost file."""
    size_bytes: int
    is_folder: bool
    is_regular: bool
    """Whether it is a regular file; links, devices and sparse files are not."""


def tar_members(
    path: Path, offset: int = 0, size_bytes: int | None = None, *, skipped: SkippedFiles | None = None, prefix: str = ""
) -> Iterator[TarMember]:
    """The members of an uncompressed tar, in order, without those whose names are empty or lead upwards.

    Args:
        path: a file.
        offset, size_bytes: range of the tar in the file, for a tar inside a tar; the default is the whole file.
        skipped: takes the members left out, with `prefix` before their names.

    Raises:
        RequestError: the file is compressed, not a tar, or truncated.
    """
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        start = os.pread(descriptor, 6, offset)
        for mark, compression in COMPRESSION_MARKS.items():
            if start.startswith(mark):
                raise RequestError(
                    f"{path} is compressed ({compression}); unpack it and name the resulting folder, or the "
                    "uncompressed tar"
                )
        end = os.fstat(descriptor).st_size if size_bytes is None else offset + size_bytes
        try:
            for raw_name, member in members_of(lambda size, at: os.pread(descriptor, size, at), offset, end):
                if member.name:
                    yield member
                elif skipped is not None and not member.is_folder:
                    skipped.add(prefix + raw_name, LEADS_OUT)
        except ValueError as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(
                f"{path} is not a tar, or a damaged one ({error}); fetch or make it again, or name another source"
            ) from error


def members_of(read: Callable[[int, int], bytes], offset: int, end: int) -> Iterator[tuple[str, TarMember]]:
    """The stored name of each member and the member, whose name is empty if the stored one is or leads upwards.

    Reads the formats of 1988 (ustar), of GNU tar and of pax, and what came before them. Every header is at a greater
    offset than the one before, and nothing larger than `MAX_EXTENDED_BYTES` is read, whatever the headers claim.

    Args:
        read: from a number of bytes and an offset to that many bytes, or fewer at the end.
        offset, end: range of the tar.

    Raises:
        ValueError: it is not a tar, or damaged; the text has the offset.
    """
    position, has_members = offset, False
    extended: dict[str, str] = {}  # of the next member: the first of several headers counts
    while position < end:
        header = read(min(BLOCK_BYTES, end - position), position)
        if not header.strip(b"\0") and len(header) == BLOCK_BYTES and not extended:
            return
        where = f"the header at byte {position - offset:,}"
        if len(header) < BLOCK_BYTES:
            raise ValueError(f"it ends inside {where}")
        if not is_header(header):
            raise ValueError(f"{where} has a wrong checksum" if has_members else "it begins with no header")
        kind = header[156:157]
        size = _octal(header[124:136], where)
        position += BLOCK_BYTES
        if kind in EXTENDED_HEADERS:
            if size > MAX_EXTENDED_BYTES:
                raise ValueError(f"{where} claims {size:,} bytes; allowed are {MAX_EXTENDED_BYTES:,}")
            if size > end - position or len(content := read(size, position)) < size:
                raise ValueError(f"it ends inside {where}")
            extended = _extended(kind, content, where) | extended
            position += size + -size % BLOCK_BYTES
            has_members = True
            continue
        if "size" in extended:
            size = _decimal(extended["size"], where)
        is_sparse = kind == OLD_SPARSE or not extended.keys().isdisjoint(("sparse_path", "is_sparse"))
        has_more = kind == OLD_SPARSE and header[482] != 0
        while has_more:  # the rest of an old sparse member's map
            block = read(min(BLOCK_BYTES, end - position), position)
            if len(block) < BLOCK_BYTES:
                raise ValueError(f"it ends inside {where}")
            position += BLOCK_BYTES
            has_more = block[504] != 0
        name = extended.get("sparse_path") or extended.get("path") or _name(header)
        # Before there was a type for folders, a name with a slash at the end was one.
        is_folder = kind == FOLDER or (kind == b"\0" and name.endswith("/"))
        if kind in WITHOUT_DATA or is_folder:
            size = 0
        if size > end - position:
            raise ValueError(f"it ends inside {name[:100]}, which {where} says has {size:,} bytes")
        is_regular = kind in REGULAR and not is_folder and not is_sparse
        yield name, TarMember(inner_path(name) or "", position, size, is_folder, is_regular)
        extended, has_members = {}, True
        position += size + -size % BLOCK_BYTES
    if extended or not has_members:
        raise ValueError("it ends after an extended header" if extended else "it is empty")


def _extended(kind: bytes, content: bytes, where: str) -> dict[str, str]:
    """`path`, `size`, `sparse_path` and `is_sparse` of the next member, those that an extended header gives.

    Raises:
        ValueError: it is damaged, or gives all members one path or size.
    """
    if kind == LONG_NAME:
        return {"path": _text(content)}
    if kind == LONG_LINK:
        return {}
    found = _pax_records(content, where)
    if kind != PAX_GLOBAL:
        return found
    if not found.keys().isdisjoint(("path", "size")):
        raise ValueError(f"{where} gives all members one path or size")
    return {}


def is_header(block: bytes) -> bool:
    """Whether a block has its checksum: the sum of all bytes, with blanks for the sum itself."""
    stated = block[148:156].split(b"\0")[0].strip(b" ")
    if not stated or stated.strip(b"01234567"):
        return False
    rest = block[:148] + block[156:]
    total = sum(rest) + 8 * ord(" ")
    # Old programs took the sum of signed bytes.
    return int(stated, 8) == total or int(stated, 8) == total - 256 * sum(byte >= 128 for byte in rest)


def _octal(field: bytes, where: str) -> int:
    """A number of a header: octal digits, or binary in GNU's way; never negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip(b" ")
    if not digits.strip(b"01234567"):
        return int(digits or b"0", 8)
    text = str(int.from_bytes(field, "big", signed=True)) if field[0] == 0xFF else digits.decode("latin-1")
    raise ValueError(f"{where} has the number {text!r}; allowed are octal digits, 0 or more")


def _decimal(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{where} has the size {text[:30]!r}; allowed are decimal digits")
    return int(text)


def _name(header: bytes) -> str:
    """The name in a header, with the part before it that the format of 1988 keeps apart."""
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = _text(header[:100])
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax_records(content: bytes, where: str) -> dict[str, str]:
    """Those of the records `LENGTH KEY=VALUE` of a pax header that matter here; each ends with a line break."""
    found: dict[str, str] = {}
    position = 0
    while position < len(content) and content[position]:
        digits = content[position : position + 20].split(b" ")[0]
        end = position + int(digits) if digits.isdigit() and len(digits) < 20 else 0
        record = content[position + len(digits) + 1 : end]
        if not position < end <= len(content) or b"=" not in record or not record.endswith(b"\n"):
            raise ValueError(f"{where} has a damaged record")
        key, _, value = record[:-1].partition(b"=")
        name = _PAX_KEYS.get(key, "is_sparse" if key.startswith(b"GNU.sparse.") else None)
        if name is not None:  # a file may have any number of others
            found[name] = value.decode("utf-8", "surrogateescape")
        position = end
    return found


def member_location(file_number: int, member: TarMember) -> Location:
    """The location of a member, for `read_member`."""
    return (file_number, member.offset, member.size_bytes, 0) if member.is_regular else NOT_A_FILE


def read_member(paths: Sequence[Path], location: Location) -> bytes:
    """The bytes of a member, in one of several files; OSError if they cannot be read."""
    file_number, offset, size_bytes, _ = location
    return read_range(paths[file_number], offset, size_bytes)


def read_member_start(paths: Sequence[Path], location: Location, size_bytes: int) -> bytes:
    """The first bytes of a member, `size_bytes` or fewer; OSError if they cannot be read."""
    file_number, offset, member_bytes, _ = location
    return read_range(paths[file_number], offset, min(size_bytes, member_bytes))


def inner_path(name: str) -> str | None:
    """A member's path inside its archive, such as `a/b.jpg`; None if it is empty or leads upwards."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "//", ".")]
    if not parts or ".." in parts:
        return None
    return "/".join(parts)
