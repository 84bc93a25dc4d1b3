"""Checkpoints: weights, velocities, averages, errors and the step of a training, verified when read.

`checkpoints/step-00000120.safetensors` holds the tensors, the manifest `step-00000120.json` describes them and has the
checksums of that file and of itself. It is written last: a checkpoint without it does not count. Order, crops, noise
and dropout are functions of the seed and the step: nothing else is state.

Names of tensors begin with `network.` (weights), `velocity.` (the optimizer's buffers) or `average.` (averaged
weights), followed by the parameter's name. Keys of the manifest:

    format_version         5
    step                   steps done
    trained_s              seconds of training
    validation_error       top-1 error on the validation images, if measured at this step, else null
    validation_errors      every such error so far
    last_learning_rates    of the last step in which each parameter moved, by parameter name
    since_log, since_epoch the steps that the log lacks so far: images, and the sums of the metrics over them; since_log
                           also has trained_s at its start, and waited_s for batches; new in version 5
    network                what the variant computes
    sha256                 of the safetensors file
    content_sha256         of the manifest's other keys; version 5 added it
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray

from alexnet.errors import RequestError, WorkError
from alexnet.model.network import AlexNet
from alexnet.model.spec_file import spec_matches, spec_to_dict
from alexnet.parallel.process_mesh import SINGLE_PROCESS, ProcessMesh
from alexnet.runs.run_files import Seconds
from alexnet.storage.atomic import remove_partial
from alexnet.storage.checksums import file_digest
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.tensors import open_tensors, write_tensors
from alexnet.storage.typed_files import (
    Count,
    DamagedFile,
    Finite,
    Fraction,
    Sha256,
    Versioned,
    read_json,
    write_sealed_json,
)
from alexnet.training.batch_metrics import NAMES as METRIC_NAMES
from alexnet.training.batch_metrics import RunningMetrics
from alexnet.training.distributed import broadcast_tensors, full_shapes, gather_tensors, local_tensors
from alexnet.training.ema import WeightEMA
from alexnet.training.optimizer import Optimizer
from alexnet.training.state import TrainingState

FORMAT_VERSION, OLDEST_VERSION, FIRST_SEALED_VERSION = 5, 3, 5
VERSION_3_KEYS = {"error": "validation_error", "errors": "validation_errors", "last_rates": "last_learning_rates"}
"""Keys of version 3 that have other names now."""
LearningRate = Annotated[float, Meta(ge=0, le=1.7e308)]
KEEP = 2
"""How many of the newest checkpoints are kept, besides the one of the lowest validation error."""
# What a tensor's name in the file begins with.
NETWORK, VELOCITY, AVERAGE = "network.", "velocity.", "average."


@dataclass
class Snapshot:
    """A training's state at one step, copied, so that the training can continue while it is written.

    It is filled repeatedly and keeps its memory: touching fresh pages would cost more than the copy.
    """

    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    def fill(self, network: AlexNet, optimizer: Optimizer, state: TrainingState, ema: WeightEMA | None = None) -> None:
        """Copy the current state; where two processes hold the network, both call it together and get all of it."""
        last_learning_rates, velocities = optimizer.state()
        kinds = {NETWORK: network.state_dict(), VELOCITY: velocities, AVERAGE: ema.tensors if ema else {}}
        for prefix, local in kinds.items():
            for name, tensor in gather_tensors(network, local).items():
                key = prefix + name
                if key not in self.arrays:
                    self.arrays[key] = torch.empty(tensor.shape, dtype=tensor.dtype).numpy()
                torch.from_numpy(self.arrays[key]).copy_(tensor.detach())
        self.manifest = {
            "format_version": FORMAT_VERSION,
            "step": state.step,
            "trained_s": state.trained_s,
            "validation_error": state.current_validation_error,
            "validation_errors": list(state.validation_errors),
            "last_learning_rates": last_learning_rates,
            "since_log": {
                **_metrics_to_dict(state.since_log),
                "trained_s": state.since_log_s,
                "waited_s": state.waited_s,
            },
            "since_epoch": _metrics_to_dict(state.since_epoch),
            "network": spec_to_dict(network.spec),
        }


def _metrics_to_dict(metrics: RunningMetrics) -> dict[str, Any]:
    return {"images": metrics.num, "sums": dict(metrics.sums)}


def _metrics_from_dict(content: Mapping[str, Any] | None) -> RunningMetrics:
    """The metrics of a manifest; empty if it has none, or metrics of another version."""
    if not content or set(content.get("sums", ())) != set(METRIC_NAMES):
        return RunningMetrics()
    return RunningMetrics(sums=dict(content["sums"]), num=content["images"])


def checkpoint_folder(run_folder: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_folder / "checkpoints"


def manifest_name(step: int) -> str:
    """File name of the manifest of the checkpoint after `step` steps."""
    return f"step-{step:08}.json"


def has_checkpoint(run_folder: Path) -> bool:
    """Whether there is a checkpoint; it is verified when it is read."""
    return bool(_manifests(run_folder))


def write_checkpoint(run_folder: Path, snapshot: Snapshot) -> None:
    """Write a snapshot as the run's newest checkpoint, then remove those that need not be kept.

    Raises:
        OSError: the disk is full or the folder is gone; earlier checkpoints are untouched.
    """
    folder = checkpoint_folder(run_folder)
    folder.mkdir(exist_ok=True)
    path = folder / manifest_name(snapshot.manifest["step"])
    digest = write_tensors(path.with_suffix(".safetensors"), snapshot.arrays, {"format": "pt"})
    write_sealed_json(path, {**snapshot.manifest, "sha256": digest})
    paths = _manifests(run_folder)
    best = _best(paths)
    for old in paths[KEEP:]:
        if best is None or old != best[1]:
            _remove(old)


def _manifests(run_folder: Path) -> list[Path]:
    """Manifests of the run's checkpoints, newest first."""
    return sorted(checkpoint_folder(run_folder).glob("step-*.json"), reverse=True)


def _best(paths: list[Path]) -> tuple[float, Path] | None:
    """The lowest validation error among the checkpoints and its manifest; the earlier of equals."""
    manifests = [(read_manifest(path), path) for path in paths]
    measured = [(one, path) for one, path in manifests if one.get("validation_error") is not None]
    if not measured:
        return None
    manifest, path = min(measured, key=lambda one: (one[0]["validation_error"], one[0]["step"]))
    return float(manifest["validation_error"]), path


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest under the keys of this version; empty if it is damaged. Of another version, only `format_version`.

    Raises:
        WorkError: the system cannot read it.
    """
    advice = "the checkpoint before it can be used"
    try:
        version = read_json(path, Versioned, advice, sealed_since=FIRST_SEALED_VERSION)["format_version"]
        if not OLDEST_VERSION <= version <= FORMAT_VERSION:
            return {"format_version": version}
        schema: type[dict[str, Any]] = _Manifest3 if version == 3 else _Manifest  # type: ignore[assignment]
        manifest = read_json(path, schema, advice)
    except DamagedFile:
        return {}
    if version == 3:
        manifest = {VERSION_3_KEYS.get(key, key): value for key, value in manifest.items()}
    return manifest if path.name == manifest_name(manifest["step"]) else {}


class _AnyManifest(Versioned):
    step: Count
    trained_s: Seconds
    network: dict[str, Any]
    sha256: Sha256


class _Metrics(TypedDict):
    images: Count
    sums: dict[str, Finite]


class _StepMetrics(_Metrics):
    trained_s: Seconds
    waited_s: Seconds


class _Manifest(_AnyManifest):
    since_log: NotRequired[_StepMetrics]
    since_epoch: NotRequired[_Metrics]
    validation_error: Fraction | None
    validation_errors: list[Fraction]
    last_learning_rates: dict[str, LearningRate]


class _Manifest3(_AnyManifest):
    error: Fraction | None
    errors: list[Fraction]
    last_rates: dict[str, LearningRate]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What was found when a checkpoint was loaded."""

    step: int | None
    """Steps done; None if no intact checkpoint was left: the training starts from the beginning."""
    broken: tuple[str, ...]
    """Names of newer checkpoints that were damaged; they are kept as `broken-*`."""


def load_checkpoint(
    run_folder: Path,
    network: AlexNet,
    optimizer: Optimizer,
    state: TrainingState,
    ema: WeightEMA | None = None,
    mesh: ProcessMesh = SINGLE_PROCESS,
) -> Loaded:
    """Restore network, optimizer, state and averaged weights from the newest intact checkpoint.

    What a killed process left half-written is removed. A checkpoint whose bytes are not those that were
    written is renamed to `broken-...`, and the one before it is tried.

    Args:
        mesh: processes that share the training: the main one reads, all get their part.

    Raises:
        RequestError: another version of alexnet wrote it, or one in which the variant computed something else.
        WorkError: it belongs to another network.
    """
    loaded, manifest, tensors = _read_newest(run_folder, network) if mesh.is_main else (None, None, None)
    loaded, manifest = mesh.broadcast((loaded, manifest))
    assert loaded is not None and manifest is not None
    if loaded.step is None:
        return loaded
    tensors = broadcast_tensors(mesh, tensors)
    optimizer.restore(manifest["last_learning_rates"], local_tensors(network, _with_prefix(tensors, VELOCITY)))
    network.load_state_dict(local_tensors(network, _with_prefix(tensors, NETWORK)))
    if ema is not None:
        ema.restore(local_tensors(network, _with_prefix(tensors, AVERAGE)))
    state.step, state.trained_s = loaded.step, manifest["trained_s"]
    since_log = manifest.get("since_log", {"trained_s": state.trained_s, "waited_s": 0.0})
    state.since_log, state.since_epoch = _metrics_from_dict(since_log), _metrics_from_dict(manifest.get("since_epoch"))
    state.since_log_s, state.waited_s = since_log["trained_s"], since_log["waited_s"]
    state.validation_errors = list(manifest["validation_errors"])
    state.last_validation_step = -1 if manifest["validation_error"] is None else loaded.step
    return loaded


def _read_newest(run_folder: Path, network: AlexNet) -> tuple[Loaded, dict[str, Any], dict[str, torch.Tensor]]:
    """The newest intact checkpoint: what was found, its manifest, its tensors; errors as `load_checkpoint`."""
    folder = checkpoint_folder(run_folder)
    if folder.is_dir():
        remove_partial(folder)
    broken = []
    for path in _manifests(run_folder):
        manifest, file = read_manifest(path), path.with_suffix(".safetensors")
        if manifest and not _is_readable(manifest, network):
            raise RequestError(
                f"{path} was written by another version of alexnet (run.json names the commit), whose checkpoints "
                f"or whose variant {network.variant!r} are not this version's; resume with that version, or train again"
            )
        if not manifest or not file.is_file() or file_digest(file) != manifest["sha256"]:
            broken.append(path.stem)
            for damaged in (path, file):
                if damaged.exists():
                    damaged.rename(damaged.with_name(f"broken-{damaged.name}"))
            continue
        try:
            with open_tensors(file, "pt") as content:
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        except (OSError, RuntimeError) as error:
            raise_unless_damage(error, file)
            raise
        shapes = {name: tuple(tensor.shape) for name, tensor in _with_prefix(tensors, NETWORK).items()}
        expected = full_shapes(network)
        if shapes != expected:
            differing = sorted(name for name in shapes.keys() | expected if shapes.get(name) != expected.get(name))
            raise WorkError(
                f"{file} belongs to another network than {network.variant!r}: it has {differing[0]} of shape "
                f"{shapes.get(differing[0])}, the network {expected.get(differing[0])}"
            )
        return Loaded(step=manifest["step"], broken=tuple(broken)), manifest, tensors
    return Loaded(step=None, broken=tuple(broken)), {}, {}


def _is_readable(manifest: Mapping[str, Any], network: AlexNet) -> bool:
    """Whether a checkpoint has a known format and was made by a network that computes what this one does."""
    is_known = OLDEST_VERSION <= manifest["format_version"] <= FORMAT_VERSION
    return is_known and spec_matches(manifest["network"], network.spec)


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def remove_checkpoints(run_folder: Path, final_step: int, final_error: float | None) -> None:
    """Remove a finished run's checkpoints, except the final one and one whose validation error is below the final."""
    paths = _manifests(run_folder)
    best = _best(paths)
    for path in paths:
        if path.name == manifest_name(final_step):
            continue
        if best is None or path != best[1] or (final_error is not None and best[0] >= final_error):
            _remove(path)


def _remove(manifest: Path) -> None:
    # The manifest goes first: a checkpoint without one does not count.
    manifest.unlink()
    manifest.with_suffix(".safetensors").unlink(missing_ok=True)
