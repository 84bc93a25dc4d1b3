"""TensorBoard shows what the run folder's log says, continues after an interrupt, and never stops a training."""

import builtins
import errno
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.training.small_trainings import small_recipe

from alexnet.errors import Interrupted, RequestError
from alexnet.runs.folder import RunFolder
from alexnet.training.eager_step import EagerStep
from alexnet.training.loop import train
from alexnet.training.tensorboard import tensorboard_folder

pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")

SMALL = small_recipe(epochs=6, evaluate_every=2, checkpoint_every=0.0)
SMALL = replace(SMALL, optimizer=replace(SMALL.optimizer, batch_size=6))


def shown(run: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows, as its own reader reads it: by name and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(tensorboard_folder(run))).Reload()
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for name in reader.Tags()["scalars"]:
        for scalar in reader.Scalars(name):
            assert scalar.step not in found[name], f"{name} twice at step {scalar.step}"
            found[name][scalar.step] = scalar.value
    found["images"] = {image.step: image.height for name in reader.Tags()["images"] for image in reader.Images(name)}
    return found


def logged(run: Path, event: str, key: str) -> dict[int, float]:
    return {one["step"]: pytest.approx(one[key], rel=1e-6) for one in RunFolder(run).events() if one["event"] == event}


def assert_shows_the_log(run: Path) -> None:
    found = shown(run)
    assert found["train/loss"] == logged(run, "step", "loss") and found["train/loss"]
    assert found["learning_rate/weights"] == logged(run, "step", "learning_rate")
    assert found["memory/resident_bytes"] == logged(run, "step", "resident_bytes")
    assert found["epoch/train_top1_error"] == logged(run, "epoch", "train_top1_error")
    assert found["val/top1_error"] == logged(run, "validation", "top1_error")
    assert set(found["images"]) == set(found["val/loss"])


def test_the_board_shows_what_the_log_says(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", SMALL, tensorboard=True)
    assert_shows_the_log(tmp_path / "run")


def test_without_being_asked_there_is_none(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", SMALL)
    assert not tensorboard_folder(tmp_path / "run").exists()


def test_after_a_cut_no_step_is_shown_twice(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = EagerStep.run

    def interrupted(self: EagerStep, phase: Any, batch: Any, step: int, learning_rates: Any) -> None:
        if step == 13:
            raise Interrupted("cut")
        run(self, phase, batch, step, learning_rates)

    monkeypatch.setattr(EagerStep, "run", interrupted)
    with pytest.raises(Interrupted):
        train(data, tmp_path / "run", SMALL, tensorboard=True)
    # The newest checkpoints are lost, so that steps come again.
    for path in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-2:]:
        path.unlink()
    monkeypatch.setattr(EagerStep, "run", run)
    train(data, tmp_path / "run", SMALL)  # continues the log for TensorBoard
    assert_shows_the_log(tmp_path / "run")


def test_a_board_that_cannot_be_written_is_said_and_stops_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    run = train(data, tmp_path / "run", SMALL, tensorboard=True)
    assert run.state == "finished"
    assert caplog.text.count("TensorBoard shows no more of this training") == 1
    shutil.rmtree(tensorboard_folder(run.path))


def test_a_missing_package_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError("No module named 'tensorboard'")
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(RequestError, match=r"alexnet\[tensorboard\]"):
        train(data, tmp_path / "run", SMALL, tensorboard=True)
    assert not (tmp_path / "run").exists()
