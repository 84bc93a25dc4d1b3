"""What a training says while it runs: its log, its validation errors, what goes wrong and what follows from it."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn

import torch

from alexnet.data.augment import Batch
from alexnet.errors import WorkError
from alexnet.evaluation.evaluate import evaluate_split
from alexnet.model.weights import Trained, save_trained
from alexnet.system.device import EVALUATION_BATCH_SIZE
from alexnet.system.process_usage import resident_bytes
from alexnet.training.checkpoint_writer import CheckpointWriter
from alexnet.training.distributed import whole_network, whole_tensors
from alexnet.training.schedule import LearningRates, ended, learning_rates_at, stalls
from alexnet.training.setup import Tally, Training
from alexnet.training.training_progress import TrainingProgress

# A loss this share of ln K and below is no longer that of a network that knows nothing.
LEFT_CHANCE = 0.95
# A loss so many times ln K is that of a network that is driven out of bounds.
EXPLODING = 4.0


def current_learning_rates(training: Training, step: int) -> LearningRates:
    plan = training.plan
    return learning_rates_at(training.recipe, step, plan.num_steps, plan.phase(step).stage, training.errors)


def log_window(training: Training, progress: TrainingProgress) -> None:
    loss, error = training.window.means()
    epoch = training.plan.epochs_at(training.step)
    window_s = max(1e-9, training.trained_s - training.window.since_s)
    images_per_second = training.window.num / window_s
    rates = current_learning_rates(training, training.step - 1)
    training.run.log(
        "step",
        step=training.step,
        epoch=round(epoch, 4),
        loss=round(loss, 6),
        top1_error=round(error, 6),
        learning_rate=rates.weights,
        bias_learning_rate=rates.biases,
        layer_learning_rates=dict(rates.layers),
        images_per_second=round(images_per_second, 1),
        wait_share=round(training.window.waited_s / window_s, 5),
        elapsed_s=round(training.trained_s, 3),
        **memory_in_use(training.device),
    )
    progress.update(training.step, epoch, loss, error, images_per_second)
    if not training.left_chance and loss < LEFT_CHANCE * math.log(training.data.num_classes):
        training.left_chance = True
        training.run.log("left_chance", step=training.step, loss=round(loss, 6))
        progress.say(f"step {training.step}: the loss has left ln {training.data.num_classes}, the network is learning")
    if loss > EXPLODING * math.log(training.data.num_classes):
        training.run.log("exploding", step=training.step, loss=round(loss, 6))
        progress.say(
            f"step {training.step}: the loss is {loss:.3g}, far above that of guessing: the training explodes; "
            "a lower rate usually helps"
        )
    if training.run.lost_events and not training.told_lost_events:
        training.told_lost_events = True
        progress.say(f"the disk of {training.run.path} is full: the log loses events; the training goes on")
    training.window = Tally(since_s=training.trained_s)


def memory_in_use(device: torch.device) -> dict[str, int]:
    """Bytes that this process keeps in memory, and on a GPU the most that tensors have taken so far."""
    found = {}
    if (resident := resident_bytes()) is not None:
        found["resident_bytes"] = resident
    if device.type == "cuda":
        found["device_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


def note_unreadable(training: Training, batch: Batch, progress: TrainingProgress) -> None:
    """Say and log which images could not be read and were replaced, each once; all processes call it at once."""
    found = {
        sample: reason for one in training.mesh.all_gather_object(batch.unreadable) for sample, reason in one.items()
    }
    new = {sample: reason for sample, reason in found.items() if sample not in training.unreadable}
    for sample, reason in new.items():
        training.unreadable.add(sample)
        num = len(training.unreadable)
        training.run.log("unreadable", step=training.step, sample=sample, reason=reason, num_unreadable=num)
        progress.say(f"step {training.step}: {reason}; the next image stands in for it ({num} so far)")


def end_epoch(training: Training, progress: TrainingProgress) -> bool:
    """Log the epoch and, where it is due, measure; returns whether that gave the lowest validation error so far."""
    epoch = training.plan.epoch_number(training.step)
    loss, error = training.epoch.means()
    training.epoch = Tally(since_s=training.trained_s)
    training.run.log(
        "epoch",
        epoch=epoch,
        step=training.step,
        train_loss=round(loss, 6),
        train_top1_error=round(error, 6),
        elapsed_s=round(training.trained_s, 3),
    )
    chance = math.log(training.data.num_classes)
    if loss > LEFT_CHANCE * chance:
        training.run.log("at_chance", step=training.step, epoch=epoch, loss=round(loss, 6))
        progress.say(
            f"epoch {epoch}: the loss has stood at {loss:.3f} for the whole epoch, and guessing gives {chance:.3f}: "
            "the network has learned nothing yet"
        )
    settings = training.recipe
    if epoch % settings.training.evaluate_every and training.step != training.plan.num_steps:
        return False
    split = training.data.evaluation_split
    with _weights_to_keep(training):
        measured = evaluate_split(
            training.network,
            training.data,
            split,
            settings.data.crop,
            1,
            mean_at=settings.data.mean,
            batch_size=EVALUATION_BATCH_SIZE,
            device=training.device,
            precision=training.precision,
            processes=training.mesh.replica,
        )
    training.network.train()
    # One error for all: other processors may round otherwise, and the rates may follow from it.
    top1_error = training.mesh.broadcast(measured.top1_error)
    lowest = top1_error < min(training.errors, default=math.inf)
    training.measured_step = training.step
    _note_stall(training, top1_error, progress)
    training.run.log(
        "validation",
        epoch=epoch,
        step=training.step,
        split=split,
        top1_error=measured.top1_error,
        top5_error=measured.top5_error,
        loss=measured.loss,
        num_images=measured.num_images,
    )
    progress.say(
        f"epoch {epoch}: training loss {loss:.3f}, error {100 * error:.1f} %; "
        f"{split} loss {measured.loss:.3f}, top-1 error {100 * measured.top1_error:.1f} %"
    )
    return lowest


def _note_stall(training: Training, error: float, progress: TrainingProgress) -> None:
    """Add a validation error; on a `plateau` schedule, say what follows from it."""
    schedule = training.recipe.schedule
    before = stalls(training.errors, schedule)
    training.errors.append(error)
    if schedule.kind == "plateau" and stalls(training.errors, schedule) > before:
        what = "training ends" if ended(training.errors, schedule) else f"rates times {schedule.gamma:g}"
        training.run.log("stall", step=training.step, then=what)
        progress.say(f"the validation error has not improved for {schedule.patience} epochs: {what}")


def note_failure(training: Training, writer: CheckpointWriter, progress: TrainingProgress) -> None:
    """Say and log that a checkpoint could not be written; the training goes on."""
    if (failure := writer.failure()) is not None:
        reason = failure.strerror or str(failure)
        training.run.log("checkpoint_failed", step=training.step, reason=reason)
        progress.say(
            f"a checkpoint could not be written: {reason}; the one before is kept, and the training goes on. "
            f"Free some space on the disk of {training.run.path}"
        )


def fail(training: Training, batch: Batch, what: str, loss: float, gradients: Mapping[str, torch.Tensor]) -> NoReturn:
    """Stop before the update; keep the weights that did it, the images and every layer's norms.

    Args:
        what: has happened.
        gradients: by the parameter's name, as far as there are some.
    """
    kept = training.run.path / "weights-at-failure.safetensors"
    trained, mesh = _trained(training), training.mesh
    if mesh.is_main:
        save_trained(kept, trained)
    gradients = whole_tensors(training.network, dict(gradients))
    weights = trained.network.state_dict()
    norms = {
        name: {
            "weights": _as_json(weights[name].norm().item()),
            "gradient": _as_json(gradients[name].norm().item()) if name in gradients else None,
        }
        for name in training.optimizer.parameters
    }
    samples = list(dict.fromkeys(sample for one in mesh.all_gather_object(batch.samples.tolist()) for sample in one))
    training.run.log("not_finite", step=training.step, loss=_as_json(loss), samples=samples, norms=norms)
    raise WorkError(
        f"{what}; the weights that gave it are kept in {kept}, its images and every layer's norms in "
        f"{training.run.path / 'events.jsonl'}. A lower rate usually helps"
    )


def _as_json(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    return value if math.isfinite(value) else str(value)


def _weights_to_keep(training: Training) -> AbstractContextManager[None]:
    """The network as it is measured and saved: with the averaged weights where there are such."""
    return nullcontext() if training.average is None else training.average.in_place()


def save_weights(training: Training) -> None:
    """Keep the weights as they are now; all processes call it at once."""
    # Evaluations of an interrupted run's weights are not those of the weights that follow.
    training.run.forget_evaluations()
    with _weights_to_keep(training):
        trained = _trained(training)
        if training.mesh.is_main:
            save_trained(training.run.weights, trained)


def _trained(training: Training) -> Trained:
    """The network with all that goes with it; all processes call it at once."""
    return Trained(
        network=whole_network(training.network),
        classes=training.data.classes,
        mean_image=torch.from_numpy(training.data.statistics.mean_image),
        crop=training.recipe.data.crop,
        title=training.data.title,
        generated=training.data.generated,
        mean_at=training.recipe.data.mean,
    )
