"""`alexnet explain`: show why a network gives photographs their classes."""

import argparse
import logging
import time
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_batch_size, add_device, add_json
from alexnet.cli.output import print_json, print_lines

_logger = logging.getLogger(__name__)


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or weights file")
    text = "image file, folder of them, tar or zip, http(s) URL, or quoted pattern: up to 20 images in all"
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=text)
    text = "class to explain, by its id or name (default: each image's most probable class)"
    parser.add_argument("--class", dest="class_name", metavar="NAME", help=text)
    text = "side of the square that hides a part of the view (default: a seventh of the view, 32 of 224)"
    parser.add_argument("--patch", type=int, metavar="PIXELS", help=text)
    text = "step of that square, up to its side; half of it takes four times as long (default: a quarter of --patch)"
    parser.add_argument("--stride", type=int, metavar="PIXELS", help=text)
    text = "index of training images, to show the nearest (default: that in the run folder, if there is one)"
    parser.add_argument("--index", type=Path, metavar="FOLDER", help=text)
    text = "where the index's data set is now, if it was moved; several are concatenated"
    parser.add_argument("--data", type=Path, nargs="+", help=text)
    text = "picture or page to write (default: in the working directory, named after the run)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=text)
    text = "png, svg, pdf or html (default: the ending of --out, else png)"
    parser.add_argument("--format", metavar="NAME", help=text)
    add_device(parser)
    add_batch_size(parser, "occluded views")
    add_json(parser, "lines")


def run(options: argparse.Namespace) -> None:
    """Explain the images, write the picture or page, and print what it shows."""
    from alexnet.explore.explain import explain
    from alexnet.explore.explanation import describe_effect
    from alexnet.explore.picture_file import PICTURE_FORMATS, choose_picture
    from alexnet.figures.figure_style import figure_bytes
    from alexnet.report.explanation_page import explanation_page
    from alexnet.storage.own_pictures import write_picture

    start_s = time.monotonic()
    path, format = choose_picture(options.run, "explain", options.out, options.format, PICTURE_FORMATS)
    found = explain(
        options.run,
        options.images,
        class_name=options.class_name,
        patch=options.patch,
        stride=options.stride,
        index=options.index,
        data=options.data,
        batch_size=options.batch_size,
        device=options.device,
        progress=True,
    )
    for _, reason in found.refused:
        _logger.warning(f"left out: {reason}")
    content = explanation_page(found).encode() if format == "html" else figure_bytes(found.figure(), format)
    write_picture(path, content)
    if options.json:
        print_json({"file": str(path), **found.to_dict(), "duration_s": time.monotonic() - start_s})
        return
    for one in found:
        print_lines(f"{one.image}: {describe_effect(one)}")
    print_lines(f"{path}: classes, occlusion and gradients of {len(found)} image{'' if len(found) == 1 else 's'}")
