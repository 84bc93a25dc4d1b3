"""A prepared data set and a recipe in, a run folder with a trained network out. Paper: section 5."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch

from alexnet.data.augment import Batch
from alexnet.data.concatenated import open_data
from alexnet.data.shards import UnreadableSample
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.model.kernels import slow_path_message
from alexnet.parallel.process_group import idle_cores_message
from alexnet.parallel.process_mesh import SINGLE_PROCESS, ProcessMesh
from alexnet.runs.folder import RunFolder, State, UnwrittenRunFolder, utc_now
from alexnet.runs.recipe import Recipe
from alexnet.runs.recipe_file import flat_settings
from alexnet.storage.atomic import is_full
from alexnet.storage.lock import only_writer
from alexnet.system.device import choose_device, choose_precision
from alexnet.system.machine import source_digest
from alexnet.training.checkpoint import Position, has_checkpoint, remove_checkpoints
from alexnet.training.checkpoint_writer import CheckpointWriter
from alexnet.training.distributed import whole_shapes
from alexnet.training.graph_step import step_of
from alexnet.training.interrupt import StopRequest, stop_on_signal
from alexnet.training.plan import Phase
from alexnet.training.resume import create_or_continue, layout_facts, recorded_start, restore, resume_command
from alexnet.training.schedule import ended
from alexnet.training.setup import Training, assemble, load_device_cache, loader_of
from alexnet.training.tensorboard import board_folder, require_tensorboard, written_board
from alexnet.training.training_progress import TrainingProgress
from alexnet.training.validation import end_epoch, log_window, note_failure, note_unreadable, save_weights

LOG_EVERY_STEPS = 10
# What a process is at within a step, as it tells the others.
WAITS, COMPUTES, ENDS_STEP = 0, 1, 2


def train(
    data_folder: Path | Sequence[Path],
    recipe: Recipe,
    run_folder: Path,
    start_from: Path | None = None,
    *,
    may_change: bool = False,
    mesh: ProcessMesh = SINGLE_PROCESS,
    tensorboard: bool = False,
) -> RunFolder:
    """Train the recipe's network on the prepared data set, or go on with an interrupted training.

    Args:
        data_folder: a prepared data set (`alexnet prepare`), or several to be joined.
        recipe: every hyper-parameter.
        run_folder: a new folder, or that of an interrupted training of the same recipe on the same data.
        start_from: a run folder or weights file: layers of the same names start from its weights, all but the last
            ones; None is what an unfinished run began with.
        may_change: go on with another recipe than the run's, as far as `CHANGEABLE` allows.
        mesh: the processes that share the training, each of which calls this. The first one writes the run folder,
            which the others need not see; the data set must be on every machine.
        tensorboard: write the log for TensorBoard too, into the run folder; a run that has begun to goes on to.

    Returns:
        The run folder, finished: weights, log and the validation error of the last epoch inside.

    Raises:
        RequestError: recipe and data do not fit, the run folder holds something else, or another process trains in it.
        WorkError: the loss or a gradient is no longer finite (the weights that gave it are kept aside as
            weights-at-failure.safetensors), memory is too small, the disk is full at the very end, or a stored image
            cannot be read.
        Interrupted: SIGINT or SIGTERM; the folder holds a checkpoint and usable weights, unless no step was done yet.
    """
    folders = [data_folder] if isinstance(data_folder, Path) else list(data_folder)
    data = open_data(folders)
    if tensorboard:
        require_tensorboard()
    device = choose_device(recipe.training.device)
    arithmetic = f"{choose_precision(recipe.training.precision, device)} on {device.type}"
    facts = {"data set": data.checksum, "code": source_digest(), "arithmetic": arithmetic, **layout_facts(mesh)}
    mesh.require_same(flat_settings(recipe) | facts)
    run = RunFolder(run_folder) if mesh.is_main else UnwrittenRunFolder(run_folder)
    # With a checkpoint the first weights are history, and the file they came from may be gone.
    start_from, fresh = mesh.broadcast((start_from or recorded_start(run), not has_checkpoint(run.path)))
    training = assemble(run, data, recipe, start_from if fresh else None, mesh)
    changes = create_or_continue(run, recipe, data, folders, start_from, may_change) if mesh.is_main else []
    with only_writer(run.lock_path, str(run.path)) if mesh.is_main else nullcontext() as before:
        try:
            restore(training, start_from, before)
            if changes:
                run.change_recipe(recipe)
                run.log("recipe_changed", step=training.step, changes=changes)
            parameters = sum(math.prod(shape) for shape in whole_shapes(training.network).values())
            run.update_facts(
                state="running", parameters=parameters, num_steps=training.plan.num_steps, **layout_facts(mesh)
            )
            if training.copied:
                run.update_facts(copied_layers=training.copied)
            _run_steps(training, tensorboard or board_folder(run.path).is_dir())
            run.update_facts(
                state="finished",
                finished=utc_now(),
                duration_s=round(training.trained_s, 1),
                unreadable_images=len(training.unreadable),
            )
            if mesh.is_main:
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
                    "the same result; --training.precision bfloat16 and, on a GPU, --training.cache none need less too"
                ) from error
            if isinstance(error, UnreadableSample):
                raise WorkError(
                    f"{error}; when the data set is whole again, go on with `{resume_command(run.path)}` (with "
                    "--training.cache none --training.on_unreadable replace the image stored next stands in for a "
                    "training image)"
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


def _run_steps(training: Training, tensorboard: bool) -> None:
    plan, mesh = training.plan, training.mesh
    training.network.train()
    with (
        stop_on_signal() as stop,
        CheckpointWriter(training.run.path, mesh.is_main) as writer,
        TrainingProgress(
            training.run.path.name, training.step, plan.num_steps, plan.num_epochs, mesh.is_main
        ) as progress,
        _stalls_told(training, progress),
        written_board(training, progress.say) if tensorboard and mesh.is_main else nullcontext(),
    ):
        if slower := slow_path_message(training.device.type):
            progress.say(slower)
        if mesh.is_distributed and (idle := idle_cores_message()):
            progress.say(idle)
        mesh.heartbeat(training.step, WAITS, "reading its images")
        device_cache = load_device_cache(training, progress.say, partial(_stop_reading, training, stop))
        step = step_of(training, device_cache)
        last_checkpoint = time.monotonic()
        # The stopwatch covers waiting for data and the step; it stands still for validation and checkpoints.
        mark = time.perf_counter()
        for phase, batch in _batches(training, with_images=device_cache is None):
            mesh.heartbeat(training.step, COMPUTES, "its computation")
            step.run(phase, batch)
            training.step += 1
            logs = training.step % LOG_EVERY_STEPS == 0 or training.step == plan.num_steps
            due = time.monotonic() - last_checkpoint >= training.recipe.training.checkpoint_every
            # What one process sees, all do: whether to stop, to save (as the one that writes has time), to name images.
            stopping, due, unreadable = mesh.any(
                bool(stop), mesh.is_main and due and not writer.busy, bool(batch.unreadable)
            )
            if unreadable:
                note_unreadable(training, batch, progress)
            # To ask a GPU is to wait for it: only where something follows from the answer.
            if step.at_once or logs or due or stopping or plan.ends_epoch(training.step):
                sums = step.sums()
                training.window.add(sums.loss, sums.wrong, sums.num)
                training.epoch.add(sums.loss, sums.wrong, sums.num)
            training.trained_s += time.perf_counter() - mark
            progress.advance(training.step)
            if logs:
                log_window(training, progress)
            mesh.heartbeat(training.step, ENDS_STEP, "the end of its step, which may measure or save")
            lowest = plan.ends_epoch(training.step) and end_epoch(training, progress)
            if _over(training):
                break
            if stopping:
                _stop(training, writer, stop.signal_name or "a signal to another process")
            if lowest:
                writer.finish()  # the best so far is not passed over
            if due or lowest:
                note_failure(training, writer, progress)
                writer.begin(training.network, training.optimizer, _position(training), training.average)
                last_checkpoint = time.monotonic()
            mark = time.perf_counter()
            mesh.heartbeat(training.step, WAITS, "waiting for its batch")
        writer.finish()
        note_failure(training, writer, progress)
    save_weights(training)
    training.run.log("end", step=training.step, trained_s=round(training.trained_s, 3))


def _stop_reading(training: Training, stop: StopRequest) -> None:
    """Leave, if asked to, while the images are read: nothing has been done since the last checkpoint."""
    if stop:
        training.run.log("interrupted", step=training.step, by=stop.signal_name)
        raise Interrupted(
            f"stopped by {stop.signal_name} while the training images were read; "
            f"go on with `{resume_command(training.run.path)}`"
        )


def _stop(training: Training, writer: CheckpointWriter, signal_name: str | None) -> NoReturn:
    """Save everything and leave."""
    writer.finish()
    writer.failure()
    writer.begin(training.network, training.optimizer, _position(training), training.average)
    writer.finish()
    lost = ""
    failure = writer.failure()
    if training.mesh.any(failure is not None)[0]:
        reason = "by the first process" if failure is None else failure.strerror or str(failure)
        lost = f"; its state could not be saved ({reason}), the checkpoint before it is kept"
    else:
        save_weights(training)
    training.run.log("interrupted", step=training.step, by=signal_name)
    raise Interrupted(
        f"stopped by {signal_name} after step {training.step} of {training.plan.num_steps}{lost}; "
        f"go on with `{resume_command(training.run.path)}`"
    )


@contextmanager
def _stalls_told(training: Training, progress: TrainingProgress) -> Iterator[None]:
    """Say and log which process holds the others up, for as long as the block lasts."""
    monitor = training.mesh.monitor
    if monitor is None or not training.mesh.is_main:
        yield
        return

    def tell(text: str) -> None:
        progress.say(text)
        training.run.log("held_up", step=training.step, by=text)

    monitor.on_stall, before = tell, monitor.on_stall
    try:
        yield
    finally:
        monitor.on_stall = before


def _position(training: Training) -> Position:
    measured = training.measured_step == training.step and bool(training.errors)
    return Position(
        errors=tuple(training.errors),
        step=training.step,
        trained_s=training.trained_s,
        error=training.errors[-1] if measured else None,
    )


def _batches(training: Training, with_images: bool) -> Iterator[tuple[Phase, Batch]]:
    """The batches that are left, each with the phase of the plan it stands in."""
    for phase in training.plan.phases:
        first, begin = max(training.step, phase.first_step), phase.epoch_step
        if first >= phase.last_step or _over(training):
            continue
        loader = loader_of(training, phase, with_images)
        with closing(loader.batches(first - begin, phase.last_step - begin)) as batches:
            for batch in batches:
                training.window.waited_s += loader.waited_s
                loader.waited_s = 0.0
                yield phase, batch


def _over(training: Training) -> bool:
    """Whether the last step is done, or the validation error has stalled for the last time."""
    return training.step == training.plan.num_steps or ended(training.errors, training.recipe.schedule)
