"""The tiny recipe of all training tests, what a run holds, and interruptions at a chosen step."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet.errors import Interrupted
from alexnet.model.weights import load_trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import OptimizerSettings, Recipe
from alexnet.runs.recipes import QUICK
from alexnet.training.eager_step import EagerStep
from alexnet.training.loop import train


def small_recipe(epochs: int = 4, **training: Any) -> Recipe:
    """A narrow network on one CPU in float32, by the paper's update: batches of 10, so three steps an epoch, the last
    one partial.

    Args:
        training: changed training settings.
    """
    return replace(
        QUICK,
        name="small",
        network=replace(QUICK.network, variant="quick", width=0.125),
        optimizer=OptimizerSettings(batch_size=10, learning_rate=0.02),
        schedule=replace(QUICK.schedule, epochs=epochs, warmup=0.2),
        training=replace(QUICK.training, **{"precision": "float32", "device": "cpu", **training}),
    )


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """The saved weights, by parameter name."""
    return dict(load_trained(run).network.state_dict())


def assert_same_weights(found: Path, expected: Path) -> None:
    """Both runs have the same weights to the last bit."""
    weights, wanted = weights_of(found), weights_of(expected)
    assert weights.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(weights[name], tensor), name


def events_of(run: Path, kind: str) -> list[dict[str, Any]]:
    """The run's events of one kind."""
    return [event for event in RunFolder.open(run).events() if event["event"] == kind]


def logged_metrics(run: RunFolder) -> list[tuple[Any, ...]]:
    """The steps, losses and errors of all events that hold them."""
    keys = ("event", "step", "loss", "top1_error", "train_loss", "train_top1_error")
    kinds = ("step", "epoch", "validation")
    return [tuple(event.get(key) for key in keys) for event in run.events() if event["event"] in kinds]


def signal_in_step(
    patched: pytest.MonkeyPatch,
    step: int,
    kind: type[Any] = EagerStep,
    *,
    number: signal.Signals = signal.SIGTERM,
    times: int = 1,
) -> None:
    """Send this process a signal in the step after which `step` steps are done."""
    run = kind.run

    def watched(own: Any, phase: Any, batch: Any, index: int, learning_rates: Any) -> None:
        if index + 1 == step:
            for _ in range(times):
                os.kill(os.getpid(), number)
                time.sleep(0)  # Python handles signals between its instructions
        run(own, phase, batch, index, learning_rates)

    patched.setattr(kind, "run", watched)


def train_interrupted(data: Path, recipe: Recipe, run: Path, step: int, kind: type[Any] = EagerStep) -> None:
    """A training that a signal stops after `step` steps."""
    with pytest.MonkeyPatch.context() as patched:
        signal_in_step(patched, step, kind)
        with pytest.raises(Interrupted):
            train(data, run, recipe)
