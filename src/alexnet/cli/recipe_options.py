"""The words behind `alexnet train`: a recipe, and every one of its settings as a dotted option."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import jsonargparse

from alexnet.errors import RequestError
from alexnet.parallel.layout import ColumnLayers, GradDtype, Layout
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import CHANGEABLE, GROUPS, Recipe, refuse_unread_changes
from alexnet.runs.recipe_file import read_config
from alexnet.runs.recipes import RECIPES, named_recipe


@dataclass(frozen=True)
class TrainOptions:
    """What `alexnet train` was asked."""

    data: list[Path]
    """Prepared data sets, joined where there are several."""
    recipe: Recipe
    """With all changes."""
    run: Path
    start_from: Path | None
    show: bool
    json: bool
    seeds: int
    """How many networks, each with a seed of its own, the recipe's and those after it."""
    layout: Layout
    tensorboard: bool
    """Whether the log is written for TensorBoard too."""


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

    parser = _parser("train", f"{summary} Every setting of the recipe is a dotted option.", example)
    # Not `data`: that is the group of settings.
    parser.add_argument(
        "data_set",
        type=Path,
        nargs="*",
        metavar="DATA",
        help="a prepared data set, or several, one behind the other, to be joined",
    )
    parser.add_argument("--recipe", default="paper", help=f"where the settings start from: {', '.join(RECIPES)}")
    parser.add_argument(
        "--config", type=Path, help="YAML file of settings that change the recipe (as recipe.yaml in a run folder)"
    )
    parser.add_argument("--run", type=Path, help="run folder to make, or to go on with (default: runs/RECIPE)")
    parser.add_argument(
        "--start-from",
        type=Path,
        help="a run folder or weights file: layers of the same names start from its weights, all but the last ones",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the network and its rates as a table and train nothing"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="train so many networks, into RUN-SEED each; what is done is not done again",
    )
    parser.add_argument("--json", action="store_true", help="with --show: print one JSON object instead of a table")
    _add_carrying_out(parser)
    _add_settings(parser, base, tuple(GROUPS))
    options = parser.instantiate(parser.parse_args(list(words)))
    if options.json and not options.show:
        raise RequestError("--json goes with --show; a training's figures stand in its run folder, as JSON")
    recipe = Recipe(name=base.name, claim=base.claim, **{name: getattr(options, name) for name in GROUPS})
    refuse_unread_changes(base, recipe)
    run = options.run or Path("runs") / base.name
    if options.seeds < 1:
        raise RequestError(f"--seeds is {options.seeds}; allowed is 1 or more")
    return TrainOptions(
        data=options.data_set,
        recipe=recipe,
        run=run,
        start_from=options.start_from,
        show=options.show,
        json=options.json,
        seeds=options.seeds,
        layout=_layout(options),
        tensorboard=options.tensorboard,
    )


@dataclass(frozen=True)
class FinetuneOptions:
    """What `alexnet finetune` was asked."""

    trained: Path
    """Run folder of the network to go on with."""
    data: Path
    recipe: Recipe
    run: Path
    layout: Layout
    tensorboard: bool


def finetune_options(words: Sequence[str], summary: str, example: str) -> FinetuneOptions:
    """Read the words behind `alexnet finetune`; a wrong one ends the process with a message and code 2.

    Raises:
        RequestError: no such run or data set, a layer that cannot be frozen, or a value that a setting does not allow.
    """
    # Run and data are read first, among all the words: the settings' defaults follow from them.
    asked = _finetune_parser(Recipe(name="finetune"), summary, example).parse_args(list(words))
    from alexnet.data.concatenated import open_data
    from alexnet.training.finetune import finetune_recipe

    data = open_data([Path(asked.data_set)])
    base = finetune_recipe(RunFolder.open(Path(asked.trained)).recipe(), data, asked.freeze_until)
    parser = _finetune_parser(base, summary, example)
    options = parser.instantiate(parser.parse_args(list(words)))
    recipe = Recipe(name=base.name, claim=base.claim, **{name: getattr(options, name) for name in GROUPS})
    refuse_unread_changes(base, recipe)
    run = options.run or options.trained.with_name(f"{options.trained.name}-finetuned")
    return FinetuneOptions(options.trained, options.data_set, recipe, run, _layout(options), options.tensorboard)


def _finetune_parser(base: Recipe, summary: str, example: str) -> jsonargparse.ArgumentParser:
    parser = _parser("finetune", f"{summary} Every setting of the recipe is a dotted option.", example)
    parser.add_argument("trained", type=Path, metavar="RUN", help="run folder of the network to go on with")
    parser.add_argument("data_set", type=Path, metavar="DATA", help="the prepared data set to learn")
    parser.add_argument("--run", type=Path, help="run folder to make (default: RUN-finetuned)")
    parser.add_argument(
        "--freeze-until",
        metavar="LAYER",
        help="the last layer that stays as it is, with all before it; `none` freezes none (default: the convolutions "
        "where a class has fewer than 100 images)",
    )
    _add_carrying_out(parser)
    _add_settings(parser, base, tuple(GROUPS))
    return parser


@dataclass(frozen=True)
class ResumeOptions:
    """What `alexnet resume` was asked."""

    run: Path
    recipe: Recipe
    """The run's own, with all changes."""
    layout: Layout
    tensorboard: bool


def resume_options(words: Sequence[str], summary: str, example: str) -> ResumeOptions:
    """Read the words behind `alexnet resume`; a wrong one ends the process with a message and code 2.

    Raises:
        RequestError: there is no such run, or a value that a setting does not allow.
    """
    # The run is read first: its recipe gives every option its default. Which word it is, the settings may hide.
    runs = [Path(word) for word in words if (Path(word) / "run.json").is_file()]
    base = RunFolder.open(runs[0]).recipe() if runs else Recipe()
    parser = _parser("resume", f"{summary} Of the settings, these may differ from the run's.", example)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of an interrupted training")
    _add_carrying_out(parser)
    groups = tuple(dict.fromkeys(name.split(".")[0] for name in CHANGEABLE))
    _add_settings(parser, base, groups)
    options = parser.instantiate(parser.parse_args(list(words)))
    if RunFolder.open(options.run).path != runs[0]:
        raise RequestError(f"{runs[0]} is a run too; name {options.run} before the settings")
    recipe = replace(base, **{name: getattr(options, name) for name in groups})
    refuse_unread_changes(base, recipe)
    return ResumeOptions(options.run, recipe, _layout(options), options.tensorboard)


def _parser(command: str, description: str, example: str) -> jsonargparse.ArgumentParser:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return jsonargparse.ArgumentParser(
        prog=f"alexnet {command}", description=description, epilog=f"example: {example}", allow_abbrev=False
    )


def _add_carrying_out(parser: jsonargparse.ArgumentParser) -> None:
    """Options of how a training is carried out, by how many processes above all; none of them is part of the recipe."""
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write the log for TensorBoard too, into RUN/tensorboard (needs the extra of that name)",
    )
    usual = Layout()
    parser.add_argument(
        "--columns",
        type=int,
        default=usual.columns,
        help="processes that share one network, each with one of its two columns: 1 (default) or 2; started here, "
        "unless torchrun did",
    )
    parser.add_argument(
        "--replicas",
        type=int,
        default=usual.replicas,
        help="networks that share each batch (default: as many as torchrun started processes for, else 1)",
    )
    parser.add_argument(
        "--column-layers",
        type=ColumnLayers,
        default=usual.column_layers,
        help="every-layer: as in the paper (default); dense: the two processes share the dense layers alone and each "
        "has the convolutions for half of the images",
    )
    parser.add_argument(
        "--grad-dtype",
        type=GradDtype,
        default=usual.grad_dtype,
        help="arithmetic in which replicas add up their gradients: float32 (default), or bfloat16, half of the bytes",
    )
    parser.add_argument(
        "--stall-warning",
        type=float,
        default=usual.stall_warning,
        help=f"seconds after which a process that holds the others up is named (default {usual.stall_warning:g})",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=usual.timeout,
        help=f"seconds that processes wait for one of them before all stop (default {usual.timeout:g})",
    )


def _layout(options: jsonargparse.Namespace) -> Layout:
    return Layout(**{field.name: options[field.name] for field in fields(Layout)})


def _add_settings(parser: jsonargparse.ArgumentParser, base: Recipe, groups: Sequence[str]) -> None:
    for name in groups:
        parser.add_argument(f"--{name}", type=GROUPS[name], default=getattr(base, name))
