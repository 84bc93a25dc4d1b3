"""The commands that count errors: one run, averages of several, two against each other, the paper's table."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.errors import RequestError

if TYPE_CHECKING:
    from alexnet.evaluation.predictions import NumViews

Words = Sequence[str]
TEN_VIEWS = 10


def evaluate(parser: argparse.ArgumentParser, words: Words) -> None:
    """`alexnet evaluate`: measure runs and keep their probabilities."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    add_data(parser)
    parser.add_argument("--split", help="split to measure (default: val, else test)")
    _add_views(parser, "default: first 1, then 10")
    add_arithmetic(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(words)
    from alexnet.cli.tables import print_results
    from alexnet.evaluation.predictions import describe_views
    from alexnet.evaluation.run_evaluation import evaluate_run
    from alexnet.model.kernels import slow_path_message
    from alexnet.parallel.process_group import init_process_group
    from alexnet.runs.folder import RunFolder
    from alexnet.system.device import choose_device
    from alexnet.system.progress import counted

    views: tuple[NumViews, ...] = (options.views,) if options.views else (1, TEN_VIEWS)
    results: list[dict[str, Any]] = []
    with init_process_group() as (processes, _):
        if processes.is_main and (slower := slow_path_message(choose_device(options.device).type)):
            print(slower, file=sys.stderr)
        for run in options.runs:
            if RunFolder.open(run).is_baseline:
                if processes.is_main:
                    results.append(_evaluated_baseline(run, options))
                continue
            for num_views in views:
                with counted(f"{run.name}, {describe_views(num_views)}") as progress:
                    results.append(
                        evaluate_run(
                            run,
                            data_folder=options.data,
                            split=options.split,
                            num_views=num_views,
                            device=options.device,
                            precision=options.precision,
                            progress=progress if processes.is_main else None,
                            processes=processes,
                        )
                    )
    if not processes.is_main:
        return
    if options.json:
        print(json.dumps({**results[0], "evaluations": results}))
    else:
        print_results(results)


def _evaluated_baseline(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A baseline's result; it looks at the whole image once."""
    if options.views not in (None, 1):
        raise RequestError(f"{run} is a baseline, which looks at each image once; leave --views away, or take 1")
    from alexnet.cli.baseline_command import require_libraries

    require_libraries()
    from alexnet.baselines.baseline_evaluation import evaluate_baseline
    from alexnet.system.progress import counted

    with counted(run.name) as progress:
        return evaluate_baseline(run, data_folder=options.data, split=options.split, progress=progress)


def ensemble(parser: argparse.ArgumentParser, words: Words) -> None:
    """`alexnet ensemble`: the average of saved probabilities."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, two or more")
    add_data(parser)
    parser.add_argument("--split", help="split whose probabilities are averaged (default: val, else test)")
    _add_views(parser, "default 10", TEN_VIEWS)
    parser.add_argument(
        "--weights",
        choices=("equal", "greedy"),
        default="equal",
        help="greedy: weights searched as the source did, on one half of the images and reported on the other",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the halves, with --weights greedy (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(words)
    from alexnet.cli.tables import print_ensemble
    from alexnet.evaluation.ensemble import average_runs

    found = average_runs(
        options.runs,
        data_folder=options.data,
        split=options.split,
        num_views=options.views,
        weights=options.weights,
        seed=options.seed,
    ).to_dict()
    if options.json:
        print(json.dumps(found))
    else:
        print_ensemble(found)


def compare(parser: argparse.ArgumentParser, words: Words, report: Callable[[str], None]) -> None:
    """`alexnet compare`: two runs on the same images, and the images on which they differ."""
    parser.add_argument("first", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("second", type=Path, metavar="RUN", help="another one")
    add_data(parser)
    parser.add_argument("--split", help="split on which they are compared (default: val, else test)")
    _add_views(parser, "default 10", TEN_VIEWS)
    parser.add_argument("--html", type=Path, help="page to write (default: compared-SECOND.html in the first run)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and write no page")
    options = parser.parse_args(words)
    if options.json and options.html:
        raise RequestError("--json writes no page; leave --html away")
    from alexnet.cli.tables import print_comparison
    from alexnet.data.concatenated import open_data
    from alexnet.evaluation.compare import compare_runs
    from alexnet.report.comparison import write_comparison
    from alexnet.report.formatting import printable
    from alexnet.runs.folder import RunFolder

    comparison = compare_runs(
        options.first, options.second, data_folder=options.data, split=options.split, num_views=options.views
    )
    if options.json:
        print(json.dumps(comparison.to_dict()))
        return
    print_comparison(printable(comparison.to_dict()))
    data = open_data(options.data or RunFolder.open(options.first).data_folders())
    page = options.html or options.first / f"compared-{options.second.resolve().name}.html"
    report(f"page: {write_comparison(comparison, data, page)}")


def table(parser: argparse.ArgumentParser, words: Words) -> None:
    """`alexnet table`: runs in the rows of the paper's second table."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, evaluated before")
    parser.add_argument("--like", choices=("paper",), default="paper", help="whose table: paper, the paper's table 2")
    add_data(parser)
    _add_views(parser, "default 10", TEN_VIEWS)
    parser.add_argument("--format", choices=("markdown", "latex", "json"), default="markdown", help="default markdown")
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    options = parser.parse_args(words)
    from alexnet.report.paper_table import paper_table
    from alexnet.report.paper_table_text import as_json, as_latex, as_markdown

    made = paper_table(options.runs, num_views=options.views, data_folder=options.data)
    if options.json or options.format == "json":
        print(json.dumps(as_json(made)))
    else:
        print((as_latex if options.format == "latex" else as_markdown)(made))


def add_data(parser: argparse.ArgumentParser) -> None:
    """The option `--data`."""
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        help="prepared data set, or several to be joined (default: the run's own)",
    )


def add_arithmetic(parser: argparse.ArgumentParser) -> None:
    """The options `--device` and `--precision`."""
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where the network runs"
    )
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="arithmetic of the network"
    )


def _add_views(parser: argparse.ArgumentParser, otherwise: str, default: "NumViews | None" = None) -> None:
    parser.add_argument(
        "--views",
        type=_views,
        default=default,
        metavar="{1,9,10,dense}",
        help=f"views per image, or dense: the network slid over the whole image ({otherwise})",
    )


def _views(word: str) -> "NumViews":
    if word == "dense":
        return "dense"
    if word not in ("1", "9", "10"):
        raise argparse.ArgumentTypeError(f"{word!r} is not allowed; allowed are 1, 9, 10, dense")
    return int(word)
