"""`alexnet filters`: pictures of what a network's filters look for."""

import argparse
import time
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_arithmetic, add_batch_size, add_data, add_json, add_split
from alexnet.cli.output import print_json, print_lines

_DRAWN = "conv1"
"""The first layer, whose filters are drawn."""


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or weights file")
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="NAME",
        help=f"layer to show; may be repeated (default: {_DRAWN}, whose filters are drawn; the channels of other "
        "layers are shown by the nine image patches that excite them most)",
    )
    parser.add_argument(
        "--channels",
        type=int,
        nargs="+",
        metavar="N",
        help="channels to show by patches, counted from 0 (default: all, or 24 evenly spaced ones)",
    )
    add_data(parser)
    add_split(parser)
    parser.add_argument("--format", metavar="NAME", help="png, svg or pdf (default: by --out, else png)")
    text = "file to write (default: in the working directory, named after the run); of several layers one file each"
    parser.add_argument("--out", type=Path, metavar="PATH", help=text)
    add_batch_size(parser)
    add_arithmetic(parser, "float32")
    add_json(parser, "lines")


def is_long(options: argparse.Namespace) -> bool:
    """Whether images are read."""
    return bool(options.layer)


def run(options: argparse.Namespace) -> None:
    """Write a picture of each layer, and print what is on it."""
    from alexnet.explore.filter_pictures import FilterColumns, filters
    from alexnet.explore.picture_file import choose_picture
    from alexnet.figures.figure_style import figure_bytes
    from alexnet.storage.own_pictures import write_picture

    start_s = time.monotonic()
    # Before the work: a name that is taken must not cost minutes.
    pictures = [
        choose_picture(
            options.run, "filters" if layer == _DRAWN else f"filters-{layer}", _out(options, layer), options.format
        )
        for layer in options.layer or [_DRAWN]
    ]
    result = filters(
        options.run,
        options.layer or None,
        data=options.data,
        split=options.split,
        channels=options.channels,
        batch_size=options.batch_size,
        device=options.device,
        precision=options.precision,
        progress=True,
    )
    for (path, format), layer in zip(pictures, result.layers, strict=True):
        assert format != "html"
        write_picture(path, figure_bytes(result.figure(layer), format))
    paths = [path for path, _ in pictures]
    if options.json:
        files = {layer: str(path) for layer, path in zip(result.layers, paths, strict=True)}
        print_json({**result.to_dict(), "files": files, "duration_s": time.monotonic() - start_s})
        return
    for path, shown in zip(paths, result.layers.values(), strict=True):
        print_lines(f"{path}: {shown.describe()}")
        if isinstance(shown, FilterColumns):
            print_lines(shown.color.describe())


def _out(options: argparse.Namespace, layer: str) -> Path | None:
    """The file that `--out` names for a layer: of several layers, with the layer's name before the ending."""
    out: Path | None = options.out
    # The name of a layer that does not exist may be anything; `filters` refuses it before a file is written.
    return out if out is None or len(options.layer) < 2 else out.parent / f"{out.stem}-{layer}{out.suffix}"
