"""What the linear one-vs-rest classifiers of the baselines have in common: scores and predictions."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from alexnet.baselines.tensor_conversion import as_tensor

Features = NDArray[np.floating[Any]]
FEATURE_TYPES = [np.float32, np.float64, np.float16]
"""Types of features that are accepted without a conversion."""


class LinearClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base of one-vs-rest linear classifiers, one for each class.

    Attributes:
        classes_: (K,).
        coef_: float32 (K, D).
        intercept_: float32 (K,).

    Two classes also have a classifier each; `decision_function` is half the difference of their scores.
    """

    classes_: NDArray[Any]
    coef_: NDArray[np.float32]
    intercept_: NDArray[np.float32]

    def decision_function(self, X: Features) -> NDArray[np.float32]:
        """Scores, float32 (N, K), the highest of which is the prediction; of two classes (N,), above 0 for the second.

        Raises:
            ValueError: another number of features, or non-finite values.
        """
        scores = self.scores(X)
        if len(self.classes_) == 2:
            scores = ((scores[:, 1] - scores[:, 0]) / 2).astype(np.float32)
        return scores

    def scores(self, X: Features) -> NDArray[np.float32]:
        """The score of each class, float32 (N, K), also of two classes."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=FEATURE_TYPES, reset=False)
        scores = torch.addmm(as_tensor(self.intercept_), as_tensor(X, np.float32), as_tensor(self.coef_).T)
        result: NDArray[np.float32] = scores.numpy()
        return result

    def predict(self, X: Features) -> NDArray[Any]:
        """The class with the highest score, (N,)."""
        scores = self.scores(X)  # raises where nothing is fitted
        labels: NDArray[Any] = self.classes_[scores.argmax(axis=1)]
        return labels

    def _training_data(self, X: Features, y: NDArray[Any]) -> tuple[Features, NDArray[Any], NDArray[Any]]:
        """The features (N, D) and labels (N,) that `fit` was given, checked, and the classes, (K,).

        Raises:
            ValueError: non-finite values, fewer than two classes, or shapes that do not match.
        """
        X, y = validate_data(self, X, y, dtype=FEATURE_TYPES)
        check_classification_targets(y)
        classes = np.unique(y)
        if len(classes) < 2:
            raise ValueError(f"the labels have one class, {classes[0]!r}; a classifier needs 2 or more")
        return X, y, classes
