"""Checkpoints: the newest sound one is found, damaged ones are kept aside, the best is kept."""

import json
from pathlib import Path

import pytest
import torch

from alexnet import AlexNet
from alexnet.errors import RequestError, WorkError
from alexnet.training.checkpoint import (
    Loaded,
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
from alexnet.training.state import TrainingState


class Training:
    """A small training: each step moves every weight."""

    def __init__(self) -> None:
        self.network = AlexNet(3, "quick", 0.05, generator=torch.Generator().manual_seed(1))
        self.optimizer = VelocitySGD(self.network, 0.9, 0.0)
        self.ema = WeightEMA(self.network, 0.5)
        self.state = TrainingState()

    def move(self) -> None:
        for parameter in self.network.parameters():
            parameter.grad = torch.full_like(parameter, 0.1 * (self.state.step + 1))
        self.optimizer.step(LearningRates(weights=0.1, biases=0.2))
        self.ema.update(self.state.step)
        self.state.step += 1
        self.state.trained_s += 2.0

    def write(self, folder: Path, error: float | None = None) -> None:
        snapshot = Snapshot()
        if error is not None:
            self.state.validation_errors.append(error)
            self.state.last_validation_step = self.state.step
        snapshot.fill(self.network, self.optimizer, self.state, self.ema)
        write_checkpoint(folder, snapshot)

    def everything(self) -> dict[str, torch.Tensor]:
        velocities = {f"v.{name}": tensor for name, tensor in self.optimizer.state()[1].items()}
        averages = {f"a.{name}": tensor for name, tensor in self.ema.tensors.items()}
        return {
            name: tensor.clone() for name, tensor in {**self.network.state_dict(), **velocities, **averages}.items()
        }

    def load(self, folder: Path) -> Loaded:
        return load_checkpoint(folder, self.network, self.optimizer, self.state, self.ema)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in checkpoint_folder(folder).iterdir())


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    training = Training()
    for _ in range(3):
        training.move()
    training.write(tmp_path, error=0.25)
    want, rates = training.everything(), training.optimizer.state()[0]
    other = Training()
    assert other.load(tmp_path) == Loaded(step=3, broken=())
    expected = TrainingState(step=3, trained_s=6.0, validation_errors=[0.25], last_validation_step=3, since_log_s=6.0)
    assert other.state == expected and other.state.current_validation_error == 0.25
    got = other.everything()
    assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)
    assert other.optimizer.state()[0] == rates and rates["conv1.bias"] == 0.2


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    training = Training()
    for error in (0.5, 0.2, None, 0.3, None, 0.2):
        training.move()
        training.write(tmp_path, error)
    kept = [name for name in names(tmp_path) if name.endswith(".json")]
    assert kept == ["step-00000002.json", "step-00000005.json", "step-00000006.json"]  # 2: the earlier of the equals
    assert len(names(tmp_path)) == 6
    remove_checkpoints(tmp_path, final_error=0.25)
    assert names(tmp_path) == ["step-00000002.json", "step-00000002.safetensors"]
    remove_checkpoints(tmp_path, final_error=0.2)
    assert names(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "manifest"])
def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_is_used(damage: str, tmp_path: Path) -> None:
    training = Training()
    training.move()
    training.write(tmp_path)
    want = training.everything()
    training.move()
    training.write(tmp_path)
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
    other = Training()
    assert other.load(tmp_path) == Loaded(step=1, broken=("step-00000002",)) and other.state.step == 1
    assert all(torch.equal(tensor, want[name]) for name, tensor in other.everything().items())
    assert "broken-step-00000002.json" in names(tmp_path)
    assert other.load(tmp_path).broken == ()
    older = checkpoint_folder(tmp_path) / "step-00000001.safetensors"
    older.write_bytes(b"")
    assert other.load(tmp_path) == Loaded(step=None, broken=("step-00000001",))


def test_half_written_files_are_removed_and_do_not_count(tmp_path: Path) -> None:
    folder = checkpoint_folder(tmp_path)
    folder.mkdir()
    (folder / ".step-00000009.safetensors.77.partial").write_bytes(b"half")
    (folder / "step-00000009.safetensors").write_bytes(b"without a manifest it does not count")
    assert not has_checkpoint(tmp_path)
    assert Training().load(tmp_path) == Loaded(step=None, broken=())
    assert names(tmp_path) == ["step-00000009.safetensors"]


def test_another_variant_or_version_is_refused(tmp_path: Path) -> None:
    training = Training()
    training.move()
    training.write(tmp_path)
    manifest = checkpoint_folder(tmp_path) / "step-00000001.json"
    content = json.loads(manifest.read_text())
    for change in ({"format_version": 2}, {"network": {**content["network"], "input_scale": 1.0}}):
        manifest.write_text(json.dumps({**content, **change}))
        with pytest.raises(RequestError, match="written by another version of alexnet"):
            Training().load(tmp_path)
    manifest.write_text(json.dumps(content))
    wider = AlexNet(3, "quick", 0.1)
    with pytest.raises(WorkError, match="belongs to another network"):
        load_checkpoint(tmp_path, wider, VelocitySGD(wider, 0.9, 0.0), TrainingState())


def test_the_writer_writes_beside_the_training_and_tells_of_failure_once(tmp_path: Path) -> None:
    training = Training()
    with CheckpointWriter(tmp_path) as writer:
        training.move()
        want = training.everything()
        writer.begin(training.network, training.optimizer, training.state, training.ema)
        training.move()  # the snapshot is not the training's memory
        writer.finish()
        assert not writer.busy and writer.failure() is None
        other = Training()
        other.load(tmp_path)
        assert all(torch.equal(tensor, want[name]) for name, tensor in other.everything().items())
        # A folder that is not there any more.
        for path in checkpoint_folder(tmp_path).iterdir():
            path.unlink()
        checkpoint_folder(tmp_path).rmdir()
        checkpoint_folder(tmp_path).write_text("in the way")
        writer.begin(training.network, training.optimizer, training.state, training.ema)
        writer.finish()
        assert isinstance(writer.failure(), OSError) and writer.failure() is None
