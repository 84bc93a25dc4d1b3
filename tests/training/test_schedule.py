"""LearningRates as functions of recipe, step and errors; stages and epochs as arithmetic on the step."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.errors import RequestError
from alexnet.runs.recipe import OptimizerSettings, Recipe, ScheduleSettings, Stage, TrainingSettings
from alexnet.runs.recipes import RECIPES
from alexnet.training.plan import Plan
from alexnet.training.schedule import LearningRates, ended, learning_rates_at, stalls


def recipe(rate: float, bias_lr_factor: float = 1.0, **schedule: object) -> Recipe:
    return Recipe(
        optimizer=OptimizerSettings(learning_rate=rate, bias_lr_factor=bias_lr_factor),
        schedule=ScheduleSettings(**schedule),  # type: ignore[arg-type]
    )


def weights_and_biases(of: Recipe, num_steps: int) -> np.ndarray:
    rates = [learning_rates_at(of, step, num_steps) for step in range(num_steps)]
    return np.array([[one.weights, one.biases] for one in rates])


def test_steps() -> None:
    got = weights_and_biases(recipe(0.02, 2.0, kind="steps", milestones=(0.5, 0.75), gamma=0.1), 8)
    want = np.array([0.02] * 4 + [0.002] * 2 + [0.0002] * 2)
    np.testing.assert_allclose(got, np.stack([want, 2 * want], 1), rtol=1e-12)


def test_one_cycle_rises_then_falls_along_lines() -> None:
    got = weights_and_biases(recipe(1.0, kind="one-cycle", warmup=0.25), 8)[:, 0]
    np.testing.assert_allclose(got, [0.25, 0.75, *(np.array([5.5, 4.5, 3.5, 2.5, 1.5, 0.5]) / 6)], rtol=1e-12)


def test_cosine_rises_along_a_line_and_falls_along_half_a_cosine() -> None:
    got = weights_and_biases(recipe(1.0, kind="cosine", warmup=0.25), 8)[:, 0]
    middles = (np.arange(2, 8) + 0.5) / 8
    want = [0.25, 0.75, *((1 + np.cos(np.pi * (middles - 0.25) / 0.75)) / 2)]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_geometric_plateaus_are_the_later_sources() -> None:
    # dexp[250, 4 steps] of 0.01 = 0.01, 0.0015874, 0.00025198, 4e-5; biases a factor of 10 in 2 steps.
    got = weights_and_biases(recipe(0.01, 2.0, kind="geometric"), 8)
    np.testing.assert_allclose(got[::2, 0], [0.01, 0.0015874, 0.00025198, 4e-5], rtol=1e-4)
    np.testing.assert_allclose(got[:, 1], [0.02] * 4 + [0.002] * 4, rtol=1e-12)
    assert (got[::2] == got[1::2]).all()


PLATEAU = ScheduleSettings(kind="plateau", patience=5)


def test_a_stall_is_five_epochs_without_a_tenth_of_a_point() -> None:
    falling = [0.9, 0.8, 0.7]
    assert stalls(falling + [0.6995] * 4, PLATEAU) == 0
    assert stalls(falling + [0.6995] * 5, PLATEAU) == 1  # 0.05 points are no improvement
    assert stalls([*falling, *[0.7] * 4, 0.699, *[0.7] * 4], PLATEAU) == 0  # a tenth of a point is
    assert stalls(falling + [0.7] * 10, PLATEAU) == 2  # after a stall the waiting starts anew
    assert stalls([*falling, *[0.9] * 5, 0.71, 0.71, 0.71, 0.71], PLATEAU) == 1  # the lowest error is still to beat


def test_an_equal_error_is_no_improvement() -> None:
    any_decrease = ScheduleSettings(kind="plateau", patience=5, improvement=0.0)
    assert stalls([0.9, *[0.7] * 6], any_decrease) == 1
    assert stalls([0.9, *[0.7 + 2**-53, 0.7] * 3], any_decrease) == 1  # rounding is no decrease
    assert stalls([0.9 - 1e-6 * n for n in range(20)], any_decrease) == 0  # one image in a million is one


def test_the_rate_falls_at_three_stalls_and_the_fourth_ends_the_run() -> None:
    of = Recipe(optimizer=OptimizerSettings(learning_rate=0.01), schedule=PLATEAU)
    rates = [learning_rates_at(of, 0, 1, errors=[0.5] * (1 + 5 * count)).weights for count in range(5)]
    np.testing.assert_allclose(rates, [1e-2, 1e-3, 1e-4, 1e-5, 1e-5], rtol=1e-12)
    assert [ended([0.5] * num, PLATEAU) for num in (1, 16, 20, 21)] == [False, False, False, True]
    assert not ended([0.5] * 99, ScheduleSettings())


def test_a_plateau_needs_every_epochs_error() -> None:
    with pytest.raises(RequestError, match=r"evaluate_every is 2, but --schedule.kind plateau needs"):
        Recipe(schedule=PLATEAU, training=TrainingSettings(evaluate_every=2))


def test_a_frozen_layer_is_frozen_whole() -> None:
    rates = LearningRates(weights=0.1, biases=0.2, layers={"conv1": 0.0, "conv2": 0.01})
    named = ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "fc6.weight", "fc6.bias")
    assert [rates.of(name) for name in named] == [0, 0, 0.01, 0.2, 0.1, 0.2]


STAGES = (
    Stage(epochs=3, learning_rate=0.1, images=40),
    Stage(epochs=2.5, learning_rate=0.1, bias_learning_rate=0.3),
    Stage(epochs=1, learning_rate=0.01, layer_learning_rates={"conv1": 0.0}, color_noise=False),
)


def test_stages_follow_each_other_and_their_epochs_have_their_own_length() -> None:
    schedule = ScheduleSettings(kind="stages", stages=STAGES)
    plan = Plan(schedule, num_images=50, batch_size=16)  # 3 steps an epoch of 40 images, then 4 of 50
    assert [(one.first_step, one.last_step, one.steps_per_epoch) for one in plan.phases] == [
        (0, 9, 3), (9, 19, 4), (19, 23, 4),
    ]  # fmt: skip
    assert plan.num_steps == 23 and plan.num_epochs == pytest.approx(6.5)
    # The second stage ends within an epoch: the third continues that epoch, counted from step 9.
    assert [(one.first_epoch, one.epoch_step) for one in plan.phases] == [(0, 0), (3, 9), (3, 9)]
    assert [step for step in range(1, 24) if plan.ends_epoch(step)] == [3, 6, 9, 13, 17, 21, 23]
    assert [plan.epoch_number(step) for step in (3, 6, 9, 13, 17, 21, 23)] == [1, 2, 3, 4, 5, 6, 7]
    of = replace(recipe(9.0, 9.0), schedule=schedule)
    rates = [learning_rates_at(of, step, 23, plan.phase(step).stage) for step in (0, 8, 9, 18, 19)]
    assert [one.weights for one in rates] == [0.1, 0.1, 0.1, 0.1, 0.01]
    assert [one.biases for one in rates] == [0.1, 0.1, 0.3, 0.3, 0.01]
    assert rates[-1].of("conv1.bias") == 0


def test_rounding_does_not_add_up() -> None:
    halves = (
        Stage(epochs=0.5, learning_rate=1, images=30),
        Stage(epochs=0.5, learning_rate=1, images=30),
        Stage(epochs=1, learning_rate=1),
    )
    plan = Plan(ScheduleSettings(kind="stages", stages=halves), 40, 10)  # 3 steps, then 4
    assert [(one.first_step, one.last_step) for one in plan.phases] == [(0, 2), (2, 3), (3, 7)]
    tenths = tuple(
        Stage(epochs=part, learning_rate=1, images=30) for part in (0.7, 0.2, 0.1)
    )  # their sum is not quite 1
    assert (
        Plan(ScheduleSettings(kind="stages", stages=(*tenths, Stage(epochs=1, learning_rate=1))), 40, 10).num_steps == 7
    )
    finetune = RECIPES["six-conv-finetune"].schedule
    assert Plan(finetune, 1280, 128).num_steps == 540
    with pytest.raises(RequestError, match=r"0.1 epochs of 4 steps are less than one step"):
        Plan(ScheduleSettings(kind="stages", stages=(Stage(epochs=0.1, learning_rate=1),)), 40, 10)


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 9))
def test_a_plan_without_stages_is_plain_epochs(num_images: int, batch_size: int, epochs: int) -> None:
    plan = Plan(ScheduleSettings(epochs=epochs), num_images, batch_size)
    per_epoch = -(-num_images // batch_size)
    assert plan.num_steps == epochs * per_epoch and plan.num_epochs == epochs
    ends = [step for step in range(1, plan.num_steps + 1) if plan.ends_epoch(step)]
    assert ends == [per_epoch * (epoch + 1) for epoch in range(epochs)]
    assert [plan.epoch_number(step) for step in ends] == list(range(1, epochs + 1))


def test_files_end_batches_in_the_plan_too() -> None:
    plan = Plan(ScheduleSettings(kind="stages", stages=STAGES), num_images=50, batch_size=16, file_images=20)
    assert [one.steps_per_epoch for one in plan.phases] == [4, 5, 5]  # 16 4, 16 4 of 40 images; 16 4, 16 4, 10 of 50
    assert [plan.phases[1].batch_length(plan.phases[1].epoch_step + step) for step in range(6)] == [
        16, 4, 16, 4, 10, 16,
    ]  # fmt: skip


def test_stages_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match=r"stage 1 trains on 40 images and there are 39"):
        Plan(ScheduleSettings(kind="stages", stages=STAGES), 39, 16)
    with pytest.raises(RequestError, match=r"the images change after 0\.5 epochs"):
        ScheduleSettings(
            kind="stages", stages=(Stage(epochs=0.5, learning_rate=1, images=9), Stage(epochs=1, learning_rate=1))
        )
    for settings in ({"kind": "stages"}, {"stages": STAGES}):
        with pytest.raises(RequestError, match="the kind `stages` needs one or more, other kinds need none"):
            ScheduleSettings(**settings)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="a stage has 0 epochs"):
        Stage(epochs=0, learning_rate=1)
    with pytest.raises(RequestError, match=r"a stage has learning rate -1; allowed is 0"):
        Stage(epochs=1, learning_rate=1, layer_learning_rates={"conv1": -1})
