"""`alexnet bench data`: options and table."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet.cli.bench_common import add_photographs
from alexnet.cli.command_parser import CommandParser

_logger = logging.getLogger(__name__)

SUMMARY = "the loader, next to PyTorch's DataLoader with Pillow"
EXAMPLE = "alexnet bench data --source photographs/ --html loading.html"
PAGE_EPOCHS = 20


def add_arguments(parser: CommandParser) -> None:
    """Add the benchmark's options."""
    add_photographs(parser)
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help=f"passes over which memory is sampled (default: 0, with --html {PAGE_EPOCHS})",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with the table and memory curves")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure; write the page."""
    from alexnet.bench.loading_benchmark import measure_loading
    from alexnet.bench.loading_page import write_loading_page

    epochs = options.epochs if options.epochs is not None else PAGE_EPOCHS if options.html else 0
    result = measure_loading(options.source, options.files, options.rounds, options.workers, epochs)
    if options.html:
        write_loading_page(result, options.html)
        _logger.info("page: %s", options.html)
    return result


def print_table(result: Mapping[str, Any]) -> None:
    """Print the result of `measure`."""
    from alexnet.cli.tables import new_table
    from alexnet.system.terminal import TerminalConsole

    console = TerminalConsole()
    headings = ("images/s", "CPU ms/image", "CPU use", "added MB")
    table = new_table("loading batches of 128 crops of 224 pixels", "method", headings)
    for name, row in (result["methods"] | result["limits"]).items():
        added = row["added_bytes"]
        table.add_row(
            name,
            f"{row['images_per_second']:,.0f}",
            f"{row['cpu_ms_per_image']:.3f}",
            f"{100 * row['cpu_fraction']:.0f} %",
            "" if added is None else f"{added / 1e6:,.0f}",
        )
    console.print_table(table)
    for store, parts in result["parts_us"].items():
        times = ", ".join(f"{part} {us:,.1f}" for part, us in parts.items())
        console.print(
            f"{store}: {result['speedups'][store]:.1f} times as fast as the DataLoader, "
            f"{100 * result['fraction_of_limit'][store]:.0f} % of {result['limit_of'][store]}; microseconds per image "
            f"in one thread: {times}; bottleneck: {result['bottleneck'][store]}",
            highlight=False,
        )
    console.print(
        f"{result['images_per_pass']:,} images per pass ({result['photographs']}, "
        f"{result['mean_file_bytes'] / 1000:.1f} kB), {result['workers']} threads or processes, batches copied to "
        f"{result['device']}, medians of {result['rounds']} rounds",
        highlight=False,
    )
