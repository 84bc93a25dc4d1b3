"""`alexnet bench`: benchmarks, each a module with its own arguments and table. A new one is listed in `BENCHMARKS`."""

import argparse
from collections.abc import Mapping
from types import ModuleType

from alexnet.cli import bench_data, bench_evaluate, bench_prepare, bench_step
from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_json
from alexnet.cli.output import print_json

BENCHMARKS: Mapping[str, ModuleType] = {
    "step": bench_step,
    "evaluate": bench_evaluate,
    "data": bench_data,
    "prepare": bench_prepare,
}
"""Each has `SUMMARY`, `EXAMPLE`, `add_arguments(parser)`, `measure(options)` and `print_table(result)`."""
SCRIPTS = ("baselines", "checkpoint", "columns", "features", "precision")
"""Benchmarks of earlier versions that are scripts in the source repository now."""


def add_arguments(parser: CommandParser) -> None:
    """Add a sub-command for each benchmark."""
    parser.moved_kinds = {name: f"`python benchmarks/{name}.py` in the source repository" for name in SCRIPTS}
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(
            name,
            help=benchmark.SUMMARY,
            description=f"Measure {benchmark.SUMMARY}.",
            epilog=f"example: {benchmark.EXAMPLE}",
        )
        benchmark.add_arguments(command)
        add_json(command)


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    benchmark = BENCHMARKS[options.benchmark]
    result = benchmark.measure(options)
    if options.json:
        print_json(result)
    else:
        benchmark.print_table(result)
