"""One-vs-rest linear classifiers by averaged stochastic gradient descent (SGD).

L. Bottou's averaged SGD on the hinge loss, as Lin et al. (CVPR 2011, section 4) and Sanchez and Perronnin (CVPR 2011,
section 2.3) use it. scikit-learn's `SGDClassifier` passes over the features once per class; here one pass trains all
classes, by matrix products over small batches (`benchmarks/baselines.py` measures both).
"""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

from alexnet.baselines.linear_classifier import FEATURE_TYPES, Features, LinearClassifier


class AveragedSGDClassifier(LinearClassifier):
    """One-vs-rest linear classifiers that minimize weight_decay / 2 |w|^2 + mean of max(0, 1 - y (w x + b)).

    Args:
        weight_decay: the factor above.
        epochs: passes of `fit`.
        learning_rate: at the start; after t samples learning_rate / (1 + learning_rate weight_decay t)^(3/4).
        batch_size: samples whose gradients are summed in one step.
        average_after: samples after which averaging of the weights starts; None is after the first pass of `fit` (of
            `partial_fit`: at once).
        positive_weight: factor on the loss of a class's own samples.
        seed: of the order of the samples.

    Attributes:
        classes_: (K,).
        coef_: float32 (K, D), averaged.
        intercept_: float32 (K,), averaged.
        last_coef_, last_intercept_: the current iterate, from which `partial_fit` continues.
        t_: samples seen.
    """

    def __init__(
        self,
        weight_decay: float = 1e-5,
        *,
        epochs: int = 10,
        learning_rate: float = 1.0,
        batch_size: int = 16,
        average_after: int | None = None,
        positive_weight: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.average_after = average_after
        self.positive_weight = positive_weight
        self.seed = seed

    def fit(self, X: Features, y: NDArray[Any]) -> Self:
        """Train on (N, D) features and (N,) labels for `epochs` passes.

        Raises:
            ValueError: non-finite values, fewer than two classes, or shapes that do not match.
        """
        X, y, classes = self._training_data(X, y)
        self._initialize(classes, X.shape[1])
        targets = np.searchsorted(classes, y)
        average_after = len(X) if self.average_after is None else self.average_after
        generator = np.random.Generator(np.random.Philox(self.seed))
        for _ in range(self.epochs):
            self._run_epoch(X, targets, generator.permutation(len(X)), average_after)
        return self

    def partial_fit(self, X: Features, y: NDArray[Any], classes: NDArray[Any] | None = None) -> Self:
        """Run one pass over (N, D) features in the given order.

        Args:
            classes: all labels of this and later calls, required in the first call; a class may have no sample.

        Raises:
            ValueError: no classes in the first call, other ones in a later call, or a label that is not among them.
        """
        first = not hasattr(self, "coef_")
        X, y = validate_data(self, X, y, dtype=FEATURE_TYPES, reset=first)
        if first:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit")
            if len(np.unique(classes)) < 2:
                raise ValueError(f"{len(np.unique(classes))} class; a classifier needs 2 or more")
            self._initialize(np.unique(classes), X.shape[1])
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes {classes!r} are not those of the first call, {self.classes_!r}")
        targets = np.searchsorted(self.classes_, y)
        if not np.array_equal(self.classes_[np.minimum(targets, len(self.classes_) - 1)], y):
            raise ValueError("y has labels that are not among the classes of the first call")
        self._run_epoch(X, targets, np.arange(len(X)), self.average_after or 0)
        return self

    def _initialize(self, classes: NDArray[Any], num_features: int) -> None:
        self.classes_ = classes
        self.n_features_in_ = num_features
        self.coef_ = np.zeros((len(classes), num_features), np.float32)
        self.intercept_ = np.zeros(len(classes), np.float32)
        self.last_coef_, self.last_intercept_ = self.coef_.copy(), self.intercept_.copy()
        self.t_ = 0

    def _run_epoch(self, X: Features, targets: NDArray[np.int64], order: NDArray[np.int64], average_after: int) -> None:
        """Run one pass over the samples in `order`, updating the attributes in place."""
        weights, bias = torch.from_numpy(self.last_coef_), torch.from_numpy(self.last_intercept_)
        mean_weights, mean_bias = torch.from_numpy(self.coef_), torch.from_numpy(self.intercept_)
        with torch.inference_mode():
            for first in range(0, len(order), self.batch_size):
                chosen = order[first : first + self.batch_size]
                values = torch.from_numpy(np.asarray(X[chosen], np.float32))  # (b, D)
                signs = torch.full((len(chosen), len(self.classes_)), -1.0)
                rows = torch.arange(len(chosen))
                labels = torch.from_numpy(targets[chosen])
                signs[rows, labels] = 1.0
                gradients = (signs * torch.addmm(bias, values, weights.T) < 1).float() * signs
                gradients[rows, labels] *= self.positive_weight
                learning_rate = self.learning_rate / (1 + self.learning_rate * self.weight_decay * self.t_) ** 0.75
                weights.mul_(max(0.0, 1 - learning_rate * self.weight_decay * len(chosen)))
                weights.addmm_(gradients.T, values, alpha=learning_rate)
                bias.add_(gradients.sum(dim=0), alpha=learning_rate)
                self.t_ += len(chosen)
                steps = (self.t_ - average_after) / self.batch_size
                fraction = 1.0 if steps <= 1 else 1 / steps
                mean_weights.lerp_(weights, fraction)
                mean_bias.lerp_(bias, fraction)
