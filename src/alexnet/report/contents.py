"""The contents of a run's report, from the files of its folder: plain rows and figures, without layout."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alexnet.evaluation.predictions import (
    views_sort_key,
)
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.system.visible_text import shell_words

_logger = logging.getLogger(__name__)

NUM_PANEL_IMAGES = 6
_CLAIMED_DATA = ("CIFAR-10", "ILSVRC-2012", "ILSVRC-2010", "Fall 2011", "Imagenette", "Caltech-101")


@dataclass(frozen=True)
class Section:
    """A part of the page, or the reason why it is missing."""

    content: str | Markup = ""
    """HTML, as `Markup`."""
    missing: str = ""
    note: str = ""


def sort_evaluations(evaluations: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Evaluations in the order of the table: the training split last, fewer views first."""
    return sorted(
        evaluations.values(), key=lambda one: (one["split"] == "train", one["split"], views_sort_key(one["num_views"]))
    )


def data_of(run: RunFolder) -> Mapping[str, Any]:
    """The data set whose images and errors the page shows, as run.json describes it: the one that the run was trained
    on, or on which an imported network was measured; empty if there is none.
    """
    metadata = run.metadata()
    return metadata.get("data") or metadata.get("proved_on") or {}


def image_folders(run: RunFolder) -> list[Path]:
    """The folders of the data set that `data_of` describes."""
    described = data_of(run)
    return [Path(one) for one in described["folders"]] if run.is_imported and described else run.data_folders()


def on_own_data(evaluations: Mapping[str, Mapping[str, Any]], checksum: str | None) -> dict[str, Mapping[str, Any]]:
    """The evaluations on the data set with this checksum, None is any; the page omits those on other data."""
    return {name: one for name, one in evaluations.items() if checksum in (None, one["data_checksum"])}


def headline_evaluation(evaluations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The evaluation that the page shows in detail: with the most views, of a held-out split if there is one."""
    return max(evaluations, key=lambda one: (one["split"] != "train", views_sort_key(one["num_views"])), default=None)


def next_commands(run: RunFolder) -> dict[str, str | None]:
    """The commands to `resume` and `evaluate` a run and to `predict` with it; None for those that would be refused.

    Of an imported run that scores no classes, also the one to get `features`.
    """
    metadata, recipe = run.metadata(), run.any_recipe()
    if isinstance(recipe, ImportRecipe):
        return _next_of_import(run, recipe)
    data: Mapping[str, Any] = metadata.get("data") or {}
    is_named = bool(data.get("folders") or data.get("folder"))
    has_data = is_named and all((folder / "dataset.json").is_file() for folder in run.data_folders())
    has_held_out = bool({"val", "test"} & set(data.get("splits", {})))
    if isinstance(recipe, BaselineRecipe):
        resumes, is_network = False, False
        is_trained = (run.path / "baseline.safetensors").is_file()
        has_held_out |= recipe.protocol.evaluate_on == "rest"
    else:
        resumes, is_network = metadata.get("state") in ("running", "interrupted") and has_data, True
        is_trained = run.weights.is_file()
    return {
        "resume": shell_words("alexnet", "resume", run.path) if resumes else None,
        "evaluate": shell_words("alexnet", "evaluate", run.path) if is_trained and has_data and has_held_out else None,
        "predict": shell_words("alexnet", "predict", run.path, "photo.jpg") if is_trained and is_network else None,
    }


def _next_of_import(run: RunFolder, recipe: ImportRecipe) -> dict[str, str | None]:
    has_scores = run.weights.is_file() and not recipe.network.untrained_layers
    has_names = recipe.network.classes_from != "numbers"  # without names no class is one of a data set
    data = data_of(run).get("folders") or ["DATA"]
    return {
        "resume": None,
        "evaluate": shell_words("alexnet", "evaluate", run.path, "--data", *data) if has_scores and has_names else None,
        "predict": shell_words("alexnet", "predict", run.path, "photo.jpg") if has_scores else None,
        "features": shell_words("alexnet", "features", run.path, "photo.jpg", "--layer", "pool5", "--out", "FOLDER"),
    }


def epoch_rows(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The curves' values, one row per epoch: `epoch`, `train_loss`, `train_error`, `loss`, `error`, `top5_error`."""
    rows: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "epoch":
            row = rows.setdefault(int(event["epoch"]), {})
            row.update(train_loss=event["train_loss"], train_error=event["train_top1_error"])
        elif event["event"] == "validation":
            row = rows.setdefault(int(event["epoch"]), {})
            row.update(loss=event["loss"], error=event["top1_error"], top5_error=event["top5_error"])
    return [{"epoch": epoch, **rows[epoch]} for epoch in sorted(rows)]


def data_of_claim(claim: str) -> list[str]:
    """The data sets that the claim of a recipe is about, as it names them."""
    return [name for name in _CLAIMED_DATA if name in claim]
