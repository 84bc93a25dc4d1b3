"""Averages of made-up runs: against plain NumPy, greedy weights against the original search written as plain loops."""

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.cli.tables import print_ensemble
from alexnet.data.dataset import ClassInfo, PreparedData, Split, Statistics
from alexnet.errors import RequestError
from alexnet.evaluation import ensemble
from alexnet.evaluation.ensemble import average_runs, greedy_weights, weighted_mean
from alexnet.evaluation.metrics import count_errors
from alexnet.evaluation.predictions import save_predictions
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK


def made_up_data(num, num_classes, checksum="ab" * 32):
    labels = np.arange(num, dtype=np.int64) % num_classes
    split = Split("val", np.zeros((num, 2, 2, 3), np.uint8), labels, [f"val/{place}" for place in range(num)])
    return PreparedData(
        folder=Path("made-up"),
        title="made up",
        generated=True,
        classes=tuple(ClassInfo(f"c{one}", f"class {one}") for one in range(num_classes)),
        splits={"val": split, "train": split},
        side=2,
        statistics=Statistics(np.zeros((2, 2, 3), np.float32), np.eye(3), np.ones(3), np.eye(3)),
        checksum=checksum,
    )


def answers(random, labels, num_classes, sureness):
    """Probabilities of a network that knows the right class the better, the greater its sureness."""
    scores = random.normal(size=(len(labels), num_classes))
    scores[np.arange(len(labels)), labels] += sureness
    powers = np.exp(scores)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def make_run(path, data, probabilities, num_views=10):
    facts = {"data": {"folder": "made-up", "title": data.title, "checksum": data.checksum}}
    run = path if (path / "run.json").exists() else RunFolder.create(path, QUICK, facts).path
    save_predictions(run / "predictions", "val", num_views, probabilities, data)
    return run


@pytest.fixture(autouse=True)
def made_up_folder(tmp_path, monkeypatch):
    """The folder of the data set, which is looked for; its content is made up."""
    (tmp_path / "made-up").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def opened(monkeypatch):
    """What stands for the data set on the disk, and the folders that were asked for."""
    state = {"data": made_up_data(41, 3), "folders": None}

    def open_data(folders):
        state["folders"] = [folders] if isinstance(folders, Path) else list(folders)
        return state["data"]

    monkeypatch.setattr("alexnet.evaluation.paired.open_data", open_data)
    return state


def make_runs(tmp_path, data, sureness, seed=0):
    random, labels = np.random.default_rng(seed), data.splits["val"].labels
    found = [answers(random, labels, data.num_classes, one) for one in sureness]
    return [make_run(tmp_path / f"run{place}", data, one) for place, one in enumerate(found)], found


def test_equal_weights_are_the_plain_mean(tmp_path, opened):
    data = opened["data"]
    runs, found = make_runs(tmp_path, data, (1.0, 0.8, 1.2))
    result = average_runs(runs)
    assert opened["folders"] == [Path("made-up")]
    labels = data.splits["val"].labels
    mean = sum(one.astype(np.float64) for one in found) / 3
    assert result.equal.counts.top1_wrong == (mean.argmax(axis=1) != labels).sum()
    wrong = [(one.argmax(axis=1) != labels).sum() for one in found]
    assert [counts.top1_wrong for _, counts in result.runs] == wrong
    gain = result.equal.gains["top1"]
    average_error = (mean.argmax(axis=1) != labels).mean()
    assert gain.over_mean.difference == pytest.approx(np.mean(wrong) / 41 - average_error)
    assert gain.over_best.difference == pytest.approx(min(wrong) / 41 - average_error)
    assert gain.best_run == str(runs[int(np.argmin(wrong))])
    best = found[int(np.argmin(wrong))].argmax(axis=1) == labels
    assert gain.mcnemar.only_first == (best & (mean.argmax(axis=1) != labels)).sum()
    assert result.equal.weights == (1 / 3, 1 / 3, 1 / 3)
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["num_images"] == 41 and content["greedy"] is None and content["tuning"] is None
    assert content["mean"] == {"top1_error": pytest.approx(np.mean(wrong) / 41), "top5_error": None}
    assert content["equal"]["gain"]["top5"] is None and content["equal"]["top5_error"] is None
    assert [one["run"] for one in content["runs"]] == [str(one) for one in runs]
    assert average_runs(runs).to_dict() == result.to_dict()


def test_an_average_of_one_networks_answers_is_that_network(tmp_path, opened):
    probabilities = answers(np.random.default_rng(0), opened["data"].splits["val"].labels, 3, 1.0)
    runs = [make_run(tmp_path / name, opened["data"], probabilities) for name in ("a", "b")]
    result = average_runs(runs, weights="greedy")
    for average in (result.equal, result.greedy):
        gain = average.gains["top1"]
        assert (gain.over_mean.difference, *gain.over_best.interval) == (0, 0, 0)
        assert gain.best_run == str(runs[0]) and gain.mcnemar.p_value == 1
        assert average.counts == result.runs[0][1]


def test_greedy_weights_are_tuned_on_one_half_and_reported_on_the_other(tmp_path, opened):
    opened["data"] = data = made_up_data(101, 20)
    runs, found = make_runs(tmp_path, data, (2.5, 1.5, 0.0))
    result = average_runs(runs, weights="greedy", seed=3)
    order = np.random.Generator(np.random.Philox(3)).permutation(101)
    tuned_on, reported = np.sort(order[:50]), np.sort(order[50:])
    labels = data.splits["val"].labels
    steps, _ = greedy_weights([one[tuned_on] for one in found], labels[tuned_on], 5)
    assert result.num_images == 51
    assert result.greedy.weights == tuple(one / 20 for one in steps)
    mixed = weighted_mean([one[reported] for one in found], steps)
    assert result.greedy.counts == count_errors(mixed, labels[reported])
    equal = weighted_mean([one[reported] for one in found], [1, 1, 1])
    assert result.equal.counts == count_errors(equal, labels[reported])
    assert [counts.num_images for _, counts in result.runs] == [51] * 3
    assert (result.tuning.error, result.tuning.num_images, result.tuning.seed) == ("top5", 50, 3)
    before = count_errors(weighted_mean([one[tuned_on] for one in found], [1, 1, 1]), labels[tuned_on])
    after = count_errors(weighted_mean([one[tuned_on] for one in found], steps), labels[tuned_on])
    assert result.tuning.error_before == pytest.approx(before.top5_error)
    assert result.tuning.error_after == pytest.approx(after.top5_error)
    assert result.tuning.error_after < result.tuning.error_before
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["greedy"]["gain"]["top5"]["over_mean"]["difference"] > 0
    assert average_runs(runs, weights="greedy", seed=4).to_dict() != content


def test_with_few_classes_the_top1_error_is_tuned(tmp_path, opened):
    runs, _ = make_runs(tmp_path, opened["data"], (1.0, 0.0))
    assert average_runs(runs, weights="greedy").tuning.error == "top1"


def search_by_plain_loops(probabilities, labels, places):
    """The source's search, an error at a time, with whole weights and exact credits; all weights 0 is no answer."""

    def error(steps):
        if not any(steps):
            return Fraction(len(labels) + 1)
        mixed = sum(step * one.astype(np.float64) for step, one in zip(steps, probabilities, strict=True))
        counts = count_errors(mixed, labels)
        return counts.top1_wrong if places == 1 else counts.top5_wrong

    steps = [10] * len(probabilities)
    best, changed = error(steps), -1
    for _ in range(5):
        for run in range(len(steps)):
            if changed == run:
                return steps
            for step in range(21):
                tried = [*steps[:run], step, *steps[run + 1 :]]
                if error(tried) < best:
                    best, steps, changed = error(tried), tried, run
    return steps


@settings(max_examples=25)
@given(st.integers(2, 4), st.integers(1, 25), st.integers(2, 7), st.sampled_from([1, 5]), st.integers(0, 1000))
def test_greedy_weights_are_those_of_the_plain_search(num_runs, num, num_classes, places, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, num)
    # Few values: many ties.
    probabilities = [(random.integers(0, 4, (num, num_classes)) / 4).astype(np.float32) for _ in range(num_runs)]
    steps, passes = greedy_weights(probabilities, labels, places)
    assert steps == search_by_plain_loops(probabilities, labels, places)
    assert 1 <= passes <= 5


def test_the_search_in_batches_finds_the_same(monkeypatch):
    random = np.random.default_rng(0)
    labels = random.integers(0, 6, 50)
    probabilities = [answers(random, labels, 6, one) for one in (1.5, 1.0, 0.2)]
    whole = greedy_weights(probabilities, labels, 1)
    monkeypatch.setattr(ensemble, "_VALUES_AT_ONCE", 20)
    assert greedy_weights(probabilities, labels, 1) == whole
    assert whole[0] != [10, 10, 10]


def test_networks_that_are_always_wrong_do_not_get_zero_weights():
    wrong = np.array([[0.0, 1.0, 0.0]] * 4, np.float32)
    steps, _ = greedy_weights([wrong, wrong], np.zeros(4, np.int64), 1)
    assert any(steps)


def test_ties_are_shared(tmp_path, opened):
    opened["data"] = data = made_up_data(1, 3)
    first = make_run(tmp_path / "a", data, np.array([[0.75, 0.25, 0]], np.float32))
    second = make_run(tmp_path / "b", data, np.array([[0.25, 0.75, 0]], np.float32))
    result = average_runs([first, second])
    assert result.num_images == 1
    assert result.equal.counts.top1_wrong == Fraction(1, 2)
    content = result.to_dict()
    assert content["equal"]["top1_wrong"] == 0.5 and content["runs"][0]["top1_wrong"] == 0
    assert content["equal"]["gain"]["top1"]["over_best"]["interval"] == (-0.5, -0.5)
    assert content["equal"]["gain"]["top1"]["over_mean"]["difference"] == 0
    with pytest.raises(RequestError, match="--weights equal"):
        average_runs([first, second], weights="greedy")


def test_fewer_than_two_runs_and_one_named_twice_are_refused(tmp_path, opened):
    runs, _ = make_runs(tmp_path, opened["data"], (1.0, 1.0))
    with pytest.raises(RequestError, match="1 run named"):
        average_runs(runs[:1])
    with pytest.raises(RequestError, match="named twice"):
        average_runs([*runs, runs[0].parent / "x" / ".." / "run0"])
    with pytest.raises(RequestError, match="'equal' and 'greedy'"):
        average_runs(runs, weights="best")


def test_runs_trained_on_other_data_are_refused_unless_one_data_set_is_named(tmp_path, opened):
    runs, found = make_runs(tmp_path, opened["data"], (1.0, 1.0))
    other = dataclasses.replace(opened["data"], checksum="cd" * 32)
    stranger = make_run(tmp_path / "stranger", other, found[0])
    with pytest.raises(RequestError, match=r"run0 and \S+stranger differ in their data: .*abababababab.*cdcdcdcdcdcd"):
        average_runs([*runs, stranger])
    with pytest.raises(RequestError, match=r"`alexnet evaluate \S+stranger --split val --views 10 --data made-up`"):
        average_runs([*runs, stranger], data_folder=Path("made-up"))
    # Where `evaluate --data` puts what it measures on other data than the run's own.
    save_predictions_of_other_data = stranger / "predictions" / ("ab" * 6)
    save_predictions_of_other_data.mkdir(parents=True)
    save_predictions(save_predictions_of_other_data, "val", 10, found[1], opened["data"])
    result = average_runs([*runs, stranger], data_folder=Path("made-up"))
    assert result.runs[2][1] == result.runs[1][1]


def test_missing_probabilities_name_the_command(tmp_path, opened):
    runs, _ = make_runs(tmp_path, opened["data"], (1.0, 1.0))
    with pytest.raises(RequestError, match=r"run0 .*with 1 view; run `alexnet evaluate \S+run0 --split val --views 1`"):
        average_runs(runs, num_views=1)
    with pytest.raises(RequestError, match=r"dense views; run `alexnet evaluate \S+run0 --split val --views dense`"):
        average_runs(runs, num_views="dense")
    with pytest.raises(RequestError, match="split 'train'"):
        average_runs(runs, split="train")
    with pytest.raises(RequestError, match="no split 'test'"):
        average_runs(runs, split="test")


def test_other_classes_are_refused(tmp_path, opened):
    runs, found = make_runs(tmp_path, opened["data"], (1.0, 1.0))
    turned = dataclasses.replace(opened["data"], classes=opened["data"].classes[::-1])
    make_run(runs[1], turned, found[1])
    with pytest.raises(RequestError, match=r"run1 differs from \S+run0 in its classes: .*number 0 is 'c2'.*'c0'"):
        average_runs(runs)


def test_images_without_labels_and_a_split_without_images_are_refused(tmp_path, opened):
    runs, _ = make_runs(tmp_path, opened["data"], (1.0, 1.0))
    opened["data"].splits["val"].labels[5] = -1
    with pytest.raises(RequestError, match="have no label"):
        average_runs(runs)
    opened["data"] = made_up_data(0, 3)
    runs, _ = make_runs(tmp_path / "empty", opened["data"], (1.0, 1.0))
    with pytest.raises(RequestError, match="no images"):
        average_runs(runs)


@pytest.mark.parametrize("num_classes", [3, 20])
def test_the_table_shows_weights_and_halves(tmp_path, opened, capsys, monkeypatch, num_classes):
    monkeypatch.setenv("COLUMNS", "200")
    opened["data"] = made_up_data(60, num_classes)
    runs, _ = make_runs(tmp_path, opened["data"], (2.0, 1.0))
    print_ensemble(average_runs(runs).to_dict())
    printed = capsys.readouterr().out
    assert "60 images of split val, 10 views" in printed and "average, equal weights" in printed
    assert ("top-5" in printed) == (num_classes == 20) and "greedy" not in printed
    print_ensemble(average_runs(runs, weights="greedy").to_dict())
    printed = capsys.readouterr().out
    assert "average, greedy weights" in printed and "on 30 images drawn with seed 0" in printed
