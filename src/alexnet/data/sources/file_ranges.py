"""Reads byte ranges of files, such as a photograph inside an archive."""

import errno
import os
import select
import stat
from io import FileIO
from pathlib import Path

from alexnet.data.decode import FORMATS, UnreadableImage, begins_as_image
from alexnet.data.not_images import START_BYTES
from alexnet.storage.read_errors import is_passing
from alexnet.system.prefetch import is_unwanted

BLOCK_BYTES = 2**20
MAX_FILE_BYTES = 2**31
"""A longer file is refused unread: an image of the largest size, uncompressed with 16 bits, has 1.4 GB."""
DISK_BLOCK_BYTES = 512
LARGE_FILE_BYTES = 2**26
"""Of a longer file, the beginning and the holes are looked at before it is read."""
# Opening a pipe does not wait for a writer.
_NONBLOCKING = os.O_RDONLY | os.O_NONBLOCK
_POLL_MS = 100
_NOT_READ = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What a path may also be. It is not opened: a device may give bytes without end, or act on being opened."""


def raise_error(error: OSError) -> None:
    """For `os.walk`, which otherwise skips folders that cannot be read."""
    raise error


def read_regular_file(path: str) -> bytes:
    """The bytes of a regular file, in as few system calls as possible.

    Raises:
        OSError: it cannot be read, is a pipe, a device or a folder, or longer than any image.
        UnreadableImage: it is large and not an image.
    """
    descriptor = os.open(path, _NONBLOCKING)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        if status.st_size > LARGE_FILE_BYTES:
            _require_large_image(descriptor, status)
        # One byte more than its size: a shorter answer means the end of the file.
        content = os.read(descriptor, status.st_size + 1)
        if len(content) == status.st_size:
            return content
        parts = [content]  # it changed just now, or is longer than one call reads
        while parts[-1]:
            parts.append(os.read(descriptor, BLOCK_BYTES))
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _require_large_image(descriptor: int, status: os.stat_result) -> None:
    """Refuse a large file before it takes memory if it is too long, mostly never written, or not an image."""
    require_file_size(status.st_size)
    # Less on the disk than the size says is either a hole, or compression by the file system.
    if status.st_blocks * DISK_BLOCK_BYTES < status.st_size / 2:
        is_sparse = os.lseek(descriptor, 0, os.SEEK_HOLE) < status.st_size
        os.lseek(descriptor, 0, os.SEEK_SET)
        if is_sparse:
            raise OSError(
                f"{status.st_blocks * DISK_BLOCK_BYTES:,} of {status.st_size:,} bytes have been written, as in an "
                "unfinished download"
            )
    if not begins_as_image(os.pread(descriptor, START_BYTES, 0)):
        raise UnreadableImage(f"no image of a format that is read ({FORMATS})")


def require_file_size(size_bytes: int) -> None:
    """Raise OSError if a file is longer than any image."""
    if size_bytes > MAX_FILE_BYTES:
        raise OSError(f"{size_bytes:,} bytes are more than any image needs; allowed are {MAX_FILE_BYTES:,}")


def read_any_file(path: str) -> bytes:
    """The bytes of a regular file as `read_regular_file` gives them, or of a pipe, whose writer is waited for.

    Raises:
        OSError: it cannot be read, is a folder, or longer than any image.
        UnreadableImage: it is a socket or a device, or large and not an image.
    """
    mode = os.stat(path).st_mode
    if kind := _NOT_READ.get(stat.S_IFMT(mode)):
        raise UnreadableImage(f"it is {kind}")
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return _read_pipe(path) if stat.S_ISFIFO(mode) else read_regular_file(path)


def _read_pipe(path: str) -> bytes:
    """The bytes of a pipe up to its end. A thread of a `prefetch` stops waiting when that ends."""
    content = bytearray()
    descriptor = os.open(path, _NONBLOCKING)
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        while True:
            while not waiting.poll(_POLL_MS):
                if is_unwanted():
                    raise OSError("interrupted")
            try:
                block = os.read(descriptor, BLOCK_BYTES)
            except BlockingIOError:  # another reader was faster
                continue
            if not block:
                return bytes(content)
            content += block
            require_file_size(len(content))
    finally:
        os.close(descriptor)


def read_file_start(path: str, size_bytes: int) -> bytes:
    """The first bytes of a regular file, `size_bytes` or fewer; raises as `read_regular_file` does."""
    descriptor = os.open(path, _NONBLOCKING)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
        return os.read(descriptor, size_bytes)
    finally:
        os.close(descriptor)


def open_at_once(path: Path) -> FileIO:
    """A file open for reading, also one that has become a pipe without a writer, which the first read then refuses."""
    return FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def size_and_time(path: str) -> tuple[int, int]:
    """Size and time (ns) of a file, by which a resumed preparation notices changes; zeros if it cannot be read.

    Raises:
        OSError: the machine or the drive failed: zeros would count as a change.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        if is_passing(error):
            raise
        return 0, 0
    return status.st_size, status.st_mtime_ns


def read_range(path: Path, offset: int, size_bytes: int) -> bytes:
    """`size_bytes` bytes from `offset`; OSError if the file is missing or too short."""
    with open_at_once(path) as file:
        return read_open_range(file.fileno(), offset, size_bytes, path.name)


def read_open_range(descriptor: int, offset: int, size_bytes: int, name: str) -> bytes:
    """As `read_range`, from an open file, which threads may share; `name` is for the message."""
    require_file_size(size_bytes)
    parts: list[bytes] = []
    missing = size_bytes
    while missing:
        part = os.pread(descriptor, missing, offset)
        if not part:
            raise OSError(f"{name} ends inside this file")
        parts.append(part)
        offset += len(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
