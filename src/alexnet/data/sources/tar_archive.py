"""Tar archives, read at the offsets of their members: nothing is unpacked, so no name can lead out of an archive."""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from alexnet.data.sources.file_ranges import FileRange, read_range
from alexnet.data.sources.listing import NOT_A_FILE, Location, SkippedFiles
from alexnet.errors import RequestError

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
    with path.open("rb") as file:
        file.seek(offset)
        start = file.read(6)
        for mark, compression in COMPRESSION_MARKS.items():
            if start.startswith(mark):
                raise RequestError(
                    f"{path} is compressed ({compression}); unpack it and name the resulting folder, or the "
                    "uncompressed tar"
                )
        end = path.stat().st_size if size_bytes is None else offset + size_bytes
        part = FileRange(file, offset, end - offset)
        try:
            with tarfile.open(fileobj=part, mode="r:", errorlevel=2) as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # or a million of them stay in memory
                    name = inner_path(member.name)
                    if member.isreg() and offset + member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"it ends inside {member.name}")
                    if name is None and skipped is not None and not member.isdir():
                        skipped.add(prefix + member.name, LEADS_OUT)
                    if name is not None:
                        yield TarMember(
                            name,
                            offset + member.offset_data,
                            member.size,
                            member.isdir(),
                            member.isreg() and not member.issparse(),
                        )
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise RequestError(
                f"{path} is not a tar, or a damaged one ({error}); fetch or make it again, or name another source"
            ) from error


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
