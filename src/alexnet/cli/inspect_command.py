"""`alexnet inspect`: show what a prepared data set holds, or verify it."""

import argparse
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.output import print_json, print_lines
from alexnet.errors import RequestError, WorkError
from alexnet.system.visible_text import shell_words


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("data", type=Path, metavar="DATA", help="prepared data set")
    parser.add_argument("--html", type=Path, metavar="FILE", help="page to write (default: inspect.html in DATA)")
    parser.add_argument("--verify", action="store_true", help="compare every byte with its checksum; write no page")
    parser.add_argument("--json", action="store_true", help="print one JSON object and write no page")


def run(options: argparse.Namespace) -> None:
    """Inspect the data set; print it and write the page."""
    if options.json and options.html:
        raise RequestError("--json writes no page; omit --html")
    if options.verify and options.html:
        raise RequestError("--verify writes no page; omit --html")
    if options.verify:
        _verify(options)
        return
    from alexnet.cli.tables import print_inspection
    from alexnet.data.dataset import PreparedData
    from alexnet.report.inspection import summarize_data
    from alexnet.report.inspection_page import write_inspection
    from alexnet.storage.own_pictures import require_replaceable

    page = options.html or options.data / "inspect.html"
    if not options.json:
        require_replaceable(page)
    data = PreparedData.open(options.data)
    summary = summarize_data(data)
    if options.json:
        print_json(summary)
        return
    print_inspection(summary)
    print_lines(f"page: {write_inspection(data, page, summary=summary)}")


def _verify(options: argparse.Namespace) -> None:
    """Verify the data set; print what is damaged, and fail if anything is."""
    from alexnet.data.dataset import require_prepared
    from alexnet.data.verification import verify_data
    from alexnet.system.progress import counted

    require_prepared(options.data)
    with counted("verifying") as progress:
        found = verify_data(options.data, progress)
    if options.json:
        print_json(found.to_dict())
    else:
        print_lines(*map(str, found.damages))
    if found.damages:
        raise WorkError(
            f"{options.data} is damaged: {found.num_damaged_images:,} of {found.num_images:,} images, and "
            f"{found.num_damaged_files:,} of {found.num_files:,} files; remove it and prepare it again: "
            f"{shell_words('alexnet', 'prepare', 'SOURCE', options.data)}"
        )
    if not options.json:
        print_lines(f"{options.data} is intact: {found.num_images:,} images, {found.num_files:,} files")
