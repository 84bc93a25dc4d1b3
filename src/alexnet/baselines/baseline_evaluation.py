"""Evaluation of a baseline on a prepared data set: the same metrics, predictions and files as a network's."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.baseline_model import load_baseline
from alexnet.baselines.chunked_map import map_chunks
from alexnet.baselines.descriptors import IMAGES_PER_BATCH
from alexnet.baselines.training_subset import REST, with_rest_split
from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData, warn_of_other_fit
from alexnet.data.whole_photographs import read_photographs, with_known_borders
from alexnet.errors import RequestError
from alexnet.evaluation.evaluate import evaluate_probabilities
from alexnet.evaluation.run_evaluation import remap_classes, save_run_evaluation
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import RunFolder
from alexnet.system.machine import num_cores

NUM_VIEWS = 1
"""A baseline sees the whole image once."""


def evaluate_baseline(
    run_folder: Path,
    *,
    data_folder: Path | Sequence[Path] | None = None,
    split: str | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a run's baseline and store errors and probabilities in its folder, as `evaluate` does for a network.

    Args:
        data_folder: a prepared data set, or several to concatenate; None is the run's own.
        split: None is the recipe's choice: the evaluation split, or `rest`, the training images that were not drawn.
        workers: threads; None is one per core.
        progress: called with (images done, images in all).

    Returns:
        The keys of `Evaluation.to_dict`, and the run's folder as `run`.

    Raises:
        RequestError: no run, no baseline yet, an unknown class, a split that is missing, empty or without labels, or
            images that are too small.
        UnreadableSample: an image cannot be read.
    """
    run = RunFolder.open(run_folder)
    recipe = run.any_recipe()
    if not isinstance(recipe, BaselineRecipe):
        raise RequestError(f"{run_folder} is the run of a network, not of a baseline")
    model = load_baseline(run_folder)
    data = remap_classes(model.classes, with_known_borders(open_data(run.require_data(data_folder))))
    warn_of_other_fit(data, run.data().get("fit", "crop"))
    data, split = select_evaluation_split(data, recipe, split)
    start_s = time.perf_counter()
    images = data.splits[split].images

    def predict(first: int, last: int) -> NDArray[np.float32]:
        photographs = read_photographs(images, range(first, last))
        return model.probabilities([channel.transform(photographs) for channel in model.channels])

    parts = []
    for stop, part in map_chunks(predict, len(images), IMAGES_PER_BATCH, workers=workers or num_cores()):
        parts.append(part)
        if progress is not None:
            progress(stop, len(images))
    images_per_second = len(images) / (time.perf_counter() - start_s)
    evaluation = evaluate_probabilities(np.concatenate(parts), data, split, NUM_VIEWS, images_per_second)
    return save_run_evaluation(run, data, evaluation)


def select_evaluation_split(data: PreparedData, recipe: BaselineRecipe, split: str | None) -> tuple[PreparedData, str]:
    """The data set, with the split `rest` if that is evaluated, and the name of the split.

    Raises:
        RequestError: the split is missing, empty or without labels.
    """
    name = split or (REST if recipe.protocol.evaluate_on == "rest" else data.evaluation_split)
    if name == REST and recipe.protocol.per_class:
        data = with_rest_split(data, recipe.protocol)
    if name not in data.splits or len(data.splits[name]) == 0:
        raise RequestError(
            f"{data.folder} has no images of a split {name!r}; it has {', '.join(data.splits)}: name another with "
            "--split, or prepare the set with --hold-out"
        )
    data.require_labels(name)
    return data, name
