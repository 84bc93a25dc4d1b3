"""Linear probes: how well a linear classifier reads the classes from a layer's activations."""

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alexnet.data.dataset_files import NO_LABEL
from alexnet.errors import RequestError
from alexnet.evaluation.metrics import wilson_interval
from alexnet.explore.activation_rows import ActivationRows, require_equal_lengths
from alexnet.figures.notebook_html import result_html, table_html
from alexnet.storage.arguments import is_number, is_whole

GRID = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Of C, the inverse strength of the L2 penalty, for standardized activations."""
TOLERANCE, CHOOSING_TOLERANCE = 1e-4, 1e-3
"""Of the gradient at which training ends: of the classifiers that are tested, and of those that choose the penalty."""
MOST_ITERATIONS = 2000
_ROUNDING = float(np.finfo(np.float32).eps)
"""Fraction of its mean up to which the spread of a unit is nothing but the rounding of float32."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinearProbe:
    """The accuracy of logistic regression on a layer's activations; see `linear_probe`."""

    accuracy: float
    """Of all test images, 0..1."""
    interval: tuple[float, float]
    """Wilson's 95 % interval over the test images."""
    fold_accuracies: tuple[float, ...]
    """One per fold, or one of separate test images."""
    fold_interval: tuple[float, float] | None
    """Student's 95 % interval of the mean over the folds; approximate, as training folds overlap. None of one test."""
    chosen: tuple[float, ...]
    """C of each fold."""
    chance: float
    """Accuracy of always naming the most frequent class of the test images."""
    num_train: int
    """Images that a classifier is trained on, of the largest fold."""
    num_test: int
    """Images that are tested, of all folds."""
    num_values: int
    """Numbers per image."""
    num_classes: int
    grid: tuple[float, ...]
    seed: int
    num_unconverged: int
    """Classifiers, of all that were fitted, whose training had not converged at the last iteration."""

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"LinearProbe({100 * self.accuracy:.1f} % of {self.num_test:,} images, 95 % interval {100 * low:.1f} to "
            f"{100 * high:.1f} %; chance {100 * self.chance:.1f} %)"
        )

    def _repr_html_(self) -> str:
        rows = [
            (
                "accuracy",
                f"{100 * self.accuracy:.1f} % ({100 * self.interval[0]:.1f} to {100 * self.interval[1]:.1f} %)",
            ),
            ("by fold", ", ".join(f"{100 * one:.1f} %" for one in self.fold_accuracies)),
            ("C", ", ".join(f"{one:g}" for one in self.chosen)),
            ("chance", f"{100 * self.chance:.1f} %"),
            ("images", f"{self.num_train:,} to train on, {self.num_test:,} tested"),
            ("values per image", f"{self.num_values:,}"),
        ]
        return result_html("linear probe", table_html([], rows))

    def to_dict(self) -> dict[str, Any]:
        """All of it, as numbers and lists."""
        return {
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "fold_accuracies": list(self.fold_accuracies),
            "fold_interval": None if self.fold_interval is None else list(self.fold_interval),
            "chosen": list(self.chosen),
            "chance": self.chance,
            "train_images": self.num_train,
            "test_images": self.num_test,
            "values": self.num_values,
            "classes": self.num_classes,
            "grid": list(self.grid),
            "seed": self.seed,
            "unconverged": self.num_unconverged,
        }


class _Labeled(NamedTuple):
    rows: NDArray[np.float32]
    labels: NDArray[np.int64]

    def only(self, images: NDArray[np.integer[Any]]) -> "_Labeled":
        return _Labeled(self.rows[images], self.labels[images])


def linear_probe(
    activations: ArrayLike,
    labels: ArrayLike,
    *,
    test: tuple[ArrayLike, ArrayLike] | None = None,
    folds: int = 5,
    inner_folds: int = 3,
    grid: Sequence[float] = GRID,
    seed: int = 0,
) -> LinearProbe:
    """Accuracy of multinomial logistic regression, of scikit-learn, on activations: cross-validated, or on test images.

    Each image is tested once, by a classifier that was trained on the other folds. Folds have the classes in equal
    parts and are drawn by the seed. The strength of the L2 penalty is chosen from `grid` by the mean accuracy of a
    cross-validation within the training images; of equal ones, the strongest. Activations are standardized, each value
    to mean 0 and variance 1 of the images trained on, anew for each classifier.

    Args:
        activations: (N, ...): an array, or one of `Features.activations`, in memory as float32 up to five times; those
            of a layer with positions are flattened.
        labels: (N,), whole numbers such as `Features.labels`.
        test: activations and labels to test on instead: one classifier is trained on all of the first images.
        folds: 2 or more; each class needs as many images.
        inner_folds: folds of the cross-validation that chooses the penalty; unused if the grid has one value.
        grid: values of C, the inverse strength of the penalty, that are tried.
        seed: of the folds.

    Raises:
        RequestError: images without label, one class, a class with fewer images than folds, classes of the test images
            that are not trained on, activations that are not finite, or scikit-learn is not installed.
    """
    for name, value in (("folds", folds), ("inner_folds", inner_folds)):
        if not is_whole(value, 2):
            raise RequestError(f"{name} is {value!r}; allowed is 2 or more")
    if not grid or not all(is_number(one, 1e-12, 1e12) for one in grid):
        raise RequestError(f"grid is {grid!r}; allowed are values of C, 1e-12 to 1e12")
    selection = _model_selection()
    given = _labeled(activations, labels, "")
    _require_classes(given.labels, folds if test is None else 1, inner_folds if len(grid) > 1 else 1)
    solver = _Solver(sorted(map(float, grid)), int(inner_folds), int(seed))
    correct, chosen = [], []
    if test is None:
        held_labels = given.labels
        splitter = selection.StratifiedKFold(int(folds), shuffle=True, random_state=int(seed))
        splits = list(splitter.split(given.rows, given.labels))
        sizes, num_train = [len(held) for _, held in splits], max(len(train) for train, _ in splits)
        for numbers, held in splits:
            train = given.only(numbers)
            chosen.append(solver.choose(train))
            correct += solver.correct(train, given.only(held), chosen[-1:])
    else:
        tested = _labeled(*test, "test ")
        _require_alike(given, tested)
        held_labels, sizes, num_train = tested.labels, [len(tested.labels)], len(given.labels)
        chosen.append(solver.choose(given))
        correct += solver.correct(given, tested, chosen)
    accuracies = tuple(one / size for one, size in zip(correct, sizes, strict=True))
    num_test = sum(sizes)
    solver.warn(chosen)
    return LinearProbe(
        accuracy=sum(correct) / num_test,
        interval=wilson_interval(sum(correct), num_test),
        fold_accuracies=accuracies,
        fold_interval=_student_interval(accuracies) if test is None else None,
        chosen=tuple(chosen),
        chance=int(np.unique(held_labels, return_counts=True)[1].max()) / num_test,
        num_train=num_train,
        num_test=num_test,
        num_values=given.rows.shape[1],
        num_classes=len(np.unique(given.labels)),
        grid=tuple(solver.grid),
        seed=int(seed),
        num_unconverged=len(solver.unconverged),
    )


class _Solver:
    """Trains classifiers, and counts those that did not converge."""

    def __init__(self, grid: list[float], inner_folds: int, seed: int) -> None:
        self.grid = grid
        self.unconverged: list[float] = []
        """C of each that did not converge."""
        self._num_fitted = 0
        self._inner_folds = inner_folds
        self._seed = seed

    def choose(self, train: _Labeled) -> float:
        """The value of the grid with the best mean accuracy over inner folds of the training images."""
        if len(self.grid) == 1:
            return self.grid[0]
        splitter = _model_selection().StratifiedKFold(self._inner_folds, shuffle=True, random_state=self._seed)
        accuracies = np.zeros(len(self.grid))
        for inner, held in splitter.split(train.rows, train.labels):
            found = self.correct(train.only(inner), train.only(held), self.grid, CHOOSING_TOLERANCE)
            accuracies += np.array(found) / len(held)
        return self.grid[int(accuracies.argmax())]  # the first of equal ones: the strongest penalty

    def correct(
        self, train: _Labeled, held: _Labeled, grid: Sequence[float], tolerance: float = TOLERANCE
    ) -> list[int]:
        """How many held-out images are classified correctly with each value of a rising grid."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        mean = train.rows.mean(axis=0, dtype=np.float64)
        spread = train.rows.std(axis=0, dtype=np.float64)
        is_constant = spread <= _ROUNDING * np.abs(mean)  # a unit that held-out images may excite
        scale = 1 / np.where(is_constant, 1, spread)
        rows, held_rows = (((one.rows - mean) * scale).astype(np.float32) for one in (train, held))
        found = []
        # Each begins where the one before ended, which saves iterations.
        model = LogisticRegression(max_iter=MOST_ITERATIONS, tol=tolerance, warm_start=True)
        for c in grid:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                model.set_params(C=c).fit(rows, train.labels)
            self._num_fitted += 1
            if any(issubclass(one.category, ConvergenceWarning) for one in caught):
                self.unconverged.append(c)
            found.append(int((model.predict(held_rows) == held.labels).sum()))
        return found

    def warn(self, chosen: Sequence[float]) -> None:
        """Say what makes the result doubtful."""
        if self.unconverged:
            values = ", ".join(f"{one:g}" for one in sorted({*self.unconverged}))
            _logger.warning(
                f"{len(self.unconverged)} of {self._num_fitted} classifiers did not converge in {MOST_ITERATIONS:,} "
                f"iterations, with C = {values}; leave the largest values out of the grid"
            )
        ends = sorted({self.grid[0], self.grid[-1]} & {*chosen})
        if len(self.grid) > 1 and ends:
            _logger.warning(
                f"the penalty chosen is at an end of the grid, C = {' and '.join(f'{one:g}' for one in ends)}; a wider "
                "grid may do better"
            )


def _labeled(activations: ArrayLike, labels: ArrayLike | None, what: str) -> _Labeled:
    rows = ActivationRows(activations, f"the {what}activations")
    if labels is None:
        raise RequestError(
            f"the {what}labels are None: activations of photographs have none; pass (N,) whole numbers, one for each"
        )
    numbers = np.asarray(labels)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise RequestError(
            f"the {what}labels are an array of {numbers.dtype} {numbers.shape}; allowed are whole numbers, (N,)"
        )
    require_equal_lengths(f"the {what}activations and labels", [len(rows), len(numbers)])
    if num_without := int((numbers == NO_LABEL).sum()):
        raise RequestError(f"{num_without:,} {what}images have no label; leave them out")
    return _Labeled(rows.in_memory(), numbers.astype(np.int64))


def _require_alike(given: _Labeled, tested: _Labeled) -> None:
    """Refuse test images of another layer, or of classes that nothing is known of."""
    if tested.rows.shape[1] != given.rows.shape[1]:
        raise RequestError(
            f"the test images have {tested.rows.shape[1]:,} values each and the others {given.rows.shape[1]:,}; name "
            "the same layer of the same network"
        )
    if unknown := sorted({*tested.labels.tolist()} - {*given.labels.tolist()}):
        raise RequestError(f"the test images have classes without training images: {str(unknown[:10])[1:-1]}")


def _require_classes(labels: NDArray[np.int64], folds: int, inner_folds: int) -> None:
    """Refuse labels whose classes cannot be divided among the folds."""
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise RequestError("all images are of one class; a linear probe needs images of two or more")
    # Of the smallest class, the outer training folds keep at least this many.
    kept = counts - np.ceil(counts / folds).astype(int) if folds > 1 else counts
    if (counts < folds).any() or (kept < inner_folds).any():
        smallest = int(counts.argmin())
        needed = " and ".join([f"{folds} folds"] * (folds > 1) + [f"{inner_folds} inner folds"] * (inner_folds > 1))
        raise RequestError(
            f"class {classes[smallest]} has {counts[smallest]} images, too few for {needed}; use fewer folds, or leave "
            "the class out"
        )


def _student_interval(accuracies: Sequence[float]) -> tuple[float, float]:
    from scipy.stats import t

    mean = sum(accuracies) / len(accuracies)
    spread = float(np.std(accuracies, ddof=1)) / math.sqrt(len(accuracies))
    half = float(t.ppf(0.975, len(accuracies) - 1)) * spread
    return max(0.0, mean - half), min(1.0, mean + half)


def _model_selection() -> Any:
    try:
        from sklearn import model_selection
    except ImportError as error:
        raise RequestError(
            "linear probes need scikit-learn, which is not installed; run: pip install 'alexnet[baselines]'"
        ) from error
    return model_selection
