"""`alexnet train`: train a network on a prepared data set."""

import argparse
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_layout, layout_from
from alexnet.cli.output import print_json, print_lines
from alexnet.cli.recipe_options import add_settings, given_settings
from alexnet.cli.training_processes import is_measurable, print_trained, start_processes
from alexnet.errors import RequestError
from alexnet.runs.recipe import GROUPS, Recipe
from alexnet.runs.recipe_file import change_settings, read_config
from alexnet.runs.recipes import RECIPES, named_recipe
from alexnet.system.visible_text import shell_words


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.section("data").add_argument(
        "data", type=Path, nargs="*", metavar="DATA", help="prepared data set; several are concatenated"
    )
    network, training, running = parser.section("network"), parser.section("training"), parser.section("running")
    network.add_argument("--show", action="store_true", help="print the network and its learning rates; train nothing")
    network.add_argument(
        "--start-from", type=Path, metavar="RUN", help="run or weights file to copy weights from, except the last layer"
    )
    training.add_argument(
        "--recipe", default="paper", metavar="NAME", help=f"settings to start from: {', '.join(RECIPES)}"
    )
    training.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file that changes settings, like a run's recipe.yaml"
    )
    running.add_argument("--run", type=Path, help="run folder to create or resume (default: runs/RECIPE)")
    running.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train N networks with consecutive seeds, in RUN-SEED"
    )
    add_layout(parser)
    parser.show_only_in_full_help(
        network.add_argument("--json", action="store_true", help="with --show: print one JSON object")
    )
    add_settings(parser, GROUPS, _base)


def base_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that `--recipe` names, changed by `--config`."""
    base = named_recipe(options.recipe)
    return read_config(options.config, base) if options.config else base


def run(options: argparse.Namespace) -> int:
    """Train, or show what would be trained."""
    recipe, layout = change_settings(base_recipe(options), given_settings(options)), layout_from(options)
    if options.json and not options.show:
        raise RequestError("--json needs --show; a training writes its results as JSON into its run folder")
    if options.seeds < 1:
        raise RequestError(f"--seeds is {options.seeds}; allowed is 1 or more")
    if options.show:
        _show(recipe, options)
        return 0
    if not options.data:
        raise RequestError("train needs a prepared data set (DATA); only --show works without one")
    if (code := start_processes(options.words, layout)) is not None:
        return code
    from alexnet.parallel.process_mesh import init_process_mesh
    from alexnet.training.loop import train
    from alexnet.training.seeds import train_seeds

    folder = options.run or Path("runs") / options.recipe
    with init_process_mesh(layout) as mesh:
        if options.seeds == 1:
            train(
                options.data,
                folder,
                recipe,
                options.start_from,
                tensorboard=options.tensorboard,
                progress=True,
                mesh=mesh,
            )
            print_trained(folder, mesh)
            return 0
        runs = train_seeds(
            options.data, recipe, folder, options.start_from, options.seeds, mesh, options.tensorboard, progress=True
        )
        if mesh.is_main:
            names, one = shell_words(*runs), shell_words(runs[0])
            evaluate = f"alexnet evaluate {names}, then: alexnet ensemble {names}"
            print_lines(
                f"{len(runs)} networks; next: {evaluate if is_measurable(runs[0]) else f'alexnet report {one}'}"
            )
    return 0


def _base(options: argparse.Namespace | None) -> Recipe:
    return base_recipe(options) if options else named_recipe("paper")


def _show(recipe: Recipe, options: argparse.Namespace) -> None:
    from alexnet.cli.tables import print_network
    from alexnet.data.concatenated import open_data
    from alexnet.model.variants import named_variant
    from alexnet.training.network_table import table_as_json

    published = named_variant(recipe.network.variant)
    num_classes = open_data(options.data).num_classes if options.data else published.num_classes
    described = table_as_json(recipe, num_classes)
    if options.json:
        print_json(described)
    else:
        print_network(described)
