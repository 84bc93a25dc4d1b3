"""`alexnet fetch`: download a data set or published weights, or draw a data set."""

import argparse
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.output import print_lines
from alexnet.errors import RequestError
from alexnet.system.visible_text import shell_words

NAMES = ("cifar10", "shapes", "weights")
WEIGHTS = ("torchvision", "caffe", "caffenet")


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "name",
        choices=NAMES,
        metavar="NAME",
        help="cifar10: the paper's second data set; shapes: generated images, needs no network; weights: published "
        "AlexNet weights",
    )
    parser.add_argument(
        "destination",
        nargs="+",
        metavar="DEST",
        help=f"folder to create; of weights, after their name ({', '.join(WEIGHTS)}): `fetch weights caffe DEST`",
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="PATH",
        help="local copy: of cifar10, a folder or archive (default: the environment variable ALEXNET_CIFAR10, else "
        "download); of weights, the file, or the URL of a mirror",
    )


def run(options: argparse.Namespace) -> None:
    """Fetch what was asked for."""
    words: list[str] = options.destination
    if options.name == "weights":
        _fetch_weights(words, options.source)
        return
    if len(words) != 1:
        raise RequestError(
            f"`alexnet fetch {options.name}` takes one destination, and got {len(words)}: {' '.join(words)}"
        )
    destination = Path(words[0])
    if options.name == "shapes":
        from alexnet.data.shapes import fetch_shapes

        if options.source:
            raise RequestError("--from does not apply to shapes, which are generated; omit it")
        fetch_shapes(destination)
    else:
        from alexnet.data.fetch import fetch_cifar10

        fetch_cifar10(destination, options.source, progress=True)
    print_lines(f"{destination}: ready; next: {shell_words('alexnet', 'prepare', destination, 'PREPARED')}")


def _fetch_weights(words: list[str], source: str | None) -> None:
    from alexnet.exchange.published_weights import SOURCE_FILE, fetch_weights

    name, *destinations = words
    if name not in WEIGHTS:
        raise RequestError(f"`alexnet fetch weights` takes one of {', '.join(WEIGHTS)} first; got {name!r}")
    if len(destinations) != 1:
        raise RequestError(
            f"`alexnet fetch weights {name}` takes one destination, and got {len(destinations)}; for example "
            f"`alexnet fetch weights {name} weights`"
        )
    destination = Path(destinations[0])
    path, published = fetch_weights(name, destination, source, progress=True)
    print_lines(
        f"{published.title}: {published.published}",
        f"source: {published.url}",
        f"license: {published.license}",
        *(f"cite: {one}" for one in published.citation),
        f"{path}: ready, described in {destination / SOURCE_FILE}; next: "
        f"{shell_words('alexnet', 'import', path, '--run', f'runs/{name}')}",
    )
