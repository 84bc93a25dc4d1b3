"""A training's events as TensorBoard files. An extra: `alexnet[tensorboard]`.

The run folder's own events.jsonl remains the record: TensorBoard shows what was logged there.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from alexnet.errors import RequestError
from alexnet.figures.filters import filter_grid
from alexnet.model.columns import ColumnNetwork
from alexnet.runs.folder import RunFolder
from alexnet.training.batch_metrics import NAMES
from alexnet.training.setup import TrainingSetup
from alexnet.training.state import TrainingState

SCALARS: Mapping[str, Mapping[str, str]] = {
    "step": {
        **{name: f"train/{name}" for name in NAMES},
        "learning_rate": "learning_rate/weights",
        "bias_learning_rate": "learning_rate/biases",
        "images_per_second": "speed/images_per_second",
        "wait_share": "speed/wait_share",
        "resident_bytes": "memory/resident_bytes",
        "device_bytes": "memory/device_bytes",
    },
    "epoch": {f"train_{name}": f"epoch/train_{name}" for name in NAMES},
    "validation": {"loss": "{split}/loss", "top1_error": "{split}/top1_error", "top5_error": "{split}/top5_error"},
}
"""Names of the scalars, by event and key."""
TEXTS = ("stall", "exploding", "at_chance", "left_chance", "unreadable", "checkpoint_failed", "held_up", "not_finite")
"""Events that are shown as text."""

_logger = logging.getLogger(__name__)


def tensorboard_folder(run_folder: Path) -> Path:
    """Where a run's TensorBoard files are: `tensorboard --logdir RUNS` finds those of all runs."""
    return run_folder / "tensorboard"


def require_tensorboard() -> None:
    """Check that TensorBoard files can be written.

    Raises:
        RequestError: the package is missing.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise RequestError(
            f"--tensorboard needs the package tensorboard ({error}); "
            "install it with `pip install 'alexnet[tensorboard]'`"
        ) from error


@contextmanager
def write_tensorboard(run: RunFolder, setup: TrainingSetup, state: TrainingState) -> Iterator[None]:
    """Write the run's events for TensorBoard too, while the context is open.

    Steps after the state's, of a run that got further before it was killed, are hidden. A full disk ends the
    TensorBoard files and not the training.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder = tensorboard_folder(run.path)
    writer: SummaryWriter | None = SummaryWriter(str(folder), purge_step=state.step + 1)

    def show(event: Mapping[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            return
        try:
            _show(writer, event)
            if event["event"] == "validation":
                _show_filters(writer, setup, state.step)
                writer.flush()
        except OSError as error:
            writer = None
            _logger.warning(
                f"{folder} cannot be written ({error.strerror or error}): TensorBoard shows no more of this training"
            )

    run.listeners.append(show)
    try:
        yield
    finally:
        run.listeners.remove(show)
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                _logger.warning(f"{folder} is not complete ({error.strerror or error})")


def _show(writer: Any, event: Mapping[str, Any]) -> None:
    kind, step = event["event"], event.get("step", 0)
    for key, name in SCALARS.get(kind, {}).items():
        if isinstance(event.get(key), int | float):
            writer.add_scalar(name.format(split=event.get("split", "")), event[key], step)
    for layer, learning_rate in event.get("layer_learning_rates", {}).items():
        writer.add_scalar(f"learning_rate/{layer}", learning_rate, step)
    if kind in TEXTS:
        text = ", ".join(f"{key}: {value}" for key, value in event.items() if key not in ("event", "time", "norms"))
        writer.add_text(kind, text, step)


def _show_filters(writer: Any, setup: TrainingSetup, step: int) -> None:
    """The first layer's filters, if this process holds all of them and they read colors."""
    first = next(layer for layer in setup.network.sized_layers if layer.weight_shape)
    filters = setup.network.get_parameter(f"{first.name}.weight").detach()
    if isinstance(setup.network, ColumnNetwork) or filters.dim() != 4 or not bool(torch.isfinite(filters).all()):
        return
    grid = filter_grid(filters.float().cpu().numpy())  # (H, W, 3)
    writer.add_image(f"filters/{first.name}", grid, step, dataformats="HWC")
