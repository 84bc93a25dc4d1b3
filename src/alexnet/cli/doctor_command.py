"""`alexnet doctor`: what this machine can do and what it lacks."""

import argparse
from typing import TYPE_CHECKING

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_json
from alexnet.cli.output import print_json, print_lines

if TYPE_CHECKING:
    from alexnet.doctor import Check


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--distributed", action="store_true", help="under torchrun: measure the links between its processes"
    )
    add_json(parser, "lines")


def run(options: argparse.Namespace) -> int:
    """Check the machine, or the links between processes; the exit code is 1 if something is broken."""
    if options.distributed:
        return _check_links(options.json)
    from alexnet.doctor import check_machine

    checks = check_machine()
    if options.json:
        print_json({"checks": [vars(check) for check in checks]})
    else:
        _print_checks(checks)
    return int(any(check.status == "broken" for check in checks))


def _check_links(as_json: bool) -> int:
    from alexnet.cli.link_tables import print_links
    from alexnet.parallel.links import measure_links

    measured = measure_links()
    if measured is None:  # the main process prints
        return 0
    if as_json:
        print_json(measured)
    else:
        print_links(measured)
    return int(bool(measured["differences"]))


def _print_checks(checks: "list[Check]") -> None:
    width = max(len(check.name) for check in checks)
    marks = {"ok": "ok     ", "lacking": "lacking", "broken": "BROKEN "}
    for check in checks:
        print_lines(f"{marks[check.status]}  {check.name:{width}}  {check.result}")
        if check.advice:
            print_lines(f"{'':9}{'':{width}}  -> {check.advice}")
