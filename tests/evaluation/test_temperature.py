"""Temperatures against SciPy and made-up networks whose temperature is known."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.predictions import NumViews, save_predictions
from alexnet.evaluation.temperature import MIN_IMAGES, TEMPERATURES, calibrator_for, fit_calibrator
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK
from alexnet.storage.tensors import read_tensors, write_sealed_tensors


def made_up(seed: int, num: int, num_classes: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a network that is `temperature` times too confident, float32 (N, K), and labels drawn."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2, (num, num_classes))
    honest = scipy.special.softmax(scores, axis=1)
    labels = (honest.cumsum(axis=1) < random.uniform(size=(num, 1))).sum(axis=1).clip(0, num_classes - 1)
    return scipy.special.softmax(scores * temperature, axis=1).astype(np.float32), labels


def loss(probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean negative log-likelihood, written with SciPy in float64."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), 2.0**-126)) / temperature
    return float(-scipy.special.log_softmax(logs, axis=1)[np.arange(len(labels)), labels].mean())


@given(
    seed=st.integers(0, 2**32 - 1),
    num=st.integers(MIN_IMAGES, 200),
    num_classes=st.integers(2, 12),
    temperature=st.floats(0.2, 8),
)
def test_the_temperature_is_scipys_minimum(seed: int, num: int, num_classes: int, temperature: float) -> None:
    probabilities, labels = made_up(seed, num, num_classes, temperature)
    found = fit_calibrator(probabilities, labels, "val", 1).temperature
    # Convex in 1/T, so that is what is searched.
    lowest, highest = (1 / one for one in reversed(TEMPERATURES))
    search = scipy.optimize.minimize_scalar(
        lambda inverse: loss(probabilities, labels, 1 / inverse),
        bounds=(lowest, highest),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert loss(probabilities, labels, found) <= search.fun + 1e-9
    assert found == pytest.approx(1 / search.x, rel=1e-3) or found in pytest.approx(TEMPERATURES)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
def test_a_known_temperature_is_recovered_and_calibrates(temperature: float) -> None:
    probabilities, labels = made_up(3, 20_000, 10, temperature)
    found = fit_calibrator(probabilities, labels, "val", 10)
    assert found.temperature == pytest.approx(temperature, rel=0.03)
    assert found.error_after < 0.012
    if temperature != 1:
        assert found.error_before > 5 * found.error_after
    for threshold in (0.5, 0.8, 0.95):
        answered = found.coverage(threshold)
        assert answered.accuracy is not None and answered.interval is not None
        # Of answers that are right with at least this probability, that many are right.
        assert answered.accuracy > threshold and answered.interval[0] < answered.accuracy < answered.interval[1]


@given(seed=st.integers(0, 2**32 - 1), temperature=st.floats(0.2, 8))
def test_coverage_falls_and_counts_what_a_loop_counts(seed: int, temperature: float) -> None:
    probabilities, labels = made_up(seed, 80, 5, temperature)
    found = fit_calibrator(probabilities, labels, "val", 1)
    thresholds = np.linspace(0, 1, 21)
    coverages = [found.coverage(float(one)) for one in thresholds]
    answered = [one.answered for one in coverages]
    assert answered == sorted(answered, reverse=True)
    assert answered[0] == 1 and coverages[0].accuracy == pytest.approx((probabilities.argmax(1) == labels).mean())
    for threshold, one in zip(thresholds, coverages, strict=True):
        rows = [row for row in range(80) if found.confidence[row] >= threshold]
        right = [probabilities[row].argmax() == labels[row] for row in rows]
        assert one.num_answered == len(rows)
        assert one.accuracy == (pytest.approx(np.mean(right)) if rows else None)


def test_the_figures_shown_are_of_images_that_the_temperature_was_not_fitted_to() -> None:
    """With one temperature for all images, their confidence would be that of `calibrated`."""
    probabilities, labels = made_up(5, 60, 4, 2.0)
    found = fit_calibrator(probabilities, labels, "val", 1)
    together = found.calibrated(probabilities).max(axis=1)
    np.testing.assert_allclose(found.confidence, together, atol=0.1)
    assert (np.abs(found.confidence - together) > 1e-4).sum() > 40
    # Each image's own label decides nothing about its confidence.
    changed = labels.copy()
    changed[0] = (labels[0] + 1) % 4
    other = fit_calibrator(probabilities, changed, "val", 1)
    assert other.confidence[0] == pytest.approx(found.confidence[0], rel=1e-8)
    assert (np.abs(other.confidence - found.confidence) > 1e-5).sum() > 40


@given(seed=st.integers(0, 2**32 - 1), temperature=st.floats(0.2, 8), dtype=st.sampled_from([np.float32, np.float64]))
def test_calibrated_probabilities_are_powers_in_the_same_order(seed: int, temperature: float, dtype: type) -> None:
    probabilities, labels = made_up(seed, MIN_IMAGES, 6, temperature)
    found = fit_calibrator(probabilities, labels, "val", 1)
    given_ones = probabilities.astype(dtype)
    calibrated = found.calibrated(given_ones)
    # What float32 cannot hold counts as its smallest number, as in the loss.
    powers = np.maximum(given_ones, np.finfo(np.float32).tiny, dtype=np.float64) ** (1 / found.temperature)
    np.testing.assert_allclose(calibrated, powers / powers.sum(1, keepdims=True), rtol=1e-5, atol=1e-12)
    assert calibrated.dtype == dtype and calibrated.shape == given_ones.shape
    np.testing.assert_array_equal(calibrated.argmax(1), given_ones.argmax(1))


def test_zeros_ones_and_extremes() -> None:
    labels = np.arange(100) % 2
    certain = np.eye(2, dtype=np.float32)[labels]
    right, wrong = (fit_calibrator(one, labels, "val", 1) for one in (certain, certain[:, ::-1]))
    # With all answers right, the likelihood is soon flat.
    assert "temperature 20.00 (the largest allowed), calibration error" in wrong.describe(0.5)
    lowest = replace(right, temperature=TEMPERATURES[0])
    assert "temperature 0.05 (the smallest allowed), calibration error" in lowest.describe(0.5)
    assert TEMPERATURES[0] <= right.temperature < 0.2 and wrong.temperature == pytest.approx(TEMPERATURES[1])
    assert right.coverage(0.99).accuracy == 1 and right.coverage(0.99).interval[0] > 0.95
    # An underflowed probability counts as 2^-126.
    low = 2.0 ** (-126 / TEMPERATURES[1])
    np.testing.assert_allclose(wrong.calibrated(certain)[1], [low / (1 + low), 1 / (1 + low)], rtol=1e-5)
    # One certain mistake among 99 certain answers costs 87.3 nats, not infinitely many.
    mixed = certain.copy()
    mixed[0] = [0, 1]
    found = fit_calibrator(mixed, labels, "val", 1)
    assert TEMPERATURES[0] < found.temperature <= TEMPERATURES[1]
    assert found.calibrated(mixed).max() < 1
    # All classes tie: nothing can be learned, and nothing fails.
    even = fit_calibrator(np.full((100, 2), 0.5, np.float32), labels, "val", 1)
    assert even.coverage(0.5).accuracy == 0.5 and even.coverage(0.51).accuracy is None
    assert "--reject 0.51 answers none of them" in even.describe(0.51)


def test_what_cannot_be_calibrated_is_refused() -> None:
    probabilities, labels = made_up(0, MIN_IMAGES - 1, 3, 1.0)
    with pytest.raises(RequestError, match=r"split 'val' has 49 images, too few to calibrate .* needs 50 or more"):
        fit_calibrator(probabilities, labels, "val", 1)
    probabilities, labels = made_up(0, 60, 3, 1.0)
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(RequestError, match=r"--reject is .*; allowed is a probability from 0 to 1"):
            fit_calibrator(probabilities, labels, "val", 1).coverage(threshold)
    with pytest.raises(ValueError, match="not finite"):
        fit_calibrator(np.where(probabilities == probabilities.max(), np.nan, probabilities), labels, "val", 1)
    with pytest.raises(ValueError, match="labels run from"):
        fit_calibrator(probabilities, labels + 1, "val", 1)


def test_the_line_and_the_object() -> None:
    probabilities, labels = made_up(1, 5000, 10, 1.5)
    wider = np.concatenate([probabilities, np.full((5000, 2), 1e-9, np.float32)], axis=1)
    found = fit_calibrator(wider, labels, "val", 10)
    cut = found.coverage(0.8)
    line = found.describe(0.8)
    assert line.startswith(
        "calibrated on 5,000 images of split 'val' (10 views, no images of 2 of the classes): temperature 1."
    )
    assert "allowed" not in line
    assert f"--reject 0.8 answers {100 * cut.answered:.1f} % of them, and {100 * cut.accuracy:.1f} % [" in line
    assert "\n" not in line
    described = json.loads(json.dumps(found.to_dict()))
    assert (described["num_images"], described["classes_absent"], described["num_views"]) == (5000, 2, 10)
    assert described["temperature"] == found.temperature
    assert json.loads(json.dumps(cut.to_dict()))["accuracy_interval"] == list(cut.interval)


@pytest.fixture
def data(make_tree: Any, tmp_path: Path) -> PreparedData:
    return prepare(make_tree("own", train=1, val=20), tmp_path / "data", side=32)


def a_run(path: Path, data: PreparedData, **described: Any) -> RunFolder:
    return RunFolder.create(path, QUICK, {"data": {"folder": str(data.folder), "checksum": data.checksum, **described}})


def saved(run: RunFolder, data: PreparedData, split: str = "val", num_views: NumViews = 10) -> Path:
    """Probabilities of a network that knows the classes, more or less, in the run's `predictions/`."""
    (run.path / "predictions").mkdir(exist_ok=True)
    num = len(data.splits[split])
    scores = np.random.default_rng(1).normal(0, 2, (num, 3)) + 2 * np.eye(3)[data.splits[split].labels]
    probabilities = scipy.special.softmax(scores * 3, axis=1).astype(np.float32)
    return save_predictions(run.path / "predictions", split, num_views, probabilities, data)


def test_a_runs_saved_probabilities_calibrate_it_without_its_data(tmp_path: Path, data: PreparedData) -> None:
    run = a_run(tmp_path / "run", data, splits={"train": 3, "val": 60})
    path = saved(run, data)
    found = calibrator_for(run.path, 10)
    tensors, _ = read_tensors(path, "numpy", "")
    same = fit_calibrator(tensors["probabilities"], data.splits["val"].labels, "val", 10)
    assert (found.temperature, found.num_images, found.num_views) == (same.temperature, 60, 10)
    assert found.temperature > 1.5
    shutil.rmtree(data.folder)
    assert calibrator_for(str(run.path), 10).temperature == found.temperature


def test_probabilities_that_were_saved_without_labels_take_them_from_the_data(
    tmp_path: Path, data: PreparedData
) -> None:
    run = a_run(tmp_path / "run", data)
    path = saved(run, data)
    want = calibrator_for(run.path, 10).temperature
    without_labels(path)
    assert calibrator_for(run.path, 10).temperature == want
    data.folder.rename(tmp_path / "moved")
    with pytest.raises(RequestError, match=r"has no labels.*does not exist.*`alexnet evaluate \S+ --views 10`"):
        calibrator_for(run.path, 10)


def without_labels(path: Path) -> None:
    """As earlier versions wrote the file."""
    tensors, metadata = read_tensors(path, "numpy", "")
    del tensors["labels"]
    write_sealed_tensors(path, tensors, metadata)


def test_the_validation_split_is_never_replaced_by_the_test_split(tmp_path: Path, data: PreparedData) -> None:
    both = replace(data, splits={**data.splits, "test": replace(data.splits["val"], name="test")})
    run = a_run(tmp_path / "run", both, splits={"train": 3, "val": 60, "test": 60})
    saved(run, both, "test")
    saved(run, both, "val", num_views=1)
    with pytest.raises(RequestError, match=r"no saved probabilities of split 'val' with 10 views; run `alexnet evalu"):
        calibrator_for(run.path, 10)
    assert calibrator_for(run.path, 1).split == "val"
    # Data without a validation split has no other; the line names it.
    run = a_run(tmp_path / "other", both, splits={"train": 3, "test": 60})
    saved(run, both, "test")
    assert "60 images of split 'test' (10 views)" in calibrator_for(run.path, 10).describe(0.5)


def test_files_that_do_not_fit_are_refused(tmp_path: Path, data: PreparedData) -> None:
    run = a_run(tmp_path / "run", data)
    path = saved(run, data)
    with pytest.raises(
        RequestError, match=r"is a weights file, without the saved probabilities .* give the run folder"
    ):
        calibrator_for(path, 10)
    for labels in (np.full(60, 3), np.full(60, -1), np.zeros(59, np.int64)):
        tensors, metadata = read_tensors(path, "numpy", "")
        write_sealed_tensors(path, {**tensors, "labels": labels}, metadata)
        with pytest.raises(WorkError, match=r"is damaged \(labels: they are not 60 of 3 classes\)"):
            calibrator_for(run.path, 10)
    other = a_run(tmp_path / "other", replace(data, checksum="ab" * 32))
    saved(other, data)
    with pytest.raises(RequestError, match=r"was computed on data that .* was not trained on"):
        calibrator_for(other.path, 10)
