"""Why a file could not be read: because of its content, or because of the machine, the drive or permissions.

Only the first is damage, after which a file is removed and made again. All code that reads files asks here.
"""

import errno
import os
import stat
from pathlib import Path

from alexnet.errors import RequestError, TemporaryError

_CHECK_DRIVE = "check the drive and the connection to it"
_PASSING = {
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENFILE: "close other programs, or raise the system's limit of open files",
    errno.ENOMEM: "free some memory",
    errno.ENOBUFS: "free some memory",
    errno.EAGAIN: "wait a moment",
    errno.EBUSY: "wait a moment",
    errno.EINTR: "wait a moment",
    errno.ENOLCK: "free some file locks",
} | dict.fromkeys(
    (
        errno.EIO,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOTCONN,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ESHUTDOWN,
        errno.EPROTO,
        errno.EREMCHG,
    ),
    _CHECK_DRIVE,
)
"""What to do about errors that say nothing about a file."""
_DENIED = (errno.EACCES, errno.EPERM)


def is_passing(error: BaseException) -> bool:
    """Whether it is the machine, or the drive, that failed: the same call may succeed later on the same file."""
    return isinstance(error, OSError) and error.errno in _PASSING and not _is_of_a_socket(error)


def _is_of_a_socket(error: OSError) -> bool:
    """Whether the error is that a socket cannot be opened, which also means that a device is gone."""
    try:
        return error.errno == errno.ENXIO and stat.S_ISSOCK(os.stat(error.filename).st_mode)
    except (OSError, TypeError):
        return False


def passing_error(problem: str, error: OSError, then: str = "rerun the same command") -> TemporaryError:
    """The user's error for one that `is_passing`: the problem, such as `cannot read FILE`, its cause and what to do."""
    assert error.errno is not None
    return TemporaryError(f"{problem}: {os.strerror(error.errno)}; {_PASSING[error.errno]}, then {then}")


def raise_unless_damage(error: BaseException, path: Path, subject: str = "") -> None:
    """Raise the right error where `path` could not be read for a reason other than its content; else do nothing.

    Args:
        error: what reading raised. Libraries hide the reason (safetensors reports every failure to open a file as a
            missing one), so an error without a number is looked into by opening the file again.
        path: the file, or the folder that holds it.
        subject: what could not be read, for the message; by default the file that the error names, or else `path`.

    Raises:
        TemporaryError: the machine or the drive failed; the same command may succeed later.
        RequestError: permission is denied.
    """
    if not isinstance(error, OSError) or error.errno is None:
        error = _error_of_opening(path) or error
    if not isinstance(error, OSError) or error.errno is None:
        return
    name = subject or error.filename or path
    if is_passing(error):
        raise passing_error(f"cannot read {name}", error) from error
    if error.errno in _DENIED:
        raise RequestError(
            f"cannot read {name}: {os.strerror(error.errno)}; change its permissions, then rerun the same command"
        ) from error


def _error_of_opening(path: Path) -> OSError | None:
    try:
        if path.is_file():
            # Several times at once: torch opens a file that safetensors has open, and mapping opens it again.
            with path.open("rb", buffering=0) as file, path.open("rb"), path.open("rb"):
                file.read(1)
    except OSError as error:
        return error
    return None
