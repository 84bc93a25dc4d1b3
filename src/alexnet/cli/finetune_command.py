"""`alexnet finetune`: train a trained network on another data set, with a new last layer."""

import argparse
import logging
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_layout, layout_from
from alexnet.cli.recipe_options import COMMON, add_settings, given_settings
from alexnet.cli.training_processes import print_trained, start_processes
from alexnet.runs.folder import RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.runs.recipe import GROUPS, Recipe
from alexnet.runs.recipe_file import change_settings

_logger = logging.getLogger(__name__)


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.section("data")
    network = parser.section("network")
    network.add_argument("trained", type=Path, metavar="RUN", help="run folder of the trained network")
    parser.section("data").add_argument("data", type=Path, metavar="DATA", help="prepared data set to train on")
    parser.section("training").add_argument(
        "--freeze-until",
        metavar="LAYER",
        help="last layer to freeze, with all before it; or none (default: the convolutions, if the classes have fewer "
        "than 100 images)",
    )
    parser.section("running").add_argument(
        "--run", type=Path, metavar="FOLDER", help="run folder to create (default: RUN-finetuned)"
    )
    add_layout(parser)
    add_settings(
        parser,
        GROUPS,
        lambda options: base_recipe(options) if options else Recipe(name="finetune"),
        common=COMMON - {"data.crop", "network.variant", "network.width"},
    )


def base_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that follows from the trained network and the data."""
    from alexnet.data.concatenated import open_data
    from alexnet.training.finetune import finetune_recipe

    data, run = open_data([options.data]), RunFolder.open(options.trained)
    recipe = run.any_recipe()
    trained = recipe.training_recipe() if isinstance(recipe, ImportRecipe) else run.recipe()
    return finetune_recipe(trained, data, options.freeze_until)


def run(options: argparse.Namespace) -> int:
    """Finetune the network."""
    recipe, layout = change_settings(base_recipe(options), given_settings(options)), layout_from(options)
    if (code := start_processes(options.words, layout)) is not None:
        return code
    frozen = [name for name, factor in recipe.optimizer.layer_lr_factors.items() if factor == 0]
    folder = options.run or options.trained.with_name(f"{options.trained.name}-finetuned")
    from alexnet.parallel.process_mesh import init_process_mesh
    from alexnet.training.loop import train

    with init_process_mesh(layout) as mesh:
        if mesh.is_main:
            _logger.info("%s", f"frozen layers: {', '.join(frozen)}" if frozen else "no layer is frozen")
        train(options.data, folder, recipe, options.trained, tensorboard=options.tensorboard, progress=True, mesh=mesh)
        print_trained(folder, mesh)
    return 0
