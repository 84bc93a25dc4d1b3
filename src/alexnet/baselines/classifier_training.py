"""Training of a baseline's classifiers by SGD from features on the disk, and temperature scaling of scores."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from alexnet.baselines.averaged_sgd import AveragedSGDClassifier
from alexnet.baselines.baseline_model import mean_scores
from alexnet.baselines.chunked_map import single_threaded_libraries
from alexnet.baselines.estimator_files import read_estimators, write_estimators
from alexnet.errors import AlexNetError
from alexnet.runs.baseline_recipe import BaselineRecipe
from alexnet.storage.npy import ArrayFile

ProgressBar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""From a title to a context that yields a function to be called with (units done, units in all)."""
Features = NDArray[np.float16] | ArrayFile
MAX_CHUNK_ROWS = 512
CHUNK_BYTES = 1 << 26
"""Memory in float32 of the rows that are read from the disk at a time."""
NUM_FOLDS = 5
MIN_IMAGES_TO_CALIBRATE = 50
"""With fewer images the temperature stays 1: a fifth of them is too few to fit it."""
TEMPERATURE_BOUNDS = (1e-3, 1e3)


def chunk_rows(num_features: int, multiple_of: int = 1) -> int:
    """Rows to read from the disk at a time, at most 512 unless `multiple_of` is more."""
    rows = min(MAX_CHUNK_ROWS, CHUNK_BYTES // (4 * num_features))
    return max(rows // multiple_of, 1) * multiple_of


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """The training set of one classifier."""

    name: str
    """Also of its checkpoint."""
    features: Features
    """(N, D), of all images; rows are read on access."""
    labels: NDArray[np.int64]
    """(N,), of all images."""
    images: NDArray[np.int64]
    """Indices of the images to train on, (n,)."""


def train_classifier(
    job: TrainingJob,
    num_classes: int,
    recipe: BaselineRecipe,
    folder: Path,
    on_epoch: Callable[[str, int], None],
    on_images: Callable[[str, int], None] = lambda name, left: None,
) -> AveragedSGDClassifier:
    """Train a classifier for the recipe's epochs, each in an order drawn with the seed.

    After each epoch it is saved in `folder`; a later call continues from there.

    Args:
        num_classes: K; a class without images is never predicted.
        on_epoch: called after each epoch with the job's name and the number of epochs done.
        on_images: called at the start and after every few images with the job's name and the number of images, counted
            in every epoch, that are left.
    """
    settings, checkpoint = recipe.classifier, folder / f"{job.name}.safetensors"
    classifier, done = _read_checkpoint(checkpoint) or (
        AveragedSGDClassifier(
            settings.weight_decay,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            # A single epoch is averaged from its start.
            average_after=len(job.images) if settings.epochs > 1 else 0,
            positive_weight=settings.positive_weight,
            seed=recipe.protocol.seed,
        ),
        0,
    )
    classes = np.arange(num_classes)
    left, step = (settings.epochs - done) * len(job.images), chunk_rows(job.features.shape[1], settings.batch_size)
    on_images(job.name, left)
    for epoch in range(done, settings.epochs):
        order = np.random.Generator(np.random.Philox([recipe.protocol.seed, epoch])).permutation(len(job.images))
        for first in range(0, len(order), step):
            chunk = job.images[order[first : first + step]]
            classifier.partial_fit(np.asarray(job.features[chunk], np.float32), job.labels[chunk], classes)
            left -= len(chunk)
            on_images(job.name, left)
        write_estimators(checkpoint, {"classifier": classifier}, {"epochs": epoch + 1})
        on_epoch(job.name, epoch + 1)
    return classifier


def _read_checkpoint(path: Path) -> tuple[AveragedSGDClassifier, int] | None:
    """The classifier and its epochs; None where there is no intact checkpoint, and training starts over."""
    if not path.is_file():
        return None
    try:
        estimators, metadata = read_estimators(path)
    except AlexNetError:
        return None
    return estimators["classifier"], int(metadata["epochs"])


def train_classifiers(
    jobs: Sequence[TrainingJob],
    num_classes: int,
    recipe: BaselineRecipe,
    folder: Path,
    workers: int,
    on_epoch: Callable[[str, int], None],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[AveragedSGDClassifier]:
    """Train the classifiers of all jobs, several at a time; where one fails, the others stop after their epoch.

    Each job uses one thread: SGD is a long sequence of small products, on which threads would mostly wait.

    Args:
        folder: for checkpoints.
        workers: threads.
        on_epoch: called in these threads with a job's name and the number of epochs done.
        progress: called in these threads, one at a time, with the images trained on by this call, counted in every
            epoch of every job, and those in all.
    """
    stopped, counting = threading.Event(), threading.Lock()
    left = {job.name: recipe.classifier.epochs * len(job.images) for job in jobs}
    started: set[str] = set()
    done = 0

    def on_images(name: str, left_of_job: int) -> None:
        nonlocal done
        with counting:
            # What a job has left at its start is less where it continues from its checkpoint.
            done += left[name] - left_of_job if name in started else 0
            started.add(name)
            left[name] = left_of_job
            progress(done, done + sum(left.values()))

    def on_epoch_unless_stopped(name: str, epoch: int) -> None:
        on_epoch(name, epoch)
        if stopped.is_set():
            raise KeyboardInterrupt

    with single_threaded_libraries(), ThreadPoolExecutor(workers) as pool:
        futures = [
            pool.submit(train_classifier, job, num_classes, recipe, folder, on_epoch_unless_stopped, on_images)
            for job in jobs
        ]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stopped.set()
            for future in futures:
                future.cancel()
            raise


def calibration_jobs(
    features: Sequence[Features], labels: NDArray[np.int64], seed: int
) -> tuple[list[TrainingJob], NDArray[np.int64]]:
    """Jobs on four fifths of the images, one for each channel's features, and the indices of the held-out fifth.

    A classifier's scores are more confident on its training images than on others, so only held-out images can fit
    the temperature.

    Returns:
        No jobs and no indices with fewer than 50 images.
    """
    if len(labels) < MIN_IMAGES_TO_CALIBRATE:
        return [], np.empty(0, np.int64)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(labels))
    held_out, kept = np.sort(order[::NUM_FOLDS]), np.sort(np.delete(order, np.s_[::NUM_FOLDS]))
    jobs = [TrainingJob(f"held-out-{number}", one, labels, kept) for number, one in enumerate(features)]
    return jobs, held_out


def fit_temperature(
    classifiers: Sequence[AveragedSGDClassifier],
    features: Sequence[Features],
    labels: NDArray[np.int64],
    held_out: NDArray[np.int64],
) -> float:
    """The temperature that minimizes the loss on the images `held_out`, which the classifiers were not trained on.

    Returns:
        Above 0; 1 where there are no such images.
    """
    if len(held_out) == 0:
        return 1.0
    step = chunk_rows(max(one.shape[1] for one in features))
    scores = np.concatenate(
        [
            mean_scores(classifiers, [of_channel[held_out[first : first + step]] for of_channel in features])
            for first in range(0, len(held_out), step)
        ]
    ).astype(np.float64)
    return optimal_temperature(scores, labels[held_out])


def optimal_temperature(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature that minimizes the cross-entropy of the softmax of scores (N, K) / temperature."""
    label_scores = scores[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        highest = scaled.max(axis=1)
        log_sums = np.log(np.exp(scaled - highest[:, None]).sum(axis=1)) + highest
        return float((log_sums - label_scores / np.exp(log_temperature)).mean())

    minimum = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURE_BOUNDS)), method="bounded")
    return float(np.exp(minimum.x))
