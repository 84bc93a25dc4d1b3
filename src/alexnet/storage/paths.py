"""Paths as Python callers give them: text or path objects, one or several."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet.errors import RequestError

StrPath = str | os.PathLike[str]
"""A path; as text, it may begin with `~`, the home folder."""
StrPaths = StrPath | Sequence[StrPath]
"""One path, or a sequence of them."""


def as_path(given: StrPath, what: str) -> Path:
    """The path that a caller gave.

    Args:
        what: what it is, for the message, such as `the run folder`.

    Raises:
        RequestError: it is not a path.
    """
    # Any: callers without a type checker give anything.
    value: Any = given.__fspath__() if isinstance(given, os.PathLike) else given
    if not isinstance(value, str):
        raise RequestError(f"{what} is {described(given)}; allowed is a path, as text or as a Path object")
    if not value or "\0" in value:
        raise RequestError(f"{what} is {value!r}; allowed is a path that is not empty and has no null characters")
    if re.match("https?://", value, re.IGNORECASE):
        raise RequestError(f"{what} is a URL; allowed is a path: download it first, and name the file or folder")
    return Path(given) if isinstance(given, os.PathLike) else Path(os.path.expanduser(value))


def as_paths(given: StrPaths, what: str) -> list[Path]:
    """The paths that a caller gave: one, or several in a sequence; see `as_path`."""
    if isinstance(given, str | os.PathLike) or not isinstance(given, Sequence):
        return [as_path(given, what)]
    return [as_path(one, what) for one in given]


def described(value: object) -> str:
    """A value that has the wrong type, for a message: itself if it is short, otherwise its type."""
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"of type {type(value).__name__}"
