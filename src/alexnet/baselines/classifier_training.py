"""The classifiers of a baseline, learned from rows on the disk, and the temperature of its probabilities."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from alexnet.baselines.averaged_sgd import AveragedSgd
from alexnet.baselines.baseline_model import mean_scores, read_estimators, write_estimators
from alexnet.baselines.chunked_map import one_thread_each
from alexnet.errors import AlexNetError
from alexnet.runs.baseline_recipe import BaselineRecipe

Rows = NDArray[np.float16]
ROWS_AT_ONCE = 512
"""Read from the disk together: what bounds the memory."""
FOLDS = 5
LEAST_TO_CALIBRATE = 50
"""With fewer images the temperature stays 1: a fifth of so few says nothing."""
TEMPERATURES = (1e-3, 1e3)

Told = Callable[[str, int], None]
"""Called with the name of a lesson and the pass that was done."""


def learned_classifier(
    rows: Rows,
    labels: NDArray[np.int64],
    num_classes: int,
    recipe: BaselineRecipe,
    checkpoint: Path,
    told: Callable[[int], None],
) -> AveragedSgd:
    """A classifier from rows (N, D) and labels (N,), in the recipe's passes, each in an order drawn with the seed.

    After each pass it is kept at `checkpoint`; what lies there is gone on with.

    Args:
        num_classes: K; a class without rows is always answered with no.
        told: called after each pass with its number.
    """
    settings = recipe.classifier
    classifier, done = _continued(checkpoint) or (
        AveragedSgd(
            settings.weight_decay,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            # With one pass there is no second one to average.
            average_after=len(rows) if settings.epochs > 1 else 0,
            positive_weight=settings.positive_weight,
            seed=recipe.protocol.seed,
        ),
        0,
    )
    classes = np.arange(num_classes)
    for epoch in range(done, settings.epochs):
        order = np.random.Generator(np.random.Philox([recipe.protocol.seed, epoch])).permutation(len(rows))
        for first in range(0, len(order), ROWS_AT_ONCE):
            chosen = order[first : first + ROWS_AT_ONCE]
            classifier.partial_fit(np.asarray(rows[chosen], np.float32), labels[chosen], classes)
        write_estimators(checkpoint, {"classifier": classifier}, {"epochs": epoch + 1})
        told(epoch + 1)
    return classifier


def _continued(checkpoint: Path) -> tuple[AveragedSgd, int] | None:
    if not checkpoint.is_file():
        return None
    try:
        named, facts = read_estimators(checkpoint)
    except AlexNetError:
        return None  # it is begun anew
    return named["classifier"], int(facts["epochs"])


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one classifier learns from."""

    name: str
    """Of its checkpoint."""
    rows: Rows
    """(N, D)."""
    labels: NDArray[np.int64]
    """(N,)."""


def learned_classifiers(
    lessons: Sequence[Lesson], num_classes: int, recipe: BaselineRecipe, folder: Path, workers: int, told: Told
) -> list[AveragedSgd]:
    """The classifier of each lesson, several lessons at a time.

    A descent is one long row of small products: threads within one would wait for each other most of the time.

    Args:
        folder: for checkpoints.
        workers: threads.
        told: called, in these threads, with a lesson's name and the pass that was done.
    """
    stopped = threading.Event()

    def learned(lesson: Lesson) -> AveragedSgd:
        def passed(epoch: int) -> None:
            told(lesson.name, epoch)
            if stopped.is_set():
                raise KeyboardInterrupt

        checkpoint = folder / f"{lesson.name}.safetensors"
        return learned_classifier(lesson.rows, lesson.labels, num_classes, recipe, checkpoint, passed)

    with one_thread_each(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(learned, lesson) for lesson in lessons]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stopped.set()
            for future in futures:
                future.cancel()
            raise


def held_out_lessons(
    rows: Sequence[Rows], labels: NDArray[np.int64], seed: int
) -> tuple[list[Lesson], NDArray[np.int64]]:
    """Lessons of four fifths of the images, one for each channel's rows, and which images they leave out.

    On images that a classifier has learned from its scores are surer than on others, so none of those can say the
    temperature.

    Returns:
        Nothing and no images with fewer than 50 of them.
    """
    if len(labels) < LEAST_TO_CALIBRATE:
        return [], np.empty(0, np.int64)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(labels))
    held, kept = np.sort(order[::FOLDS]), np.sort(np.delete(order, np.s_[::FOLDS]))
    lessons = []
    for number, one in enumerate(rows):
        some: Any = _Some(one, kept)  # as far as a lesson reads it, an array
        lessons.append(Lesson(f"held-out-{number}", some, labels[kept]))
    return lessons, held


def fitted_temperature(
    classifiers: Sequence[AveragedSgd], rows: Sequence[Rows], labels: NDArray[np.int64], held: NDArray[np.int64]
) -> float:
    """The temperature that makes the loss least on the images `held`, which the classifiers have not seen.

    Returns:
        Above 0; 1 where there are no such images.
    """
    if len(held) == 0:
        return 1.0
    scores = np.concatenate(
        [
            mean_scores(classifiers, [one[held[first : first + ROWS_AT_ONCE]] for one in rows])
            for first in range(0, len(held), ROWS_AT_ONCE)
        ]
    ).astype(np.float64)
    return best_temperature(scores, labels[held])


def best_temperature(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature at which the softmax of scores (N, K) / temperature has the least mean -ln p(label)."""
    own = scores[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        highest = scaled.max(axis=1)
        logs = np.log(np.exp(scaled - highest[:, None]).sum(axis=1)) + highest
        return float((logs - own / np.exp(log_temperature)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(found.x))


class _Some:
    """Some rows of an array on the disk, read when they are asked for."""

    def __init__(self, rows: Rows, chosen: NDArray[np.int64]) -> None:
        self._rows = rows
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, which: NDArray[np.int64]) -> Rows:
        return self._rows[self._chosen[which]]
