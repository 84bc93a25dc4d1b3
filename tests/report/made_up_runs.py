"""Run folders with made-up logs and probabilities, on data sets written by hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from tests.prepared_files import write_prepared

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.evaluation.evaluate import evaluate_probabilities
from alexnet.evaluation.predictions import save_predictions
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe
from alexnet.runs.recipes import QUICK

RECIPE = replace(QUICK, schedule=replace(QUICK.schedule, kind="steps", epochs=4, milestones=(0.5,)))
NAMES = ("cat", "dog & wolf", "<b>bird</b>")


def write_data(folder: Path, num_images: int = 60, names: Sequence[str] = NAMES, side: int = 32) -> PreparedData:
    """A data set with the splits `train` and `val`, whose classes follow each other."""
    classes = [(f"c{number:04}", name) for number, name in enumerate(names)]
    write_prepared(folder, {"train": 2 * len(names), "val": num_images}, title="Made up", classes=classes, side=side)
    return open_data(folder)


def probabilities_of(data: PreparedData, seed: int, share_right: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of the split `val`: the first images, a share of all, are right with certainty, the others are at random."""
    labels = np.asarray(data.splits["val"].labels)
    found = np.random.default_rng(seed).dirichlet(np.ones(data.num_classes), len(labels))
    num_right = round(share_right * len(labels))
    found[:num_right] = 0.01 / max(1, data.num_classes - 1)
    found[np.arange(num_right), labels[:num_right]] = 0.99
    return found.astype(np.float32)


def describe(data: PreparedData) -> dict[str, Any]:
    """The data set as run.json has it."""
    return {
        "folders": [str(data.folder)],
        "title": data.title,
        "generated": data.generated,
        "checksum": data.checksum,
        "side": data.side,
        "num_classes": data.num_classes,
        "splits": {name: len(split) for name, split in data.splits.items()},
        "leaks": 0,
    }


def make_run(
    folder: Path,
    data: PreparedData,
    *,
    seed: int = 1,
    share_right: float = 0.5,
    recipe: Recipe = RECIPE,
    views: Sequence[int] = (1, 10),
    num_filters: int = 0,
) -> RunFolder:
    """A finished run whose learning rate drops once, from 0.1 to 0.01, between steps 20 and 22.

    Args:
        share_right: of the images that it classifies correctly with certainty; it guesses on the others.
        num_filters: of its first layer; 0 stores no weights.
    """
    run = RunFolder.create(folder, recipe, {"data": describe(data), "parameters": 1234, "seed": 0, "duration_s": 61.0})
    for step in range(2, 41, 2):
        rate = 0.1 if step <= 20 else 0.01
        values = {"loss": 2 / step, "top1_error": 1 / step, "images_per_second": 100.0 + step, "wait_share": 0.25}
        run.log("step", step=step, epoch=step / 10, learning_rate=rate, elapsed_s=float(step), **values)
        if step % 10 == 0:
            epoch = step // 10
            run.log("epoch", epoch=epoch, step=step, train_loss=1.0, train_top1_error=0.5, elapsed_s=float(step))
            error = {"top1_error": 1 - epoch / 10, "top5_error": 0.0, "loss": 1.0, "num_images": 60}
            run.log("validation", epoch=epoch, step=step, split="val", **error)
    for number in views:
        found = probabilities_of(data, seed, share_right)
        save_predictions(run.path / "predictions", "val", number, found, data)
        run.save_evaluation(f"val-{number}views", evaluate_probabilities(found, data, "val", number, 1000.0).to_dict())
    if num_filters:
        filters = np.random.default_rng(seed).normal(size=(num_filters, 3, 5, 5)).astype(np.float32)
        safetensors.numpy.save_file({"conv1.weight": filters}, run.weights)
    run.update_metadata(state="finished", finished="2026-01-01T00:00:00+00:00")
    return run
