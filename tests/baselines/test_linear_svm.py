"""The support vector machines: liblinear's and a quadratic program's solutions, the duality gap, folds, resumption."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

pytest.importorskip("sklearn")

from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from alexnet.baselines import gram_matrix as gram_module
from alexnet.baselines import svm_training
from alexnet.baselines.baseline_model import mean_scores
from alexnet.baselines.classifier_training import optimal_temperature
from alexnet.baselines.gram_matrix import gram_matrix, weighted_row_sums
from alexnet.baselines.linear_svm import LinearSVMClassifier, solve_class
from alexnet.baselines.svm_training import (
    GRID,
    require_room_for_products,
    solve_channel,
    stratified_folds,
    train_svms,
)
from alexnet.errors import RequestError
from alexnet.runs.baseline_recipe import ClassifierSettings
from alexnet.storage.npy import ArrayFile


def some_rows(num: int = 150, width: int = 30, classes: int = 4, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Unit rows of overlapping classes."""
    rows, labels = make_blobs(num, width, centers=classes, cluster_std=6.0, random_state=seed)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def on_disk(folder: Path, rows: NDArray[Any]) -> ArrayFile:
    """The rows in float16, as a run has its features."""
    folder.mkdir(exist_ok=True)
    (folder / "rows.f16").write_bytes(rows.astype(np.float16).tobytes())
    return ArrayFile(folder / "rows.f16", np.dtype(np.float16), rows.shape, 0)


def objectives(rows: NDArray[Any], signs: NDArray[Any], limits: NDArray[Any], coef: Any, intercept: Any) -> float:
    """The primal objective of one class, in float64, from its definition."""
    losses = np.maximum(0, 1 - signs * (rows.astype(float) @ coef.astype(float) + float(intercept)))
    return float(0.5 * (coef.astype(float) @ coef + float(intercept) ** 2) + limits @ losses)


def damaged(path: Path, num: int = 16) -> Iterator[int]:
    """Yield where the file is damaged: a bit is flipped at a place of its own each time, the header's bytes first."""
    places = np.unique(np.geomspace(1, path.stat().st_size, num).astype(int) - 1)
    for place in places.tolist():
        content = bytearray(path.read_bytes())
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        yield place


def test_it_passes_scikit_learns_own_checks(recwarn: pytest.WarningsRecorder) -> None:
    outcome = check_estimator(LinearSVMClassifier(), on_fail=None, on_skip=None)
    recwarn.clear()  # the checks have features of any size, with which some classes do not reach the gap
    assert [(one["check_name"], one["exception"]) for one in outcome if one["status"] == "failed"] == []
    assert sum(one["status"] == "passed" for one in outcome) > 45


@pytest.mark.parametrize("positive_weight", [1.0, 3.0])
@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_the_coefficients_are_those_of_liblinear(c: float, positive_weight: float) -> None:
    rows, labels = some_rows()
    ours = LinearSVMClassifier(c, tolerance=1e-9, max_epochs=20_000, positive_weight=positive_weight).fit(rows, labels)
    for one in range(4):
        theirs = LinearSVC(C=c, loss="hinge", tol=1e-9, max_iter=10**6, class_weight={1: positive_weight})
        theirs.fit(rows.astype(float), np.where(labels == one, 1, -1))
        np.testing.assert_allclose(ours.coef_[one], theirs.coef_[0], atol=1e-5)
        np.testing.assert_allclose(ours.intercept_[one], theirs.intercept_[0], atol=1e-5)


def test_the_dual_variables_are_those_of_a_quadratic_program() -> None:
    """min |R a|^2 / 2 - sum a over 0 <= a <= C is a bounded least squares problem, as 1 is in the range of R^T R."""
    rows, labels = some_rows(20, 40, 2)
    signs, c = np.where(labels == 0, 1.0, -1.0), 0.7
    quadratic = np.outer(signs, signs) * (rows.astype(float) @ rows.T.astype(float) + 1)
    root = np.linalg.cholesky(quadratic).T  # R
    exact = lsq_linear(root, np.linalg.solve(root.T, np.ones(20)), (0, c), tol=1e-14, method="bvls").x
    found = solve_class(gram_matrix(rows, 1), labels == 0, np.arange(20), [c], tolerance=1e-12)[0]
    np.testing.assert_allclose(found.weights * signs, exact, atol=1e-5)
    np.testing.assert_allclose(found.scores, (quadratic @ exact) * signs, atol=1e-5)


@settings(max_examples=25)
@given(
    num=st.integers(2, 40),
    width=st.integers(1, 12),
    classes=st.integers(2, 5),
    c=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
@example(num=2, width=1, classes=2, c=1.0, seed=0)
def test_the_gap_is_the_difference_of_the_objectives(num: int, width: int, classes: int, c: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((num, width)).astype(np.float32) / np.float32(np.sqrt(width))
    is_positive, weight = random.integers(0, classes, num) == 0, 2.0
    signs, limits = np.where(is_positive, 1.0, -1.0), np.where(is_positive, weight * c, c)
    everything = np.arange(num)
    products = gram_matrix(rows, 1)
    for one, factor in zip(
        solve_class(products, is_positive, everything, [c, 3 * c], tolerance=1e-3, positive_weight=weight), (1, 3),
        strict=True,
    ):  # fmt: skip
        duals = one.weights * signs
        assert (duals >= 0).all() and (duals <= factor * limits).all()
        np.testing.assert_allclose(one.scores, (products.astype(float) + 1) @ one.weights, atol=1e-9 * (1 + c * num))
        coef, intercept = one.weights @ rows.astype(float), one.weights.sum()
        primal = objectives(rows, signs, factor * limits, coef, intercept)
        dual = duals.sum() - 0.5 * (coef @ coef + intercept**2)
        assert one.gap == pytest.approx((primal - dual) / primal, abs=1e-4)
        assert one.gap <= 1e-3 or one.epochs == 1000


@settings(max_examples=15)
@given(num=st.integers(1, 70), width=st.integers(1, 90), tile=st.sampled_from([4, 16, 32]), workers=st.integers(1, 3))
def test_products_and_sums_of_any_size(num: int, width: int, tile: int, workers: int) -> None:
    random = np.random.default_rng(num + 100 * width)
    rows = random.standard_normal((num, width)).astype(np.float16)
    weights = random.standard_normal((3, num)).astype(np.float32)
    calls: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gram_module, "TILE", tile)
        patch.setattr(gram_module, "PANEL", 2 * tile)
        patch.setattr(gram_module, "BLOCK_BYTES", 16 * 4 * num)  # blocks of 16 columns or more
        products = gram_matrix(rows, workers, progress=lambda *done: calls.append(done))
        np.testing.assert_array_equal(products, gram_matrix(rows, 4 - workers))
        sums = weighted_row_sums(weights, rows, workers)
    exact = rows.astype(float)
    np.testing.assert_allclose(products, exact @ exact.T, rtol=1e-5, atol=2e-5 * width**0.5)
    np.testing.assert_array_equal(products, products.T)
    np.testing.assert_allclose(sums, weights @ exact, rtol=1e-5, atol=2e-5 * num**0.5)
    assert calls == sorted(calls) and calls[-1] == (num * (num + 1) // 2,) * 2


def test_products_continue_from_the_rows_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = some_rows(100)
    monkeypatch.setattr(gram_module, "TILE", 16)
    monkeypatch.setattr(gram_module, "PANEL", 32)
    whole, features = gram_matrix(rows.astype(np.float16), 2), on_disk(tmp_path, rows)

    def stop(done: int, total: int) -> None:
        if done >= 64 * 65 // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gram_matrix(features, 2, checkpoint=tmp_path / "sift", progress=stop)
    assert sorted(one.name for one in tmp_path.glob("sift*")) == ["sift-0.safetensors"]
    computed: list[slice] = []
    add = gram_module._add_products

    def noted(part: Any, features: Any, panel: slice, *others: Any, **named: Any) -> None:
        computed.append(panel)
        add(part, features, panel, *others, **named)

    monkeypatch.setattr(gram_module, "_add_products", noted)
    np.testing.assert_array_equal(gram_matrix(features, 1, checkpoint=tmp_path / "sift"), whole)
    assert [one.start for one in computed] == [32, 64, 96]
    (tmp_path / "sift-64.safetensors").write_bytes(b"cut")  # a damaged part is computed again
    np.testing.assert_array_equal(gram_matrix(features, 1, checkpoint=tmp_path / "sift"), whole)
    assert [one.start for one in computed] == [32, 64, 96, 64]
    for damage in damaged(tmp_path / "sift-64.safetensors"):
        np.testing.assert_array_equal(gram_matrix(features, 1, checkpoint=tmp_path / "sift"), whole, str(damage))


def test_float16_rows_two_classes_and_labels_that_are_text() -> None:
    rows, labels = some_rows(classes=2)
    names = np.array(["no", "yes"])[labels]
    ours = LinearSVMClassifier(10).fit(rows.astype(np.float16), names)
    found = ours.decision_function(rows)
    assert found.shape == (len(rows),) and ours.scores(rows).shape == (len(rows), 2)
    np.testing.assert_array_equal(ours.predict(rows) == "yes", found > 0)
    np.testing.assert_allclose(ours.coef_[0], -ours.coef_[1], atol=0.02)


def test_unusual_rows_and_labels() -> None:
    with pytest.raises(ValueError, match="one class"):
        LinearSVMClassifier().fit(np.eye(3), [1, 1, 1])
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            LinearSVMClassifier().fit(np.full((3, 2), value), [0, 1, 1])
    zeros = LinearSVMClassifier().fit(np.zeros((5, 3)), [0, 1, 1, 1, 1])
    assert (zeros.coef_ == 0).all() and (zeros.predict(np.zeros((1, 3))) == 1).all() and (zeros.gap_ <= 1e-4).all()
    # One sample of each class, and a class whose samples are another's: the labels of those are as likely.
    once = LinearSVMClassifier(100).fit(np.eye(4), [3, 1, 2, 0])
    assert once.predict(np.eye(4)).tolist() == [3, 1, 2, 0]
    same = LinearSVMClassifier(10).fit(np.array([[1.0, 0], [1, 0], [0, 1]]), [0, 1, 2])
    assert same.scores(np.array([[1.0, 0]]))[0, 0] == pytest.approx(same.scores(np.array([[1.0, 0]]))[0, 1], abs=1e-2)
    with pytest.warns(ConvergenceWarning, match="of 4 classes have a relative duality gap above 1e-09 after 2 epochs"):
        LinearSVMClassifier(10, tolerance=1e-9, max_epochs=2).fit(*some_rows())


@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=80), seed=st.integers(0, 9))
def test_folds_are_stratified(labels: list[int], seed: int) -> None:
    folds = stratified_folds(np.array(labels), seed)
    assert set(folds.tolist()) <= set(range(5))
    for counts in [np.bincount(folds, minlength=5)] + [
        np.bincount(folds[np.array(labels) == one], minlength=5) for one in set(labels)
    ]:
        assert counts.max() - counts.min() <= 1


def test_cross_validation_scores_images_by_classifiers_that_were_trained_on_others(tmp_path: Path) -> None:
    rows, labels = some_rows(120, classes=3)
    features, folds = rows.astype(np.float16), stratified_folds(labels, 4)
    products = gram_matrix(features, 2)
    found = solve_channel(products, labels, 4, GRID, folds, 1.0, 2, checkpoint=tmp_path / "a")
    again = solve_channel(products, labels, 4, GRID, folds, 1.0, 1, checkpoint=tmp_path / "b")
    for name, values in vars(found).items():
        np.testing.assert_array_equal(values, getattr(again, name))  # of any number of threads
    assert (found.scores[..., 3] < 0).all() and (found.gaps <= 1e-4).all()  # a class without images
    for fold in range(5):
        inside = folds == fold
        for place, c in enumerate(GRID[:3]):
            theirs = LinearSVC(C=c, loss="hinge", tol=1e-8, max_iter=10**6).fit(
                features[~inside].astype(float), labels[~inside]
            )
            np.testing.assert_allclose(
                found.scores[place, inside, :3], theirs.decision_function(features[inside]), atol=0.05
            )


def quiet(title: str) -> Any:
    return nullcontext(lambda done, total: None)


def test_c_and_the_temperature_come_from_all_images_out_of_fold(tmp_path: Path) -> None:
    rows, labels = some_rows(200, classes=3)
    noise = np.random.default_rng(1).standard_normal(rows.shape).astype(np.float32)
    features = {"sift": rows.astype(np.float16), "color": (rows + 0.1 * noise).astype(np.float16)}
    events: dict[str, Any] = {}

    def train(seed: int, c: float, folder: str) -> Any:
        (tmp_path / folder).mkdir()

        def log(event: str, **values: Any) -> None:
            events.setdefault(event, []).append(values)

        stored = {name: on_disk(tmp_path / name, one) for name, one in features.items()}
        return train_svms(stored, labels, 3, ClassifierSettings(c=c), seed, tmp_path / folder, 2, quiet, log)

    classifiers, temperature = train(0, 0, "chosen")
    validated, fitted = events["cross_validation"][0], events["classifier"]
    assert len(validated["accuracy"]) == len(GRID) == len(validated["c"])
    # The value of C that scikit-learn finds best in the same folds, by the mean score of both channels.
    folds, means = stratified_folds(labels, 0), []
    for c in GRID[:3]:
        mean = np.zeros((200, 3))
        for fold in range(5):
            inside = folds == fold
            for values in features.values():
                svm = LinearSVC(C=c, loss="hinge", tol=1e-6, max_iter=10**6)
                mean[inside] += (
                    svm.fit(values[~inside].astype(float), labels[~inside]).decision_function(values[inside]) / 2
                )
        means.append(mean)
    theirs = [float((mean.argmax(axis=1) == labels).mean()) for mean in means]
    np.testing.assert_allclose(validated["accuracy"][:3], theirs, atol=0.0101)  # two images that are hard to tell
    chosen = GRID[int(np.argmax(validated["accuracy"]))]
    assert validated["chosen_c"] == chosen == classifiers[0].c == classifiers[1].c == fitted[1]["c"]
    assert [one["name"] for one in fitted] == ["sift", "color"] and fitted[0]["relative_gap"] <= 1e-4
    assert temperature == pytest.approx(optimal_temperature(means[GRID.index(chosen)], labels), rel=0.05)
    directly = [LinearSVMClassifier(chosen).fit(values, labels) for values in features.values()]
    both = [mean_scores(one, list(features.values())) for one in (classifiers, directly)]
    np.testing.assert_allclose(both[0], both[1], atol=0.02)  # from other starts, each to the same gap
    train(0, 2.0, "given")
    assert events["cross_validation"][-1]["c"] == (2.0,) and events["cross_validation"][-1]["chosen_c"] == 2.0


def test_few_images_are_not_divided_and_many_are_refused(tmp_path: Path) -> None:
    rows, labels = some_rows(49, classes=2)
    events: list[str] = []

    def log(event: str, **values: Any) -> None:
        events.append(event)

    features = {"sift": on_disk(tmp_path / "features", rows)}
    (classifier,), temperature = train_svms(features, labels, 2, ClassifierSettings(), 0, tmp_path, 1, quiet, log)
    assert (classifier.c, temperature, events) == (10.0, 1.0, ["classifier"])
    require_room_for_products(20_000)
    with pytest.raises(RequestError, match=r"20,001 training images need 1.6 GB .* --classifier.kind sgd"):
        require_room_for_products(20_001)


def test_solved_classes_are_not_solved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = some_rows()
    products, folds = gram_matrix(rows, 1), stratified_folds(labels, 0)
    whole = solve_channel(products, labels, 4, GRID, folds, 1.0, 1, checkpoint=tmp_path / "whole")
    monkeypatch.setattr(svm_training, "CHECKPOINT_EVERY_S", 0.0)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve_channel(products, labels, 4, GRID, folds, 1.0, 1, checkpoint=tmp_path / "part", progress=stop)
    solved: list[int] = []
    solve = svm_training.solve_class

    def noted(products: Any, is_positive: Any, *others: Any, **named: Any) -> Any:
        solved.append(int(labels[is_positive][0]))
        return solve(products, is_positive, *others, **named)

    monkeypatch.setattr(svm_training, "solve_class", noted)
    for _ in range(2):
        found = solve_channel(products, labels, 4, GRID, folds, 1.0, 1, checkpoint=tmp_path / "part")
        for name, values in vars(whole).items():
            np.testing.assert_array_equal(getattr(found, name), values)
        assert sorted(solved) == [2] * 6 + [3] * 6  # five folds and all images; the second time nothing
    for damage in damaged(tmp_path / "part", 4):
        found = solve_channel(products, labels, 4, GRID, folds, 1.0, 1, checkpoint=tmp_path / "part")
        for name, values in vars(whole).items():
            np.testing.assert_array_equal(getattr(found, name), values, str(damage))
    solved.clear()
    solved.extend([0] * 12)
    (tmp_path / "part").write_bytes(b"cut")  # everything is solved again from a damaged checkpoint
    solve_channel(products, labels, 4, GRID, folds, 1.0, 1, checkpoint=tmp_path / "part")
    assert len(solved) == 12 + 24


def test_checkpoints_of_other_settings_are_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = some_rows(60)
    features, logged = {"sift": on_disk(tmp_path, rows)}, []

    def log(event: str, **values: Any) -> None:
        logged.append(values)

    def bar(title: str) -> Any:
        return nullcontext(lambda done, total: None)

    for grid in (GRID, (0.2, 1.0, 10.0, 100.0)):
        monkeypatch.setattr(svm_training, "GRID", grid)
        train_svms(features, labels, 4, ClassifierSettings(), 0, tmp_path, 1, bar, log)
    assert len(list(tmp_path.glob("*-solutions.safetensors"))) == 2
