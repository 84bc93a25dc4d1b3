"""One-vs-rest linear support vector machines, solved from the products of all pairs of samples.

For each class, with y = +1 for its samples and -1 for all others:

    minimize over w, b:  (|w|^2 + b^2) / 2 + C sum of max(0, 1 - y (w x + b))

The penalty on b makes it the weight of one more feature, which is 1 for every sample, as in scikit-learn's `LinearSVC`.
The dual has a variable a per sample: w = sum of a y x, b = sum of a y, 0 <= a <= C. Coordinate descent (C. Hsieh et
al., ICML 2008) changes one variable at a time to its optimum. It needs only the products x x' of samples, which are
computed once for all classes, values of C and folds of a cross-validation: 4 N^2 bytes. A step costs N multiplications
whatever the number of features is.
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from alexnet.baselines.gram_matrix import Features, gram_matrix, weighted_row_sums
from alexnet.baselines.linear_classifier import LinearClassifier
from alexnet.system.machine import num_cores
from alexnet.system.numba_jit import jit

TOLERANCE = 1e-4
"""Relative duality gap at which a class is solved."""
MAX_EPOCHS = 1000
BIAS_FEATURE = 1.0
"""The constant feature whose weight is the intercept."""
_LEAST_STEP = 0.25
"""Variables whose step is below this fraction of the last epoch's largest are left for later epochs: steps cost N
multiplications, looking at a variable a few."""


class Solution(NamedTuple):
    """One class's classifier with one C."""

    weights: NDArray[np.float64]
    """(N,): a y of every sample; 0 of those that were not trained on."""
    scores: NDArray[np.float64]
    """(N,): w x + b of every sample, also of those that were not trained on."""
    epochs: int
    gap: float
    """Duality gap over the primal objective: the objective is at most this fraction above the minimum."""


def solve_class(
    products: NDArray[np.float32],
    is_positive: NDArray[np.bool_],
    trained_on: NDArray[np.int64],
    grid: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    max_epochs: int = MAX_EPOCHS,
    positive_weight: float = 1.0,
) -> list[Solution]:
    """Solve one class for each C, starting from the solution with the one before.

    Args:
        products: float32 (N, N), symmetric, of features without the constant one.
        is_positive: (N,), whether a sample is of the class.
        trained_on: indices of the samples to train on, (n,), each once.
        grid: values of C, ascending.
        tolerance: relative duality gap to reach, above 0.
        max_epochs: at which a solution is accepted with a larger gap.
        positive_weight: factor on C for the class's own samples.
    """
    signs = np.where(is_positive, 1.0, -1.0)
    duals, scores = np.zeros(len(signs)), np.zeros(len(signs))
    solutions = []
    for c in grid:
        limits = np.where(is_positive, c * positive_weight, c)
        epochs, gap = _descend(products, signs, limits, np.array(trained_on), tolerance, max_epochs, duals, scores)
        solutions.append(Solution(duals * signs, scores.copy(), int(epochs), float(gap)))
    return solutions


@jit()
def _descend(  # pragma: no cover (compiled)
    products: Any,
    signs: Any,
    limits: Any,
    order: Any,
    tolerance: float,
    max_epochs: int,
    duals: Any,
    scores: Any,
) -> Any:
    """Coordinate descent from `duals` and the `scores` that belong to them, in place, over the samples in `order`.

    All sums are in float64: the gap is that of the definition, not of rounded scores.

    Returns:
        Epochs, and the relative duality gap.
    """
    state = np.uint64(1)
    largest, gap = 0.0, 1.0
    for epoch in range(max_epochs):
        # In a fixed order, with samples sorted by class, 1,000 epochs did not suffice where 60 do in a random one.
        for place in range(len(order) - 1, 0, -1):
            state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            other = np.int64((state >> np.uint64(33)) % np.uint64(place + 1))
            order[place], order[other] = order[other], order[place]
        least, largest = _LEAST_STEP * largest, 0.0
        for sample in order:
            square = products[sample, sample] + BIAS_FEATURE**2
            gradient = signs[sample] * scores[sample] - 1
            dual = min(max(duals[sample] - gradient / square, 0.0), limits[sample])
            step = dual - duals[sample]
            size = abs(step) * square
            largest = max(largest, size)
            if size > least:
                duals[sample] = dual
                step *= signs[sample]
                row = products[sample]
                for one in range(len(scores)):
                    scores[one] += step * (row[one] + BIAS_FEATURE**2)
        # Primal minus dual objective; every term is 0 or more.
        gap, objective = 0.0, 0.0
        for sample in order:
            margin = signs[sample] * scores[sample]
            loss = limits[sample] * max(0.0, 1 - margin)
            gap += duals[sample] * (margin - 1) + loss
            objective += duals[sample] * margin / 2 + loss
        gap /= max(objective, 1e-300)
        if gap <= tolerance:
            return epoch + 1, gap
    return max_epochs, gap


class LinearSVMClassifier(LinearClassifier):
    """One-vs-rest linear classifiers of the module's objective, solved to a relative duality gap.

    Args:
        c: C above. For features of about unit norm 0.1 is much regularization, and above about 10 little changes.
        tolerance: the gap between the objective and a lower bound of its minimum, relative to the objective.
        max_epochs: of a class; where the gap is not reached by then, `fit` warns.
        positive_weight: factor on C for a class's own samples.

    Attributes:
        classes_: (K,).
        coef_: float32 (K, D).
        intercept_: float32 (K,).
        gap_: float64 (K,), relative duality gap of each class.
        epochs_: int64 (K,), passes over the samples for each class.
    """

    def __init__(
        self,
        c: float = 1.0,
        *,
        tolerance: float = TOLERANCE,
        max_epochs: int = MAX_EPOCHS,
        positive_weight: float = 1.0,
    ) -> None:
        self.c = c
        self.tolerance = tolerance
        self.max_epochs = max_epochs
        self.positive_weight = positive_weight

    def fit(self, X: NDArray[np.floating[Any]], y: NDArray[Any]) -> Self:
        """Train on (N, D) features and (N,) labels, with 4 N^2 bytes of memory for their products.

        Raises:
            ValueError: non-finite values, fewer than two classes, or shapes that do not match.
        """
        X, y, classes = self._training_data(X, y)
        workers = num_cores()
        products, everything = gram_matrix(X, workers), np.arange(len(y))

        def solve(label: Any) -> Solution:
            (solution,) = solve_class(
                products,
                y == label,
                everything,
                [self.c],
                tolerance=self.tolerance,
                max_epochs=self.max_epochs,
                positive_weight=self.positive_weight,
            )
            return solution

        with ThreadPoolExecutor(workers) as pool:
            solutions = list(pool.map(solve, classes))
        weights = np.stack([one.weights for one in solutions])
        gaps = np.array([one.gap for one in solutions])
        self.set_solution(classes, X, weights, np.array([one.epochs for one in solutions]), gaps, workers)
        if unsolved := int((gaps > self.tolerance).sum()):
            warnings.warn(
                f"{unsolved} of {len(classes)} classes have a relative duality gap above {self.tolerance:g} after "
                f"{self.max_epochs} epochs, at most {gaps.max():.2g}; scale the features, or raise max_epochs",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def set_solution(
        self,
        classes: NDArray[Any],
        features: Features,
        weights: NDArray[np.floating[Any]],
        epochs: NDArray[np.int64],
        gaps: NDArray[np.float64],
        workers: int,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Become the classifier of dual variables that were found before.

        Args:
            classes: (K,).
            features: (N, D).
            weights: (K, N), a y of every class and sample.
            epochs: (K,).
            gaps: (K,), relative.
            workers: threads.
            progress: called with (features done, D).
        """
        self.classes_ = classes
        self.n_features_in_ = features.shape[1]
        self.coef_ = weighted_row_sums(np.asarray(weights, np.float32), features, workers, progress=progress)
        self.intercept_ = (BIAS_FEATURE * weights.sum(axis=1, dtype=np.float64)).astype(np.float32)
        self.epochs_ = epochs
        self.gap_ = gaps
