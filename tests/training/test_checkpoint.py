"""Checkpoints: the newest sound one is found, damaged ones are kept aside, the best is kept."""

import json
from pathlib import Path

import pytest
import torch

from alexnet import AlexNet
from alexnet.errors import RequestError, WorkError
from alexnet.storage.typed_files import SEAL, sealed
from alexnet.training.batch_metrics import RunningMetrics
from alexnet.training.checkpoint import (
    Loaded,
    Snapshot,
    checkpoint_folder,
    has_checkpoint,
    load_checkpoint,
    read_manifest,
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
    since_log, since_epoch = (RunningMetrics({"loss": loss, "top1_error": 2.0}, 7) for loss in (1 / 3, 0.1))
    training.state.since_log, training.state.since_epoch = since_log, since_epoch
    training.state.since_log_s, training.state.waited_s = 4.5, 0.125
    training.write(tmp_path, error=0.25)
    want, rates = training.everything(), training.optimizer.state()[0]
    other = Training()
    assert other.load(tmp_path) == Loaded(step=3, broken=())
    expected = TrainingState(
        step=3,
        trained_s=6.0,
        validation_errors=[0.25],
        last_validation_step=3,
        since_log=since_log,
        since_log_s=4.5,
        waited_s=0.125,
        since_epoch=since_epoch,
    )
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
    final = ["step-00000006.json", "step-00000006.safetensors"]
    remove_checkpoints(tmp_path, 6, final_error=0.25)
    assert names(tmp_path) == ["step-00000002.json", "step-00000002.safetensors", *final]
    remove_checkpoints(tmp_path, 6, final_error=0.2)
    assert names(tmp_path) == final
    remove_checkpoints(tmp_path, 7, final_error=0.2)  # the final one could not be written
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


def test_no_flipped_bit_of_a_manifest_is_accepted(tmp_path: Path) -> None:
    training = Training()
    training.move()
    training.write(tmp_path, error=0.25)
    path = checkpoint_folder(tmp_path) / "step-00000001.json"
    # Without the description of the layers, which is long and checked in the same way.
    manifest = json.loads(path.read_text())
    del manifest[SEAL]
    content = json.dumps(sealed({**manifest, "network": {"image_px": 28}})).encode()
    path.write_bytes(content)
    assert read_manifest(path)["step"] == 1
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        assert read_manifest(path) == {}, changed
    digit = content.index(b"5", content.index(b"format_version"))
    path.write_bytes(content[:digit] + b"4" + content[digit + 1 :])  # one bit too: as if it needed no digest
    assert read_manifest(path) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"step": 65},
        {"step": True},
        {"step": "2"},
        {"trained_s": "2"},
        {"trained_s": -1.0},
        {"validation_error": "0.5"},
        {"validation_error": 1.5},
        {"validation_errors": {"0": 1}},
        {"validation_errors": ["0.5"]},
        {"validation_errors": [float("nan")]},
        {"last_learning_rates": {"conv1.weight": "0.1"}},
        {"last_learning_rates": 3},
        {"network": []},
        {"sha256": 5},
        {"format_version": "4"},
    ],
)
def test_a_manifest_without_a_digest_is_damaged_where_it_cannot_be_right(
    change: dict[str, object], tmp_path: Path
) -> None:
    training = Training()
    for _ in range(2):
        training.move()
        training.write(tmp_path)
    path = checkpoint_folder(tmp_path) / "step-00000002.json"
    # Version 4 had the same keys but the digest.
    older = {key: value for key, value in json.loads(path.read_text()).items() if key != SEAL}
    path.write_text(json.dumps(older))
    assert read_manifest(path) == {}
    older["format_version"] = 4
    path.write_text(json.dumps(older))
    assert Training().load(tmp_path) == Loaded(step=2, broken=())
    for damaged in ({**older, **change}, {key: value for key, value in older.items() if key not in change}):
        path.write_text(json.dumps(damaged))
        other = Training()
        assert other.load(tmp_path) == Loaded(step=1, broken=("step-00000002",)) and other.state.step == 1
        (checkpoint_folder(tmp_path) / "broken-step-00000002.json").rename(path)
        (checkpoint_folder(tmp_path) / "broken-step-00000002.safetensors").rename(path.with_suffix(".safetensors"))


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"step": 2', b"\xff\xfe", b"[]", b"3", b""])
def test_a_manifest_that_is_no_json_object_is_damaged(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "step-00000002.json"
    path.write_bytes(content)
    assert read_manifest(path) == {}


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
    unsealed = {key: value for key, value in content.items() if key != SEAL}
    for change in ({"format_version": 2}, {"network": {**content["network"], "input_scale": 1.0}}):
        manifest.write_text(json.dumps(sealed({**unsealed, **change})))
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


def test_checkpoints_without_the_metrics_of_this_version_are_read(tmp_path: Path) -> None:
    training = Training()
    training.move()
    training.state.since_log = training.state.since_epoch = RunningMetrics({"loss": 1.0, "top1_error": 2.0}, 7)
    training.write(tmp_path)
    path = checkpoint_folder(tmp_path) / "step-00000001.json"
    whole = json.loads(path.read_text())
    del whole[SEAL], whole["since_epoch"]
    other_metrics = {**whole, "since_epoch": {"images": 3, "sums": {"loss": 2.0}}}
    del whole["since_log"]
    for content in (whole, other_metrics):
        path.write_text(json.dumps(sealed(content)))
        other = Training()
        assert other.load(tmp_path) == Loaded(step=1, broken=())
        assert other.state.since_epoch == RunningMetrics()
        assert other.state.since_log_s == (2.0 if content is whole else 0.0)
