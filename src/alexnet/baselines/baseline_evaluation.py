"""A baseline measured on a prepared data set: the same probabilities, counts and files as a network's."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.baseline_model import Baseline, load_baseline
from alexnet.baselines.chunked_map import in_pieces
from alexnet.baselines.training_subset import REST, with_rest
from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.evaluation.evaluate import evaluate_probabilities
from alexnet.evaluation.predictions import predictions_folder, save_predictions
from alexnet.evaluation.run_evaluation import remap_classes
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.runs.folder import RunFolder
from alexnet.system.machine import num_cores

VIEWS = 1
"""A baseline looks at the whole image once."""
PIECE = 4


def evaluate_baseline(
    run_folder: Path,
    *,
    data_folder: Path | Sequence[Path] | None = None,
    split: str | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a run's baseline and store errors and probabilities in its folder, as `evaluate_run` does a network's.

    Args:
        data_folder: the prepared data set, or several to be joined; None is what the run learned from.
        split: None is what the recipe says: the evaluation split, or `rest`, the training images not learned from.
        workers: threads; None is one a core.
        progress: called with (images done, images in all).

    Returns:
        What `Evaluation.to_dict` says, with the run's folder as `run`.

    Raises:
        RequestError: no run, no baseline yet, a class it does not know, a split that is missing, empty or without
            labels, or images of another side.
        UnreadableSample: an image cannot be read.
    """
    run = RunFolder.open(run_folder)
    recipe = run.any_recipe()
    if not isinstance(recipe, BaselineRecipe):
        raise RequestError(f"{run_folder} is the run of a network, not of a baseline")
    model = load_baseline(run_folder)
    data = remap_classes(model.classes, open_data(run.data_folders() if data_folder is None else data_folder))
    data, split = measured_split(data, recipe, split)
    start_s = time.perf_counter()
    images = data.splits[split].images

    def work(first: int, last: int) -> NDArray[np.float32]:
        pixels = np.asarray(images[first:last])
        return model.probabilities([channel.rows(pixels) for channel in model.channels])

    parts = []
    for stop, part in in_pieces(work, 0, len(images), PIECE, workers or num_cores()):
        parts.append(part)
        if progress is not None:
            progress(stop, len(images))
    rate = len(images) / (time.perf_counter() - start_s)
    return keep_measured(run, data, split, np.concatenate(parts), rate)


def measured_split(data: PreparedData, recipe: BaselineRecipe, split: str | None) -> tuple[PreparedData, str]:
    """The data set, with `rest` where that is measured, and the name of the split.

    Raises:
        RequestError: the split is missing, empty or without labels.
    """
    name = split or (REST if recipe.protocol.measure == "rest" else data.evaluation_split)
    if name == REST and recipe.protocol.per_class:
        data = with_rest(data, recipe.protocol)
    if name not in data.splits or len(data.splits[name]) == 0:
        raise RequestError(
            f"{data.folder} has no images of a split {name!r}; it has {', '.join(data.splits)}: name another with "
            "--split, or prepare the set with --hold-out"
        )
    lacking = int(np.count_nonzero(np.asarray(data.splits[name].labels) < 0))
    if lacking:
        raise RequestError(
            f"{lacking:,} of {len(data.splits[name]):,} images of split {name!r} of {data.folder} have no label: there "
            "are no errors to count; choose another split"
        )
    return data, name


def keep_measured(
    run: RunFolder, data: PreparedData, split: str, probabilities: NDArray[np.float32], rate: float | None
) -> dict[str, Any]:
    """Count the errors of probabilities (N, K), in the split's order, and store both in the run folder."""
    measured = evaluate_probabilities(probabilities, data, split, VIEWS, rate)
    result = {"run": str(run.path), **measured.to_dict()}
    trained_on = run.facts()["data"]["checksum"]
    own = data.checksum == trained_on
    folder = predictions_folder(run.path, trained_on, data.checksum)
    folder.mkdir(parents=True, exist_ok=True)
    save_predictions(folder, split, VIEWS, probabilities, data)
    run.save_evaluation(f"{split}-{VIEWS}views" + ("" if own else f"-{data.checksum[:12]}"), result)
    return result


def probabilities_of_rows(model: Baseline, rows: Sequence[NDArray[np.float16]], at_once: int) -> NDArray[np.float32]:
    """Class probabilities (N, K) from rows on the disk, (N, D_c) of each channel, some at a time."""
    num = len(rows[0])
    parts = [model.probabilities([np.asarray(one[first : first + at_once], np.float32) for one in rows])
             for first in range(0, num, at_once)]  # fmt: skip
    return np.concatenate(parts)
