"""The tables at the end of a report: the settings of a recipe, and where, when and by what a run was trained."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from alexnet.data.dataset import PreparedData
from alexnet.runs.baseline_recipe import GROUPS as BASELINE_GROUPS
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import AnyRecipe
from alexnet.runs.import_recipe import ImportRecipe, import_to_dict
from alexnet.runs.recipe import GROUPS, unread_settings


def settings(recipe: AnyRecipe) -> dict[str, dict[str, str]]:
    """Every setting of the recipe by group, as text, except those that its kind of schedule does not read."""
    if isinstance(recipe, ImportRecipe):
        return {
            name: {key.replace("_", " "): _text(value) for key, value in group.items()}
            for name, group in import_to_dict(recipe).items()
            if isinstance(group, Mapping)
        }
    content = asdict(recipe)
    if isinstance(recipe, BaselineRecipe):
        groups = BASELINE_GROUPS[recipe.kind]
        return {group: {key: _text(value) for key, value in content[group].items()} for group in groups}
    unread = unread_settings(recipe)
    return {
        group: {key: _text(value) for key, value in content[group].items() if f"{group}.{key}" not in unread}
        for group in GROUPS
    }


def run_environment(metadata: Mapping[str, Any], data: PreparedData | None = None) -> dict[str, dict[str, str]]:
    """Where and when the run was trained, its data, its machine and its software, as text, by heading.

    Args:
        data: the data set; None leaves out what only it knows.
    """
    run = {
        "started": metadata.get("started"),
        "finished": metadata.get("finished"),
        "training time, s": metadata.get("duration_s"),
        "commit": metadata.get("commit"),
        "processes": metadata.get("processes", 1),
        "columns": metadata.get("columns", 1),
        "replicas": metadata.get("replicas", 1),
        "unreadable images": metadata.get("unreadable_images"),
        "seed": metadata.get("seed"),
        "parameters": metadata.get("parameters"),
        "started from": metadata.get("start_from") or "random weights",
        "layers copied from it": metadata.get("copied_layers") or "none",
    }
    if "data" not in metadata and "num_steps" not in metadata:  # imported: it has no training
        run = {key: run[key] for key in ("started", "finished", "commit", "parameters")}
        metadata = {**metadata, "data": metadata.get("proved_on")}
    tables = {"Run": run, **{name.capitalize(): metadata.get(name) or {} for name in ("data", "machine", "versions")}}
    if data is not None and "num_refused" in data.description:
        found = {"images refused": data.description["num_refused"], "other files skipped": data.num_skipped}
        tables["Data"] = {**tables["Data"], **found}
    return {
        heading: {str(key).replace("_", " "): _text(value) for key, value in table.items()}
        for heading, table in tables.items()
    }


def _text(value: Any) -> str:
    """A JSON value as text for people."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping | list | tuple | str) and not value:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(one) for one in value)
    return str(value)
