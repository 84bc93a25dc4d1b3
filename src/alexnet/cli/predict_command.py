"""`alexnet predict`: classify photographs."""

import argparse
import contextlib
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_choice, add_json
from alexnet.cli.output import print_json, print_lines
from alexnet.errors import RequestError


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or weights file")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image file, or folder of them")
    parser.add_argument(
        "--views", type=int, choices=(1, 9, 10), default=10, metavar="N", help="views per image: 1, 9 or 10"
    )
    add_choice(
        parser,
        "--format",
        ("bars", "ilsvrc"),
        help="bars, or ilsvrc: five labels per line, counted from 1, as the challenge's test server expects",
    )
    parser.add_argument(
        "--label-order",
        type=Path,
        metavar="FILE",
        help="with --format ilsvrc: text file with one class id per line, label 1 first (default: the network's order)",
    )
    add_json(parser, "bars")


def run(options: argparse.Namespace) -> None:
    """Classify the images and print their most probable classes."""
    if options.label_order and options.format != "ilsvrc":
        raise RequestError("--label-order needs --format ilsvrc")
    if options.json and options.format == "ilsvrc":
        raise RequestError("--json and --format ilsvrc exclude each other; omit one")
    from alexnet.evaluation.classify import (
        FEW_VIEWS,
        classify_photographs,
        ilsvrc_lines,
        list_photographs,
        read_label_order,
    )
    from alexnet.model.kernels import reference_ops
    from alexnet.model.weights import load_trained

    paths = list_photographs(options.images)
    with reference_ops() if len(paths) * options.views < FEW_VIEWS else contextlib.nullcontext():
        trained = load_trained(options.run)
        answers = classify_photographs(trained, paths, options.views)
    if options.json:
        print_json({"trained_on": trained.title, "generated": trained.generated, "predictions": answers})
        return
    if options.format == "ilsvrc":
        order = read_label_order(options.label_order) if options.label_order else None
        print_lines(*ilsvrc_lines(answers, trained, order))
        return
    if trained.generated:
        print_lines("(this network was trained on generated images, not on photographs)")
    for answer in answers:
        print_lines(answer["image"])
        for one in answer["top"]:
            print_lines(
                f"  {100 * one['probability']:5.1f} %  {'#' * round(40 * one['probability']):40}  {one['name']}"
            )
