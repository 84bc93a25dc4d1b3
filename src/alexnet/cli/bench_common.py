"""Options and tables that several benchmarks share."""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_arithmetic, add_choice

_logger = logging.getLogger(__name__)


def add_photographs(parser: CommandParser) -> None:
    """Add the options of benchmarks that read photographs."""
    parser.add_argument(
        "--source", type=Path, metavar="PATH", help="photographs to measure with (default: generated 500 x 375 images)"
    )
    parser.add_argument("--files", type=int, default=2000, metavar="N", help="number of photographs")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core)")
    add_rounds(parser)


def add_rounds(parser: CommandParser) -> None:
    """Add `--rounds`."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="measurements of each method")


def add_forward_passes(parser: CommandParser) -> None:
    """Add the options of benchmarks of forward passes."""
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images per forward pass (default: as `alexnet evaluate`)"
    )
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="forward passes per measurement")
    add_rounds(parser)
    add_arithmetic(parser)
    add_allocator(parser)


def add_allocator(parser: CommandParser) -> None:
    """Add `--allocator`."""
    add_choice(
        parser,
        "--allocator",
        ("both", "tuned", "default", "current"),
        help="memory allocator on CPUs: both, tuned or default, each in a new process; or current, in this one",
    )


def measure_by_allocator_option(
    options: argparse.Namespace, command: Sequence[str], method: str
) -> dict[str, Any] | None:
    """The result by memory allocator as `--allocator` asks; None if this process is to measure.

    Args:
        command: starts the same benchmark with the same arguments in a new process.
        method: the one that is this package's.

    Raises:
        RequestError: the allocator cannot be chosen on this machine.
    """
    from alexnet.bench.allocators import measure_by_allocator
    from alexnet.errors import RequestError
    from alexnet.system.device import choose_device
    from alexnet.system.machine import fixed_allocator_reason

    if options.allocator == "current" or choose_device(options.device).type != "cpu":
        return None
    if reason := fixed_allocator_reason():
        if options.allocator != "both":
            raise RequestError(
                f"--allocator is {options.allocator}, and this machine has one memory allocator: {reason}; allowed "
                "are both and current"
            )
        _logger.info("measuring with one memory allocator: %s", reason)
        return None
    allocators = ("tuned", "default") if options.allocator == "both" else (options.allocator,)
    return measure_by_allocator(allocators, command, method)


def print_speeds(
    result: Mapping[str, Any],
    method: str,
    note: Callable[[Mapping[str, Any]], str],
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]] | None = None,
) -> None:
    """Print a table of images per second and a note, for each memory allocator that was measured.

    Args:
        result: of a benchmark of the network, or by allocator (`measure_by_allocator`).
        method: the one that is this package's.
        note: text below the table.
        columns: by heading, further cells of a method's row.
    """
    from alexnet.cli.tables import new_table
    from alexnet.system.terminal import TerminalConsole

    console = TerminalConsole()
    columns = columns or {}
    for allocator, one in (("", result),) if "methods" in result else result.items():
        table = new_table(
            f"{one['device']}, batches of {one['batch_size']}, {one['precision']}, {one['kernels']} kernels"
            + (f", {allocator} allocator" if allocator else ""),
            "method",
            ["images/s", "best", "speedup", "matmul", *columns],
        )
        for name, speed in one["methods"].items():
            speedup = one["speedups"].get(name)
            table.add_row(
                name,
                f"{speed['images_per_second']:,.1f}",
                f"{speed['best_images_per_second']:,.1f}",
                "" if speedup is None else f"{speedup:.2f}",
                f"{100 * speed['fraction_of_matmul']:.0f} %",
                *(cell(speed) for cell in columns.values()),
            )
        console.print_table(table)
        console.print(
            f"medians of {one['rounds']} rounds; speedup: of {method} over the method; matmul: fraction of the "
            f"{one['ceilings']['matmul_flops'] / 1e12:.2f} TFLOP/s of a large matrix product; {note(one)}",
            highlight=False,
        )
    if speedups := result.get("tuned", {}).get("speedups_over_default_allocator"):
        text = ", ".join(f"{speedup:.2f} over {name}" for name, speedup in speedups.items())
        console.print(
            f"speedup of {method} (which sets the tuned allocator) over programs with the default allocator: {text}",
            highlight=False,
        )
