"""TensorBoard shows what the run folder's log says, goes on after a cut, and never stops a training."""

import builtins
import errno
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet.data.preparation.prepare import prepare
from alexnet.errors import Interrupted, RequestError
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK
from alexnet.training.eager_step import EagerStep
from alexnet.training.loop import train
from alexnet.training.tensorboard import board_folder

pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")

SMALL = replace(
    QUICK,
    network=replace(QUICK.network, width=0.125),
    optimizer=replace(QUICK.optimizer, batch_size=6, learning_rate=0.02),
    schedule=replace(QUICK.schedule, epochs=6),
    training=replace(QUICK.training, precision="float32", device="cpu", evaluate_every=2, checkpoint_every=0),
)


@pytest.fixture
def data(make_tree: Any, tmp_path: Path) -> Path:
    prepare(make_tree("photographs"), tmp_path / "data", side=32)
    return tmp_path / "data"


def shown(run: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows, as its own reader reads it: by name and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(board_folder(run))).Reload()
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
    train(data, SMALL, tmp_path / "run", tensorboard=True)
    assert_shows_the_log(tmp_path / "run")


def test_without_being_asked_there_is_none(data: Path, tmp_path: Path) -> None:
    train(data, SMALL, tmp_path / "run")
    assert not board_folder(tmp_path / "run").exists()


def test_after_a_cut_no_step_is_shown_twice(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = EagerStep.run

    def cut(self: EagerStep, *arguments: Any) -> None:
        if self.training.step == 13:
            raise Interrupted("cut")
        usual(self, *arguments)

    monkeypatch.setattr(EagerStep, "run", cut)
    with pytest.raises(Interrupted):
        train(data, SMALL, tmp_path / "run", tensorboard=True)
    # The newest checkpoints are lost, so that steps come again.
    for path in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-2:]:
        path.unlink()
    monkeypatch.setattr(EagerStep, "run", usual)
    train(data, SMALL, tmp_path / "run")  # goes on with the board it finds
    assert_shows_the_log(tmp_path / "run")


def test_a_board_that_cannot_be_written_is_said_and_stops_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    run = train(data, SMALL, tmp_path / "run", tensorboard=True)
    assert run.state == "finished"
    assert capsys.readouterr().err.count("TensorBoard shows no more of this training") == 1
    shutil.rmtree(board_folder(run.path))


def test_a_missing_package_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError("No module named 'tensorboard'")
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(RequestError, match=r"alexnet\[tensorboard\]"):
        train(data, SMALL, tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
