"""What an interrupted training goes on from: weights, velocities, averages, errors and the step, verified when read.

`checkpoints/step-00000120.safetensors` holds the tensors, `step-00000120.json` beside it says what they are and the
checksum of the file; it is written last, so a checkpoint without it does not count. Order, crops, noise and dropout are
functions of the seed and the step: nothing else is state.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray

from alexnet.errors import RequestError, WorkError
from alexnet.model.network import AlexNet
from alexnet.model.spec_file import spec_matches, spec_to_dict
from alexnet.parallel.process_mesh import SINGLE_PROCESS, ProcessMesh
from alexnet.storage.atomic import remove_partial, write_json
from alexnet.storage.checksums import file_digest
from alexnet.storage.tensors import write_tensors
from alexnet.training.distributed import own_tensors, spread, whole_shapes, whole_tensors
from alexnet.training.ema import WeightEMA
from alexnet.training.optimizer import VelocitySGD

FORMAT_VERSION = 3
KEEP = 2
"""How many of the newest checkpoints are kept, besides the one of the lowest validation error."""
# What a tensor's name in the file begins with.
NETWORK, VELOCITY, AVERAGE = "network.", "velocity.", "average."


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a training stands."""

    step: int
    """Steps done."""
    trained_s: float
    """Seconds of training behind it."""
    error: float | None = None
    """Top-1 error on the validation images, fraction, where it was measured at this very step."""
    errors: tuple[float, ...] = ()
    """Every such error so far: a `plateau` schedule follows from them."""


@dataclass
class Snapshot:
    """A training's state at one step, in memory of its own: the training may go on while it is written.

    Filled again and again, it keeps its memory: touching fresh pages would cost more than the copy.
    """

    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def fill(
        self, network: AlexNet, optimizer: VelocitySGD, position: Position, average: WeightEMA | None = None
    ) -> None:
        """Take the state as it is now; where two processes hold the network, both do at once, and take it whole."""
        last_rates, velocities = optimizer.state()
        kinds = {NETWORK: network.state_dict(), VELOCITY: velocities, AVERAGE: average.tensors if average else {}}
        for prefix, own in kinds.items():
            for name, tensor in whole_tensors(network, own).items():
                key = prefix + name
                if key not in self.arrays:
                    self.arrays[key] = torch.empty(tensor.shape, dtype=tensor.dtype).numpy()
                torch.from_numpy(self.arrays[key]).copy_(tensor.detach())
        self.facts = {
            "format_version": FORMAT_VERSION,
            **asdict(position),
            "last_rates": last_rates,
            "network": spec_to_dict(network.spec),
        }


def checkpoint_folder(run_folder: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_folder / "checkpoints"


def has_checkpoint(run_folder: Path) -> bool:
    """Whether there is one to go on from; whether it is sound shows when it is read."""
    return bool(_manifests(run_folder))


def write_checkpoint(run_folder: Path, snapshot: Snapshot) -> None:
    """Write a snapshot as the run's newest checkpoint, then remove those that are no longer to be kept.

    Raises:
        OSError: the disk is full or the folder is gone; the checkpoints before are untouched.
    """
    folder = checkpoint_folder(run_folder)
    folder.mkdir(exist_ok=True)
    manifest = folder / f"step-{snapshot.facts['step']:08}.json"
    digest = write_tensors(manifest.with_suffix(".safetensors"), snapshot.arrays, {"format": "pt"})
    write_json(manifest, {**snapshot.facts, "sha256": digest})
    for old in _not_kept(run_folder):
        _remove(old)


def _manifests(run_folder: Path) -> list[Path]:
    """Manifests of the run's checkpoints, newest first."""
    return sorted(checkpoint_folder(run_folder).glob("step-*.json"), reverse=True)


def _not_kept(run_folder: Path) -> list[Path]:
    manifests = _manifests(run_folder)
    best = _best(manifests)
    return [path for path in manifests[KEEP:] if best is None or path != best[1]]


def _best(manifests: list[Path]) -> tuple[float, Path] | None:
    """The lowest validation error among the checkpoints and the manifest it stands in; the earlier of equals."""
    measured = [(facts, path) for path in manifests if (facts := _facts(path)).get("error") is not None]
    if not measured:
        return None
    facts, path = min(measured, key=lambda one: (one[0]["error"], one[0]["step"]))
    return float(facts["error"]), path


def _facts(manifest: Path) -> dict[str, Any]:
    """What a manifest says; nothing, where it cannot be read."""
    try:
        facts = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Where a training goes on, and what was found on the way there."""

    position: Position | None
    """None where no sound checkpoint was left: the training starts anew."""
    broken: tuple[str, ...]
    """Names of newer checkpoints that were damaged; they are kept as `broken-*`."""


def load_checkpoint(
    run_folder: Path,
    network: AlexNet,
    optimizer: VelocitySGD,
    average: WeightEMA | None = None,
    mesh: ProcessMesh = SINGLE_PROCESS,
) -> Loaded:
    """Put network, optimizer and average where the newest sound checkpoint left them.

    What a killed process left half-written is removed. A checkpoint whose bytes are not those that were
    written is renamed to `broken-...`, and the one before it is tried.

    Args:
        mesh: processes that share the training: the first of them reads, all get their part.

    Raises:
        RequestError: another version of alexnet wrote it, or one in which the variant computed something else.
        WorkError: it belongs to another network.
    """
    loaded, facts, tensors = _read_newest(run_folder, network) if mesh.is_main else (None, None, None)
    loaded, facts = mesh.broadcast((loaded, facts))
    assert loaded is not None and facts is not None
    if loaded.position is not None:
        tensors = spread(mesh, tensors)
        optimizer.restore(facts["last_rates"], own_tensors(network, _named(tensors, VELOCITY)))
        network.load_state_dict(own_tensors(network, _named(tensors, NETWORK)))
        if average is not None:
            average.restore(own_tensors(network, _named(tensors, AVERAGE)))
    return loaded


def _read_newest(run_folder: Path, network: AlexNet) -> tuple[Loaded, dict[str, Any], dict[str, torch.Tensor]]:
    """The newest sound checkpoint: what was found on the way, what its manifest says, its tensors.

    Raises:
        RequestError: another version of alexnet wrote it, or one in which the variant computed something else.
        WorkError: it belongs to another network.
    """
    folder = checkpoint_folder(run_folder)
    if folder.is_dir():
        remove_partial(folder)
    broken = []
    for manifest in _manifests(run_folder):
        facts, file = _facts(manifest), manifest.with_suffix(".safetensors")
        if facts and (
            facts.get("format_version") != FORMAT_VERSION or not spec_matches(facts["network"], network.spec)
        ):
            raise RequestError(
                f"{manifest} was written by another version of alexnet (run.json names the commit), whose checkpoints "
                f"or whose variant {network.variant!r} are not this version's; go on with that version, or train again"
            )
        if not facts or not file.is_file() or file_digest(file) != facts["sha256"]:
            broken.append(manifest.stem)
            for path in (manifest, file):
                if path.exists():
                    path.rename(path.with_name(f"broken-{path.name}"))
            continue
        with safetensors.safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        shapes = {name: tuple(tensor.shape) for name, tensor in _named(tensors, NETWORK).items()}
        expected = whole_shapes(network)
        if shapes != expected:
            differing = sorted(name for name in shapes.keys() | expected if shapes.get(name) != expected.get(name))
            raise WorkError(
                f"{file} belongs to another network than {network.variant!r}: it has {differing[0]} of shape "
                f"{shapes.get(differing[0])}, the network {expected.get(differing[0])}"
            )
        position = Position(
            step=facts["step"], trained_s=facts["trained_s"], error=facts["error"], errors=tuple(facts["errors"])
        )
        return Loaded(position=position, broken=tuple(broken)), facts, tensors
    return Loaded(position=None, broken=tuple(broken)), {}, {}


def _named(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def remove_checkpoints(run_folder: Path, final_error: float | None) -> None:
    """Remove a finished run's checkpoints, but for one whose validation error is below that of the end."""
    manifests = _manifests(run_folder)
    best = _best(manifests)
    for path in manifests:
        if best is None or path != best[1] or (final_error is not None and best[0] >= final_error):
            _remove(path)


def _remove(manifest: Path) -> None:
    # The manifest goes first: what has none does not count.
    manifest.unlink()
    manifest.with_suffix(".safetensors").unlink(missing_ok=True)
