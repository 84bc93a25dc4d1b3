"""A training's log in TensorBoard's form too, for those who monitor many there. An extra: `alexnet[tensorboard]`.

The run folder's own events.jsonl stays the record: what is shown here is what was logged there.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from alexnet.errors import RequestError
from alexnet.figures.filters import filter_grid
from alexnet.model.columns import ColumnNetwork
from alexnet.training.setup import Training

SCALARS: Mapping[str, Mapping[str, str]] = {
    "step": {
        "loss": "train/loss",
        "top1_error": "train/top1_error",
        "learning_rate": "learning_rate/weights",
        "bias_learning_rate": "learning_rate/biases",
        "images_per_second": "speed/images_per_second",
        "wait_share": "speed/wait_share",
        "resident_bytes": "memory/resident_bytes",
        "device_bytes": "memory/device_bytes",
    },
    "epoch": {"train_loss": "epoch/train_loss", "train_top1_error": "epoch/train_top1_error"},
    "validation": {"loss": "{split}/loss", "top1_error": "{split}/top1_error", "top5_error": "{split}/top5_error"},
}
"""Names of what an event's numbers become, by event and key."""
TEXTS = ("stall", "exploding", "at_chance", "left_chance", "unreadable", "checkpoint_failed", "held_up", "not_finite")
"""Events that are told in words, as they were logged."""


def board_folder(run_folder: Path) -> Path:
    """Where a run's TensorBoard files lie: `tensorboard --logdir RUNS` finds those of all runs."""
    return run_folder / "tensorboard"


def require_tensorboard() -> None:
    """See that TensorBoard can be written.

    Raises:
        RequestError: the package is missing.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise RequestError(
            f"--tensorboard needs the package tensorboard ({error}); `pip install 'alexnet[tensorboard]'` brings it"
        ) from error


@contextmanager
def written_board(training: Training, say: Callable[[str], None]) -> Iterator[None]:
    """Write the run's events for TensorBoard too, for as long as the block lasts.

    Steps behind the one at which the training stands, of a run that went further before it was killed, are hidden. A
    full disk ends the board and not the training.

    Args:
        say: is told, once, that the board could not be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder = board_folder(training.run.path)
    writer: SummaryWriter | None = SummaryWriter(str(folder), purge_step=training.step + 1)

    def show(event: Mapping[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            return
        try:
            _show(writer, event)
            if event["event"] == "validation":
                _show_filters(writer, training)
                writer.flush()
        except OSError as error:
            writer = None
            say(f"{folder} cannot be written ({error.strerror or error}): TensorBoard shows no more of this training")

    training.run.listeners.append(show)
    try:
        yield
    finally:
        training.run.listeners.remove(show)
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                say(f"{folder} is not complete ({error.strerror or error})")


def _show(writer: Any, event: Mapping[str, Any]) -> None:
    kind, step = event["event"], event.get("step", 0)
    for key, name in SCALARS.get(kind, {}).items():
        if isinstance(event.get(key), int | float):
            writer.add_scalar(name.format(split=event.get("split", "")), event[key], step)
    for layer, rate in event.get("layer_learning_rates", {}).items():
        writer.add_scalar(f"learning_rate/{layer}", rate, step)
    if kind in TEXTS:
        said = ", ".join(f"{key}: {value}" for key, value in event.items() if key not in ("event", "time", "norms"))
        writer.add_text(kind, said, step)


def _show_filters(writer: Any, training: Training) -> None:
    """The first layer's filters, where this process holds all of them and they read colors."""
    first = next(place for place in training.network.sized_layers if place.weight_shape)
    filters = training.network.get_parameter(f"{first.name}.weight").detach()
    if isinstance(training.network, ColumnNetwork) or filters.dim() != 4 or not bool(torch.isfinite(filters).all()):
        return
    grid = filter_grid(filters.float().cpu().numpy())  # (H, W, 3)
    writer.add_image(f"filters/{first.name}", grid, training.step, dataformats="HWC")
