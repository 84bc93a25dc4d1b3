"""Options that several commands share."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from alexnet.cli.command_parser import CommandParser
from alexnet.parallel.layout import ColumnLayers, GradDtype, Layout

if TYPE_CHECKING:
    from alexnet.evaluation.predictions import NumViews


def add_choice(
    parser: argparse._ActionsContainer, name: str, choices: Sequence[str], default: str | None = None, *, help: str
) -> argparse.Action:
    """Add an option with a few allowed values, the first of which is the default if none is given."""
    return parser.add_argument(name, choices=choices, default=default or choices[0], metavar="NAME", help=help)


def add_json(parser: CommandParser, instead_of: str = "a table") -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help=f"print one JSON object instead of {instead_of}")


def add_data(parser: CommandParser) -> None:
    """Add `--data`."""
    text = "prepared data set; several are concatenated (default: the run's own)"
    parser.add_argument("--data", type=Path, nargs="+", help=text)


def add_split(parser: CommandParser) -> None:
    """Add `--split`."""
    parser.add_argument("--split", metavar="NAME", help="split of the data set (default: val if it exists, else test)")


def add_device(parser: CommandParser) -> None:
    """Add `--device`."""
    devices = ("auto", "cpu", "cuda", "mps")
    add_choice(parser, "--device", devices, help=f"device that runs the network: {', '.join(devices)}")


def add_arithmetic(parser: CommandParser, precision: str = "auto") -> None:
    """Add `--device` and `--precision`, whose default is `precision`."""
    add_device(parser)
    precisions = ("auto", "float32", "bfloat16")
    text = f"arithmetic of the network: {', '.join(precisions)} (default: {precision})"
    add_choice(parser, "--precision", precisions, precision, help=text)


def add_batch_size(parser: CommandParser, unit: str = "images") -> None:
    """Add `--batch-size`."""
    text = f"{unit} per batch (default: chosen by device)"
    parser.add_argument("--batch-size", type=int, metavar="N", help=text)


def add_views(parser: CommandParser, default: "NumViews | None" = None) -> None:
    """Add `--views`; without a default the command measures with one view and then with ten."""
    parser.add_argument(
        "--views",
        type=_views,
        default=default,
        metavar="N",
        help="views per image: 1, 9, 10, or dense (the network slides over the whole image)"
        + ("" if default else " (default: 1, then 10)"),
    )


def _views(word: str) -> "NumViews":
    if word == "dense":
        return "dense"
    if word not in ("1", "9", "10"):
        raise argparse.ArgumentTypeError(f"{word!r} is not allowed; allowed are 1, 9, 10, dense")
    return int(word)


def add_layout(parser: CommandParser) -> None:
    """Add the options of a training that are not part of a recipe: the division among processes, and TensorBoard."""
    section, usual = parser.section("running"), Layout()
    section.add_argument("--tensorboard", action="store_true", help="also write the log for TensorBoard into the run")
    section.add_argument(
        "--columns",
        type=int,
        default=usual.columns,
        metavar="N",
        help="processes per network: 1, or 2 (one per column)",
    )
    section.add_argument(
        "--replicas",
        type=int,
        default=usual.replicas,
        metavar="N",
        help="data-parallel replicas (default: as torchrun started, else 1)",
    )
    advanced = [
        add_choice(
            section,
            "--column-layers",
            get_args(ColumnLayers),
            usual.column_layers,
            help="layers that the two columns divide: every-layer, as in the paper; or dense: each process computes "
            "all convolutions for half of the images, and both divide the dense layers",
        ),
        add_choice(
            section,
            "--grad-dtype",
            get_args(GradDtype),
            usual.grad_dtype,
            help="dtype in which replicas sum their gradients: float32, or bfloat16, which halves the bytes sent",
        ),
        section.add_argument(
            "--stall-warning",
            type=float,
            default=usual.stall_warning,
            metavar="SECONDS",
            help="warn about a process that keeps the others waiting for this long",
        ),
        section.add_argument(
            "--timeout",
            type=float,
            default=usual.timeout,
            metavar="SECONDS",
            help="stop all processes if one does not respond for this long",
        ),
    ]
    for action in advanced:
        parser.show_only_in_full_help(action)


def layout_from(options: argparse.Namespace) -> Layout:
    """The layout that the options of `add_layout` ask for."""
    return Layout(**{field.name: getattr(options, field.name) for field in fields(Layout)})
