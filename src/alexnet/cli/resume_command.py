"""`alexnet resume`: continue an interrupted training, or a finished one with a longer schedule."""

import argparse
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_layout, layout_from
from alexnet.cli.recipe_options import COMMON, add_settings, given_settings
from alexnet.cli.training_processes import print_trained, start_processes
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import CHANGEABLE, GROUPS, Recipe
from alexnet.runs.recipe_file import change_settings


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options; the help lists the settings that may change in a run."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, interrupted or finished")
    text = "where the run's data set is now, if it was moved; recorded for later commands"
    parser.section("data").add_argument("--data", type=Path, nargs="+", help=text)
    for title in ("training", "running"):
        parser.section(title)
    add_layout(parser)
    add_settings(
        parser,
        {name: GROUPS[name] for name in GROUPS if any(one.startswith(f"{name}.") for one in CHANGEABLE)},
        lambda options: RunFolder.open(options.run).recipe() if options else Recipe(),
        common=COMMON,
        allowed=lambda name: name.startswith(CHANGEABLE),
    )


def run(options: argparse.Namespace) -> int:
    """Resume the training."""
    run, changes, layout = RunFolder.open(options.run), given_settings(options), layout_from(options)
    change_settings(run.recipe(), changes)  # refused before processes are started
    run.require_data(options.data)
    if (code := start_processes(options.words, layout)) is not None:
        return code
    from alexnet.parallel.process_mesh import init_process_mesh
    from alexnet.training.loop import resume

    with init_process_mesh(layout) as mesh:
        resume(
            options.run,
            data=options.data,
            optimizer=changes["optimizer"],
            schedule=changes["schedule"],
            training=changes["training"],
            tensorboard=options.tensorboard,
            progress=True,
            mesh=mesh,
        )
        print_trained(options.run, mesh)
    return 0
