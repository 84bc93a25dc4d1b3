"""The time that a training will take is computed from its first steps but the very first, validation included."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.small_trainings import events_of, small_recipe

from alexnet.bench.random_images import random_data
from alexnet.training import duration
from alexnet.training.duration import FirstSteps, estimate_rest
from alexnet.training.loop import train
from alexnet.training.setup import TrainingSetup, build_setup
from alexnet.training.state import TrainingState


def setup_of(epochs: int, **training: int) -> TrainingSetup:
    # 35 images in batches of 10: 4 steps an epoch. The validation images are as many.
    return build_setup(random_data(35, 32, 10), small_recipe(epochs, **training))


def test_the_rest_is_its_steps_and_validations() -> None:
    setup = setup_of(100)
    found = estimate_rest(setup, TrainingState(step=40), 0.5)
    # 360 steps; 90 validations of 35 images at a third of 0.05 s each.
    assert found.steps_s == 180 and found.validation_s == pytest.approx(90 * 35 * 0.05 / 3)
    assert found.remaining_s == found.steps_s + found.validation_s
    assert estimate_rest(setup, TrainingState(step=39), 0.5).validation_s == pytest.approx(91 * 35 * 0.05 / 3)
    # Every 30 epochs and the last: 30, 60, 90, 100.
    rare = estimate_rest(setup_of(100, evaluate_every=30), TrainingState(), 0.5)
    assert rare.validation_s == pytest.approx(4 * 35 * 0.05 / 3)
    without = replace(setup, data=replace(setup.data, splits={"train": setup.data.splits["train"]}))
    assert estimate_rest(without, TrainingState(step=40), 0.5).validation_s == 0


def test_the_first_steps_and_disturbances_do_not_count() -> None:
    setup, state, first = setup_of(1000), TrainingState(step=10), FirstSteps()
    assert first.add(setup, state, 60.0, 10) is None  # compiles
    assert first.add(setup, state, 2.0, 10) is None and first.add(setup, state, 2.1, 10) is None
    found = first.add(setup, state, 9.0, 10)  # 13.1 s are enough; somebody else computed meanwhile
    assert found is not None and found.step_s == pytest.approx(0.21)
    assert first.add(setup, state, 2.0, 10) is None, "it is said once"
    # A twentieth of the training is enough, too, however fast it is; what is short is not worth a line.
    fast = FirstSteps()
    assert fast.add(setup, state, 1.0, 10) is None and fast.add(setup, state, 0.5, 190) is None
    found = fast.add(setup, state, 0.5, 10)
    assert found is not None and found.step_s == pytest.approx((0.5 / 190 + 0.5 / 10) / 2)
    short = FirstSteps()
    short.add(setup_of(2), TrainingState(), 1.0, 2)
    assert short.add(setup_of(2), TrainingState(step=4), 1.0, 2) is None


def test_a_training_says_how_long_it_takes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="alexnet")
    monkeypatch.setattr(duration, "SHORT_S", 0.0)
    monkeypatch.setattr(duration, "MEASURED_S", 0.0)
    train(data, tmp_path / "run", small_recipe(epochs=10))
    (event,) = events_of(tmp_path / "run", "estimate")
    assert event["step"] == 20 and event["remaining_steps_s"] == pytest.approx(10 * event["step_s"], abs=0.06)
    (line,) = [message for message in caplog.messages if "the rest of the training takes about" in message]
    assert line.startswith("step 20: ")
    # Both are rounded: the event's seconds to six significant digits, the line's images to whole ones.
    said = re.search(r"measured: ([\d,]+) images/s", line)
    assert said and int(said[1].replace(",", "")) == pytest.approx(10 / event["step_s"], rel=1e-4, abs=0.51)
