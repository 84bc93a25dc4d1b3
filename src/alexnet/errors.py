"""Errors with a message for the user: what was got, what is allowed, what to do.

The command line prints the message on one line and exits with the class's `exit_code`. Any other exception is a bug and
keeps its traceback.
"""


class AlexNetError(Exception):
    """Base class of errors whose message is for the user."""

    exit_code = 1
    is_reported = False
    """Whether another process of the same training prints the same message."""


class WorkError(AlexNetError, RuntimeError):
    """The request was valid but the work failed (exit code 1): corrupt download, full disk, diverged training."""

    exit_code = 1


class TemporaryError(WorkError):
    """The machine or a drive failed, not a file: the same command may succeed later, and nothing is lost."""


class RequestError(AlexNetError, ValueError):
    """The request was wrong (exit code 2): unknown name, missing folder, value out of range."""

    exit_code = 2


class Interrupted(AlexNetError):
    """The work was interrupted and can be resumed (exit code 3); the message says with which command."""

    exit_code = 3
