"""`alexnet compare`: two runs on the same images, and the images on which they differ."""

import argparse
import logging
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_data, add_split, add_views
from alexnet.cli.output import print_json
from alexnet.errors import RequestError

_logger = logging.getLogger(__name__)


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("first", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("second", type=Path, metavar="OTHER", help="run folder to compare it with")
    add_data(parser)
    add_split(parser)
    add_views(parser, 10)
    parser.add_argument("--html", type=Path, metavar="FILE", help="page to write (default: compared-OTHER.html in RUN)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and write no page")


def run(options: argparse.Namespace) -> None:
    """Compare the runs; print the result and write the page."""
    if options.json and options.html:
        raise RequestError("--json writes no page; omit --html")
    from alexnet.cli.tables import print_comparison
    from alexnet.data.concatenated import open_data
    from alexnet.evaluation.compare import compare_runs
    from alexnet.report.comparison import write_comparison
    from alexnet.runs.folder import RunFolder
    from alexnet.storage.own_pictures import require_replaceable

    page = options.html or options.first / f"compared-{options.second.resolve().name}.html"
    if not options.json:
        require_replaceable(page)
    comparison = compare_runs(
        options.first, options.second, data_folder=options.data, split=options.split, num_views=options.views
    )
    if options.json:
        print_json(comparison.to_dict())
        return
    print_comparison(comparison.to_dict())
    data = open_data(RunFolder.open(options.first).require_data(options.data))
    _logger.info("page: %s", write_comparison(comparison, data, page))
