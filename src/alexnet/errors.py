"""The errors a person is meant to read: what was got, what is allowed, what to do.

The command prints the message on one line and exits with the class's `exit_code`; anything else that
escapes is a defect of ours and keeps its traceback.
"""


class AlexNetError(Exception):
    """Base of the errors whose message is written for the person at the keyboard."""

    exit_code = 1
    said = False
    """Whether another process of the same work has found the same and says it."""


class WorkError(AlexNetError, RuntimeError):
    """The request was right and the work failed (exit code 1): corrupt download, full disk, diverged training."""

    exit_code = 1


class RequestError(AlexNetError, ValueError):
    """The request was wrong (exit code 2): unknown name, missing folder, value out of range."""

    exit_code = 2


class Interrupted(AlexNetError):
    """The work was stopped from outside and can go on (exit code 3); the message holds the command that does."""

    exit_code = 3
