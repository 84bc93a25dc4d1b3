"""How commands print: lines of text and JSON on stdout, errors on stderr. Tables are in `tables`."""

import contextlib
import json
import os
import sys
from typing import Any, TextIO

from alexnet.errors import WorkError
from alexnet.system.visible_text import visible


def print_lines(*lines: str) -> None:
    """Print each text as one line; what a terminal cannot show, or must not act on, is escaped, see `visible`."""
    for line in lines:
        _print(line, sys.stdout)


def print_error(text: str) -> None:
    """Print one line to stderr, if anybody still reads it."""
    with contextlib.suppress(BrokenPipeError):
        _print(f"alexnet: {text}", sys.stderr)


def print_json(content: Any) -> None:
    r"""Print one JSON object in a line of ASCII.

    A byte of a file name that is not UTF-8 is a lone surrogate, such as `\udce9`; `os.fsencode` gives the name's bytes.
    """
    _print(json.dumps(content), sys.stdout)


def _print(text: str, stream: TextIO | None) -> None:
    if stream is not None:  # None: the descriptor was closed before the start
        # Line and end in one: an interrupt between the two would leave half of a row.
        try:
            stream.write(visible(text, getattr(stream, "encoding", None) or "utf-8") + "\n")
            stream.flush()
        except OSError as error:
            if isinstance(error, BrokenPipeError) or stream is not sys.stdout:
                raise
            # What could not be written is tried again as Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            raise WorkError(f"cannot write to standard output: {error.strerror or error}") from error
