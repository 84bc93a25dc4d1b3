"""An overview of the runs in a folder: progress, errors, time and changed settings."""

from pathlib import Path
from typing import Any

from alexnet.errors import AlexNetError, RequestError
from alexnet.runs.baseline_recipe import BASELINES, BaselineRecipe, baseline_differences
from alexnet.runs.folder import AnyRecipe, RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.runs.recipe_file import recipe_differences
from alexnet.runs.recipes import RECIPES
from alexnet.storage.lock import is_held


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Describe the runs in `folder`, sorted by name.

    Returns:
        One object per run: `run`, `recipe`, `variant` (null for a baseline), `state` (`running`, `finished`,
        `interrupted`, `failed`, or `killed` if run.json says running but no process holds the lock), `step`,
        `num_steps`, `top1_error` (the last one measured, a fraction, or null), `lowest_error`, `split` (that they
        are of), `seconds` of training, `processes` of the last start, `changes` (settings that differ from the named
        recipe), `data` (title) and `data_checksum` of the training data: errors on different data cannot be compared,
        and `imported_from` (name of the file, or null): such a run has neither steps nor data.
        For a run with damaged files only `run` and `unreadable` (the reason).

    Raises:
        RequestError: the folder does not exist or holds no run.
    """
    if not folder.is_dir():
        raise RequestError(f"there is no folder {folder}; pass one that holds run folders, such as runs")
    runs = [folder] if (folder / "run.json").is_file() else sorted(path.parent for path in folder.glob("*/run.json"))
    if not runs:
        raise RequestError(f"{folder} holds no run; `alexnet train DATA --run {folder / 'first'}` creates one")
    return [describe_run(path) for path in runs]


def describe_run(path: Path) -> dict[str, Any]:
    """Describe the run in a folder as one object of `list_runs`."""
    try:
        run = RunFolder.open(path)
        metadata, recipe, events = run.metadata(), run.any_recipe(), run.events()
    except AlexNetError as error:
        return {"run": str(path), "unreadable": str(error)}
    steps = [event for event in events if "step" in event]
    validations = [event for event in events if event["event"] == "validation"]
    errors = [event["top1_error"] for event in validations]
    seconds = [event["elapsed_s"] for event in events if "elapsed_s" in event]
    data = metadata.get("data", {})
    killed = metadata["state"] == "running" and not is_held(run.lock_path)
    return {
        "run": str(path),
        "recipe": recipe.name,
        "variant": None if isinstance(recipe, BaselineRecipe) else recipe.network.variant,
        "state": "killed" if killed else metadata["state"],
        "step": max((event["step"] for event in steps), default=0),
        "num_steps": metadata.get("num_steps"),
        "top1_error": errors[-1] if errors else None,
        "lowest_error": min(errors, default=None),
        "split": validations[-1].get("split") if validations else None,
        "seconds": seconds[-1] if seconds else 0.0,
        "processes": metadata.get("processes", 1),
        "changes": changes_of(recipe),
        "data": data.get("title"),
        "data_checksum": data.get("checksum"),
        "imported_from": recipe.imported.name if isinstance(recipe, ImportRecipe) else None,
    }


def changes_of(recipe: AnyRecipe) -> list[str]:
    """Settings in which a recipe differs from the named recipe that it started from."""
    if isinstance(recipe, ImportRecipe):
        return []
    if isinstance(recipe, BaselineRecipe):
        return baseline_differences(BASELINES[recipe.name], recipe) if recipe.name in BASELINES else []
    return recipe_differences(RECIPES[recipe.name], recipe) if recipe.name in RECIPES else []
