"""`alexnet inspect`: show what a prepared data set holds."""

import argparse
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.output import print_json, print_lines
from alexnet.errors import RequestError


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("data", type=Path, metavar="DATA", help="prepared data set")
    parser.add_argument("--html", type=Path, metavar="FILE", help="page to write (default: inspect.html in DATA)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and write no page")


def run(options: argparse.Namespace) -> None:
    """Inspect the data set; print it and write the page."""
    if options.json and options.html:
        raise RequestError("--json writes no page; omit --html")
    from alexnet.cli.tables import print_inspection
    from alexnet.data.dataset import PreparedData
    from alexnet.report.inspection import summarize_data
    from alexnet.report.inspection_page import write_inspection

    data = PreparedData.open(options.data)
    summary = summarize_data(data)
    if options.json:
        print_json(summary)
        return
    print_inspection(summary)
    print_lines(f"page: {write_inspection(data, options.html or options.data / 'inspect.html', summary=summary)}")
