"""`alexnet predict`: classify photographs."""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_choice, add_json
from alexnet.cli.output import print_json, print_lines
from alexnet.errors import RequestError

if TYPE_CHECKING:
    from alexnet.model.weights import Trained


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or weights file")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="image file, folder of them, or a prepared data set"
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="split of the prepared data set (default: unlabeled if it exists, else val, else test)",
    )
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
    from alexnet.data.dataset_files import DESCRIPTION_FILE
    from alexnet.evaluation.classify import ilsvrc_lines, read_label_order

    prepared = [path for path in options.images if (path / DESCRIPTION_FILE).is_file()]
    if prepared and len(prepared) < len(options.images):
        raise RequestError(
            f"{prepared[0]} is a prepared data set, but other arguments are photographs; give one or the other"
        )
    if options.split and not prepared:
        raise RequestError(f"--split is {options.split}, and {options.images[0]} is not a prepared data set; omit it")
    trained, answers, refused = (_classify_split if prepared else _classify_photographs)(options)
    if options.json:
        described = {"trained_on": trained.title, "generated": trained.generated}
        print_json({**described, "predictions": answers, "refused": refused})
        return
    if options.format == "ilsvrc":
        if refused:
            raise RequestError(
                f"--format ilsvrc has one line per image, and {len(refused):,} of {len(answers) + len(refused):,} "
                "cannot be read; fix or delete them, or omit --format ilsvrc"
            )
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


def _classify_photographs(options: argparse.Namespace) -> "tuple[Trained, list[dict[str, Any]], list[dict[str, str]]]":
    from alexnet.evaluation.classify import FEW_VIEWS, classify_photographs, list_photographs
    from alexnet.model.kernels import reference_ops
    from alexnet.model.weights import load_trained

    paths = list_photographs(options.images)
    with reference_ops() if len(paths) * options.views < FEW_VIEWS else contextlib.nullcontext():
        trained = load_trained(options.run)
        return trained, *classify_photographs(trained, paths, options.views)


def _classify_split(options: argparse.Namespace) -> "tuple[Trained, list[dict[str, Any]], list[dict[str, str]]]":
    from alexnet.data.concatenated import open_data
    from alexnet.data.dataset import UNLABELED
    from alexnet.evaluation.classify import classify_split
    from alexnet.model.weights import load_trained
    from alexnet.system.progress import counted

    trained, data = load_trained(options.run), open_data(options.images)
    split = options.split or (UNLABELED if UNLABELED in data.splits else data.evaluation_split)
    with counted("predicting") as progress:
        return trained, classify_split(trained, data, split, options.views, progress=progress), []
