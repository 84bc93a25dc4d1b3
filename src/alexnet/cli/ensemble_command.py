"""`alexnet ensemble`: average the saved probabilities of several runs."""

import argparse
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_choice, add_data, add_json, add_split, add_views
from alexnet.cli.output import print_json


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder; two or more")
    add_data(parser)
    add_split(parser)
    add_views(parser, 10)
    add_choice(
        parser,
        "--weights",
        ("equal", "greedy"),
        help="equal, or greedy: tune weights on one half of the images as the source did, and report the other half",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="with greedy: seed that draws the halves")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Average the runs and print the errors."""
    from alexnet.cli.tables import print_ensemble
    from alexnet.evaluation.ensemble import average_runs

    result = average_runs(
        options.runs,
        data_folder=options.data,
        split=options.split,
        num_views=options.views,
        weights=options.weights,
        seed=options.seed,
    ).to_dict()
    if options.json:
        print_json(result)
    else:
        print_ensemble(result)
