"""The words behind `alexnet bench`: a measurement each, with options of its own."""

import argparse
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alexnet.cli.command_parser import CommandParser

_logger = logging.getLogger(__name__)

Report = Callable[[str], None]


def add_arguments(parser: CommandParser) -> None:
    """Add the benchmarks, each with its own options."""
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    prepare = _kind(
        kinds,
        "prepare",
        "a whole preparation beside decode, resize and encode alone, and beside Pillow",
        "--source photographs/ --files 2000",
    )
    _add_photographs(prepare)
    data = _kind(
        kinds, "data", "the loader beside PyTorch's DataLoader with Pillow", "--source photographs/ --html loading.html"
    )
    _add_photographs(data)
    data.add_argument(
        "--epochs", type=int, help="passes over which memory is watched (default 0, with --html 20)", metavar="N"
    )
    data.add_argument("--html", type=Path, help="write a page here with the table and memory over time")
    checkpoint = _kind(kinds, "checkpoint", "what writing a checkpoint beside the training costs it", "--batch-size 64")
    checkpoint.add_argument("--variant", default="paper", help="of the network (default paper)")
    checkpoint.add_argument("--batch-size", type=int, default=128, help="images a step (default 128)")
    checkpoint.add_argument("--steps", type=int, default=4, help="steps beside each checkpoint (default 4)")
    checkpoint.add_argument("--folder", type=Path, help="where to write (default: the system's temporary files)")
    step = _kind(
        kinds,
        "step",
        "the training step beside the network as usually written and beside torchvision's",
        "--batch-size 64 --rounds 3",
    )
    step.add_argument("--batch-size", type=int, default=128, help="images a step (default 128)")
    step.add_argument("--steps", type=int, default=4, help="steps of one measurement of a fast way (default 4)")
    step.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    step.add_argument("--precision", default="auto", help="auto, float32 or bfloat16 (default auto)")
    step.add_argument("--only", action="append", default=[], metavar="WAY", help="measure this way (may be repeated)")
    evaluate = _kind(
        kinds, "evaluate", "forward passes beside the usual networks', and ten views beside one", "--rounds 3 --json"
    )
    features = _kind(
        kinds,
        "features",
        "a hidden layer's activations beside the usual networks with a hook on it",
        "--allocator tuned",
    )
    for forward in (evaluate, features):
        forward.add_argument("--batch-size", type=int, help="images at a time (default: as `evaluate` on this device)")
        forward.add_argument("--steps", type=int, default=4, help="batches of one measurement (default 4)")
        forward.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
        forward.add_argument("--precision", default="auto", help="auto, float32 or bfloat16 (default auto)")
    for one in (step, evaluate, features):
        one.add_argument(
            "--allocator",
            choices=["both", "tuned", "default", "here"],
            default="both",
            help="on processors: in a process of its own with the tuned memory allocator, with the system's, or one "
            "after the other in both (default); here: in this process as it is",
        )
    precision = _kind(
        kinds,
        "precision",
        "whether a training in bfloat16 learns as one in float32 does",
        "data/mine --batch-size 64",
        rounds=False,
    )
    precision.add_argument("data", type=Path, metavar="DATA", help="a prepared data set")
    precision.add_argument("--recipe", default="paper", help="whose network and first rates are taken (default paper)")
    precision.add_argument("--steps", type=int, default=200, help="of each training (default 200)")
    precision.add_argument("--batch-size", type=int, help="images a step (default: the recipe's)")
    precision.add_argument("--seeds", type=int, default=3, help="trainings in float32 (default 3)")
    precision.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    columns = _kind(
        kinds, "columns", "what processes that share a network send each other, and how fast they train", "--no-speed"
    )
    columns.add_argument("--variant", default="paper", help="of the network (default paper)")
    columns.add_argument("--width", type=float, default=1.0, help="factor on its maps and units (default 1)")
    columns.add_argument("--batch-size", type=int, default=32, help="images a step of all processes (default 32)")
    columns.add_argument("--steps", type=int, default=2, help="steps of one measurement (default 2)")
    columns.add_argument("--precision", default="auto", help="auto, float32 or bfloat16 (default auto)")
    columns.add_argument("--no-speed", action="store_true", help="count bytes, in two processes, and time nothing")
    baselines = _kind(
        kinds,
        "baselines",
        "the baselines' stages beside OpenCV, scikit-image and scikit-learn",
        "--source photographs/",
    )
    baselines.add_argument("--source", type=Path, help="photographs to measure with (default: pictures are drawn)")
    baselines.add_argument("--files", type=int, default=20, help="how many of them (default 20)")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    measured = _MEASURES[options.what](options, _logger.info)
    if not measured:  # only the main process prints
        return
    if options.json:
        print(json.dumps(measured))
        return
    from alexnet.cli.bench_tables import (
        print_baselines_bench,
        print_checkpoint_bench,
        print_columns_bench,
        print_data_bench,
        print_evaluate_bench,
        print_features_bench,
        print_precision_bench,
        print_prepare_bench,
        print_step_bench,
    )

    tables: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
        "prepare": print_prepare_bench,
        "data": print_data_bench,
        "checkpoint": print_checkpoint_bench,
        "step": print_step_bench,
        "evaluate": print_evaluate_bench,
        "features": print_features_bench,
        "precision": print_precision_bench,
        "columns": print_columns_bench,
        "baselines": print_baselines_bench,
    }
    tables[options.what](measured)


def _kind(
    kinds: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    what: str,
    example: str,
    *,
    rounds: bool = True,
) -> argparse.ArgumentParser:
    made = kinds.add_parser(
        name,
        help=what,
        description=f"Measure {what}.",
        epilog=f"example: alexnet bench {name} {example}",
        allow_abbrev=False,
    )
    if rounds:
        made.add_argument("--rounds", type=int, default=5, help="how often each way runs (default 5)")
    made.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return made


def _add_photographs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", type=Path, help="photographs to measure with (default: 500 x 375 pictures are drawn)"
    )
    parser.add_argument("--files", type=int, default=2000, help="how many of them (default 2000)")
    parser.add_argument("--workers", type=int, help="threads (default: one per core)")


def _prepare(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    from alexnet.bench.preparation_benchmark import bench_prepare

    return bench_prepare(options.source, options.files, options.rounds, options.workers, report)


def _data(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    from alexnet.bench.loading_benchmark import bench_data
    from alexnet.bench.loading_page import write_data_page

    epochs = options.epochs if options.epochs is not None else 20 if options.html else 0
    measured = bench_data(options.source, options.files, options.rounds, options.workers, epochs, report)
    if options.html:
        write_data_page(measured, options.html)
        report(f"page: {options.html}")
    return measured


def _checkpoint(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    from alexnet.bench.checkpointing import bench_checkpoint

    return bench_checkpoint(options.variant, options.batch_size, options.steps, options.rounds, options.folder, report)


def _step(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    from alexnet.bench.step_benchmark import bench_step

    return _by_allocator(options, "alexnet", report) or bench_step(
        options.batch_size,
        options.steps,
        options.rounds,
        options.device,
        options.precision,
        report,
        tuple(options.only),
    )


def _by_allocator(options: argparse.Namespace, product: str, report: Report) -> dict[str, Any] | None:
    """What the same words find with each memory allocator asked for; None where this process is to measure as it is."""
    from alexnet.bench.allocators import by_allocator
    from alexnet.errors import RequestError
    from alexnet.system.device import choose_device
    from alexnet.system.machine import why_one_allocator

    if options.allocator == "here" or choose_device(options.device).type != "cpu":
        return None
    if reason := why_one_allocator():
        if options.allocator != "both":
            raise RequestError(f"--allocator is {options.allocator}; here there is one memory allocator: {reason}")
        report(f"with one memory allocator: {reason}")
        return None
    names = ("tuned", "default") if options.allocator == "both" else (options.allocator,)
    return by_allocator(names, options.words, product, report)


def _evaluate(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    from alexnet.bench.evaluation_benchmark import bench_evaluate

    return _by_allocator(options, "alexnet", report) or bench_evaluate(
        options.batch_size, options.steps, options.rounds, options.device, options.precision, report
    )


def _features(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    from alexnet.bench.featuring import bench_features

    return _by_allocator(options, "alexnet, fc7", report) or bench_features(
        options.batch_size, options.steps, options.rounds, options.device, options.precision, report
    )


def _precision(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    from alexnet.bench.precision import bench_precision

    return bench_precision(
        options.data, options.recipe, options.steps, options.batch_size, options.seeds, options.device, report
    )


def _columns(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    from alexnet.bench.columns import bench_columns
    from alexnet.bench.sharing_ways import ColumnsBench
    from alexnet.parallel.launch import run_in_processes
    from alexnet.parallel.process_group import world_size

    asked = ColumnsBench(
        variant=options.variant,
        width=options.width,
        batch_size=options.batch_size,
        precision=options.precision,
        steps=options.steps,
        rounds=options.rounds,
        speed=not options.no_speed,
    )
    if world_size() == 1:
        report(f"starting {asked.num_processes} processes on this machine")
        raise SystemExit(run_in_processes(options.words, asked.num_processes))
    return bench_columns(asked, report)


def _baselines(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    from alexnet.cli.baseline_command import require_libraries

    require_libraries()
    from alexnet.bench.baselines import bench_baselines

    return bench_baselines(options.source, options.files, options.rounds, report)


_MEASURES: Mapping[str, Callable[[argparse.Namespace, Report], dict[str, Any]]] = {
    "prepare": _prepare,
    "data": _data,
    "checkpoint": _checkpoint,
    "step": _step,
    "evaluate": _evaluate,
    "features": _features,
    "precision": _precision,
    "columns": _columns,
    "baselines": _baselines,
}
