"""The course of a training and what it took: curves, steps of the learning rate, throughput and cost."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from markupsafe import Markup

from alexnet.model.layer_specs import sized_layers
from alexnet.model.variants import named_variant
from alexnet.report.contents import Section
from alexnet.report.formatting import format_bytes, format_large
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import AnyRecipe, RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.runs.learning_curves import (
    LearningRateChange,
    learning_curve,
    learning_rate_changes,
    learning_rate_curve,
)
from alexnet.runs.recipe import Recipe
from alexnet.system.number_text import duration_text

Events = Sequence[Mapping[str, Any]]


def learning_curves(events: Events) -> list[Section]:
    """Loss, top-1 error and learning rate over the epochs, with the steps of the learning rate marked."""
    validations = [event for event in events if event["event"] == "validation"]
    measured = f"{validations[-1]['split']} images, one view" if validations else "validation"
    changes = learning_rate_changes(events)
    curves = [
        learning_curve(events, "loss", measured, name="curve-loss", changes=changes),
        learning_curve(events, "top1_error", measured, name="curve-error", changes=changes),
        learning_rate_curve(events, name="curve-rate", changes=changes),
    ]
    found = [Section(Markup(one)) for one in curves if one is not None]
    return found or [Section(missing="The log has no steps yet, so there is nothing to plot.")]


def learning_rate_rows(events: Events) -> list[dict[str, Any]]:
    """The steps of the learning rate.

    Returns:
        For each: `epoch`, `step`, `before`, `after`, `factor` (as text), and the top-1 errors `error_before` and
        `error_after` of the last validation before and the first one after it, None if there is none.
    """
    validations = [event for event in events if event["event"] == "validation" and "step" in event]
    return [_rate_row(one, validations) for one in learning_rate_changes(events)]


def _rate_row(change: LearningRateChange, validations: Events) -> dict[str, Any]:
    before = [one["top1_error"] for one in validations if one["step"] <= change.step]
    after = [one["top1_error"] for one in validations if one["step"] > change.step]
    falls = change.after < change.before
    ratio = (change.before, change.after) if falls else (change.after, change.before)
    factor = f"{ratio[0] / ratio[1]:.3g} times {'lower' if falls else 'higher'}" if ratio[1] else "to or from 0"
    return {
        "epoch": change.epoch,
        "step": change.step,
        "before": change.before,
        "after": change.after,
        "factor": factor,
        "error_before": before[-1] if before else None,
        "error_after": after[0] if after else None,
    }


def multiply_adds(recipe: AnyRecipe, num_classes: int | None) -> tuple[int, int] | None:
    """Multiply-adds for one image: of a forward pass, and of a training step.

    Backward, each layer costs as much again for its weights and for its input, except the first one, whose input needs
    no gradient. None of baselines, and if the number of classes is not known.
    """
    if isinstance(recipe, BaselineRecipe) or not num_classes:
        return None
    network = named_variant(recipe.network.variant)
    costs = [one.multiply_adds for one in sized_layers(network, num_classes, recipe.network.width) if one.multiply_adds]
    return sum(costs), 3 * sum(costs) - costs[0]


def training_cost(run: RunFolder, events: Events, evaluation: Mapping[str, Any] | None) -> dict[str, str]:
    """What the network and its training took, as text, by what it is; only what was measured or can be counted."""
    recipe, metadata = run.any_recipe(), run.metadata()
    steps = [event for event in events if event["event"] == "step"]
    data: Mapping[str, Any] = metadata.get("data") or {}
    num_classes = evaluation["num_classes"] if evaluation else data.get("num_classes")
    if isinstance(recipe, ImportRecipe):
        num_classes = recipe.network.num_classes
    costs = multiply_adds(recipe, num_classes)
    rows: dict[str, str | None] = {
        "parameters": f"{metadata['parameters']:,}" if "parameters" in metadata else None,
        "multiply-adds for an image": f"{format_large(costs[0])} forward, {format_large(costs[1])} in training"
        if costs
        else None,
    }
    if steps and not isinstance(recipe, BaselineRecipe | ImportRecipe):
        num_images = _images_seen(steps[-1], recipe, data)
        rows["passes over the training images"] = f"{steps[-1]['epoch']:.4g}"
        rows["images seen"] = f"about {format_large(num_images)}"
        if costs:
            rows["multiply-adds of the training"] = f"about {format_large(num_images * costs[1])}"
        rows |= _speed(steps)
        if starts := sum(event["event"] == "start" for event in events):
            rows["starts"] = f"{starts:,}"
    if seconds := metadata.get("duration_s"):
        rows["training time"] = duration_text(seconds)
    elif elapsed := [event["elapsed_s"] for event in events if "elapsed_s" in event]:
        rows["training time so far"] = duration_text(elapsed[-1])
    if seconds := metadata.get("cpu_s"):
        rows["processor time"] = duration_text(seconds)
    if peak := metadata.get("peak_anonymous_bytes"):
        rows["peak memory"] = format_bytes(peak)
    if evaluation and evaluation.get("images_per_second"):
        views = evaluation["num_views"]
        how = "" if isinstance(recipe, BaselineRecipe) else f", {views} view{'' if views == 1 else 's'} each"
        rows["evaluation"] = f"{_rate(evaluation['images_per_second'])} images/s{how}"
    machine = metadata.get("machine") or {}
    if machine.get("processor"):
        rows["machine"] = f"{machine['processor']}, {machine.get('cores', 'unknown number of')} cores"
    return {name: text for name, text in rows.items() if text is not None}


def _images_seen(last: Mapping[str, Any], recipe: Recipe, data: Mapping[str, Any]) -> float:
    """Images of all steps up to the last: a pass ends with what is left, which may be less than a batch.

    Of a schedule in stages, or if the number of images is not known, steps of whole batches.
    """
    num_images = recipe.data.subset or data.get("splits", {}).get("train")
    if num_images is None or recipe.schedule.kind == "stages":
        return float(last["step"] * recipe.optimizer.batch_size)
    return float(last["epoch"] * num_images)


def _speed(steps: Events) -> dict[str, str]:
    """Images per second and memory while training, from the events of steps."""
    rows = {}
    if speeds := [event["images_per_second"] for event in steps if event.get("images_per_second")]:
        low, middle, high = (_rate(one) for one in (min(speeds), median(speeds), max(speeds)))
        rows["training throughput"] = f"{middle} images/s (median; {low} to {high})"
    if waits := [event["wait_share"] for event in steps if event.get("wait_share") is not None]:
        rows["waiting for images"] = f"{100 * sum(waits) / len(waits):.1f} % of the time"
    for key, name in (("resident_bytes", "peak memory"), ("device_bytes", "peak memory of the GPU")):
        if sizes := [event[key] for event in steps if event.get(key)]:
            rows[name] = format_bytes(max(sizes))
    return rows


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"
