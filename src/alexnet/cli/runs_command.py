"""`alexnet runs`: list the runs of a folder."""

import argparse
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_json
from alexnet.cli.output import print_json


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), metavar="FOLDER", help="folder that holds run folders"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """List the runs."""
    from alexnet.cli.tables import print_runs
    from alexnet.runs.overview import list_runs

    runs = list_runs(options.folder)
    if options.json:
        print_json({"runs": runs})
    else:
        print_runs(runs)
