"""`alexnet report`: write a run's page."""

import argparse
import logging
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_data
from alexnet.cli.output import print_lines

_logger = logging.getLogger(__name__)


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    add_data(parser)


def run(options: argparse.Namespace) -> None:
    """Write the report and print the run's results."""
    from alexnet.cli.tables import print_results
    from alexnet.data.concatenated import open_data
    from alexnet.evaluation.predictions import views_sort_key
    from alexnet.report.contents import data_of, image_folders, next_commands
    from alexnet.report.page import write_report
    from alexnet.runs.folder import RunFolder

    run = RunFolder.open(options.run)
    has_data = options.data or not run.is_imported or data_of(run)
    folders = options.data or (image_folders(run) if has_data else [])
    missing = [] if options.data else [str(folder) for folder in folders if not folder.exists()]
    if missing:
        _logger.warning(
            "cannot find the data set %s: the report has no images; pass its folder with --data", " and ".join(missing)
        )
    page = write_report(options.run, None if missing or not folders else open_data(folders))
    results = [{"run": str(options.run), **result} for result in run.evaluations().values()]
    if results:
        print_results(sorted(results, key=lambda result: (result["split"], views_sort_key(result["num_views"]))))
    print_lines(f"report: {page}")
    commands = next_commands(run)
    order = ("resume", "predict", "evaluate") if results else ("resume", "evaluate", "predict")
    if following := next((commands[name] for name in order if commands[name]), None):
        print_lines(f"next: {following}")
