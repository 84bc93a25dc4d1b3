"""`alexnet bench evaluate`: options and table."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from alexnet.cli.bench_common import add_forward_passes, measure_by_allocator_option, print_speeds
from alexnet.cli.command_parser import CommandParser

SUMMARY = "forward passes, next to those of reference networks, and evaluations with one and ten views"
EXAMPLE = "alexnet bench evaluate --rounds 3 --json"


def add_arguments(parser: CommandParser) -> None:
    """Add the benchmark's options."""
    add_forward_passes(parser)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure."""
    from alexnet.bench.evaluation_benchmark import measure_evaluation

    command = [sys.executable, "-P", "-m", "alexnet", *options.words]
    return measure_by_allocator_option(options, command, "alexnet") or measure_evaluation(
        options.batch_size, options.steps, options.rounds, options.device, options.precision
    )


def print_table(result: Mapping[str, Any]) -> None:
    """Print the result of `measure`."""
    print_speeds(result, "alexnet", lambda one: f"10 views take {one['ten_view_cost']:.3f} of the time of 10 x 1 view")
