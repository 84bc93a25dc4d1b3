"""The linear classifiers: scikit-learn's own checks, one step by hand, the least loss, what odd labels do."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("sklearn")

from pathlib import Path

from sklearn.datasets import make_blobs
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from alexnet.baselines.averaged_sgd import AveragedSgd
from alexnet.baselines.classifier_training import (
    Lesson,
    best_temperature,
    fitted_temperature,
    held_out_lessons,
    learned_classifier,
    learned_classifiers,
)
from alexnet.runs.baseline_recipe import BaselineRecipe, ClassifierSettings


def some_rows(num: int = 240, width: int = 30, classes: int = 4, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Unit rows of overlapping classes."""
    rows, labels = make_blobs(num, width, centers=classes, cluster_std=6.0, random_state=seed)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def test_it_passes_scikit_learns_own_checks() -> None:
    outcome = check_estimator(AveragedSgd(), on_fail=None, on_skip=None)
    assert [(one["check_name"], one["exception"]) for one in outcome if one["status"] == "failed"] == []
    assert sum(one["status"] == "passed" for one in outcome) > 45


def test_steps_are_those_of_the_formula() -> None:
    """Averaged SGD of each class by itself, in float64, from the definition."""
    rows, labels = some_rows(24, 5, 3)
    decay, rate, size, begin = 1e-3, 0.5, 4, 8
    ours = AveragedSgd(decay, learning_rate=rate, batch_size=size, average_after=begin, positive_weight=2.0)
    ours.partial_fit(rows, labels, np.arange(3))
    for one in range(3):
        w, b, seen = np.zeros(5), 0.0, 0
        means: list[tuple[NDArray[Any], float]] = []
        for first in range(0, 24, size):
            gradient, of_bias = np.zeros(5), 0.0
            for x, label in zip(rows[first : first + size].astype(float), labels[first : first + size], strict=True):
                y = 1 if label == one else -1
                if y * (w @ x + b) < 1:
                    gradient += (2.0 if y > 0 else 1.0) * y * x
                    of_bias += (2.0 if y > 0 else 1.0) * y
            step = rate / (1 + rate * decay * seen) ** 0.75
            w = w * (1 - step * decay * size) + step * gradient
            b += step * of_bias
            seen += size
            means = [*means, (w, b)] if seen > begin + size else [(w, b)]
        np.testing.assert_allclose(ours.coef_[one], np.mean([w for w, _ in means], axis=0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(ours.intercept_[one], np.mean([b for _, b in means]), rtol=1e-4, atol=1e-6)


def test_its_loss_comes_near_the_least() -> None:
    rows, labels = some_rows()
    decay = 1e-2

    def loss(coefficients: NDArray[Any], intercepts: NDArray[Any]) -> float:
        signs = np.where(labels[:, None] == np.arange(4), 1, -1)
        margins = signs * (rows @ coefficients.T + intercepts)
        return float((np.maximum(0, 1 - margins).mean(axis=0) + decay / 2 * (coefficients**2).sum(axis=1)).sum())

    ours = AveragedSgd(decay, epochs=100, learning_rate=0.5, batch_size=4).fit(rows, labels)
    exact = LinearSVC(C=1 / (decay * len(rows)), loss="hinge", max_iter=200_000, intercept_scaling=10).fit(rows, labels)
    assert loss(ours.coef_, ours.intercept_) < 1.02 * loss(exact.coef_, exact.intercept_)


def test_float16_rows_and_two_classes() -> None:
    rows, labels = some_rows(classes=2)
    names = np.array(["no", "yes"])[labels]
    ours = AveragedSgd().fit(rows.astype(np.float16), names)
    found = ours.decision_function(rows)
    assert found.shape == (len(rows),) and ours.scores(rows).shape == (len(rows), 2)
    np.testing.assert_array_equal(ours.predict(rows) == "yes", found > 0)


def test_labels_that_no_class_has_and_one_class_are_refused() -> None:
    rows, labels = some_rows()
    with pytest.raises(ValueError, match="one class"):
        AveragedSgd().fit(rows, np.zeros(len(rows), int))
    ours = AveragedSgd().partial_fit(rows, labels, np.arange(4))
    with pytest.raises(ValueError, match="not among the classes"):
        ours.partial_fit(rows, labels + 1)
    with pytest.raises(ValueError, match="not those of the first call"):
        ours.partial_fit(rows, labels, np.arange(5))


def test_a_class_with_one_image_and_one_with_none() -> None:
    rows, labels = some_rows(classes=3)
    kept = np.flatnonzero((labels != 2) | (np.cumsum(labels == 2) == 1))
    ours = AveragedSgd(epochs=20)
    for _ in range(20):
        ours.partial_fit(rows[kept], labels[kept], np.arange(4))
    scores = ours.scores(rows)
    assert np.isfinite(scores).all() and (scores[:, 3] < 0).all()  # a class without images is never answered
    assert ours.predict(rows[kept][labels[kept] == 2]) == 2


def test_passes_that_were_broken_off_are_gone_on_with_bit_for_bit(tmp_path: Path) -> None:
    rows, labels = some_rows()
    kept = rows.astype(np.float16)
    recipe = BaselineRecipe(name="sift-fisher", classifier=ClassifierSettings(epochs=5, weight_decay=1e-3))
    whole = learned_classifier(kept, labels, 4, recipe, tmp_path / "whole.safetensors", lambda epoch: None)

    def stop(epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learned_classifier(kept, labels, 4, recipe, tmp_path / "part.safetensors", stop)
    passes: list[int] = []
    again = learned_classifier(kept, labels, 4, recipe, tmp_path / "part.safetensors", passes.append)
    assert passes == [3, 4, 5]
    for name in AveragedSgd.arrays:
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    (tmp_path / "part.safetensors").write_bytes(b"cut")  # a damaged one is begun anew
    anew = learned_classifier(kept, labels, 4, recipe, tmp_path / "part.safetensors", lambda epoch: None)
    np.testing.assert_array_equal(anew.coef_, whole.coef_)


def test_the_temperature_is_where_the_loss_is_least(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((4000, 5)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(5, p=one) for one in chances])
    assert best_temperature(logits * 7, labels) == pytest.approx(7, rel=0.07)
    recipe = BaselineRecipe(name="sift-fisher", classifier=ClassifierSettings(epochs=2))
    rows, labels = some_rows(200)
    both = [rows.astype(np.float16)] * 2
    assert held_out_lessons(both, labels[:40], 0)[0] == []
    lessons, held = held_out_lessons(both, labels, 0)
    assert len(held) == 40 and len(lessons[0].labels) == 160
    classifiers = learned_classifiers(lessons, 4, recipe, tmp_path, 2, lambda name, epoch: None)
    found = fitted_temperature(classifiers, both, labels, held)
    scores = np.mean([one.scores(rows[held]) for one in classifiers], axis=0, dtype=np.float64)

    def loss(temperature: float) -> float:
        scaled = scores / temperature - (scores / temperature).max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(40), labels[held]]).mean())

    assert loss(found) <= min(loss(1.05 * found), loss(found / 1.05)) + 1e-6
    assert fitted_temperature([], both, labels, np.empty(0, np.int64)) == 1.0


def test_a_lesson_that_fails_stops_the_others_after_their_pass(tmp_path: Path) -> None:
    recipe = BaselineRecipe(name="sift-fisher", classifier=ClassifierSettings(epochs=1000))
    rows, labels = some_rows(60)
    passes: list[int] = []

    def told(name: str, epoch: int) -> None:
        passes.append(epoch)
        if name == "first" and epoch == 3:
            raise KeyboardInterrupt

    lessons = [Lesson(name, rows.astype(np.float16), labels) for name in ("first", "second")]
    with pytest.raises(KeyboardInterrupt):
        learned_classifiers(lessons, 4, recipe, tmp_path, 2, told)
    assert max(passes) < 900
