"""Evaluate a run folder on a prepared data set and store the result in the run folder."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import ClassInfo, PreparedData, renumber_labels, warn_of_other_fit
from alexnet.errors import RequestError
from alexnet.evaluation.evaluate import Evaluation, evaluate_probabilities, evaluate_split
from alexnet.evaluation.predictions import (
    NumViews,
    describe_views,
    predictions_folder,
    save_predictions,
    training_checksum,
    views_slug,
)
from alexnet.model.weights import Trained, load_trained
from alexnet.parallel.process_group import SINGLE_GROUP, ProcessGroup
from alexnet.runs.folder import RunFolder
from alexnet.storage.paths import StrPath, StrPaths
from alexnet.system.device import Device, PrecisionChoice, choose_device, choose_precision
from alexnet.system.progress import ShowProgress, counted


def evaluate(
    run_folder: StrPath,
    data: StrPaths | None = None,
    split: str | None = None,
    views: NumViews = 1,
    *,
    device: Device = "auto",
    precision: PrecisionChoice = "auto",
    progress: ShowProgress = None,
    processes: ProcessGroup = SINGLE_GROUP,
) -> Evaluation:
    """Evaluate a run's network on a split, and store its metrics and probabilities in the run folder.

    Another data set may have the network's classes in another order, or only some of them: classes are matched by id.
    The network still chooses among all its classes, so choosing one that the data set lacks is an error.

    Args:
        run_folder: the run.
        data: the prepared data set, or several to concatenate; None is what the run was trained on.
        split: None is the data set's evaluation split.
        views: per image: 1, 9, 10 or `dense`, see `predict_split`.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `mps`.
        precision: `auto` (bfloat16 if the hardware supports it), `float32` or `bfloat16`.
        progress: see `ShowProgress`; a function is called with (images done, total images).
        processes: those that share the work; the main process writes.

    Returns:
        The errors, whose classes are the network's, in its order.

    Raises:
        RequestError: no run, no weights yet, or a data set with a class that the network does not have.
    """
    return _evaluate(run_folder, data, split, views, device, precision, progress, processes, with_center=False)[-1]


def evaluate_one_and_ten(
    run_folder: StrPath,
    data: StrPaths | None = None,
    split: str | None = None,
    *,
    device: Device = "auto",
    precision: PrecisionChoice = "auto",
    progress: ShowProgress = None,
    processes: ProcessGroup = SINGLE_GROUP,
) -> list[Evaluation]:
    """The same as `evaluate` with one view and then with ten, which have that one, so that it is computed once.

    Arguments, results and errors are those of `evaluate`. The center counts as a tenth of the time.
    """
    return _evaluate(run_folder, data, split, 10, device, precision, progress, processes, with_center=True)


def _evaluate(
    run_folder: StrPath,
    data: StrPaths | None,
    split: str | None,
    views: NumViews,
    device: Device,
    precision: PrecisionChoice,
    progress: ShowProgress,
    processes: ProcessGroup,
    *,
    with_center: bool,
) -> list[Evaluation]:
    """The stored evaluation; with `with_center` that of the center alone, which must be one of the views, before it."""
    if isinstance(run_folder, Trained):
        raise RequestError(
            "the run is a network in memory, and the result is stored in a run folder; give the folder, or measure the "
            "network without storing anything with `alexnet.evaluation.evaluate.evaluate_split(trained.network, ...)`"
        )
    run = RunFolder.open(run_folder)
    trained = load_trained(run.path)
    trained.require_trained(run=run.path)
    prepared = remap_classes(trained.classes, open_data(run.require_data(data)))
    split = split or prepared.evaluation_split
    if processes.is_main:
        warn_of_other_fit(prepared, trained.fit)
    chosen = choose_device(device)
    # The network's own mean image, not the data set's: preprocessing belongs to the weights.
    shown = progress if processes.is_main else False
    center = None
    if with_center:
        center = np.zeros((len(prepared.require_split(split)), prepared.num_classes), np.float32)
    name = f"{run.path.name}, {'1 and ' if with_center else ''}{describe_views(views)}"
    with counted(name, shown=shown) as update:
        evaluation = evaluate_split(
            trained.network,
            prepared,
            split,
            trained.crop,
            views,
            mean_image=trained.mean_image,
            mean_at=trained.mean_at,
            device=chosen,
            precision=choose_precision(precision, chosen),
            progress=update,
            processes=processes,
            center=center,
        )
    evaluations = [evaluation]
    if center is not None and isinstance(views, int):
        assert evaluation.images_per_second is not None
        speed = views * evaluation.images_per_second
        evaluations.insert(0, evaluate_probabilities(center, prepared, split, 1, speed))
    if processes.is_main:
        for one in evaluations:
            save_run_evaluation(run, prepared, one)
    return evaluations


def save_run_evaluation(run: RunFolder, data: PreparedData, evaluation: Evaluation) -> dict[str, Any]:
    """Store the probabilities and errors of an evaluation on `data` in the run folder; returns the errors."""
    result = {"run": str(run.path), **evaluation.to_dict()}
    trained_on = training_checksum(run)
    predictions = predictions_folder(run.path, trained_on, data.checksum)
    predictions.mkdir(parents=True, exist_ok=True)
    save_predictions(predictions, evaluation.split, evaluation.num_views, evaluation.probabilities, data)
    suffix = "" if data.checksum == trained_on else f"-{data.checksum[:12]}"
    run.save_evaluation(f"{evaluation.split}-{views_slug(evaluation.num_views)}{suffix}", result)
    return result


def remap_classes(known: Sequence[ClassInfo], data: PreparedData) -> PreparedData:
    """The data set with labels renumbered to a network's classes, matched by id.

    Images, keys and checksum stay the same. If the ids are equal and in the same order, `data` itself is returned.

    Args:
        known: the network's classes.

    Raises:
        RequestError: the data set has a class that the network does not have; the message names the first.
    """
    ids, own_ids = [one.id for one in known], [one.id for one in data.classes]
    if ids == own_ids:
        return data
    indices = {one: index for index, one in enumerate(ids)}
    for number, one in enumerate(own_ids):
        if one not in indices:
            raise RequestError(
                f"the network has {len(ids)} classes and {data.folder} has {len(own_ids)}; the network lacks number "
                f"{number} of these, {one!r}; evaluate it on data with the classes it was trained on, or some of them"
            )
    numbers = [indices[one] for one in own_ids]
    splits = {
        name: replace(split, labels=renumber_labels(split.labels, numbers)) for name, split in data.splits.items()
    }
    return replace(data, classes=tuple(known), splits=splits)
