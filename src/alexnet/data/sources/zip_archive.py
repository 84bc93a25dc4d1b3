"""Zip archives, read at the offsets of their members: nothing is unpacked, so no name can lead out of an archive."""

import errno
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from alexnet.data.sources.file_ranges import open_at_once, read_open_range
from alexnet.data.sources.listing import NOT_A_FILE, Location, SkippedFiles
from alexnet.data.sources.tar_archive import LEADS_OUT, inner_path
from alexnet.errors import RequestError

ENCRYPTED = 0x1
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, and the lengths of name and extra field, in the 30 bytes before a member's data."""
LOCAL_SIGNATURE = b"PK\x03\x04"
LINK_MODE = 0o120000
FORMAT_MODE = 0o170000
START_MARGIN_BYTES = 256
MAX_MEMBER_BYTES = 2**30
"""A member that claims more is refused, since a small file can claim any size; of the largest images it is enough."""
MAX_RATIO = 1032
"""Deflate cannot compress more."""
MAX_LIST_BYTES = 2**28


def zip_members(path: Path, skipped: SkippedFiles) -> Iterator[tuple[str, Location | None]]:
    """Name and location of the members of a zip, in order; a folder has no location.

    A location is the offset of the member's header, twice its size in the zip plus 1 if it is deflated, its size, and
    its CRC-32. Members whose names are empty or lead upwards go to `skipped`.

    Raises:
        RequestError: the file is not a zip or a damaged one, or has encrypted or unusually compressed members.
    """
    try:
        members = read_zip_list(path)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # as of a place before the file
            raise
        raise RequestError(
            f"{path} is not a zip, or a damaged one ({error}); fetch or make it again, or name another source"
        ) from error
    # Some programs on Windows write backslashes, against the standard.
    has_backslashes = not any("/" in member.filename for member in members)
    for member in members:
        full_name = member.filename.replace("\\", "/") if has_backslashes else member.filename
        is_folder = full_name.endswith("/")
        name = inner_path(full_name)
        if name is None:
            if not is_folder:
                skipped.add(member.filename, LEADS_OUT)
            continue
        if member.flag_bits & ENCRYPTED:
            raise RequestError(f"{path} is encrypted ({name} in it); unpack it and name the resulting folder")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RequestError(
                f"{name} in {path} is compressed by method {member.compress_type}; allowed are stored (0) and deflate "
                "(8); unpack it and name the resulting folder"
            )
        is_link = (member.external_attr >> 16) & FORMAT_MODE == LINK_MODE
        packed = member.compress_size * 2 + int(member.compress_type == zipfile.ZIP_DEFLATED)
        location = NOT_A_FILE if is_link else (member.header_offset, packed, member.file_size, member.CRC)
        yield name, None if is_folder else location


def read_zip_list(path: Path, max_bytes: int = MAX_LIST_BYTES) -> list[zipfile.ZipInfo]:
    """The members of a zip in order; each lies in the file, apart from the others.

    Args:
        max_bytes: of the list itself.

    Raises:
        BadZipFile, OSError, EOFError, ValueError, NotImplementedError: it is not a zip, or a damaged one.
    """
    with _BoundedReads(path.open("rb", buffering=0)) as file:
        file.max_bytes = max_bytes
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    _require_apart(members, path.stat().st_size)
    return members


class _BoundedReads(io.BufferedReader):
    """A file from which no list of members is read that is longer than `max_bytes`."""

    max_bytes = MAX_LIST_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.max_bytes:
            raise zipfile.BadZipFile(f"its list of members claims {size:,} bytes; allowed are {self.max_bytes:,}")
        return super().read(size)


def _require_apart(members: list[zipfile.ZipInfo], file_bytes: int) -> None:
    """Refuse members that are outside of the file or share bytes: few bytes could stand for any number of files.

    Raises:
        BadZipFile: naming the member and its offset.
    """
    end, last = 0, "the beginning of the file"
    for member in sorted(members, key=lambda one: one.header_offset):
        start, packed_bytes = member.header_offset, member.compress_size
        place = f"{member.filename[:100]} at byte {start:,}"
        if start < end:
            raise zipfile.BadZipFile(f"{place} overlaps {last}")
        end, last = start + LOCAL_HEADER.size + len(member.orig_filename) + packed_bytes, place
        if end > file_bytes:
            raise zipfile.BadZipFile(f"it ends inside {place}, which claims {packed_bytes:,} bytes")
        most = MAX_RATIO * packed_bytes if member.compress_type == zipfile.ZIP_DEFLATED else packed_bytes
        if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and member.file_size > most:
            raise zipfile.BadZipFile(
                f"{place} claims to unpack to {member.file_size:,} bytes; {packed_bytes:,} bytes cannot hold more than "
                f"{most:,}"
            )


def read_zip_member(path: Path, location: Location) -> bytes:
    """The bytes of the member at `location`; OSError if they are damaged."""
    _, packed, size_bytes, checksum = location
    if size_bytes > MAX_MEMBER_BYTES:
        raise OSError(f"claims {size_bytes:,} bytes; allowed are {MAX_MEMBER_BYTES:,}")
    content = _unpacked(path, location, packed // 2, size_bytes + 1)
    if len(content) != size_bytes or zlib.crc32(content) != checksum:
        raise OSError(f"damaged in {path.name}: its checksum is wrong")
    return content


def read_zip_member_start(path: Path, location: Location, size_bytes: int) -> bytes:
    """The first bytes of a member, `size_bytes` or fewer; OSError if they are damaged."""
    # A little more, since bytes that do not compress grow.
    return _unpacked(path, location, min(location[1] // 2, size_bytes + START_MARGIN_BYTES), size_bytes)[:size_bytes]


def _unpacked(path: Path, location: Location, packed_bytes: int, max_bytes: int) -> bytes:
    """The first `packed_bytes` bytes of a member, unpacked; `max_bytes` or fewer if it is deflated."""
    offset, packed = location[:2]
    with open_at_once(path) as file:
        header = read_open_range(file.fileno(), offset, LOCAL_HEADER.size, path.name)
        if not header.startswith(LOCAL_SIGNATURE):
            raise OSError(f"{path.name} is damaged before this file")
        _, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
        start = offset + LOCAL_HEADER.size + name_bytes + extra_bytes
        content = read_open_range(file.fileno(), start, packed_bytes, path.name)
    if not packed % 2:
        return content
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, max_bytes)
    except zlib.error as error:
        raise OSError(f"damaged in {path.name}: {error}") from error
