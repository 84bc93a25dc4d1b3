"""Linear probes: what is learned, what is not seen in training, and the intervals."""

import logging
from typing import Any

import numpy as np
import pytest

from alexnet.errors import RequestError
from alexnet.explore.representations import linear_probe

sklearn_model = pytest.importorskip("sklearn.linear_model")
selection = pytest.importorskip("sklearn.model_selection")
pipeline = pytest.importorskip("sklearn.pipeline")
preprocessing = pytest.importorskip("sklearn.preprocessing")
scipy_stats = pytest.importorskip("scipy.stats")


def three_classes(num: int, seed: int, spread: float = 1.2, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Activations around a center per class, of units on different scales."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(1).normal(size=(3, width))
    labels = random.integers(0, 3, num)
    rows = (centers[labels] + spread * random.normal(size=(num, width))) * np.geomspace(0.01, 100, width) + 3
    return rows.astype(np.float32), labels


def test_it_is_scikit_learns_search_within_each_fold() -> None:
    """Against a pipeline that standardizes within, and a grid search in each training fold."""
    rows, labels = three_classes(90, 0)
    grid = (1e-3, 1e-1, 10.0)
    found = linear_probe(rows.reshape(90, 3, 2, 1), labels, grid=grid, seed=5)
    wrong, chosen, by_fold = 0, [], []
    for train, held in selection.StratifiedKFold(5, shuffle=True, random_state=5).split(rows, labels):
        search = selection.GridSearchCV(
            pipeline.make_pipeline(preprocessing.StandardScaler(), sklearn_model.LogisticRegression(tol=1e-3)),
            {"logisticregression__C": grid},
            cv=selection.StratifiedKFold(3, shuffle=True, random_state=5),
        ).fit(rows[train].astype(np.float64), labels[train])
        chosen.append(search.best_params_["logisticregression__C"])
        is_wrong = search.predict(rows[held].astype(np.float64)) != labels[held]
        wrong += is_wrong.sum()
        by_fold.append(1 - is_wrong.mean())
    assert found.chosen == tuple(chosen)
    np.testing.assert_allclose(found.accuracy, 1 - wrong / 90, rtol=1e-12)
    np.testing.assert_allclose(found.fold_accuracies, by_fold, rtol=1e-12)
    # Wilson's interval in its other form: the solutions of (p - rate)^2 = z^2 p (1 - p) / n.
    z, rate = 1.959963984540054, found.accuracy
    roots = np.roots([1 + z * z / 90, -2 * rate - z * z / 90, rate * rate])
    np.testing.assert_allclose(found.interval, sorted(roots), rtol=1e-9)
    want = scipy_stats.t.interval(0.95, 4, np.mean(by_fold), scipy_stats.sem(by_fold))
    np.testing.assert_allclose(found.fold_interval, want, rtol=1e-9)
    assert (found.num_train, found.num_test, found.num_values, found.num_classes) == (72, 90, 6, 3)
    np.testing.assert_allclose(found.chance, np.bincount(labels).max() / 90)
    assert found == linear_probe(rows, labels, grid=grid, seed=5)


def test_held_out_images_are_not_trained_on() -> None:
    """Labels without relation to many activations: whoever saw the tested images would be right about them."""
    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(120, 300)), random.integers(0, 2, 120)
    found = linear_probe(rows, labels, grid=(1e-4, 1e-2))
    assert found.interval[0] < 0.5 < found.interval[1]


def test_it_is_trained_on_one_set_and_tested_on_another(caplog: pytest.LogCaptureFixture) -> None:
    rows, labels = three_classes(150, 0)
    others, other_labels = three_classes(70, 1)
    found = linear_probe(rows, labels, test=(others, other_labels), grid=(1e-3, 1e-1, 10.0))
    scaler = preprocessing.StandardScaler().fit(rows.astype(np.float64))
    model = sklearn_model.LogisticRegression(C=found.chosen[0], max_iter=2000)
    model.fit(scaler.transform(rows.astype(np.float64)), labels)
    right = (model.predict(scaler.transform(others.astype(np.float64))) == other_labels).sum()
    np.testing.assert_allclose(found.accuracy, right / 70, rtol=1e-12)
    np.testing.assert_allclose(found.chance, np.bincount(other_labels).max() / 70)
    assert found.fold_interval is None and len(found.chosen) == 1 and (found.num_train, found.num_test) == (150, 70)
    assert "linear probe" in found._repr_html_() and "of 70 images, 95 % interval" in repr(found)
    assert found.to_dict()["chosen"] == list(found.chosen) and found.to_dict()["fold_interval"] is None
    linear_probe(rows, labels, test=(others, other_labels), grid=(1e-9, 1e-8))
    assert "is at an end of the grid, C = 1e-0" in caplog.text


def test_equal_accuracies_take_the_strongest_penalty() -> None:
    labels = np.arange(40) % 2
    rows = np.stack([labels * 2.0 - 1, np.ones(40)], axis=1)  # of a constant unit, too
    found = linear_probe(rows, labels, grid=(1.0, 0.01, 0.1))
    assert found.accuracy == 1 and found.chosen == (0.01,) * 5 and found.grid == (0.01, 0.1, 1.0)


def test_nothing_is_chosen_from_one_penalty() -> None:
    """So a class needs no images for inner folds."""
    rows, labels = three_classes(9, 0)[0], np.arange(9) % 3
    found = linear_probe(rows, labels, grid=(0.1,), folds=3, inner_folds=50)
    assert found.chosen == (0.1,) * 3 and found.num_test == 9


def test_a_unit_that_is_constant_but_for_rounding_is_not_enlarged() -> None:
    rows, labels = three_classes(60, 0, spread=0.1)
    others, other_labels = three_classes(60, 1, spread=0.1)
    rows, others = (np.concatenate([one, np.full((60, 1), 0.1, np.float32)], axis=1) for one in (rows, others))
    rows[::2, -1] = np.nextafter(rows[::2, -1], np.float32(1))
    plain = linear_probe(rows, labels, test=(others, other_labels), grid=(0.1,))
    others[::2, -1] += 0.5
    excited = linear_probe(rows, labels, test=(others, other_labels), grid=(0.1,))
    assert plain.accuracy == excited.accuracy > 0.9


def test_it_says_if_training_does_not_converge(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("alexnet.explore.linear_probe.MOST_ITERATIONS", 1)
    caplog.set_level(logging.WARNING)
    found = linear_probe(*three_classes(60, 0), grid=(10.0,), folds=2)
    said = "2 of 2 classifiers did not converge in 1 iterations, with C = 10; leave"
    assert found.num_unconverged == 2 and said in caplog.text


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0] * 10, {}, "all images are of one class; a linear probe needs images of two or more"),
        ([0] * 7 + [1] * 3, {}, "class 1 has 3 images, too few for 5 folds and 3 inner folds; use"),
        ([0] * 7 + [1] * 3, {"grid": (1.0,)}, "class 1 has 3 images, too few for 5 folds; use"),
        ([0, 1] * 4 + [-1, -1], {}, "2 images have no label; leave them out"),
        ([0, 1] * 4, {}, "the activations and labels are of 10 and 8 images"),
        ([0.5] * 10, {}, r"the labels are an array of float64 \(10,\); allowed are whole numbers"),
        (None, {}, "the labels are None: activations of photographs have none"),
        ([0, 1] * 5, {"folds": 1}, "folds is 1; allowed is 2 or more"),
        ([0, 1] * 5, {"inner_folds": 2.5}, "inner_folds is 2.5; allowed is 2 or more"),
        ([0, 1] * 5, {"grid": ()}, r"grid is \(\); allowed are values of C"),
        ([0, 1] * 5, {"grid": (0.0,)}, r"grid is \(0.0,\); allowed are values of C"),
        ([0, 1] * 5, {"test": (np.ones((2, 3)), [0, 1])}, "the test images have 3 values each and the others 2"),
        ([0, 1] * 5, {"test": (np.ones((2, 2)), [0, 7])}, "the test images have classes without training images: 7"),
        ([0, 1] * 5, {"test": (np.ones((2, 2)), [0, -1])}, "1 test images have no label"),
        ([0, 1] * 5, {"test": (np.full((2, 2), np.nan), [0, 1])}, "the test activations are not finite"),
    ],
)
def test_wrong_requests_are_refused(labels: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        linear_probe(np.arange(20.0).reshape(10, 2), labels, **options)
