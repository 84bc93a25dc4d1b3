"""`alexnet report`: write the page of a run, or of several side by side."""

import argparse
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_data
from alexnet.cli.output import print_lines


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder; several are shown side by side")
    add_data(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="HTML file to write (default: report.html in RUN; of several runs report-RUN-RUN.html here)",
    )


def run(options: argparse.Namespace) -> None:
    """Write the report and print the runs' results."""
    from alexnet.cli.tables import print_results
    from alexnet.evaluation.predictions import views_sort_key
    from alexnet.report.contents import failure_reason, next_commands
    from alexnet.report.run_report import write_report
    from alexnet.runs.folder import RunFolder

    page = write_report(options.runs, data=options.data, out=options.out)
    runs = [RunFolder.open(path) for path in options.runs]
    results = [
        {**one, "run": str(run.path)}  # an evaluation names the folder that the run had then
        for run in runs
        for one in sorted(run.evaluations().values(), key=lambda one: (one["split"], views_sort_key(one["num_views"])))
    ]
    if results:
        print_results(results)
    print_lines(f"report: {page}")
    for failed in runs:
        if reason := failure_reason(failed, failed.events()):
            print_lines(f"{failed.path} failed. {reason}")
    if len(runs) > 1:
        return
    commands = next_commands(runs[0])
    order = ("resume", "predict", "evaluate") if results else ("resume", "evaluate", "predict")
    if following := next((commands[name] for name in order if commands[name]), None):
        print_lines(f"next: {following}")
