"""Zip archives, read at the offsets of their members: nothing is unpacked, so no name can lead out of an archive."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alexnet.data.sources.file_ranges import read_open_range
from alexnet.data.sources.listing import NOT_A_FILE, Content, Location
from alexnet.data.sources.tar_archive import inner_path
from alexnet.errors import RequestError

ENCRYPTED = 0x1
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, and the lengths of name and extra field, in the 30 bytes before a member's data."""
LOCAL_SIGNATURE = b"PK\x03\x04"
LINK_MODE = 0o120000
FORMAT_MODE = 0o170000
MAX_MEMBER_BYTES = 2**31
"""A compressed member that claims more is refused, since a small file can claim any size."""


@dataclass(frozen=True)
class ZipMember:
    """A file or a folder in a zip."""

    name: str
    """Its path; never leads upwards."""
    location: Location
    """For `ZipReader`."""
    is_folder: bool


def zip_members(path: Path) -> Iterator[ZipMember]:
    """The members of a zip, in order; skips those whose names are empty or lead upwards.

    Raises:
        RequestError: the file is not a zip or a damaged one, or has encrypted or unusually compressed members.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise RequestError(
            f"{path} is not a zip, or a damaged one ({error}); fetch or make it again, or name another source"
        ) from error
    for member in members:
        name = inner_path(member.filename)
        if name is None:
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
        yield ZipMember(name, location, member.is_dir())


class ZipReader:
    """Reads members of a zip, from any number of threads."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, key: str, location: Location) -> Content:
        """The bytes of the member at `location`; OSError if they are damaged."""
        if location == NOT_A_FILE:
            raise OSError("no plain file; links inside an archive are not followed")
        offset, packed, size_bytes, checksum = location
        with self._path.open("rb", buffering=0) as file:
            header = read_open_range(file.fileno(), offset, LOCAL_HEADER.size, self._path.name)
            if not header.startswith(LOCAL_SIGNATURE):
                raise OSError(f"{self._path.name} is damaged before this file")
            _, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
            start = offset + LOCAL_HEADER.size + name_bytes + extra_bytes
            content = read_open_range(file.fileno(), start, packed // 2, self._path.name)
        if packed % 2:
            if size_bytes > MAX_MEMBER_BYTES:
                raise OSError(f"claims {size_bytes:,} bytes; allowed are {MAX_MEMBER_BYTES:,}")
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                content = inflater.decompress(content, size_bytes + 1)
            except zlib.error as error:
                raise OSError(f"damaged in {self._path.name}: {error}") from error
        if len(content) != size_bytes or zlib.crc32(content) != checksum:
            raise OSError(f"damaged in {self._path.name}: its checksum is wrong")
        return content
