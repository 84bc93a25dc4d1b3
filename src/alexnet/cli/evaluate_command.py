"""`alexnet evaluate`: measure the errors of runs and save their probabilities."""

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import Any

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_arithmetic, add_data, add_json, add_split, add_views
from alexnet.cli.output import print_json
from alexnet.errors import RequestError

_logger = logging.getLogger(__name__)


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    add_data(parser)
    add_split(parser)
    add_views(parser)
    add_arithmetic(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Evaluate the runs."""
    from alexnet.cli.tables import print_results
    from alexnet.evaluation.run_evaluation import evaluate, evaluate_one_and_ten
    from alexnet.model.kernels import slow_path_message
    from alexnet.parallel.process_group import init_process_group
    from alexnet.runs.folder import RunFolder
    from alexnet.system.device import choose_device

    measure = partial(evaluate, views=options.views) if options.views else evaluate_one_and_ten
    results: list[dict[str, Any]] = []
    with init_process_group() as (processes, _):
        if processes.is_main and (message := slow_path_message(choose_device(options.device).type)):
            _logger.warning("%s", message)
        for run in options.runs:
            if RunFolder.open(run).is_baseline:
                if processes.is_main:
                    results.append(_evaluate_baseline(run, options))
                continue
            measured = measure(
                run,
                options.data,
                options.split,
                device=options.device,
                precision=options.precision,
                progress=True,
                processes=processes,
            )
            evaluations = measured if isinstance(measured, list) else [measured]
            results += [{"run": str(run), **evaluation.to_dict()} for evaluation in evaluations]
    if not processes.is_main:
        return
    if options.json:
        print_json({**results[0], "evaluations": results})
    else:
        print_results(results)


def _evaluate_baseline(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A baseline's result; a baseline has one view per image."""
    if options.views not in (None, 1):
        raise RequestError(f"{run} is a baseline, which has one view per image; omit --views or use --views 1")
    from alexnet.cli.baseline_command import require_libraries

    require_libraries()
    from alexnet.baselines.baseline_evaluation import evaluate_baseline
    from alexnet.system.progress import counted

    with counted(run.name) as progress:
        return evaluate_baseline(run, data_folder=options.data, split=options.split, progress=progress)
