"""What an interrupted training goes on from: weights, velocities and the step, in one safetensors file.

Order, crops, noise and dropout are functions of the seed and the step, so nothing else is state.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from alexnet.errors import WorkError
from alexnet.model.network import AlexNet
from alexnet.storage.atomic import write_bytes
from alexnet.training.optimizer import VelocitySGD


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a training stands."""

    step: int
    """Steps done."""
    trained_s: float
    """Seconds of training behind it."""


def checkpoint_path(run_folder: Path) -> Path:
    """Where a run keeps its checkpoint."""
    return run_folder / "checkpoints" / "last.safetensors"


def save_checkpoint(run_folder: Path, network: AlexNet, optimizer: VelocitySGD, position: Position) -> None:
    """Write the checkpoint of `run_folder`, replacing the one before it in one rename.

    Raises:
        OSError: the disk is full or the folder is gone; the checkpoint before is untouched.
    """
    last_rate, velocities = optimizer.state()
    tensors = {f"network.{name}": tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    tensors |= {f"velocity.{name}": tensor.cpu().contiguous() for name, tensor in velocities.items()}
    state = {"step": position.step, "trained_s": position.trained_s, "last_rate": last_rate}
    path = checkpoint_path(run_folder)
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, safetensors.torch.save(tensors, metadata={"state": json.dumps(state)}))


def load_checkpoint(run_folder: Path, network: AlexNet, optimizer: VelocitySGD) -> Position:
    """Put network and optimizer where the checkpoint left them.

    Raises:
        WorkError: the checkpoint is damaged or belongs to another network.
    """
    path = checkpoint_path(run_folder)
    try:
        with safetensors.safe_open(path, framework="pt") as content:
            state = json.loads(content.metadata()["state"])
            tensors: dict[str, torch.Tensor] = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise WorkError(f"{path} is damaged ({error}); remove the run folder and train again") from error
    weights = {name.removeprefix("network."): tensor for name, tensor in tensors.items() if name.startswith("network.")}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise WorkError(f"{path} belongs to another network than {network.variant!r}: {error}") from error
    velocities = {
        name.removeprefix("velocity."): tensor for name, tensor in tensors.items() if name.startswith("velocity.")
    }
    optimizer.restore(state["last_rate"], velocities)
    return Position(step=state["step"], trained_s=state["trained_s"])
