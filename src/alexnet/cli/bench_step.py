"""`alexnet bench step`: options and table."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from alexnet.cli.bench_common import add_allocator, add_rounds, measure_by_allocator_option, print_speeds
from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_arithmetic
from alexnet.runs.recipes import RECIPES

SUMMARY = "training steps, next to those of the same network in plain PyTorch and of torchvision's network"
EXAMPLE = "alexnet bench step --recipe quick --rounds 3"


def add_arguments(parser: CommandParser) -> None:
    """Add the benchmark's options."""
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"measure the network and batch size of a recipe: {', '.join(RECIPES)} "
        "(default: the paper's network, compared with torchvision's too)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per step (default: the recipe's, or 128)")
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="steps per measurement (default: 4; with --recipe as many as take a second)",
    )
    add_rounds(parser)
    parser.add_argument(
        "--busy", type=int, default=0, metavar="N", help="other processes that compute during the measurements"
    )
    add_arithmetic(parser)
    add_allocator(parser)
    parser.add_argument(
        "--only", action="append", default=[], metavar="METHOD", help="measure this method (may be repeated)"
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure."""
    from alexnet.bench.step_benchmark import measure_step

    command = [sys.executable, "-P", "-m", "alexnet", *options.words]
    return measure_by_allocator_option(options, command, "alexnet") or measure_step(
        options.batch_size,
        options.steps,
        options.rounds,
        options.device,
        options.precision,
        tuple(options.only),
        options.recipe,
        options.busy,
    )


def print_table(result: Mapping[str, Any]) -> None:
    """Print the result of `measure`."""
    columns = {
        "ideal": lambda speed: f"{100 * speed['fraction_of_ideal']:.0f} %",
        "core ms": _core_ms,
        "added MB": lambda speed: "" if speed["peak_bytes"] is None else f"{speed['peak_bytes'] / 1e6:,.0f}",
    }
    print_speeds(result, "alexnet", _note, columns)


def _core_ms(speed: Mapping[str, Any]) -> str:
    """Processor time per image and what fraction of it is ideal; nothing on GPUs."""
    if "core_ms_per_image" not in speed:
        return ""
    return f"{speed['core_ms_per_image']:.3f} ({100 * speed['fraction_of_ideal_core']:.0f} %)"


def _note(result: Mapping[str, Any]) -> str:
    # docs/decisions/021
    fewer = "; products are those of plain convolutions, and alexnet needs fewer of them"
    company = f"beside {result['busy']} busy processes; " if result["busy"] else ""
    return company + (
        f"ideal: fraction of the speed at which products and copies (at {result['ceilings']['copy_bytes'] / 1e9:.1f} "
        f"GB/s) take {result['ideal_ms_per_image']:.3f} ms per image"
        + ("; core ms: processor time per image, and which fraction is ideal" if result["device"] == "cpu" else "")
        + (fewer if result["device"] == "cpu" and result["precision"] == "float32" else "")
    )
