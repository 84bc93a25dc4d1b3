"""One linear classifier a class, each against all others, by averaged stochastic gradient descent.

L. Bottou's averaged SGD on the hinge loss, as Lin et al. (CVPR 2011, section 4) and Sanchez and Perronnin (CVPR 2011,
section 2.3) use it. scikit-learn's `SGDClassifier` passes over the features once a class; here all classes learn in
one pass, as products of matrices over small batches (`alexnet bench baselines` has both).
"""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from alexnet.baselines.tensor_conversion import as_tensor

Rows = NDArray[np.floating[Any]]


class AveragedSgd(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Linear one-against-all classifiers: weight_decay / 2 |w|^2 + mean of max(0, 1 - y (w x + b)), averaged SGD.

    Args:
        weight_decay: the factor above.
        epochs: passes of `fit`.
        learning_rate: at first; after t samples learning_rate / (1 + learning_rate weight_decay t)^(3/4).
        batch_size: samples whose gradients are added up in one step.
        average_after: samples after which the weights are averaged over the steps; None is after the first pass of
            `fit` (with `partial_fit`: from the start).
        positive_weight: factor on the loss of the samples of a class in its own classifier.
        seed: of the order of the samples.

    Attributes:
        classes_: (K,).
        coef_: float32 (K, D), averaged.
        intercept_: float32 (K,), averaged.
        last_coef_, last_intercept_: where the descent stands; `partial_fit` goes on from there.
        t_: samples seen.

    Of two classes it learns both classifiers; `decision_function` is then the second's less the first's, half of it.
    """

    arrays = ("classes_", "coef_", "intercept_", "last_coef_", "last_intercept_", "t_", "n_features_in_")

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

    def fit(self, X: Rows, y: NDArray[Any]) -> Self:
        """Learn from (N, D) features and (N,) labels, in `epochs` passes.

        Raises:
            ValueError: values that are not finite, no or one class, shapes that do not fit.
        """
        X, y = validate_data(self, X, y, dtype=[np.float32, np.float64, np.float16])
        check_classification_targets(y)
        classes = np.unique(y)
        if len(classes) < 2:
            raise ValueError(f"the labels have one class, {classes[0]!r}; a classifier needs 2 or more")
        self._start(classes, X.shape[1])
        targets = np.searchsorted(classes, y)
        begin = len(X) if self.average_after is None else self.average_after
        generator = np.random.Generator(np.random.Philox(self.seed))
        for _ in range(self.epochs):
            self._descend(X, targets, generator.permutation(len(X)), begin)
        return self

    def partial_fit(self, X: Rows, y: NDArray[Any], classes: NDArray[Any] | None = None) -> Self:
        """One pass over (N, D) features in the order given.

        Args:
            classes: all labels there will be, needed at the first call; a class may have no sample.

        Raises:
            ValueError: no classes at the first call, others at a later one, or a label that is not among them.
        """
        first = not hasattr(self, "coef_")
        X, y = validate_data(self, X, y, dtype=[np.float32, np.float64, np.float16], reset=first)
        check_classification_targets(y)
        if first:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit")
            if len(np.unique(classes)) < 2:
                raise ValueError(f"{len(np.unique(classes))} class; a classifier needs 2 or more")
            self._start(np.unique(classes), X.shape[1])
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes {classes!r} are not those of the first call, {self.classes_!r}")
        targets = np.searchsorted(self.classes_, y)
        if not np.array_equal(self.classes_[np.minimum(targets, len(self.classes_) - 1)], y):
            raise ValueError("y has labels that are not among the classes of the first call")
        self._descend(X, targets, np.arange(len(X)), self.average_after or 0)
        return self

    def decision_function(self, X: Rows) -> NDArray[np.float32]:
        """Scores, float32 (N, K), of two classes (N,): the sample is of the class with the highest (above 0: second).

        Raises:
            ValueError: another number of features, or values that are not finite.
        """
        scores = self.scores(X)
        if len(self.classes_) == 2:
            scores = ((scores[:, 1] - scores[:, 0]) / 2).astype(np.float32)
        return scores

    def scores(self, X: Rows) -> NDArray[np.float32]:
        """The score of each class, float32 (N, K), of two classes too."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float32, np.float64, np.float16], reset=False)
        scores = torch.addmm(as_tensor(self.intercept_), as_tensor(X, np.float32), as_tensor(self.coef_).T)
        found: NDArray[np.float32] = scores.numpy()
        return found

    def predict(self, X: Rows) -> NDArray[Any]:
        """The class with the highest score, (N,)."""
        scores = self.scores(X)  # it looks whether there is something fitted
        found: NDArray[Any] = self.classes_[scores.argmax(axis=1)]
        return found

    def _start(self, classes: NDArray[Any], num_features: int) -> None:
        self.classes_ = classes
        self.n_features_in_ = num_features
        self.coef_ = np.zeros((len(classes), num_features), np.float32)
        self.intercept_ = np.zeros(len(classes), np.float32)
        self.last_coef_, self.last_intercept_ = self.coef_.copy(), self.intercept_.copy()
        self.t_ = 0

    def _descend(self, X: Rows, targets: NDArray[np.int64], order: NDArray[np.int64], average_after: int) -> None:
        """A pass over the samples in `order`; the attributes are changed in place."""
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
                wrong = (signs * torch.addmm(bias, values, weights.T) < 1).float() * signs
                wrong[rows, labels] *= self.positive_weight
                learning_rate = self.learning_rate / (1 + self.learning_rate * self.weight_decay * self.t_) ** 0.75
                weights.mul_(max(0.0, 1 - learning_rate * self.weight_decay * len(chosen)))
                weights.addmm_(wrong.T, values, alpha=learning_rate)
                bias.add_(wrong.sum(dim=0), alpha=learning_rate)
                self.t_ += len(chosen)
                steps = (self.t_ - average_after) / self.batch_size
                share = 1.0 if steps <= 1 else 1 / steps
                mean_weights.lerp_(weights, share)
                mean_bias.lerp_(bias, share)
