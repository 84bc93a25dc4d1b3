"""Atomic writing of files and folders: they appear complete or not at all.

Bytes are written to a hidden file in the same folder, flushed to the disk, and renamed. A folder is filled under a
hidden name in the same way.
"""

import contextlib
import errno
import fcntl
import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from alexnet.errors import AlexNetError, RequestError, WorkError
from alexnet.storage.lock import is_file_at, only_writer
from alexnet.storage.read_errors import is_passing, passing_error

PARTIAL = ".partial"
"""Suffix of files that are still being written."""
STAGE_LOCK = ".lock"


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: after a crash there is either the old file or the new one.

    Raises:
        OSError: the folder is missing, unwritable or full; nothing is left behind.
    """
    write_chunks(path, [content])


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """As `write_bytes`, from chunks that need not be in memory at the same time."""
    with replaced_file(path) as file:
        for chunk in chunks:
            file.write(chunk)


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write, which becomes `path` when the block ends without an error, see `write_bytes`.

    What a killed process left unfinished of the same file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    _remove_abandoned(path)
    try:
        with _open_locked(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)  # while it is locked
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _open_locked(temporary: Path) -> BinaryIO:
    """Open an unfinished file, locked so that other processes see that its writer lives."""
    while True:
        file = temporary.open("wb")
        with contextlib.suppress(OSError):  # of a drive without locks, on which unfinished files stay
            fcntl.flock(file, fcntl.LOCK_EX)
        if is_file_at(file.fileno(), temporary):
            return file
        file.close()  # removed before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left unfinished of this file: what nobody holds locked."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        with contextlib.suppress(OSError), left.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_file_at(file.fileno(), left):
                left.unlink()


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

    On any error, including an interrupt, the hidden folder is removed. What a killed process left in it is removed by
    the next call, so that the same command can be rerun.

    Raises:
        RequestError: `destination` exists and is not an empty folder, or cannot be created; or another process is
            making it.
        WorkError: the disk is full.
    """
    require_free(destination)
    stage = destination.with_name(f".{destination.name}.partial")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(only_writer(stage / STAGE_LOCK, str(destination)))
            clear_folder(stage, STAGE_LOCK)
        except OSError as error:
            raise_if_full(error, destination)
            raise unwritable(destination, error) from error
        try:
            require_free(destination)  # another process may have just finished it
            yield stage
            if destination.exists():
                destination.rmdir()
            stage.rename(destination)
            (destination / STAGE_LOCK).unlink()
        except BaseException as error:
            remove_locked(stage, STAGE_LOCK)
            if isinstance(error, OSError):
                raise_if_full(error, destination)
            raise


def clear_folder(folder: Path, *kept: str) -> None:
    """Remove everything in a folder but the names in `kept`."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in kept:
            path.unlink()


def remove_locked(folder: Path, lock_name: str) -> None:
    """Remove a folder whose lock this process holds; the lock goes last.

    A process that waits for the lock then finds that it is gone, and makes the folder again.
    """
    with contextlib.suppress(OSError):
        clear_folder(folder, lock_name)
        (folder / lock_name).unlink()
        folder.rmdir()


def is_full(error: BaseException | None) -> bool:
    """Whether a write failed for lack of space: a full disk, an exceeded quota, or a limit on file sizes."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def raise_if_full(error: OSError, destination: Path) -> None:
    """WorkError if a write failed for lack of space."""
    if is_full(error):
        raise WorkError(f"the disk of {destination} is full; free some space and rerun the same command") from error


def unwritable(destination: Path, error: OSError) -> AlexNetError:
    """The error for a destination that cannot be created."""
    if is_passing(error):
        return passing_error(f"cannot write {destination}", error)
    return RequestError(f"cannot write {destination}: {error.strerror or error}; name a folder you may write to")


@contextlib.contextmanager
def created_folder(folder: Path) -> Iterator[None]:
    """Create a folder, with those above it; at the end, those of them that are still empty are removed.

    Raises:
        OSError: it cannot be created.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):  # it has something in it
            for one in missing:
                one.rmdir()


def require_free(destination: Path) -> None:
    """Refuse a destination that is not empty.

    Raises:
        RequestError: `destination` exists and is not an empty folder, or is the current folder, which would be
            replaced, or a file is in the place of a folder above it.
    """
    if not destination.exists():
        require_folders_above(destination)
        return
    if not destination.is_dir() or any(destination.iterdir()):
        raise RequestError(f"{destination} exists already; remove it or name another destination")
    if destination.samefile(os.curdir):
        raise RequestError(f"{destination} is the current folder; name a folder to create in it")


def require_folders_above(destination: Path) -> None:
    """RequestError if a file is in the place of a folder above a destination."""
    above = next((one for one in destination.parents if one.exists()), None)
    if above is not None and not above.is_dir():
        raise RequestError(f"cannot write {destination}: {above} is a file; name a destination in a folder")


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
