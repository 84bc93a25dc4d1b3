"""The sentence that opens a report: what was achieved, on which images, and how sure that is."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from alexnet.errors import AlexNetError
from alexnet.evaluation.metrics import mean_interval
from alexnet.evaluation.paired import TOP5_CLASSES
from alexnet.runs.folder import AnyRecipe, RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.runs.recipe import Recipe, epochs_of
from alexnet.system.number_text import percent_text

_SPLITS = {"val": "validation", "test": "test", "train": "training"}
_VIEWS: dict[int | str, str] = {1: "one view", 9: "nine views", 10: "ten views", "dense": "dense views"}
_CLEARLY_UNEVEN = 0.02


@dataclass(frozen=True)
class Opening:
    """The first lines of a page."""

    sentence: str
    caveats: tuple[str, ...]
    """What the sentence does not cover, a sentence each."""


def opening(
    run: RunFolder, evaluation: Mapping[str, Any] | None, events: Sequence[Mapping[str, Any]], title: str
) -> Opening:
    """What a run has achieved.

    Args:
        evaluation: the one that the page shows in detail; None if there is none.
        events: of the run.
        title: of the data set.
    """
    recipe, metadata = run.any_recipe(), run.metadata()
    caveats = _state_caveats(run, recipe, events, is_evaluated=evaluation is not None)
    data: Mapping[str, Any] = metadata.get("data") or metadata.get("proved_on") or {}
    if evaluation is None:
        return Opening(_without_evaluation(run, recipe, events, data, title), tuple(caveats))
    if isinstance(recipe, ImportRecipe):
        caveats.append(
            "The network was imported: what it was trained on is not known, and these images may be among that."
        )
    elif evaluation["split"] == "train":
        caveats.append("The network was trained on these images; its error on other images has not been measured.")
    else:
        if leaks := data.get("leaks"):
            images = "1 image is" if leaks == 1 else f"{leaks:,} images are"
            caveats.append(f"{images} in the training split and in another one, which makes the error too low.")
        if isinstance(recipe, Recipe) and recipe.schedule.kind == "plateau":
            caveats.append("The schedule read the errors on the validation images to lower its learning rate.")
    if evaluation.get("classes_absent"):
        num_absent = evaluation["classes_absent"]
        caveats.append(
            f"{num_absent:,} of the {evaluation['num_classes']:,} classes have no images here; "
            "an image taken for one of them counts as an error."
        )
    if isinstance(recipe, Recipe):
        caveats.append(
            "The interval covers the choice of the images, not the seed: the same training with another seed gives "
            "another error."
        )
    return Opening(_achieved(recipe, evaluation, title), tuple(caveats))


def describe_split(split: str) -> str:
    """`validation` for `val`; other names as they are."""
    return _SPLITS.get(split, split)


def chance_error(evaluation: Mapping[str, Any]) -> tuple[float, str]:
    """The error without looking at the images, and who makes it.

    It is that of guessing any class alike, or of always naming the class with most images if that is clearly lower.
    """
    uniform = 1 - 1 / evaluation["num_classes"]
    largest = max(evaluation["per_class"], key=lambda one: int(one["num_images"]))
    constant = 1 - largest["num_images"] / evaluation["num_images"]
    if constant < uniform - _CLEARLY_UNEVEN:
        return constant, f"always naming {largest['name']}"
    return uniform, "guessing"


def _achieved(recipe: AnyRecipe, evaluation: Mapping[str, Any], title: str) -> str:
    system = "the network" if isinstance(recipe, Recipe | ImportRecipe) else f"the baseline {recipe.kind}"
    error = evaluation["top1_error"]
    low, high = evaluation["top1_interval"]
    split = describe_split(evaluation["split"])
    views = "" if not isinstance(recipe, Recipe | ImportRecipe) else f" with {_views(evaluation['num_views'])}"
    where = f"On {evaluation['num_images']:,} {split} {_images(evaluation['num_images'])} of {title}, {system}"
    measured = f"{_percent(error)} % (95 % interval {_percent(low)} to {_percent(high)} %){views}"
    if evaluation["num_classes"] >= TOP5_CLASSES:
        top5_low, top5_high = evaluation["top5_interval"]
        measured += (
            f", and its five guesses miss {_percent(evaluation['top5_error'])} % "
            f"({_percent(top5_low)} to {_percent(top5_high)} %)"
        )
    chance, how = chance_error(evaluation)
    missed = percent_text(chance, 3)
    if evaluation["num_classes"] == 1:
        return f"{where} misclassifies {measured}; with a single class, that says nothing."
    if high < chance:
        return f"{where} misclassifies {measured}; {how} would misclassify {missed}."
    if low > chance:
        return f"{where} misclassifies {measured}, which is worse than {how}: that would misclassify {missed}."
    return (
        f"{where} misclassifies {measured}, and {how} would misclassify {missed}: "
        "these images do not show that it has learned anything."
    )


def _without_evaluation(
    run: RunFolder,
    recipe: AnyRecipe,
    events: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
    title: str,
) -> str:
    if isinstance(recipe, ImportRecipe):
        return _of_import(run, recipe)
    validation = next((one for one in reversed(events) if one["event"] == "validation"), None)
    if validation is None:
        if not any(one["event"] in ("step", "epoch") for one in events):
            return "Nothing is known yet: the log has no steps, and no error has been measured."
        return f"No error has been measured yet: what this training on {title} has achieved is not known."
    num = validation.get("num_images") or data.get("splits", {}).get(validation["split"])
    measured = f"{_percent(validation['top1_error'])} %"
    if num:
        low, high = mean_interval(validation["top1_error"], num)
        measured += f" (95 % interval {_percent(low)} to {_percent(high)} %)"
    split = describe_split(validation["split"])
    images = f"{num:,} {split} {_images(num)}" if num else f"the {split} images"
    chance = ""
    if num_classes := data.get("num_classes"):
        uniform = 1 - 1 / num_classes
        is_learning = not num or high < uniform
        chance = f"; guessing would misclassify {percent_text(uniform, 3)}"
        chance += "" if is_learning else ", so these images do not show that it has learned anything"
    return (
        f"After epoch {validation['epoch']:.4g}, as the training itself measured it on {images} of {title}, the "
        f"network misclassifies {measured} with one view{chance}."
    )


def _of_import(run: RunFolder, recipe: ImportRecipe) -> str:
    if layers := recipe.network.untrained_layers:
        return (
            f"The network gives features and scores no classes: {', '.join(layers)} "
            f"{'has' if len(layers) == 1 else 'have'} random weights, so it has no error."
        )
    proof = None
    with suppress(AlexNetError):  # the section on the weights' origin says what is damaged
        proof = run.proof()
    claimed = next((one for one in proof["combinations"] if one["is_claimed"]), None) if proof else None
    if proof is None or proof["sample"] is None or claimed is None:
        return (
            f"The network was imported from {recipe.imported.name} and has not been evaluated: "
            "its error on a data set is not known."
        )
    sample, error, (low, high) = proof["sample"], claimed["top1_error"], claimed["top1_interval"]
    return (
        f"As the import measured it on {sample['num_images']:,} {describe_split(sample['split'])} "
        f"{_images(sample['num_images'])} of {sample['title']}, the network misclassifies {_percent(error)} % "
        f"(95 % interval {_percent(low)} to {_percent(high)} %) with one view; it has not been evaluated on more."
    )


def _state_caveats(
    run: RunFolder, recipe: AnyRecipe, events: Sequence[Mapping[str, Any]], *, is_evaluated: bool
) -> list[str]:
    caveats = []
    if run.metadata()["state"] != "finished" and isinstance(recipe, Recipe):
        positions = [event for event in events if "step" in event and "epoch" in event]
        done = f"{positions[-1]['epoch']:.4g}" if positions else "0"
        caveats.append(f"The training is not finished: {done} of {epochs_of(recipe.schedule):g} epochs are done.")
        validation = next((one for one in reversed(events) if one["event"] == "validation"), None)
        if is_evaluated and validation is not None:
            caveats.append(
                "The error may be of earlier weights of this training; the validation after epoch "
                f"{validation['epoch']:.4g} measured {_percent(validation['top1_error'])} % with one view."
            )
    last = next((one["event"] for one in reversed(events) if one["event"] in ("at_chance", "epoch", "step")), None)
    if last == "at_chance":
        caveats.append("In its last epoch the loss on the training images was no better than that of guessing.")
    return caveats


def _views(number: int | str) -> str:
    return _VIEWS.get(number, f"{number} views")


def _images(number: int) -> str:
    return "image" if number == 1 else "images"


def _percent(fraction: float) -> str:
    """In percent with a decimal, below 1 % with two."""
    return f"{100 * fraction:.{1 if fraction >= 0.01 or fraction == 0 else 2}f}"
