"""The command `alexnet`: one command = one function call. Heavy imports stand inside the commands.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 3 interrupted and resumable.
"""

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from alexnet.errors import AlexNetError, RequestError

if TYPE_CHECKING:
    from alexnet.cli.recipe_options import TrainOptions
    from alexnet.parallel.layout import Layout
    from alexnet.parallel.process_mesh import ProcessMesh

Arguments = Sequence[str]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """A command: what it does in a line, an example, and the function that takes the words behind it."""

    summary: str
    example: str
    run: Callable[[Arguments], None]
    computes: bool = False
    """Whether it runs the network long enough for the allocator to matter."""


def main(words: Arguments | None = None) -> int:
    """Run one command and return its exit code; without `words`, the one this process was started with."""
    from_shell = words is None
    words = sys.argv[1:] if words is None else list(words)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        from alexnet import __version__

        print(f"alexnet {__version__}")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise RequestError(f"unknown command {words[0]!r}; known are {', '.join(COMMANDS)}")
        if sys.platform == "win32":
            raise RequestError(
                "Windows is not supported: a folder cannot take its name while its files are mapped into memory there; "
                "use the Windows Subsystem for Linux"
            )
        command = COMMANDS[words[0]]
        if from_shell and command.computes:
            from alexnet.system.machine import restart_with_tuned_allocator

            restart_with_tuned_allocator()
        from alexnet.system.progress import log_to_stderr

        with log_to_stderr():
            command.run(words[1:])
    except AlexNetError as error:
        if not error.said:
            rank = f"rank {os.environ['RANK']}: " if os.environ.get("RANK") else ""
            print(f"alexnet: {rank}error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("alexnet: interrupted; the same command starts again", file=sys.stderr)
        return 3
    except BrokenPipeError:
        # Whoever read our output has left; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"alexnet: error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _overview() -> str:
    lines = [
        "usage: alexnet COMMAND ...",
        "",
        "The 2012 network: photographs in, a trained and measured network out.",
        "",
    ]
    width = max(map(len, COMMANDS))
    lines += [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "`alexnet COMMAND --help` says more, with an example.",
        "Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 3 interrupted and resumable.",
    ]
    return "\n".join(lines)


def _parser(name: str) -> argparse.ArgumentParser:
    command = COMMANDS[name]
    return argparse.ArgumentParser(
        prog=f"alexnet {name}", description=command.summary, epilog=f"example: {command.example}", allow_abbrev=False
    )


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let a scheduler's SIGTERM end the work as Ctrl-C does: in order, with what is done kept."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    _logger.info("%s", text)


def _fetch(words: Arguments) -> None:
    parser = _parser("fetch")
    parser.add_argument(
        "name",
        choices=("cifar10", "shapes"),
        help="cifar10: the paper's second data set; shapes: generated, needs no network",
    )
    parser.add_argument("destination", type=Path, help="folder to make")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        help="cifar10: a copy on this machine (folder or archive); else ALEXNET_CIFAR10, else the network",
    )
    options = parser.parse_args(words)
    from alexnet.data.fetch import fetch_cifar10
    from alexnet.data.shapes import fetch_shapes

    if options.name == "shapes":
        if options.source:
            raise RequestError("--from does not go with shapes, which are drawn, not copied")
        fetch_shapes(options.destination)
    else:
        fetch_cifar10(options.destination, options.source)
    print(f"{options.destination}: ready; next: alexnet prepare {options.destination} PREPARED")


def _prepare(words: Arguments) -> None:
    parser = _parser("prepare")
    parser.add_argument(
        "source",
        type=Path,
        help="a folder with one folder per class (under train/ and val/, or not), a tar or zip of one, ImageNet's "
        "archives, CIFAR, IDX, Parquet, WebDataset shards, or a CSV of path,label",
    )
    parser.add_argument("destination", type=Path, help="folder to make: the prepared data set")
    parser.add_argument("--kind", help="what the source is, where that is not recognized (a wrong name lists them all)")
    parser.add_argument(
        "--side", type=int, help="side of the stored square images, pixels (default: what the source says, else 256)"
    )
    parser.add_argument(
        "--store",
        default="auto",
        help="pixels (exact, fastest to train on), jpeg (an eighth of the size) or auto: pixels up to 4 GiB (default)",
    )
    parser.add_argument(
        "--hold-out",
        type=float,
        default=0.0,
        help="share of each class kept for validation where the source has no split of its own",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the hold-out")
    parser.add_argument(
        "--exif",
        default="auto",
        help="apply: turn pictures as their EXIF data say; ignore: leave them as stored, as the paper did; "
        "auto (default): apply, but for ImageNet's archives",
    )
    parser.add_argument(
        "--on-bad", default="refuse", help="refuse: name a bad file and go on (default); stop: end at the first"
    )
    parser.add_argument(
        "--max-refused", type=float, default=0.05, help="share of files that may be refused (default 0.05)"
    )
    parser.add_argument("--shard-images", type=int, default=1024, help="files in a shard (default 1024)")
    parser.add_argument("--workers", type=int, help="threads that decode (default: one per core)")
    parser.add_argument("--restart", action="store_true", help="throw away what an unfinished preparation has done")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    options = parser.parse_args(words)
    from alexnet.data.preparation.prepare import prepare, prepared_summary
    from alexnet.system.progress import counted

    start_s = time.monotonic()
    with _terminated_as_interrupted(), counted("preparing") as progress:
        data = prepare(
            options.source,
            options.destination,
            kind=options.kind,
            side=options.side,
            store=options.store,
            hold_out=options.hold_out,
            seed=options.seed,
            exif=options.exif,
            on_bad=options.on_bad,
            max_refused=options.max_refused,
            shard_images=options.shard_images,
            workers=options.workers,
            restart=options.restart,
            progress=progress,
        )
    if options.json:
        print(json.dumps({**prepared_summary(data), "duration_s": time.monotonic() - start_s}))
        return
    counts = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
    print(f"{options.destination}: {data.title}, {data.num_classes} classes, {data.side} pixels, images: {counts}")
    recipe = "paper" if data.side >= 224 else "quick"
    print(f"look at it: alexnet inspect {options.destination}")
    print(f"next: alexnet train {options.destination} --recipe {recipe} --run runs/first")


def _inspect(words: Arguments) -> None:
    parser = _parser("inspect")
    parser.add_argument("data", type=Path, help="a prepared data set")
    parser.add_argument("--html", type=Path, help="write a page with pictures here (default: inspect.html in DATA)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and write no page")
    options = parser.parse_args(words)
    if options.json and options.html:
        raise RequestError("--json writes no page; leave --html away")
    from alexnet.cli.tables import print_inspection
    from alexnet.data.dataset import PreparedData
    from alexnet.report.inspection import summarize_data
    from alexnet.report.inspection_page import write_inspection

    data = PreparedData.open(options.data)
    facts = summarize_data(data)
    if options.json:
        print(json.dumps(facts))
        return
    print_inspection(facts)
    print(f"page: {write_inspection(data, options.html or options.data / 'inspect.html')}")


def _train(words: Arguments) -> None:
    from alexnet.cli.recipe_options import train_options

    command = COMMANDS["train"]
    asked = train_options(words, command.summary, command.example)
    if asked.show:
        _show(asked)
        return
    if not asked.data:
        raise RequestError("train needs a prepared data set (DATA); without one it can only --show the network")
    _share("train", words, asked.layout)
    from alexnet.parallel.process_mesh import init_process_mesh
    from alexnet.training.loop import train
    from alexnet.training.seeds import train_seeds

    with init_process_mesh(asked.layout, _say) as mesh:
        if asked.seeds == 1:
            run = train(asked.data, asked.recipe, asked.run, asked.start_from, mesh=mesh, tensorboard=asked.tensorboard)
            _finished(run.path, mesh)
            return
        runs = train_seeds(
            asked.data, asked.recipe, asked.run, asked.start_from, asked.seeds, _say, mesh, asked.tensorboard
        )
        if mesh.is_main:
            names = " ".join(str(run) for run in runs)
            print(f"{len(runs)} networks; next: alexnet evaluate {names}, then: alexnet ensemble {names}")


def _finetune(words: Arguments) -> None:
    from alexnet.cli.recipe_options import finetune_options

    command = COMMANDS["finetune"]
    asked = finetune_options(words, command.summary, command.example)
    factors = asked.recipe.optimizer.layer_lr_factors
    frozen = [name for name, factor in factors.items() if factor == 0]
    _share("finetune", words, asked.layout)
    _say(f"as they were learned stay {', '.join(frozen)}" if frozen else "all layers learn")
    from alexnet.parallel.process_mesh import init_process_mesh
    from alexnet.training.loop import train

    with init_process_mesh(asked.layout, _say) as mesh:
        run = train(asked.data, asked.recipe, asked.run, asked.trained, mesh=mesh, tensorboard=asked.tensorboard)
        _finished(run.path, mesh)


def _show(asked: "TrainOptions") -> None:
    from alexnet.cli.tables import print_network
    from alexnet.data.concatenated import open_data
    from alexnet.training.network_table import table_as_json

    # Without data: as many classes as the networks were published for.
    variant = asked.recipe.network.variant
    num_classes = 10 if variant.startswith(("cifar", "quick")) else 21_843 if variant == "six-conv-22k" else 1000
    if asked.data:
        num_classes = open_data(asked.data).num_classes
    described = table_as_json(asked.recipe, num_classes)
    if asked.json:
        print(json.dumps(described))
    else:
        print_network(described)


def _resume(words: Arguments) -> None:
    from alexnet.cli.recipe_options import resume_options

    command = COMMANDS["resume"]
    asked = resume_options(words, command.summary, command.example)
    _share("resume", words, asked.layout)
    from alexnet.parallel.process_mesh import init_process_mesh
    from alexnet.runs.folder import RunFolder
    from alexnet.training.loop import train

    with init_process_mesh(asked.layout, _say) as mesh:
        folders = RunFolder.open(asked.run).data_folders()
        run = train(folders, asked.recipe, asked.run, may_change=True, mesh=mesh, tensorboard=asked.tensorboard)
        _finished(run.path, mesh)


def _runs(words: Arguments) -> None:
    parser = _parser("runs")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), help="folder of run folders (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(words)
    from alexnet.cli.tables import print_runs
    from alexnet.runs.overview import list_runs

    runs = list_runs(options.folder)
    if options.json:
        print(json.dumps({"runs": runs}))
    else:
        print_runs(runs)


def _share(command: str, words: Arguments, layout: "Layout") -> None:
    """Where more processes are asked for than this one, which was started alone: start them, wait, and exit."""
    if layout.num_processes == 1:
        return
    from alexnet.parallel.process_group import world_size

    if world_size() == 1:
        from alexnet.parallel.launch import run_in_processes

        _say(f"starting {layout.num_processes} processes on this machine (docs/launching.md: several machines)")
        raise SystemExit(run_in_processes([command, *words], layout.num_processes))


def _finished(run: Path, mesh: "ProcessMesh") -> None:
    from alexnet.runs.folder import RunFolder

    if not mesh.is_main:
        return
    seconds = RunFolder.open(run).facts()["duration_s"]
    print(f"{run}: trained in {seconds:.0f} s; next: alexnet evaluate {run}")


def _evaluate(words: Arguments) -> None:
    from alexnet.cli.measuring_commands import evaluate

    evaluate(_parser("evaluate"), words)


def _ensemble(words: Arguments) -> None:
    from alexnet.cli.measuring_commands import ensemble

    ensemble(_parser("ensemble"), words)


def _compare(words: Arguments) -> None:
    from alexnet.cli.measuring_commands import compare

    compare(_parser("compare"), words, _say)


def _table(words: Arguments) -> None:
    from alexnet.cli.measuring_commands import table

    table(_parser("table"), words)


def _predict(words: Arguments) -> None:
    parser = _parser("predict")
    parser.add_argument("run", type=Path, help="a run folder or a weights file")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="photographs, or folders of them")
    parser.add_argument("--views", type=int, choices=(1, 9, 10), default=10, help="views per image")
    parser.add_argument(
        "--format",
        choices=("bars", "ilsvrc"),
        default="bars",
        help="ilsvrc: five labels a line, counted from 1, as the challenge's test server takes them",
    )
    parser.add_argument(
        "--label-order",
        type=Path,
        help="with --format ilsvrc: a text file, a class id a line, label 1 first (default: the network's own order)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of bars")
    options = parser.parse_args(words)
    if options.label_order and options.format != "ilsvrc":
        raise RequestError("--label-order goes with --format ilsvrc")
    if options.json and options.format == "ilsvrc":
        raise RequestError("--json and --format ilsvrc are two forms; choose one")
    from alexnet.evaluation.classify import (
        FEW_VIEWS,
        classify_photographs,
        ilsvrc_lines,
        list_photographs,
        read_label_order,
    )
    from alexnet.model.kernels import reference_ops
    from alexnet.model.weights import load_trained

    paths = list_photographs(options.images)
    with reference_ops() if len(paths) * options.views < FEW_VIEWS else contextlib.nullcontext():
        trained = load_trained(options.run)
        answers = classify_photographs(trained, paths, options.views)
    if options.json:
        print(json.dumps({"trained_on": trained.title, "generated": trained.generated, "predictions": answers}))
        return
    if options.format == "ilsvrc":
        order = read_label_order(options.label_order) if options.label_order else None
        print("\n".join(ilsvrc_lines(answers, trained, order)))
        return
    if trained.generated:
        print("(this network learned from generated pictures, not from photographs)")
    for answer in answers:
        print(answer["image"])
        for one in answer["top"]:
            print(f"  {100 * one['probability']:5.1f} %  {'#' * round(40 * one['probability']):40}  {one['name']}")


def _features(words: Arguments) -> None:
    from alexnet.cli.looking_commands import features

    with _terminated_as_interrupted():
        features(_parser("features"), words, _say)


def _baseline(words: Arguments) -> None:
    from alexnet.cli.baseline_command import baseline

    command = COMMANDS["baseline"]
    with _terminated_as_interrupted():
        baseline(words, command.summary, command.example, _say)


def _report(words: Arguments) -> None:
    from alexnet.cli.measuring_commands import add_data

    parser = _parser("report")
    parser.add_argument("run", type=Path, help="run folder")
    add_data(parser)
    options = parser.parse_args(words)
    from alexnet.cli.tables import print_results
    from alexnet.data.concatenated import open_data
    from alexnet.evaluation.predictions import views_sort_key
    from alexnet.report.page import write_report
    from alexnet.runs.folder import RunFolder

    run = RunFolder.open(options.run)
    folders = options.data or run.data_folders()
    data = None
    if options.data or all(folder.exists() for folder in folders):
        data = open_data(folders)
    else:
        gone = " and ".join(str(folder) for folder in folders if not folder.exists())
        _say(f"the data set {gone} is gone: the report has no pictures; name another place with --data")
    page = write_report(options.run, data)
    results = [{"run": str(options.run), **result} for result in run.evaluations().values()]
    if results:
        print_results(sorted(results, key=lambda result: (result["split"], views_sort_key(result["num_views"]))))
    print(f"report: {page}")
    print(f"next: alexnet predict {options.run} photo.jpg")


def _bench(words: Arguments) -> None:
    from alexnet.cli.bench_command import bench

    command = COMMANDS["bench"]
    with _terminated_as_interrupted():
        bench(words, command.summary, command.example, _say)


def _doctor(words: Arguments) -> None:
    parser = _parser("doctor")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument(
        "--distributed", action="store_true", help="under torchrun: how fast its processes reach each other"
    )
    options = parser.parse_args(words)
    if options.distributed:
        _doctor_of_links(options.json)
        return
    from alexnet.doctor import examine, print_findings

    findings = examine()
    if options.json:
        print(json.dumps({"findings": [vars(finding) for finding in findings]}))
    else:
        print_findings(findings)
    if any(finding.state == "broken" for finding in findings):
        raise SystemExit(1)


def _doctor_of_links(as_json: bool) -> None:
    from alexnet.cli.link_tables import print_links
    from alexnet.parallel.links import measure_links

    measured = measure_links(_say)
    if measured is None:  # the first process prints
        return
    if as_json:
        print(json.dumps(measured))
    else:
        print_links(measured)
    if measured["differences"]:
        raise SystemExit(1)


COMMANDS = {
    "fetch": Command("Bring a data set to this machine.", "alexnet fetch cifar10 data/cifar10", _fetch),
    "prepare": Command(
        "Turn photographs into a prepared data set.",
        "alexnet prepare photographs/ data/prepared --hold-out 0.1",
        _prepare,
    ),
    "inspect": Command(
        "Show what a prepared data set holds: classes, refused files, duplicates, pictures.",
        "alexnet inspect data/prepared --html inspect.html",
        _inspect,
    ),
    "train": Command(
        "Train a network on a prepared data set.",
        "alexnet train data/prepared --recipe paper --run runs/first --optimizer.learning_rate 0.005",
        _train,
        computes=True,
    ),
    "resume": Command(
        "Go on with an interrupted training.", "alexnet resume runs/first --schedule.epochs 120", _resume, computes=True
    ),
    "finetune": Command(
        "Go on with a trained network on another data set, with a new last layer.",
        "alexnet finetune runs/first data/mine --freeze-until conv5",
        _finetune,
        computes=True,
    ),
    "runs": Command("List runs: how far, how good, at what cost, with what changes.", "alexnet runs runs", _runs),
    "evaluate": Command(
        "Measure top-1 and top-5 error, with one view and with ten.",
        "alexnet evaluate runs/first --views 10 --json",
        _evaluate,
        computes=True,
    ),
    "ensemble": Command(
        "Average the probabilities of several runs.",
        "alexnet ensemble runs/net-0 runs/net-1 --weights greedy",
        _ensemble,
    ),
    "compare": Command(
        "Compare two runs on the same images: paired tests, and the images on which they differ.",
        "alexnet compare runs/first runs/second",
        _compare,
    ),
    "table": Command(
        "Put runs into the paper's table of results.", "alexnet table runs/net-0 runs/net-1 --like paper", _table
    ),
    "predict": Command("Name what is on photographs.", "alexnet predict runs/first photo.jpg", _predict),
    "features": Command(
        "Write a network's activations to many images as arrays.",
        "alexnet features runs/first --layer conv5 --layer fc7 --out features/first",
        _features,
        computes=True,
    ),
    "baseline": Command(
        "Learn and measure a system the network was compared with: sift-fisher or sparse-coding.",
        "alexnet baseline sift-fisher data/prepared --run runs/fisher",
        _baseline,
        computes=True,
    ),
    "report": Command("Write a run's report.html.", "alexnet report runs/first", _report),
    "bench": Command(
        "Measure a part of the system beside its alternatives, in turns.",
        "alexnet bench prepare --source photographs/ --files 2000",
        _bench,
        computes=True,
    ),
    "doctor": Command("Say what this machine can do and what it lacks.", "alexnet doctor", _doctor),
}
"""All commands by name."""
