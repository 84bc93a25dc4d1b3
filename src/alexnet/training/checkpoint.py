"""What an interrupted training goes on from: weights, velocities, averages and the step, in one safetensors file.

Order, crops, noise and dropout are functions of the seed and the step, so nothing else is state.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from alexnet.errors import RequestError, WorkError
from alexnet.model.network import AlexNet
from alexnet.storage.atomic import write_bytes
from alexnet.training.average import WeightAverage
from alexnet.training.optimizer import VelocitySGD

FORMAT_VERSION = 2
# What a tensor's name in the file begins with.
NETWORK, VELOCITY, AVERAGE = "network.", "velocity.", "average."


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


def save_checkpoint(
    run_folder: Path,
    network: AlexNet,
    optimizer: VelocitySGD,
    position: Position,
    average: WeightAverage | None = None,
) -> None:
    """Write the checkpoint of `run_folder`, replacing the one before it in one rename.

    Raises:
        OSError: the disk is full or the folder is gone; the checkpoint before is untouched.
    """
    last_rates, velocities = optimizer.state()
    tensors = {f"{NETWORK}{name}": tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    tensors |= {f"{VELOCITY}{name}": tensor.cpu().contiguous() for name, tensor in velocities.items()}
    if average is not None:
        tensors |= {f"{AVERAGE}{name}": tensor.cpu().contiguous() for name, tensor in average.tensors.items()}
    state = {
        "format_version": FORMAT_VERSION,
        "step": position.step,
        "trained_s": position.trained_s,
        "last_rates": last_rates,
        "network": network.description.as_json(),
    }
    path = checkpoint_path(run_folder)
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, safetensors.torch.save(tensors, metadata={"state": json.dumps(state)}))


def load_checkpoint(
    run_folder: Path, network: AlexNet, optimizer: VelocitySGD, average: WeightAverage | None = None
) -> Position:
    """Put network, optimizer and average where the checkpoint left them.

    Raises:
        RequestError: another version of alexnet wrote it, or one in which the variant computed something else.
        WorkError: the checkpoint is damaged or belongs to another network.
    """
    path = checkpoint_path(run_folder)
    try:
        with safetensors.safe_open(path, framework="pt") as content:
            state = json.loads(content.metadata()["state"])
            tensors: dict[str, torch.Tensor] = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise WorkError(f"{path} is damaged ({error}); remove the run folder and train again") from error
    if state.get("format_version") != FORMAT_VERSION or state["network"] != network.description.as_json():
        raise RequestError(
            f"{path} was written by another version of alexnet (run.json names the commit), whose checkpoints or whose "
            f"variant {network.variant!r} are not this version's; go on with that version, or train again"
        )
    try:
        network.load_state_dict(_named(tensors, NETWORK))
    except RuntimeError as error:
        raise WorkError(f"{path} belongs to another network than {network.variant!r}: {error}") from error
    optimizer.restore(state["last_rates"], _named(tensors, VELOCITY))
    if average is not None:
        average.restore(_named(tensors, AVERAGE))
    return Position(step=state["step"], trained_s=state["trained_s"])


def _named(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
