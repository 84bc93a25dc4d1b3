"""The linear classifiers: scikit-learn's own checks, one step by hand, the minimal loss, unusual labels."""

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("sklearn")

from pathlib import Path

from sklearn.datasets import make_blobs
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from alexnet.baselines.averaged_sgd import AveragedSGDClassifier
from alexnet.baselines.classifier_training import (
    TrainingJob,
    calibration_jobs,
    fit_temperature,
    optimal_temperature,
    train_classifier,
    train_classifiers,
)
from alexnet.runs.baseline_recipe import BaselineRecipe, ClassifierSettings


def some_rows(num: int = 240, width: int = 30, classes: int = 4, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Unit rows of overlapping classes."""
    rows, labels = make_blobs(num, width, centers=classes, cluster_std=6.0, random_state=seed)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def test_it_passes_scikit_learns_own_checks() -> None:
    outcome = check_estimator(AveragedSGDClassifier(), on_fail=None, on_skip=None)
    assert [(one["check_name"], one["exception"]) for one in outcome if one["status"] == "failed"] == []
    assert sum(one["status"] == "passed" for one in outcome) > 45


def test_steps_are_those_of_the_formula() -> None:
    """Averaged SGD, one class at a time, in float64, from the definition."""
    rows, labels = some_rows(24, 5, 3)
    decay, rate, size, begin = 1e-3, 0.5, 4, 8
    ours = AveragedSGDClassifier(decay, learning_rate=rate, batch_size=size, average_after=begin, positive_weight=2.0)
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


def test_its_loss_is_near_the_minimum() -> None:
    rows, labels = some_rows()
    decay = 1e-2

    def loss(coefficients: NDArray[Any], intercepts: NDArray[Any]) -> float:
        signs = np.where(labels[:, None] == np.arange(4), 1, -1)
        margins = signs * (rows @ coefficients.T + intercepts)
        return float((np.maximum(0, 1 - margins).mean(axis=0) + decay / 2 * (coefficients**2).sum(axis=1)).sum())

    ours = AveragedSGDClassifier(decay, epochs=100, learning_rate=0.5, batch_size=4).fit(rows, labels)
    exact = LinearSVC(C=1 / (decay * len(rows)), loss="hinge", max_iter=200_000, intercept_scaling=10).fit(rows, labels)
    assert loss(ours.coef_, ours.intercept_) < 1.02 * loss(exact.coef_, exact.intercept_)


def test_float16_rows_and_two_classes() -> None:
    rows, labels = some_rows(classes=2)
    names = np.array(["no", "yes"])[labels]
    ours = AveragedSGDClassifier().fit(rows.astype(np.float16), names)
    found = ours.decision_function(rows)
    assert found.shape == (len(rows),) and ours.scores(rows).shape == (len(rows), 2)
    np.testing.assert_array_equal(ours.predict(rows) == "yes", found > 0)


def test_unknown_labels_and_a_single_class_are_refused() -> None:
    rows, labels = some_rows()
    with pytest.raises(ValueError, match="one class"):
        AveragedSGDClassifier().fit(rows, np.zeros(len(rows), int))
    ours = AveragedSGDClassifier().partial_fit(rows, labels, np.arange(4))
    with pytest.raises(ValueError, match="not among the classes"):
        ours.partial_fit(rows, labels + 1)
    with pytest.raises(ValueError, match="not those of the first call"):
        ours.partial_fit(rows, labels, np.arange(5))


def test_a_class_with_one_image_and_one_with_none() -> None:
    rows, labels = some_rows(classes=3)
    kept = np.flatnonzero((labels != 2) | (np.cumsum(labels == 2) == 1))
    ours = AveragedSGDClassifier(epochs=20)
    for _ in range(20):
        ours.partial_fit(rows[kept], labels[kept], np.arange(4))
    scores = ours.scores(rows)
    assert np.isfinite(scores).all() and (scores[:, 3] < 0).all()  # a class without images is never predicted
    assert ours.predict(rows[kept][labels[kept] == 2]) == 2


def test_an_interrupted_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    rows, labels = some_rows()
    recipe = BaselineRecipe(name="sift-fisher", classifier=ClassifierSettings(kind="sgd", epochs=5, weight_decay=1e-3))
    whole_job, job = (
        TrainingJob(name, rows.astype(np.float16), labels, np.arange(len(rows))) for name in ("whole", "part")
    )
    epochs: list[int] = []

    def stop(name: str, epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    def append(name: str, epoch: int) -> None:
        epochs.append(epoch)

    whole = train_classifier(whole_job, 4, recipe, tmp_path, append)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(job, 4, recipe, tmp_path, stop)
    resumed = train_classifier(job, 4, recipe, tmp_path, append)
    assert epochs == [1, 2, 3, 4, 5, 3, 4, 5]
    for name in ("classes_", "coef_", "intercept_", "last_coef_", "last_intercept_", "t_", "n_features_in_"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    (tmp_path / "part.safetensors").write_bytes(b"cut")  # training starts over from a damaged checkpoint
    again = train_classifier(job, 4, recipe, tmp_path, append)
    np.testing.assert_array_equal(again.coef_, whole.coef_)


def test_the_temperature_minimizes_the_loss(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((4000, 5)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(5, p=one) for one in chances])
    assert optimal_temperature(logits * 7, labels) == pytest.approx(7, rel=0.07)
    recipe = BaselineRecipe(name="sift-fisher", classifier=ClassifierSettings(kind="sgd", epochs=2))
    rows, labels = some_rows(200)
    both = [rows.astype(np.float16)] * 2
    assert calibration_jobs(both, labels[:40], 0)[0] == []
    jobs, held_out = calibration_jobs(both, labels, 0)
    assert len(held_out) == 40 and len(jobs[0].images) == 160
    classifiers = train_classifiers(jobs, 4, recipe, tmp_path, 2, lambda name, epoch: None)
    found = fit_temperature(classifiers, both, labels, held_out)
    scores = np.mean([one.scores(rows[held_out]) for one in classifiers], axis=0, dtype=np.float64)

    def loss(temperature: float) -> float:
        scaled = scores / temperature - (scores / temperature).max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(40), labels[held_out]]).mean())

    assert loss(found) <= min(loss(1.05 * found), loss(found / 1.05)) + 1e-6
    assert fit_temperature([], both, labels, np.empty(0, np.int64)) == 1.0


def test_a_job_that_fails_stops_the_others_after_their_epoch(tmp_path: Path) -> None:
    recipe = BaselineRecipe(name="sift-fisher", classifier=ClassifierSettings(kind="sgd", epochs=1000))
    rows, labels = some_rows(60)
    epochs: list[int] = []

    def on_epoch(name: str, epoch: int) -> None:
        epochs.append(epoch)
        if name == "first" and epoch == 3:
            raise KeyboardInterrupt

    jobs = [TrainingJob(name, rows.astype(np.float16), labels, np.arange(len(rows))) for name in ("first", "second")]
    with pytest.raises(KeyboardInterrupt):
        train_classifiers(jobs, 4, recipe, tmp_path, 2, on_epoch)
    assert max(epochs) < 900


def test_the_progress_counts_the_images_of_all_epochs_and_jobs(tmp_path: Path) -> None:
    rows, labels = some_rows(1300)
    features = rows.astype(np.float16)
    jobs = [TrainingJob(name, features, labels, np.arange(num)) for name, num in (("a", 1300), ("b", 600), ("c", 9))]

    def progress_of(epochs: int) -> list[tuple[int, int]]:
        recipe = BaselineRecipe(name="sift-fisher", classifier=ClassifierSettings(kind="sgd", epochs=epochs))
        seen: list[tuple[int, int]] = []
        train_classifiers(jobs, 4, recipe, tmp_path, 2, lambda *_: None, lambda *one: seen.append(one))
        return seen

    first = progress_of(2)
    assert first[0] == (0, 2 * 1909) and first[-1] == (2 * 1909, 2 * 1909)
    assert all(total == 2 * 1909 for _, total in first)
    done = [one for one, _ in first]
    assert done == sorted(done) and len(set(done)) == 1 + 2 * (3 + 2 + 1)  # chunks of 512 images
    # A resumed training counts what is left: one epoch of three.
    again = progress_of(3)
    assert again[-1] == (1909, 1909) and again[0][0] == 0
    assert all(total <= 3 * 1909 for _, total in again)


def test_a_pass_over_few_samples_of_many_classes_does_not_warn() -> None:
    classifier = AveragedSGDClassifier()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.partial_fit(np.eye(4, dtype=np.float32), np.array([3, 1, 0, 2]), np.arange(50))
    assert classifier.t_ == 4
    with pytest.raises(ValueError, match="not among the classes"):
        classifier.partial_fit(np.eye(4, dtype=np.float32)[:1], np.array([50]))
