"""`alexnet bench prepare`: options and table."""

import argparse
from collections.abc import Mapping
from typing import Any

from alexnet.cli.bench_common import add_photographs
from alexnet.cli.command_parser import CommandParser

SUMMARY = "a whole preparation, next to its decode, resize and encode only, and to the same with Pillow"
EXAMPLE = "alexnet bench prepare --source photographs/ --files 2000"


def add_arguments(parser: CommandParser) -> None:
    """Add the benchmark's options."""
    add_photographs(parser)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure."""
    from alexnet.bench.preparation_benchmark import measure_preparation

    return measure_preparation(options.source, options.files, options.rounds, options.workers)


def print_table(result: Mapping[str, Any]) -> None:
    """Print the result of `measure`."""
    from alexnet.cli.tables import new_table
    from alexnet.system.terminal import TerminalConsole

    console = TerminalConsole()
    table = new_table("preparing", "method", ("images/s", "CPU ms/image", "prepare is", "by CPU time"))
    for name, row in result["methods"].items():
        ratios = [result[key].get(name) for key in ("relative_speed", "relative_cpu_speed")]
        table.add_row(
            name,
            f"{row['images_per_second']:,.0f}",
            f"{row['cpu_ms_per_image']:.2f}",
            *("" if ratio is None else f"{ratio:.2f} x" for ratio in ratios),
        )
    console.print_table(table)
    console.print(
        f"{result['files']:,} files ({result['photographs']}, {result['mean_file_bytes'] / 1000:.1f} kB), "
        f"{result['workers']} threads, medians of {result['rounds']} rounds; prepare is: its speed over the "
        "method's",
        highlight=False,
    )
