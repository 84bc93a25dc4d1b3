"""Every setting of a recipe as a dotted option such as `--optimizer.learning_rate`."""

import argparse
import ast
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from alexnet.cli.command_parser import CommandParser
from alexnet.model.variants import variant_names
from alexnet.runs.recipe import GROUPS
from alexnet.runs.recipe_file import setting_from_text

SECTIONS = {
    "data": "data",
    "network": "network",
    "optimizer": "training",
    "schedule": "training",
    "training": "running",
}
"""Section of the help that lists a group's settings."""
COMMON = frozenset(
    {
        "data.crop",
        "data.subset",
        "network.variant",
        "network.width",
        "network.dropout",
        "optimizer.batch_size",
        "optimizer.learning_rate",
        "optimizer.weight_decay",
        "schedule.kind",
        "schedule.epochs",
        "training.seed",
        "training.device",
        "training.precision",
        "training.workers",
        "training.checkpoint_every",
    }
)
"""Settings that `--help` lists; `--help-all` lists every one."""


def add_settings(
    parser: CommandParser,
    groups: Mapping[str, type],
    base: Callable[[argparse.Namespace | None], Any],
    *,
    common: frozenset[str] = COMMON,
    allowed: Callable[[str], bool] = lambda name: True,
) -> None:
    """Add the settings of `groups` as dotted options.

    Args:
        parser: gets the options. An option that is not given leaves no attribute in the parsed namespace.
        groups: frozen dataclasses by the first half of their options' names.
        base: the recipe that the options change; the help shows its values as defaults.
        common: dotted names that `--help` lists.
        allowed: whether the help lists a dotted name at all.
    """
    for group, kind in groups.items():
        section, docs, types = parser.section(SECTIONS.get(group, group)), field_docs(kind), get_type_hints(kind)
        for one in fields(kind):
            name, choices = f"{group}.{one.name}", _choices(types[one.name])
            doc = docs.get(one.name, "")
            short = _help(doc.partition(". ")[0], choices) if name in common and allowed(name) else argparse.SUPPRESS
            metavar = _metavar(types[one.name])
            action = section.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar=metavar, help=short)
            if allowed(name):
                parser.full_help[action] = _help(doc, choices or (variant_names() if name == "network.variant" else ()))
    parser.defaults_for_help = lambda options: _shown_settings(base(options), groups)


def given_settings(options: argparse.Namespace, groups: Mapping[str, type] = GROUPS) -> dict[str, dict[str, Any]]:
    """The dotted options that were given: values by name, by group."""
    given = vars(options)
    return {
        group: {
            one.name: setting_from_text(kind, group, one.name, given[f"{group}.{one.name}"])
            for one in fields(kind)
            if f"{group}.{one.name}" in given
        }
        for group, kind in groups.items()
    }


def field_docs(kind: type) -> dict[str, str]:
    """The docstrings below a dataclass's fields, each on one line; none if the source is not installed."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except OSError:
        return {}
    docs, name = {}, ""
    for node in tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docs[name] = " ".join(str(node.value.value).split())
    return docs


def _help(doc: str, choices: Sequence[str]) -> str:
    """A docstring in the form of the other options' help, with the choices that it does not name."""
    start = doc[:1] if doc[1:2].isupper() else doc[:1].lower()  # SGD stays as it is
    text = (start + doc[1:]).rstrip(".").replace("`", "").replace("%", "%%")
    return text if all(choice in text for choice in choices) else f"{text}: {', '.join(choices)}"


def _choices(kind: Any) -> tuple[str, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _metavar(kind: Any) -> str:
    names = {int: "N", float: "X", bool: "true|false", str: "NAME"}
    if get_origin(kind) is Literal:
        return "NAME"
    return names.get(kind, "LIST" if get_origin(kind) is tuple else "MAPPING")


def _shown_settings(recipe: Any, groups: Mapping[str, type]) -> dict[str, str]:
    """Values of settings as the options take them, by dotted name."""
    shown = {}
    for group, kind in groups.items():
        for one in fields(kind):
            value = getattr(getattr(recipe, group), one.name)
            if isinstance(value, tuple) and value and is_dataclass(value[0]):
                text = f"{len(value)} stages"
            elif isinstance(value, str | float):
                text = value if isinstance(value, str) else f"{value:g}"
            else:
                text = json.dumps(dict(value) if isinstance(value, Mapping) else value)
            shown[f"{group}.{one.name}"] = text
    return shown
