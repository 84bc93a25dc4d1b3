"""A lock file that allows one writer at a time and is released when its process ends."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from alexnet.errors import RequestError

TRIES, MAX_TRIES, TRY_EVERY_S = 4, 40, 0.05
MAX_CHARACTERS = 4096
MAX_REPLACED = 100
"""How often the folder may vanish while it is being locked."""


@contextlib.contextmanager
def only_writer(path: Path, what: str) -> Iterator[str | None]:
    """Hold the lock file `path` during the block.

    The system releases the lock when its process ends for any reason, so a lock is never stale. The file remains and
    names its last holder.

    Of processes that start at the same moment exactly one gets the lock, even while another one removes or renames the
    folder: the lock counts only if `path` is still its file.

    Args:
        path: the lock file; it and its folder are created if they are missing.
        what: what is locked, for the message.

    Yields:
        The name of the process that held the lock before and did not release it (killed, or on another machine), for a
        message; None if there is none.

    Raises:
        RequestError: another process holds the lock; the message names its id and host.
        OSError: the file cannot be created.
    """
    with _locked_file(path, what) as file:
        last_holder = _holder(path)
        _write(file.fileno(), json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        try:
            yield last_holder
        finally:
            _write(file.fileno(), "")


def is_held(path: Path) -> bool:
    """Whether a process on this machine (or one that shares its file locks) holds the lock file."""
    try:
        with path.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def _locked_file(path: Path, what: str) -> TextIO:
    """The lock file, opened and locked."""
    for _ in range(MAX_REPLACED):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:
            continue  # another process has just removed or renamed the folder
        try:
            if not _acquire(file.fileno(), path):
                raise RequestError(
                    f"{what} is being written by {_holder(path) or 'another process'}; wait for it, or stop it"
                )
            if is_file_at(file.fileno(), path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
    raise RequestError(f"{path.parent} keeps being removed and created again; stop the process that does it")


def is_file_at(descriptor: int, path: Path) -> bool:
    """Whether `path` is still the open file, and was not removed or replaced since."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _acquire(descriptor: int, path: Path) -> bool:
    """Try to lock; True if it worked, False once another process holds it and has written its name."""
    for number in range(MAX_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # `is_held` may hold it for a moment, and a new holder needs a moment to write its name.
            time.sleep(TRY_EVERY_S)
            if number + 1 >= TRIES and _holder(path):
                return False
        else:
            return True
    return False


def _holder(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8") as file:
            holder = json.loads(file.read(MAX_CHARACTERS))
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (ValueError, KeyError, TypeError, OSError, OverflowError, RecursionError):
        return None


def _write(descriptor: int, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not release the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
