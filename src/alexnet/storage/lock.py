"""A lock file that allows one writer at a time and is released when its process ends."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from alexnet.errors import RequestError

TRIES, TRY_EVERY_S = 4, 0.05


@contextlib.contextmanager
def only_writer(path: Path, what: str) -> Iterator[str | None]:
    """Hold the lock file `path` during the block.

    The system releases the lock when its process ends for any reason, so a lock is never stale. The file remains and
    names its last holder.

    Args:
        path: the lock file; created if it is missing.
        what: what is locked, for the message.

    Yields:
        The name of the process that held the lock before and did not release it (killed, or on another machine), for a
        message; None if there is none.

    Raises:
        RequestError: another process holds the lock; the message names its id and host.
        OSError: the file cannot be created.
    """
    with path.open("a+", encoding="utf-8") as file:
        if not _acquire(file.fileno()):
            raise RequestError(
                f"{what} is being written by {_holder(file.name) or 'another process'}; wait for it, or stop it"
            )
        last_holder = _holder(file.name)
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


def _acquire(descriptor: int) -> bool:
    for _ in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(TRY_EVERY_S)  # `is_held` may hold it for a moment
        else:
            return True
    return False


def _holder(path: str) -> str | None:
    try:
        holder = json.loads(Path(path).read_text(encoding="utf-8"))
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (ValueError, KeyError, TypeError, OSError):
        return None


def _write(descriptor: int, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not release the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
