"""A prepared data set and a recipe in, a run folder with a trained network out. Paper: section 5."""

import math
import operator
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import torch.nn.functional as F

from alexnet.data.augment import to_input
from alexnet.data.joined import open_data
from alexnet.data.loader import Batch
from alexnet.data.shards import UnreadableSample
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.model.device import arithmetic
from alexnet.runs.folder import RunFolder, State, utc_now
from alexnet.runs.recipe import Recipe
from alexnet.storage.atomic import is_full
from alexnet.storage.lock import only_writer
from alexnet.training.assembly import Training, assemble, loader_of
from alexnet.training.background import CheckpointWriter
from alexnet.training.checkpoint import Position, has_checkpoint, remove_checkpoints
from alexnet.training.continuing import create_or_continue, recorded_start, restore, resume_command
from alexnet.training.interrupt import stop_on_signal
from alexnet.training.journal import (
    end_epoch,
    fail,
    log_window,
    note_failure,
    note_unreadable,
    rates_now,
    save_weights,
)
from alexnet.training.plan import Stretch
from alexnet.training.progress import TrainingProgress
from alexnet.training.schedule import ended

LOG_EVERY_STEPS = 10


def train(
    data_folder: Path | Sequence[Path],
    recipe: Recipe,
    run_folder: Path,
    start_from: Path | None = None,
    *,
    may_change: bool = False,
) -> RunFolder:
    """Train the recipe's network on the prepared data set, or go on with an interrupted training.

    Args:
        data_folder: a prepared data set (`alexnet prepare`), or several to be joined.
        recipe: every hyper-parameter.
        run_folder: a new folder, or that of an interrupted training of the same recipe on the same data.
        start_from: a run folder or weights file: layers of the same names start from its weights, all but the last
            ones; None is what an unfinished run began with.
        may_change: go on with another recipe than the run's, as far as `CHANGEABLE` allows.

    Returns:
        The run folder, finished: weights, log and the validation error of the last epoch inside.

    Raises:
        RequestError: recipe and data do not fit, the run folder holds something else, or another process trains in it.
        WorkError: the loss or a gradient is no longer finite (the weights that gave it are kept aside as
            weights-at-failure.safetensors), memory is too small, the disk is full at the very end, or a stored image
            cannot be read.
        Interrupted: SIGINT or SIGTERM; the folder holds a checkpoint and usable weights.
    """
    folders = [data_folder] if isinstance(data_folder, Path) else list(data_folder)
    data = open_data(folders)
    run = RunFolder(run_folder)
    start_from = start_from or recorded_start(run)
    # With a checkpoint the first weights are history, and the file they came from may be gone.
    fresh = not has_checkpoint(run.path)
    training = assemble(run, data, recipe, start_from if fresh else None)
    changes = create_or_continue(run, recipe, data, folders, start_from, may_change)
    with only_writer(run.lock_path, str(run.path)) as before:
        try:
            restore(training, start_from, before)
            if changes:
                run.change_recipe(recipe)
                run.log("recipe_changed", step=training.step, changes=changes)
            parameters = sum(parameter.numel() for parameter in training.network.parameters())
            run.update_facts(state="running", parameters=parameters, num_steps=training.plan.num_steps)
            if training.copied:
                run.update_facts(copied_layers=training.copied)
            _run_steps(training)
            run.update_facts(
                state="finished",
                finished=utc_now(),
                duration_s=round(training.trained_s, 1),
                unreadable_images=len(training.unreadable),
            )
            remove_checkpoints(run.path, training.errors[-1] if training.errors else None)
        except RequestError:
            raise  # nothing was begun
        except WorkError:
            _note_state(run, "failed")
            raise
        except BaseException as error:
            # Whatever stopped it (a second interrupt, memory, a defect): it goes on from the last checkpoint.
            _note_state(run, "interrupted")
            if is_out_of_memory(error):
                raise WorkError(
                    f"memory is too small for batches of {recipe.optimizer.batch_size} ({_first_line(error)}); "
                    f"`{resume_command(run.path)} --training.micro_batch N` goes on with fewer images at a time and "
                    "the same result; --training.precision bfloat16 needs less too"
                ) from error
            if isinstance(error, UnreadableSample):
                raise WorkError(
                    f"{error}; when the data set is whole again, go on with `{resume_command(run.path)}` (with "
                    "--training.on_unreadable replace the image stored next stands in for a training image)"
                ) from error
            if is_full(error):
                raise WorkError(
                    f"the disk of {run.path} is full; free some space, then go on with `{resume_command(run.path)}`"
                ) from error
            raise
    return run


def _note_state(run: RunFolder, state: State) -> None:
    with suppress(OSError):  # a full disk: what stopped the training is the message that counts
        run.update_facts(state=state)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Python, found too little memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def dropout_seed(seed: int, step: int) -> int:
    """Seed of the dropout masks of one step, 32 bits well mixed: torch's generator for the CPU reads no more."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _run_steps(training: Training) -> None:
    plan = training.plan
    mean_image = torch.from_numpy(training.data.statistics.mean_image).to(training.device)
    training.network.train()
    with (
        stop_on_signal() as stop,
        CheckpointWriter(training.run.path) as writer,
        TrainingProgress(training.run.path.name, training.step, plan.num_steps, plan.num_epochs) as progress,
    ):
        last_checkpoint = time.monotonic()
        # The stopwatch covers waiting for data and the step; it stands still for validation and checkpoints.
        mark = time.perf_counter()
        for stretch, batch in _batches(training):
            loss, wrong = _step(training, stretch, batch, mean_image)
            training.step += 1
            if batch.unreadable:
                note_unreadable(training, batch, progress)
            training.trained_s += time.perf_counter() - mark
            training.window.add(loss, wrong, len(batch.labels))
            training.epoch.add(loss, wrong, len(batch.labels))
            progress.advance(training.step)
            if training.step % LOG_EVERY_STEPS == 0 or training.step == plan.num_steps:
                log_window(training, progress)
            lowest = plan.ends_epoch(training.step) and end_epoch(training, progress)
            if _over(training):
                break
            if stop:
                _stop(training, writer, stop.signal_name)
            due = time.monotonic() - last_checkpoint >= training.recipe.training.checkpoint_every
            if lowest:
                writer.finish()  # the best so far is not passed over
            if (due or lowest) and not writer.busy:
                note_failure(training, writer, progress)
                writer.begin(training.network, training.optimizer, _position(training), training.average)
                last_checkpoint = time.monotonic()
            mark = time.perf_counter()
        writer.finish()
        note_failure(training, writer, progress)
    save_weights(training)
    training.run.log("end", step=training.step, trained_s=round(training.trained_s, 3))


def _stop(training: Training, writer: CheckpointWriter, signal_name: str | None) -> NoReturn:
    """Save everything and leave."""
    writer.finish()
    writer.failure()
    writer.begin(training.network, training.optimizer, _position(training), training.average)
    writer.finish()
    lost = ""
    if failure := writer.failure():
        lost = f"; its state could not be saved ({failure.strerror or failure}), the checkpoint before it is kept"
    else:
        save_weights(training)
    training.run.log("interrupted", step=training.step, by=signal_name)
    raise Interrupted(
        f"stopped by {signal_name} after step {training.step} of {training.plan.num_steps}{lost}; "
        f"go on with `{resume_command(training.run.path)}`"
    )


def _position(training: Training) -> Position:
    measured = training.measured_step == training.step and bool(training.errors)
    return Position(
        errors=tuple(training.errors),
        step=training.step,
        trained_s=training.trained_s,
        error=training.errors[-1] if measured else None,
    )


def _batches(training: Training) -> Iterator[tuple[Stretch, Batch]]:
    """The batches that are left, each with the stretch of the plan it stands in."""
    for stretch in training.plan.stretches:
        first, begin = max(training.step, stretch.first_step), stretch.epoch_step
        if first >= stretch.last_step or _over(training):
            continue
        loader = loader_of(training, stretch)
        with closing(loader.batches(first - begin, stretch.last_step - begin)) as batches:
            for batch in batches:
                training.window.waited_s += loader.waited_s
                loader.waited_s = 0.0
                yield stretch, batch


def _over(training: Training) -> bool:
    """Whether the last step is done, or the validation error has stalled for the last time."""
    return training.step == training.plan.num_steps or ended(training.errors, training.recipe.schedule)


def _step(training: Training, stretch: Stretch, batch: Batch, mean_image: torch.Tensor) -> tuple[float, int]:
    """One update; returns the batch's mean loss and how many of its images were wrong."""
    recipe = training.recipe
    noisy = recipe.data.colour_shrink and stretch.colour_noise
    training.dropout.manual_seed(dropout_seed(recipe.training.seed, training.step))
    num = len(batch.labels)
    size = recipe.training.micro_batch or num
    value, wrong = 0.0, 0
    training.optimizer.clear_gradients()
    for first in range(0, num, size):
        rows = slice(first, min(first + size, num))
        part = batch if size >= num else batch.each(operator.itemgetter(rows))
        training.network.expect_part(None if part is batch else rows, num)
        images = to_input(
            part,
            mean_image,
            training.device,
            mean_at=recipe.data.mean,
            divisor=1 + recipe.data.colour_noise if noisy else 1.0,
        )  # (b, 3, S, S)
        labels = part.labels.to(training.device)
        with arithmetic(training.device, training.precision):
            scores = training.network(images).float()  # (b, K)
        # A part's share of the batch's mean.
        loss = F.cross_entropy(scores, labels, label_smoothing=recipe.training.label_smoothing)
        loss = loss if part is batch else loss * (len(labels) / num)
        value += loss.item()
        if not math.isfinite(value):
            fail(training, batch, f"the loss of step {training.step} is {value}", value)
        loss.backward()  # type: ignore[no-untyped-call]
        wrong += int((scores.detach().argmax(1) != labels).sum())
    training.network.expect_part(None)
    if not training.optimizer.gradients_are_finite():
        fail(training, batch, f"a gradient of step {training.step} is not finite", value)
    training.optimizer.step(rates_now(training, training.step))
    if training.average is not None:
        training.average.update(training.step)
    return value, wrong
