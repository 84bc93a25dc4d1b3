"""The classifiers of a baseline, learned from rows on the disk, and the temperature of its probabilities."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from alexnet.baselines.classifier import AveragedSgd
from alexnet.baselines.model import mean_scores, read_estimators, write_estimators
from alexnet.errors import AlexNetError
from alexnet.runs.baseline_recipe import BaselineRecipe

Rows = NDArray[np.float16]
ROWS_AT_ONCE = 512
"""Read from the disk together: what bounds the memory."""
FOLDS = 5
LEAST_TO_CALIBRATE = 50
"""With fewer images the temperature stays 1: a fifth of them says nothing."""
TEMPERATURES = (1e-3, 1e3)

Told = Callable[[str, int], None]
"""Called with what is learned and the pass that was done."""


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
            settings.decay,
            epochs=settings.epochs,
            rate=settings.rate,
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


def fitted_temperature(
    rows: Sequence[Rows],
    labels: NDArray[np.int64],
    num_classes: int,
    recipe: BaselineRecipe,
    folder: Path,
    told: Told,
) -> float:
    """The temperature that makes the loss least on a fifth of the images, scored by classifiers of the others.

    On images that a classifier has learned from its scores are surer than on others, so none of those can say it.

    Args:
        rows: (N, D_c) of each channel.
        folder: for checkpoints.

    Returns:
        Above 0; 1 with fewer than 50 images.
    """
    if len(labels) < LEAST_TO_CALIBRATE:
        return 1.0
    order = np.random.Generator(np.random.Philox(recipe.protocol.seed)).permutation(len(labels))
    held, kept = np.sort(order[::FOLDS]), np.sort(np.delete(order, np.s_[::FOLDS]))
    classifiers = []
    for number, one in enumerate(rows):
        part = _Some(one, kept)
        name = f"held-out-{number}"
        classifiers.append(
            learned_classifier(
                part,  # type: ignore[arg-type]
                labels[kept],
                num_classes,
                recipe,
                folder / f"{name}.safetensors",
                lambda epoch, name=name: told(name, epoch),  # type: ignore[misc]
            )
        )
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
