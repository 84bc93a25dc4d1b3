"""One writer at a time: a lock that dies with its process."""

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
    """Hold the lock file `path` for as long as the block lasts.

    The system drops the lock when its process ends, however it ends, so a lock is never stale; the file
    stays and says who held it last.

    Args:
        path: the lock file; made where it is missing.
        what: what is being locked, for the message.

    Yields:
        Who left the file behind without letting go (killed, or another machine's), in words; else None.

    Raises:
        RequestError: another process holds it; its id and host are named.
        OSError: the file cannot be made.
    """
    with path.open("a+", encoding="utf-8") as file:
        if not _taken(file.fileno()):
            raise RequestError(
                f"{what} is being written by {_holder(file.name) or 'another process'}; wait for it, or stop it"
            )
        before = _holder(file.name)
        _write(file.fileno(), json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        try:
            yield before
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


def _taken(descriptor: int) -> bool:
    for _ in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(TRY_EVERY_S)  # `is_held` holds it for a moment
        else:
            return True
    return False


def _holder(path: str) -> str | None:
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
        return f"process {int(held['pid'])} on {held['host']}"
    except (ValueError, KeyError, TypeError, OSError):
        return None


def _write(descriptor: int, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not take the lock away
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
