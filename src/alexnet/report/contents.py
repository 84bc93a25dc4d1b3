"""What the report says of a run, taken from the files of its folder: plain rows and figures, no layout."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
from markupsafe import Markup

from alexnet.data.dataset import PreparedData
from alexnet.errors import AlexNetError
from alexnet.evaluation.predictions import load_predictions, views_sort_key
from alexnet.figures.curves import Series, curve_svg
from alexnet.figures.filters import filter_grid, png_data_uri
from alexnet.figures.panel import PanelImage, panel_html
from alexnet.report.formatting import evenly_spaced
from alexnet.runs.baseline_recipe import GROUPS as BASELINE_GROUPS
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import GROUPS, Recipe, unread_settings

NUM_PICTURES = 6
_MOST_CLASSES = 20
_MOST_PAIRS = 10


@dataclass(frozen=True)
class Section:
    """A part of the page, or why there is none."""

    content: str = ""
    """HTML, marked as safe where it is filled in."""
    missing: str = ""
    note: str = ""


@dataclass(frozen=True)
class Published:
    """The paper's figure for the same measurement; errors are fractions."""

    top1_error: float
    top5_error: float
    where: str


# By number of images and of views: how many images a split of 1000 ImageNet classes has says which it is.
_PUBLISHED = {
    (50_000, 10): Published(0.407, 0.182, "table 2, ILSVRC-2012 validation, one network, ten views"),
    (150_000, 10): Published(0.375, 0.170, "table 1, ILSVRC-2010 test, ten views"),
    (150_000, 1): Published(0.390, 0.183, "section 6, ILSVRC-2010 test, center view"),
}


def published(evaluation: Mapping[str, Any], variant: str) -> Published | None:
    """The paper's own figure, only where it was measured on the same images of the same network's kind."""
    ids = [one["id"] for one in evaluation["per_class"]]
    of_imagenet = len(ids) == 1000 and all(re.fullmatch(r"n\d{8}", one) for one in ids)
    if variant not in ("paper", "original") or not of_imagenet:
        return None
    return _PUBLISHED.get((evaluation["num_images"], evaluation["num_views"]))


def ordered(evaluations: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Evaluations as the table lists them: held-out splits before the training split, fewer views first."""
    return sorted(
        evaluations.values(), key=lambda one: (one["split"] == "train", one["split"], views_sort_key(one["num_views"]))
    )


def on_own_data(evaluations: Mapping[str, Mapping[str, Any]], checksum: str | None) -> dict[str, Mapping[str, Any]]:
    """The evaluations on the data set the run was trained on; those on other data are no result of this page."""
    return {name: one for name, one in evaluations.items() if checksum in (None, one["data_checksum"])}


def best_of(evaluations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The evaluation the page speaks of in its details: a held-out split's, the one with the most views."""
    return max(evaluations, key=lambda one: (one["split"] != "train", views_sort_key(one["num_views"])), default=None)


def curves(events: Sequence[Mapping[str, Any]], evaluation_name: str) -> tuple[Section, Section]:
    """Loss and top-1 error over the epochs, of the training batches and of the measurements between them."""
    steps = [event for event in events if event["event"] == "step"]
    measured = [event for event in events if event["event"] == "validation"]
    if not steps and not measured:
        missing = Section(missing="The log holds no step yet, so there is nothing to draw.")
        return missing, missing

    def series(key: str, scale: float) -> list[Series]:
        found = []
        if steps:
            found.append(Series("training batches", _column(steps, "epoch"), scale * _column(steps, key)))
        if measured:
            values = scale * _column(measured, key)
            found.append(Series(evaluation_name, _column(measured, "epoch"), values, "points"))
        return found

    last = f"at the end of the log, epoch {(steps or measured)[-1]['epoch']:.4g}"
    loss = curve_svg(
        series("loss", 1),
        name="curve-loss",
        description=f"Loss over epochs; {_last_values(steps, measured, 'loss', 1, '')} {last}.",
        x_title="epoch",
        y_title="loss, nats",
    )
    error = curve_svg(
        series("top1_error", 100),
        name="curve-error",
        description=f"Top-1 error over epochs; {_last_values(steps, measured, 'top1_error', 100, ' %')} {last}.",
        x_title="epoch",
        y_title="top-1 error, %",
    )
    return Section(Markup(loss)), Section(Markup(error))


def epoch_rows(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The curves' numbers, one row an epoch: `epoch`, `train_loss`, `train_error`, `loss`, `error`, `top5_error`."""
    rows: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "epoch":
            row = rows.setdefault(int(event["epoch"]), {})
            row.update(train_loss=event["train_loss"], train_error=event["train_top1_error"])
        elif event["event"] == "validation":
            row = rows.setdefault(int(event["epoch"]), {})
            row.update(loss=event["loss"], error=event["top1_error"], top5_error=event["top5_error"])
    return [{"epoch": epoch, **rows[epoch]} for epoch in sorted(rows)]


def first_layer(run: RunFolder) -> Section:
    """The filters of `conv1` as a picture."""
    if run.is_baseline:
        return Section(missing="A baseline has no filters: what it looks for in a patch is given, not learned.")
    if not run.weights.is_file():
        return Section(missing="The run has stored no weights yet, so there are no filters to show.")
    try:
        with safetensors.safe_open(run.weights, framework="numpy") as file:
            if "conv1.weight" not in file.keys():  # noqa: SIM118 (the file is no mapping)
                return Section(missing="The stored network has no layer conv1, so there are no filters to show.")
            filters = file.get_tensor("conv1.weight")
        picture = filter_grid(filters)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        return Section(missing=f"The filters cannot be shown: {error}.")
    number, _, height, width = filters.shape
    lowest, highest = float(filters.min()), float(filters.max())
    return Section(
        Markup('<img class="filters" alt="{}" width="{}" height="{}" src="{}">').format(
            f"The {number} filters of the first layer, {height} by {width} pixels each",
            picture.shape[1],
            picture.shape[0],
            png_data_uri(picture),
        ),
        note=(
            f"The {number} filters of conv1, {height} by {width} weights in each of red, green and blue. "
            f"One scale for all: black is {lowest:.3g}, full color {highest:.3g}."
        ),
    )


def panels(run: RunFolder, data: PreparedData | None, evaluation: Mapping[str, Any] | None) -> tuple[Section, Section]:
    """Pictures that were named rightly, and wrongly, with their five most probable classes. Paper: figure 4."""
    if evaluation is None:
        missing = Section(missing="Pictures appear here once the run is evaluated.")
        return missing, missing
    if data is None:
        missing = Section(missing="The prepared data set is not at hand, so there are no pictures to show.")
        return missing, missing
    split, num_views = evaluation["split"], evaluation["num_views"]
    try:
        probabilities = load_predictions(run.path / "predictions", split, num_views, data).probabilities
    except AlexNetError as error:
        missing = Section(missing=f"There are no pictures to show: {error}.")
        return missing, missing
    right = probabilities.argmax(axis=1) == data.splits[split].labels
    return (
        _panel(data, split, probabilities, np.flatnonzero(right), "rightly"),
        _panel(data, split, probabilities, np.flatnonzero(~right), "wrongly"),
    )


def class_rows(evaluation: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], int]:
    """The classes hardest first, at most 20 of them, and how many there are in all."""
    rows = sorted(evaluation["per_class"], key=lambda one: 1.0 if one["top1_error"] is None else -one["top1_error"])
    return rows[:_MOST_CLASSES], len(rows)


def confused_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ten pairs confused most often: `true`, `predicted` (names), `num_images`, `share` of the class's images."""
    classes = {one["id"]: one for one in evaluation["per_class"]}
    return [
        {
            "true": classes[pair["true"]]["name"],
            "predicted": classes[pair["predicted"]]["name"],
            "num_images": pair["num_images"],
            "share": pair["num_images"] / classes[pair["true"]]["num_images"],
        }
        for pair in evaluation["confused_pairs"][:_MOST_PAIRS]
    ]


def settings(recipe: Recipe | BaselineRecipe) -> dict[str, dict[str, str]]:
    """Every setting of the recipe by group, as text; without those that its kind of schedule does not read."""
    content = asdict(recipe)
    if isinstance(recipe, BaselineRecipe):
        groups = BASELINE_GROUPS[recipe.kind]
        return {group: {key: _text(value) for key, value in content[group].items()} for group in groups}
    unread = unread_settings(recipe)
    return {
        group: {key: _text(value) for key, value in content[group].items() if f"{group}.{key}" not in unread}
        for group in GROUPS
    }


def run_environment(facts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Where, when, with what and on what the run was carried out, as text, by heading."""
    run = {
        "started": facts.get("started"),
        "finished": facts.get("finished"),
        "seconds of training": facts.get("duration_s"),
        "commit": facts.get("commit"),
        "processes": facts.get("processes", 1),
        "columns": facts.get("columns", 1),
        "replicas": facts.get("replicas", 1),
        "images that could not be read": facts.get("unreadable_images"),
        "seed": facts.get("seed"),
        "weights and biases": facts.get("parameters"),
        "started from": facts.get("start_from") or "random weights",
        "layers from there": facts.get("copied_layers"),
    }
    tables = {
        "Run": run,
        "Data": facts.get("data") or {},
        "Machine": facts.get("machine") or {},
        "Versions": facts.get("versions") or {},
    }
    return {
        heading: {str(key).replace("_", " "): _text(value) for key, value in table.items()}
        for heading, table in tables.items()
    }


def _panel(
    data: PreparedData, split: str, probabilities: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], how: str
) -> Section:
    """The panel of a few of the images `ids` of a split."""
    if len(ids) == 0:
        return Section(missing=f"Not one image was named {how}.")
    names = [one.name for one in data.classes]
    images = data.splits[split]
    pictures = []
    for sample in evenly_spaced(ids, NUM_PICTURES).tolist():
        row, label = probabilities[sample], int(images.labels[sample])
        guesses = np.argsort(-row, kind="stable")[:5].tolist()
        pictures.append(
            PanelImage(
                image=np.asarray(images.images[sample]),
                label=names[label],
                label_probability=float(row[label]),
                guesses=[(names[one], float(row[one]), one == label) for one in guesses],
                # A file name need not be UTF-8; the page is.
                key=images.keys[sample].encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
            )
        )
    return Section(Markup(panel_html(pictures)), note=f"{len(pictures)} of the {len(ids):,} images named {how}.")


def _column(events: Sequence[Mapping[str, Any]], key: str) -> npt.NDArray[np.float64]:
    """One value of each event; not a number where the event has none."""
    return np.array([np.nan if event.get(key) is None else event[key] for event in events], np.float64)


def _last_values(
    steps: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]], key: str, scale: float, unit: str
) -> str:
    """The last value of each curve, in words."""
    words = []
    for label, events in (("training", steps), ("validation", measured)):
        if events and events[-1].get(key) is not None:
            words.append(f"{label} {scale * events[-1][key]:.3g}{unit}")
    return ", ".join(words)


def _text(value: Any) -> str:
    """A value from JSON as a person writes it."""
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(one) for one in value)
    return str(value)
