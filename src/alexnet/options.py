"""The words behind `alexnet train`: a recipe, and every one of its settings as a dotted option."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jsonargparse

from alexnet.errors import RequestError
from alexnet.runs.recipe import GROUPS, Recipe
from alexnet.runs.recipe_file import read_config
from alexnet.runs.recipes import RECIPES, named_recipe


@dataclass(frozen=True)
class TrainOptions:
    """What `alexnet train` was asked."""

    data: Path | None
    recipe: Recipe
    """With all changes."""
    run: Path
    start_from: Path | None
    show: bool
    json: bool


def train_options(words: Sequence[str], summary: str, example: str) -> TrainOptions:
    """Read the words behind `alexnet train`; a wrong one ends the process with a message and code 2.

    Args:
        summary: what the command does, for its help.
        example: for its help.

    Raises:
        RequestError: an unknown recipe, or a value that a setting does not allow.
    """
    # The recipe is read first: it gives every other option its default.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", default="paper")
    first.add_argument("--config", type=Path)
    base_options, _ = first.parse_known_args(words)
    base = named_recipe(base_options.recipe)
    if base_options.config:
        base = read_config(base_options.config, base)

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog="alexnet train",
        description=f"{summary} Every setting of the recipe is a dotted option.",
        epilog=f"example: {example}",
        allow_abbrev=False,
    )
    # Not `data`: that is the group of settings.
    parser.add_argument("data_set", type=Path, nargs="?", metavar="DATA", help="a prepared data set")
    parser.add_argument("--recipe", default="paper", help=f"where the settings start from: {', '.join(RECIPES)}")
    parser.add_argument(
        "--config", type=Path, help="YAML file of settings that change the recipe (as recipe.yaml in a run folder)"
    )
    parser.add_argument("--run", type=Path, help="run folder to make, or to go on with (default: runs/RECIPE)")
    parser.add_argument(
        "--start-from",
        type=Path,
        help="a run folder or weights file: layers of the same names start from its weights, all but the last",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the network and its rates as a table and train nothing"
    )
    parser.add_argument("--json", action="store_true", help="with --show: print one JSON object instead of a table")
    for name, settings in GROUPS.items():
        parser.add_argument(f"--{name}", type=settings, default=getattr(base, name))
    options = parser.instantiate(parser.parse_args(list(words)))
    if options.json and not options.show:
        raise RequestError("--json goes with --show; a training's figures stand in its run folder, as JSON")
    recipe = Recipe(name=base.name, claim=base.claim, **{name: getattr(options, name) for name in GROUPS})
    run = options.run or Path("runs") / base.name
    return TrainOptions(options.data_set, recipe, run, options.start_from, options.show, options.json)
