"""Checkpoints: the newest sound one is found, damaged ones are kept aside, the best is kept."""

import json
from pathlib import Path

import pytest
import torch

from alexnet import AlexNet
from alexnet.errors import RequestError, WorkError
from alexnet.training.checkpoint import (
    Loaded,
    Position,
    Snapshot,
    checkpoint_folder,
    has_checkpoint,
    load_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)
from alexnet.training.checkpoint_writer import CheckpointWriter
from alexnet.training.ema import WeightEMA
from alexnet.training.optimizer import VelocitySGD
from alexnet.training.schedule import LearningRates


class State:
    """A small training: each step moves every weight."""

    def __init__(self) -> None:
        self.network = AlexNet(3, "quick", 0.05, generator=torch.Generator().manual_seed(1))
        self.optimizer = VelocitySGD(self.network, 0.9, 0.0)
        self.average = WeightEMA(self.network, 0.5)
        self.step = 0

    def move(self) -> None:
        for parameter in self.network.parameters():
            parameter.grad = torch.full_like(parameter, 0.1 * (self.step + 1))
        self.optimizer.step(LearningRates(weights=0.1, biases=0.2))
        self.average.update(self.step)
        self.step += 1

    def write(self, folder: Path, error: float | None = None) -> None:
        snapshot = Snapshot()
        position = Position(step=self.step, trained_s=2.0 * self.step, error=error)
        snapshot.fill(self.network, self.optimizer, position, self.average)
        write_checkpoint(folder, snapshot)

    def everything(self) -> dict[str, torch.Tensor]:
        velocities = {f"v.{name}": tensor for name, tensor in self.optimizer.state()[1].items()}
        averages = {f"a.{name}": tensor for name, tensor in self.average.tensors.items()}
        return {
            name: tensor.clone() for name, tensor in {**self.network.state_dict(), **velocities, **averages}.items()
        }

    def load(self, folder: Path) -> object:
        return load_checkpoint(folder, self.network, self.optimizer, self.average)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in checkpoint_folder(folder).iterdir())


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = State()
    for _ in range(3):
        state.move()
    state.write(tmp_path, error=0.25)
    want, rates = state.everything(), state.optimizer.state()[0]
    other = State()
    loaded = load_checkpoint(tmp_path, other.network, other.optimizer, other.average)
    assert loaded.position == Position(step=3, trained_s=6.0, error=0.25) and not loaded.broken
    got = other.everything()
    assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)
    assert other.optimizer.state()[0] == rates and rates["conv1.bias"] == 0.2


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    state = State()
    for error in (0.5, 0.2, None, 0.3, None, 0.2):
        state.move()
        state.write(tmp_path, error)
    kept = [name for name in names(tmp_path) if name.endswith(".json")]
    assert kept == ["step-00000002.json", "step-00000005.json", "step-00000006.json"]  # 2: the earlier of the equals
    assert len(names(tmp_path)) == 6
    remove_checkpoints(tmp_path, final_error=0.25)
    assert names(tmp_path) == ["step-00000002.json", "step-00000002.safetensors"]
    remove_checkpoints(tmp_path, final_error=0.2)
    assert names(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "manifest"])
def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_is_used(damage: str, tmp_path: Path) -> None:
    state = State()
    state.move()
    state.write(tmp_path)
    want = state.everything()
    state.move()
    state.write(tmp_path)
    newest = checkpoint_folder(tmp_path) / "step-00000002.safetensors"
    content = bytearray(newest.read_bytes())
    if damage == "cut":
        newest.write_bytes(content[:-5])
    elif damage == "flip":
        content[-1] ^= 1  # one bit of one weight: nothing but a checksum sees it
        newest.write_bytes(content)
    elif damage == "missing":
        newest.unlink()
    else:
        newest.with_suffix(".json").write_text('{"step": 2')
    other = State()
    loaded = load_checkpoint(tmp_path, other.network, other.optimizer, other.average)
    assert loaded.position is not None and loaded.position.step == 1 and loaded.broken == ("step-00000002",)
    assert all(torch.equal(tensor, want[name]) for name, tensor in other.everything().items())
    assert "broken-step-00000002.json" in names(tmp_path)
    assert load_checkpoint(tmp_path, other.network, other.optimizer, other.average).broken == ()
    older = checkpoint_folder(tmp_path) / "step-00000001.safetensors"
    older.write_bytes(b"")
    assert load_checkpoint(tmp_path, other.network, other.optimizer, other.average) == Loaded(
        position=None, broken=("step-00000001",)
    )


def test_half_written_files_are_removed_and_do_not_count(tmp_path: Path) -> None:
    folder = checkpoint_folder(tmp_path)
    folder.mkdir()
    (folder / ".step-00000009.safetensors.77.partial").write_bytes(b"half")
    (folder / "step-00000009.safetensors").write_bytes(b"without a manifest it does not count")
    assert not has_checkpoint(tmp_path)
    assert State().load(tmp_path) == Loaded(position=None, broken=())
    assert names(tmp_path) == ["step-00000009.safetensors"]


def test_another_variant_or_version_is_refused(tmp_path: Path) -> None:
    state = State()
    state.move()
    state.write(tmp_path)
    manifest = checkpoint_folder(tmp_path) / "step-00000001.json"
    facts = json.loads(manifest.read_text())
    for change in ({"format_version": 2}, {"network": {**facts["network"], "input_scale": 1.0}}):
        manifest.write_text(json.dumps({**facts, **change}))
        with pytest.raises(RequestError, match="written by another version of alexnet"):
            State().load(tmp_path)
    manifest.write_text(json.dumps(facts))
    wider = AlexNet(3, "quick", 0.1)
    with pytest.raises(WorkError, match="belongs to another network"):
        load_checkpoint(tmp_path, wider, VelocitySGD(wider, 0.9, 0.0))


def test_the_writer_writes_beside_the_training_and_tells_of_failure_once(tmp_path: Path) -> None:
    state = State()
    with CheckpointWriter(tmp_path) as writer:
        state.move()
        want = state.everything()
        writer.begin(state.network, state.optimizer, Position(step=1, trained_s=0.0), state.average)
        state.move()  # the snapshot is not the training's memory
        writer.finish()
        assert not writer.busy and writer.failure() is None
        other = State()
        other.load(tmp_path)
        assert all(torch.equal(tensor, want[name]) for name, tensor in other.everything().items())
        # A folder that is not there any more.
        for path in checkpoint_folder(tmp_path).iterdir():
            path.unlink()
        checkpoint_folder(tmp_path).rmdir()
        checkpoint_folder(tmp_path).write_text("in the way")
        writer.begin(state.network, state.optimizer, Position(step=2, trained_s=0.0), state.average)
        writer.finish()
        assert isinstance(writer.failure(), OSError) and writer.failure() is None
