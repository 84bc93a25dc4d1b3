"""Atomic writing of files and folders: they appear complete or not at all.

Bytes are written to a hidden file in the same folder, flushed to the disk, and renamed. A folder is filled under a
hidden name in the same way.
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
"""Suffix of files that are still being written."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: after a crash there is either the old file or the new one.

    Raises:
        OSError: the folder is missing, unwritable or full; nothing is left behind.
    """
    write_chunks(path, [content])


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """As `write_bytes`, from chunks that need not be in memory at the same time."""
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
    """Flush the names in `folder` to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path) -> None:
    """Remove files that killed processes left unfinished in `folder`; no other process may be writing there."""
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_file():
            path.unlink()


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically, see `write_bytes`."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON document atomically, indented, see `write_bytes`."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # File names may not be UTF-8; other bytes become JSON escapes.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write a JSON document per line atomically, see `write_bytes`."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


@contextlib.contextmanager
def staged_folder(destination: Path) -> Iterator[Path]:
    """Yield an empty hidden folder that becomes `destination` when the block ends without an error.

    On any error, including an interrupt, the hidden folder is removed. The one that a killed process left is removed
    by the next call, so that the same command can be rerun.

    Raises:
        RequestError: `destination` exists and is not an empty folder, or cannot be created.
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
        raise unwritable(destination, error) from error
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
    """Whether a write failed for lack of space: a full disk, an exceeded quota, or a limit on file sizes."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _raise_if_full(error: OSError, destination: Path) -> None:
    if is_full(error):
        raise WorkError(f"the disk of {destination} is full; free some space and rerun the same command") from error


def unwritable(destination: Path, error: OSError) -> RequestError:
    """The error for a destination that cannot be created."""
    return RequestError(f"cannot write {destination}: {error.strerror or error}; name a folder you may write to")


def require_free(destination: Path) -> None:
    """Refuse a destination that is not empty.

    Raises:
        RequestError: `destination` exists and is not an empty folder.
    """
    if not destination.exists():
        return
    if not destination.is_dir() or any(destination.iterdir()):
        raise RequestError(f"{destination} exists already; remove it or name another destination")


def require_space(destination: Path, needed_bytes: int) -> None:
    """Refuse work that cannot fit on the disk, before it starts.

    Raises:
        WorkError: fewer than `needed_bytes` are free on the disk of `destination`.
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
