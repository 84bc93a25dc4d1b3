"""Unpacks archives to the paths that a caller gives their files. Names never lead out of a folder, links are left out.

Archives are read once, from the beginning to the end, and never more of them than allowed, since a small one can unpack
to any size.
"""

import gzip
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase, BufferedReader
from pathlib import Path

from alexnet.data.sources.file_ranges import raise_error
from alexnet.data.sources.listing import NOT_A_FILE, SkippedFiles
from alexnet.data.sources.tar_archive import TarMember, inner_path, members_of
from alexnet.data.sources.zip_archive import read_zip_member, zip_members
from alexnet.errors import AlexNetError, WorkError
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.system.progress import ProgressBar, ShowProgress

BLOCK_BYTES = 1 << 20
_UPDATE_EVERY = 100
_GZIP_MARK = b"\x1f\x8b"

NamedFile = tuple[str, Iterator[bytes]]
"""The name of a file, with `/` between its parts, and its content, which is read only if it is asked for."""
Place = Callable[[str], str | None]
"""From a file's name to its path below the destination; None leaves it out."""


def tar_files(path: Path, max_bytes: int) -> Iterator[NamedFile]:
    """The regular files of a tar, gzipped or not, in order.

    Args:
        max_bytes: of the unpacked tar.

    Raises:
        WorkError: it is damaged or larger.
    """
    with path.open("rb") as file:
        yield from _tar_files(file, max_bytes, path.name)


def zip_files(path: Path) -> Iterator[NamedFile]:
    """The regular files of a zip, in order.

    Raises:
        RequestError: it is damaged or encrypted, or claims to unpack to more than it can.
        WorkError: a file in it is damaged.
    """
    for name, location in zip_members(path, SkippedFiles()):
        if location is not None and location != NOT_A_FILE:

            def content(name: str = name, location: tuple[int, int, int, int] = location) -> Iterator[bytes]:
                try:
                    yield read_zip_member(path, location)
                except OSError as error:
                    raise_unless_damage(error, path)
                    raise WorkError(f"{name} in {path.name} is corrupt or another version: {error}") from error

            yield name, content()


def files_of_inner_tar(path: Path, inner: str, max_bytes: int) -> Iterator[NamedFile]:
    """The regular files of a tar in a zip, gzipped or not, in order.

    Args:
        inner: its name in the zip.
        max_bytes: of the unpacked tar.

    Raises:
        RequestError: the zip is damaged, as in `zip_files`.
        WorkError: the zip lacks the tar, or that is damaged or larger.
    """
    if inner not in {name for name, _ in zip_members(path, SkippedFiles())}:
        raise WorkError(f"{path.name} is corrupt or another version: it has no {inner}")
    with zipfile.ZipFile(path) as archive, archive.open(inner) as file:
        assert isinstance(file, zipfile.ZipExtFile)
        yield from _tar_files(file, max_bytes, f"{inner} in {path.name}")


def folder_files(folder: Path) -> Iterator[NamedFile]:
    """The files below a folder, sorted; links to folders are not followed.

    Raises:
        OSError: a folder or a file cannot be read.
    """
    for root, folders, names in os.walk(folder, onerror=raise_error):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file():
                yield path.relative_to(folder).as_posix(), _file_blocks(path)


def unpack(
    files: Iterable[NamedFile],
    place: Place,
    folder: Path,
    *,
    max_files: int,
    origin: str,
    progress: ShowProgress = None,
) -> int:
    """Write files into a folder.

    Args:
        files: the names and contents.
        place: where each is written; must not give two files one path.
        max_files: how many are written at most.
        origin: what they come from, for messages.

    Returns:
        The number of files that `place` leaves out.

    Raises:
        WorkError: a path leads out of the folder, two files have one path, or there are more files.
        OSError: a file cannot be written.
    """
    num_written = num_left_out = 0
    with ProgressBar("unpacking, files", shown=progress) as bar:
        for name, content in files:
            target = place(name)
            if target is None:
                num_left_out += 1
                continue
            if inner_path(target) != target or "\0" in target:
                raise WorkError(f"{origin} is corrupt or another version: it names {target!r}, outside of its folder")
            if num_written == max_files:
                raise WorkError(f"{origin} is corrupt or another version: it has more than {max_files:,} files")
            path = folder / target
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    for block in content:
                        file.write(block)
            except FileExistsError as error:
                raise WorkError(f"{origin} is corrupt or another version: it has two files {target}") from error
            num_written += 1
            if num_written % _UPDATE_EVERY == 0 or num_written == max_files:
                bar.update(num_written, max_files)
    return num_left_out


def _file_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _tar_files(file: BufferedReader | zipfile.ZipExtFile, max_bytes: int, what: str) -> Iterator[NamedFile]:
    """The regular files of a tar that is read from its beginning to its end; WorkError if it is damaged or larger."""
    with _damage(what):
        is_gzipped = file.peek(len(_GZIP_MARK)).startswith(_GZIP_MARK)
        reader = _ForwardReader(gzip.GzipFile(fileobj=file) if is_gzipped else file)

        def content(member: TarMember) -> Iterator[bytes]:
            with _damage(what):
                yield from reader.blocks(member.offset, member.size_bytes)

        for _, member in members_of(reader.read, 0, max_bytes):
            if member.name and member.is_regular:
                yield member.name, content(member)


class _ForwardReader:
    """Reads ranges of a stream, each of which begins after the one before."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self._stream = stream
        self._position = 0

    def read(self, size_bytes: int, offset: int) -> bytes:
        """The bytes of a range, or fewer at the end of the stream."""
        while self._position < offset and self._next(offset - self._position):
            pass
        return self._next(size_bytes) if self._position == offset else b""

    def blocks(self, offset: int, size_bytes: int) -> Iterator[bytes]:
        """The bytes of a range, block by block; ValueError if the stream ends in it."""
        end = offset + size_bytes
        while offset < end:
            block = self.read(min(BLOCK_BYTES, end - offset), offset)
            if not block:
                raise ValueError("it ends inside a file")
            yield block
            offset += len(block)

    def _next(self, size_bytes: int) -> bytes:
        block = self._stream.read(min(size_bytes, BLOCK_BYTES))
        self._position += len(block)
        return block


@contextmanager
def _damage(what: str) -> Iterator[None]:
    """WorkError for whatever a damaged archive raises."""
    try:
        yield
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, NotImplementedError, ValueError) as error:
        if isinstance(error, AlexNetError):
            raise
        raise WorkError(f"{what} is corrupt or another version: {error}") from error
