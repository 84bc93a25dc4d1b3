"""Training of a baseline's support vector machines: products, cross-validation, the choice of C, resumption.

One cross-validation serves two purposes: it chooses C, and its scores of images that a classifier was not trained on
fit the temperature of the probabilities.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.classifier_training import MIN_IMAGES_TO_CALIBRATE, NUM_FOLDS, ProgressBar, optimal_temperature
from alexnet.baselines.feature_cache import settings_checksum
from alexnet.baselines.gram_matrix import gram_matrix
from alexnet.baselines.linear_svm import BIAS_FEATURE, MAX_EPOCHS, TOLERANCE, LinearSVMClassifier, Solution, solve_class
from alexnet.errors import AlexNetError, RequestError
from alexnet.runs.baseline_recipe import ClassifierSettings
from alexnet.storage.npy import ArrayFile
from alexnet.storage.tensors import read_tensors, write_sealed_tensors
from alexnet.system.prefetch import prefetch

GRID = (0.1, 1.0, 10.0, 100.0)
"""Values of C among which cross-validation chooses."""
DEFAULT_C = 10.0
"""C where there are too few images for cross-validation."""
MAX_IMAGES = 20_000
FOLD_TOLERANCE = 1e-3
"""Relative duality gap in cross-validation, where it moves scores by less than the folds differ."""
CHECKPOINT_EVERY_S = 30.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Solutions:
    """One channel's classifiers for each of G values of C, and the scores of cross-validation."""

    weights: NDArray[np.float32]
    """(G, K, N): a y of the classifiers that were trained on all images."""
    scores: NDArray[np.float32]
    """(G, N, K), of each image by classifiers that were not trained on it; zeros without cross-validation."""
    epochs: NDArray[np.int64]
    """(G, K), of the classifiers that were trained on all images."""
    gaps: NDArray[np.float64]
    """(G, K), their relative duality gaps."""


def require_room_for_products(num_images: int) -> None:
    """Refuse more images than the memory for the products of all pairs allows.

    Raises:
        RequestError: there are more than 20,000.
    """
    if num_images > MAX_IMAGES:
        raise RequestError(
            f"support vector machines on {num_images:,} training images need {4e-9 * num_images**2:,.1f} GB for the "
            f"products of all pairs; allowed are {MAX_IMAGES:,} images: add --classifier.kind sgd, or --per-class N"
        )


def stratified_folds(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold of each image, 0 .. 4, (N,): of every class, and in all, folds differ in size by at most one image."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[by_class] = np.arange(len(labels)) % NUM_FOLDS
    return folds


def solve_channel(
    products: NDArray[np.float32],
    labels: NDArray[np.int64],
    num_classes: int,
    grid: Sequence[float],
    folds: NDArray[np.int64] | None,
    positive_weight: float,
    workers: int,
    *,
    checkpoint: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Solutions:
    """Solve all classes for all values of C, on all images and on those outside of each fold.

    Args:
        products: float32 (N, N), of all pairs of images.
        labels: (N,), 0 .. num_classes - 1; a class may have no image.
        grid: values of C, ascending.
        folds: (N,); None is no cross-validation.
        workers: threads, each of which solves one class.
        checkpoint: file with the classes solved so far; a later call continues from it.
        progress: called with (classes done, all classes).
    """
    num, everything = len(labels), np.arange(len(labels))
    parts = [] if folds is None else [np.flatnonzero(folds == one) for one in range(NUM_FOLDS)]
    solutions, is_solved = _read_checkpoint(checkpoint, (len(grid), num_classes, num)) or (
        Solutions(
            weights=np.zeros((len(grid), num_classes, num), np.float32),
            scores=np.zeros((len(grid), num, num_classes), np.float32),
            epochs=np.zeros((len(grid), num_classes), np.int64),
            gaps=np.zeros((len(grid), num_classes)),
        ),
        np.zeros(num_classes, np.uint8),
    )

    def solve(label: int) -> tuple[int, list[Solution], NDArray[np.float32]]:
        is_positive = labels == label
        scores = np.zeros((len(grid), num), np.float32)
        for held_out in parts:
            trained_on = np.setdiff1d(everything, held_out)
            of_fold = solve_class(
                products, is_positive, trained_on, grid, tolerance=FOLD_TOLERANCE, positive_weight=positive_weight
            )
            scores[:, held_out] = [one.scores[held_out] for one in of_fold]
        return label, solve_class(products, is_positive, everything, grid, positive_weight=positive_weight), scores

    last_checkpoint_s = time.monotonic()
    progress(int(is_solved.sum()), num_classes)
    left = np.flatnonzero(is_solved == 0).tolist()
    # Only this thread changes the arrays, so that none changes while it is written.
    for label, found, scores in prefetch(solve, left, workers=workers, ahead=workers + 1, name="alexnet-svm"):
        for place, one in enumerate(found):
            solutions.weights[place, label] = one.weights
            solutions.epochs[place, label], solutions.gaps[place, label] = one.epochs, one.gap
        solutions.scores[:, :, label] = scores
        is_solved[label] = 1
        progress(int(is_solved.sum()), num_classes)
        if label == left[-1] or time.monotonic() - last_checkpoint_s > CHECKPOINT_EVERY_S:
            last_checkpoint_s = time.monotonic()
            write_sealed_tensors(checkpoint, {**vars(solutions), "is_solved": is_solved}, {})
    return solutions


def _read_checkpoint(path: Path, shape: tuple[int, int, int]) -> tuple[Solutions, NDArray[np.uint8]] | None:
    """The solutions so far, and which classes they hold; None where there is no intact checkpoint of this shape."""
    if not path.is_file():
        return None
    try:
        tensors = read_tensors(path, "numpy", "")[0]
        solutions, is_solved = (
            Solutions(**{key: tensors[key] for key in Solutions.__annotations__}),
            tensors["is_solved"],
        )
    except (AlexNetError, KeyError):
        return None
    return (solutions, is_solved) if solutions.weights.shape == shape else None


def train_svms(
    features: Mapping[str, ArrayFile],
    labels: NDArray[np.int64],
    num_classes: int,
    settings: ClassifierSettings,
    seed: int,
    folder: Path,
    workers: int,
    progress_bar: ProgressBar,
    log: Callable[..., None],
) -> tuple[list[LinearSVMClassifier], float]:
    """Train one classifier for each channel, all with the same C, and fit the temperature of their mean score.

    Args:
        features: (N, D_c) by channel, of the training images.
        labels: (N,).
        settings: `c` 0 chooses the value of `GRID` with which the mean score of the channels predicts most images
            right in cross-validation, the smallest of several.
        seed: of the folds.
        folder: for checkpoints, which are named by what they depend on: another version of this package continues only
            from its own.
        progress_bar: of each channel's products, classifiers and weights; an image is done when its share of all is.
        log: writes an event with its values.

    Returns:
        The classifiers in the order of the channels, and the temperature, 1 with fewer than 50 images.
    """

    @contextmanager
    def by_images(title: str) -> Iterator[Callable[[int, int], None]]:
        with progress_bar(title) as progress:
            yield lambda done, total: progress(len(labels) * done // total, len(labels))

    folds = stratified_folds(labels, seed) if len(labels) >= MIN_IMAGES_TO_CALIBRATE else None
    grid = (settings.c,) if settings.c else GRID if folds is not None else (DEFAULT_C,)
    solutions = {}
    for name, rows in features.items():
        key = settings_checksum(
            {
                "features": [rows.path.parent.name, rows.path.name, *rows.shape],
                "grid": grid,
                "folds": [NUM_FOLDS, seed],
                "positive_weight": settings.positive_weight,
                "solver": [TOLERANCE, FOLD_TOLERANCE, MAX_EPOCHS, BIAS_FEATURE],
            }
        )[:16]
        with by_images(f"{name}: products") as progress:
            products = gram_matrix(rows, workers, checkpoint=folder / f"{name}-{key}-products", progress=progress)
        with by_images(f"{name}: classifiers") as progress:
            solutions[name] = solve_channel(
                products, labels, num_classes, grid, folds, settings.positive_weight, workers,
                checkpoint=folder / f"{name}-{key}-solutions.safetensors", progress=progress,
            )  # fmt: skip
        del products  # before those of the next channel
    chosen, temperature = 0, 1.0
    if folds is not None:
        scores = [one.scores for one in solutions.values()]
        mean: NDArray[np.float32] = np.mean(scores, axis=0, dtype=np.float32)  # (G, N, K)
        accuracies = (mean.argmax(axis=2) == labels).mean(axis=1)
        chosen = int(accuracies.argmax())
        temperature = optimal_temperature(mean[chosen].astype(np.float64), labels)
        log("cross_validation", folds=NUM_FOLDS, c=grid, accuracy=accuracies.tolist(), chosen_c=grid[chosen])
        _logger.info("C %g: %.2f %% right in cross-validation", grid[chosen], 100 * accuracies[chosen])
    classifiers = []
    for name, rows in features.items():
        found = solutions[name]
        epochs, gaps = found.epochs[chosen], found.gaps[chosen]
        log("classifier", name=name, c=grid[chosen], epochs=int(epochs.max()), relative_gap=float(gaps.max()))
        classifier = LinearSVMClassifier(grid[chosen], positive_weight=settings.positive_weight)
        if gaps.max() > classifier.tolerance:
            _logger.warning(
                "%s: %d of %d classifiers are up to %.2g above the minimum of their objective after %d epochs",
                name, (gaps > classifier.tolerance).sum(), len(gaps), gaps.max(), epochs.max(),
            )  # fmt: skip
        with by_images(f"{name}: weights") as progress:
            classifier.set_solution(
                np.arange(num_classes), rows, found.weights[chosen], epochs, gaps, workers, progress=progress
            )
        classifiers.append(classifier)
    return classifiers, temperature
