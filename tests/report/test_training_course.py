"""The course of a training: steps of the learning rate from the log, and costs that can be counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.report.made_up_runs import RECIPE, make_run, write_data

from alexnet.report.formatting import format_large
from alexnet.report.training_course import learning_curves, learning_rate_rows, multiply_adds, training_cost
from alexnet.runs.baseline_recipe import BASELINES
from alexnet.runs.learning_curves import learning_rate_changes
from alexnet.runs.recipe import NetworkSettings


def steps(rates: list[float]) -> list[dict[str, Any]]:
    return [
        {"event": "step", "step": 10 * (number + 1), "epoch": number / 4, "loss": 1.0, "learning_rate": rate}
        for number, rate in enumerate(rates)
    ]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from([1.0, 0.1, 0.01, 0.001]), st.integers(2, 5)), min_size=1, max_size=6))
def test_every_change_between_two_plateaus_is_found(plateaus: list[tuple[float, int]]) -> None:
    rates = [rate for rate, length in plateaus for _ in range(length)]
    found = learning_rate_changes(steps(rates))
    expected = [number for number in range(len(rates) - 1) if rates[number] != rates[number + 1]]
    assert [(one.step, one.before, one.after) for one in found] == [
        (10 * (number + 1), rates[number], rates[number + 1]) for number in expected
    ]


def test_a_gradual_change_has_no_steps() -> None:
    cosine = (1 + np.cos(np.linspace(0, np.pi, 50))) / 2
    assert learning_rate_changes(steps(cosine.tolist())) == []
    assert learning_rate_changes([{"event": "step", "step": 1, "epoch": 0.1, "loss": 1.0}]) == []
    assert learning_rate_changes([]) == []


def test_a_warmup_before_a_constant_rate_and_a_decay_after_it_are_no_steps() -> None:
    warmup = [0.002, 0.004, 0.006, 0.008, 0.01, 0.01, 0.01]
    assert [(one.before, one.after) for one in learning_rate_changes(steps([*warmup, 0.001, 0.001]))] == [(0.01, 0.001)]
    assert learning_rate_changes(steps([0.005, 0.01, 0.01])) == []
    assert learning_rate_changes(steps([0.1, 0.1, 0.08, 0.06, 0.04, 0.02])) == []
    two = learning_rate_changes(steps([0.1, 0.1, 0.01, 0.001, 0.001]))
    assert [(one.before, one.after) for one in two] == [(0.1, 0.01), (0.01, 0.001)]


def test_a_plateau_that_was_logged_once_is_found_beside_a_longer_one() -> None:
    assert [one.step for one in learning_rate_changes(steps([1, 1, 1, 0.1]))] == [30]


def test_a_drop_has_the_errors_before_and_after(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", write_data(tmp_path / "data"))
    (row,) = learning_rate_rows(run.events())
    assert row == {
        "epoch": 2.0,
        "step": 20,
        "before": 0.1,
        "after": 0.01,
        "factor": "10 times lower",
        "error_before": 0.8,
        "error_after": 0.7,
    }
    rise = learning_rate_rows(steps([0.1, 0.1, 0.2, 0.2]))[0]
    assert (rise["factor"], rise["error_before"], rise["error_after"]) == ("2 times higher", None, None)
    assert learning_rate_rows(steps([0.1, 0.1, 0, 0]))[0]["factor"] == "to or from 0"
    curves = [str(one.content) for one in learning_curves(run.events())]
    assert len(curves) == 3 and all("rate 0.01" in one for one in curves)


def test_multiply_adds_are_those_of_the_papers_layers() -> None:
    """Convolutions of two columns see half of the channels; backward the first layer has no gradient of its input."""
    layers = [
        55 * 55 * 96 * 11 * 11 * 3,
        27 * 27 * 256 * 5 * 5 * 48,
        13 * 13 * 384 * 3 * 3 * 256,
        13 * 13 * 384 * 3 * 3 * 192,
        13 * 13 * 256 * 3 * 3 * 192,
        9216 * 4096,
        4096 * 4096,
        4096 * 1000,
    ]
    recipe = replace(RECIPE, network=NetworkSettings(variant="paper"))
    assert multiply_adds(recipe, 1000) == (sum(layers), 3 * sum(layers) - layers[0])
    assert multiply_adds(recipe, None) is None
    assert multiply_adds(next(iter(BASELINES.values())), 10) is None


def test_a_training_shorter_than_the_interval_of_its_log_is_drawn_by_epochs() -> None:
    epochs = [
        {"event": "epoch", "epoch": one, "step": one, "train_loss": 2.0 / one, "train_top1_error": 0.5}
        for one in (1, 2)
    ]
    last = {"event": "step", "step": 2, "epoch": 2.0, "loss": 9.0, "top1_error": 0.9, "learning_rate": 0.1}
    curves = learning_curves([epochs[0], last, epochs[1]])
    assert len(curves) == 2, "one learning rate is no curve"
    assert "training 1 at the end" in curves[0].content and "training 50 % at the end" in curves[1].content


def test_costs_are_those_of_the_log(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", write_data(tmp_path / "data"))
    cost = training_cost(run, run.events(), run.evaluations()["val-10views"])
    assert cost["parameters"] == "1,234"
    assert cost["passes over the training images"] == "4"
    assert cost["images seen"] == "about 24"  # four passes over six images: no batch is whole
    each = multiply_adds(RECIPE, 3)
    assert each is not None and cost["multiply-adds of the training"] == f"about {format_large(24 * each[1])}"
    assert cost["training throughput"] == "121 images/s (median; 102 to 140)"
    assert cost["waiting for images"] == "25.0 % of the time"
    assert cost["training time"] == "1 min 1 s"
    assert cost["evaluation"] == "1,000 images/s, 10 views each"
    run.update_metadata(duration_s=None)
    assert training_cost(run, run.events(), None)["training time so far"] == "40.0 s"
