"""Files and folders that appear whole or not at all.

A reader never meets half a file: bytes go to a hidden neighbor first, are flushed to the disk, and take
their name by one rename. A folder is filled under a hidden name in the same way.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alexnet.errors import RequestError, WorkError

PARTIAL = ".partial"
"""How the name of a file ends that is still being written."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: after a crash there is the old file or the new one, never a mixture.

    Raises:
        OSError: the folder is missing, unwritable or full; nothing is left behind.
    """
    write_chunks(path, [content])


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """As `write_bytes`, from pieces that need not all be in memory at once.

    Raises:
        OSError: the folder is missing, unwritable or full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path) -> None:
    """Remove what processes that were killed had begun to write in `folder`; nobody else may be writing there."""
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_file():
            path.unlink()


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically, see `write_bytes`."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write one JSON document atomically, indented for people, see `write_bytes`."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # The name of a file need not be UTF-8; what of it is not becomes an escape that JSON knows.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def staged_folder(destination: Path) -> Iterator[Path]:
    """Yield an empty hidden folder that becomes `destination` when the block ends without an error.

    On any error, an interrupt included, the hidden folder is removed. One left by a killed process is
    removed on the next entry, so that the same command run again succeeds.

    Raises:
        RequestError: `destination` exists and is not an empty folder, or cannot be made.
        WorkError: the disk is full.
    """
    require_free(destination)
    stage = destination.with_name(f".{destination.name}.partial")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
    except OSError as error:
        _raise_if_full(error, destination)
        raise RequestError(
            f"cannot write {destination}: {error.strerror or error}; name a folder you may write to"
        ) from error
    try:
        yield stage
        if destination.exists():
            destination.rmdir()
        stage.rename(destination)
    except OSError as error:
        _raise_if_full(error, destination)
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def is_full(error: BaseException) -> bool:
    """Whether a write failed for want of space: a full disk, a used-up quota, a limit on the size of files."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _raise_if_full(error: OSError, destination: Path) -> None:
    if is_full(error):
        raise WorkError(f"the disk of {destination} is full; free some space and run the same command again") from error


def require_free(destination: Path) -> None:
    """Refuse a destination that already holds something.

    Raises:
        RequestError: `destination` exists and is not an empty folder.
    """
    if not destination.exists():
        return
    if not destination.is_dir() or any(destination.iterdir()):
        raise RequestError(f"{destination} exists already; remove it or name another destination")


def require_space(destination: Path, needed_bytes: int) -> None:
    """Refuse work that cannot fit on the disk before it starts.

    Raises:
        WorkError: fewer than `needed_bytes` are free where `destination` will lie.
    """
    folder = destination.absolute()
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise WorkError(
            f"{destination} needs {needed_bytes / 2**20:,.0f} MiB and its disk has {free_bytes / 2**20:,.0f} MiB free; "
            "free some space or name a destination on another disk"
        )
