"""What the scripts in this folder share: reading arguments, logging, errors and output."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_json
from alexnet.errors import AlexNetError
from alexnet.system.machine import restart_with_tuned_allocator
from alexnet.system.progress import log_to_stderr

logger = logging.getLogger("alexnet.benchmarks")
"""Its lines are printed to stderr by `run_script`, like those of the package."""


def run_script(
    doc: str | None,
    add_arguments: Callable[[CommandParser], None],
    measure: Callable[[argparse.Namespace], Mapping[str, Any]],
    print_table: Callable[[Mapping[str, Any]], None],
    words: Sequence[str] | None = None,
) -> int:
    """Measure and print a table, or with `--json` one JSON object; returns the exit code.

    Args:
        doc: the script's docstring, shown by `--help`.
        measure: returns the result; an empty one is not printed (processes of a distributed run but the main one).
        words: the command line; None is this process's, which then restarts with the memory allocator of a training.
    """
    summary, _, details = (doc or "").strip().partition("\n\n")
    parser = CommandParser(f"python {sys.argv[0]}", summary, details)
    add_arguments(parser)
    add_json(parser)
    is_main = os.environ.get("RANK", "0") == "0"
    try:
        options = parser.parse(sys.argv[1:] if words is None else words)
        options.words = sys.argv[1:] if words is None else words
        if words is None:
            restart_with_tuned_allocator([sys.argv[0]])
        with log_to_stderr() if is_main else nullcontext():
            result = measure(options)
    except AlexNetError as error:
        if not error.is_reported:
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if result and options.json:
        print(json.dumps(result))
    elif result:
        print_table(result)
    return 0
