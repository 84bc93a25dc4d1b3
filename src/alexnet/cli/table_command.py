"""`alexnet table`: runs in the rows of the paper's second table."""

import argparse
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_choice, add_data, add_views
from alexnet.cli.output import print_json, print_lines


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="evaluated run folder")
    add_choice(parser, "--like", ("paper",), help="layout: paper, its table 2")
    add_data(parser)
    add_views(parser, 10)
    add_choice(parser, "--format", ("markdown", "latex", "json"), help="markdown, latex or json")
    parser.add_argument("--json", action="store_true", help="same as --format json")


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    from alexnet.report.paper_table import paper_table
    from alexnet.report.paper_table_text import as_json, as_latex, as_markdown

    table = paper_table(options.runs, num_views=options.views, data_folder=options.data)
    if options.json or options.format == "json":
        print_json(as_json(table))
    else:
        print_lines(*(as_latex if options.format == "latex" else as_markdown)(table).split("\n"))
