"""`alexnet fetch`: download a data set, or draw one."""

import argparse
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.output import print_lines
from alexnet.errors import RequestError
from alexnet.system.visible_text import shell_words


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "name",
        choices=("cifar10", "shapes"),
        metavar="NAME",
        help="cifar10: the paper's second data set; shapes: generated images, needs no network",
    )
    parser.add_argument("destination", type=Path, metavar="DEST", help="folder to create")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="PATH",
        help="cifar10: local folder or archive to copy (default: the environment variable ALEXNET_CIFAR10, else "
        "download)",
    )


def run(options: argparse.Namespace) -> None:
    """Fetch the data set."""
    from alexnet.data.fetch import fetch_cifar10
    from alexnet.data.shapes import fetch_shapes

    if options.name == "shapes":
        if options.source:
            raise RequestError("--from does not apply to shapes, which are generated; omit it")
        fetch_shapes(options.destination)
    else:
        fetch_cifar10(options.destination, options.source)
    print_lines(
        f"{options.destination}: ready; next: {shell_words('alexnet', 'prepare', options.destination, 'PREPARED')}"
    )
