"""The contents of a run's report, from the files of its folder: plain rows and figures, without layout."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alexnet.evaluation.metrics import METRICS
from alexnet.evaluation.predictions import views_sort_key
from alexnet.evaluation.view_probabilities import DIVERGED
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.storage.paths import StrPath
from alexnet.system.visible_text import shell_words, visible

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


def failure_reason(run: RunFolder, events: Sequence[Mapping[str, Any]]) -> str:
    """Why a failed run failed, and what to do, as sentences; empty for other runs."""
    if run.state != "failed":
        return ""
    reasons = [event["reason"] for event in events if event["event"] == "failed" and event.get("reason")]
    if not reasons and any(event["event"] in ("not_finite", "exploding") for event in events):
        reasons = [DIVERGED]
    why = f"The reason: {reasons[-1]}." if reasons else "Its log does not say why."
    return f"{why} A failed run cannot be resumed: remove its folder, or train into another one with --run."


def has_top5(num_classes: int | None) -> bool:
    """Whether a top-5 error says something: of unknown numbers of classes, as of six or more."""
    return num_classes is None or METRICS["top5_error"].says_something(num_classes)


def how_to_evaluate(run: RunFolder) -> Markup:
    """What a run without an evaluation needs to get one, as sentences with commands."""
    commands = next_commands(run)
    again = _code("alexnet", "report", run.path)
    if commands["evaluate"]:
        return Markup("Run {}, then {}.").format(_code(commands["evaluate"]), again)
    recipe = run.any_recipe()
    if isinstance(recipe, ImportRecipe):
        return Markup("It scores none of a data set's classes, so it has no error.")
    if isinstance(recipe, BaselineRecipe) or not run.weights.is_file():
        if commands["resume"]:
            return Markup("Finish its training first: {}.").format(_code(commands["resume"]))
        return Markup("It has no trained weights{}.").format("" if run.state == "failed" else " yet")
    evaluate = _code("alexnet", "evaluate", run.path, "--data", "DATA")
    folders = image_folders(run) if data_of(run) else []
    if lost := [folder for folder in folders if not (folder / "dataset.json").is_file()]:
        named = visible(" and ".join(map(str, lost)))
        return Markup("Its data set {} was not found. Name its folder: {}.").format(named, evaluate)
    return Markup(
        "Its data set has only training images. Name another one with the same classes: {}; {} holds images out when "
        "a data set is prepared."
    ).format(evaluate, _code("alexnet prepare SOURCE DEST --hold-out 0.1"))


def images_not_found(run: RunFolder) -> Section:
    """In place of images whose data set was not found: its folder, and the command that names another."""
    folders = visible(" and".join(f" {one}" for one in image_folders(run)) if data_of(run) else "")
    command = _code("alexnet", "report", run.path, "--data", "DATA")
    text = Markup("The prepared data set{} was not found, so there are no images to show. Name its folder: {}.")
    return Section(missing=text.format(folders, command))


def _code(*words: StrPath) -> Markup:
    """A command in its font; a single word is a whole command."""
    return Markup("<code>{}</code>").format(visible(str(words[0]) if len(words) == 1 else shell_words(*words)))


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
