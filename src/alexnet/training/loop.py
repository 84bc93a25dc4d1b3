"""Train the network of a recipe on a prepared data set, in a run folder. Paper: section 5."""

import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from alexnet.data.augment import Batch
from alexnet.data.concatenated import open_data
from alexnet.data.shards import UnreadableSample
from alexnet.errors import AlexNetError, Interrupted, RequestError, TemporaryError, WorkError
from alexnet.model.kernels import slow_path_message
from alexnet.model.weights import Trained
from alexnet.parallel.process_group import idle_cores_message
from alexnet.parallel.process_mesh import SINGLE_PROCESS, ProcessMesh
from alexnet.runs.folder import RunFolder, UnwrittenRunFolder, utc_now
from alexnet.runs.recipe import Recipe
from alexnet.runs.recipe_file import change_settings, flat_settings
from alexnet.runs.recipes import as_recipe
from alexnet.runs.run_files import State
from alexnet.storage.atomic import is_full
from alexnet.storage.paths import StrPath, StrPaths, as_path, as_paths
from alexnet.storage.read_errors import is_passing, passing_error
from alexnet.system.device import choose_device, choose_precision
from alexnet.system.machine import source_digest
from alexnet.system.progress import ProgressBar, ShowProgress, lines_shown
from alexnet.training.batch_metrics import RunningMetrics
from alexnet.training.batches import load_device_cache, remaining_batches
from alexnet.training.checkpoint import has_checkpoint, remove_checkpoints
from alexnet.training.checkpoint_writer import CheckpointWriter
from alexnet.training.distributed import full_shapes
from alexnet.training.graph_step import make_step
from alexnet.training.interrupt import StopRequest, stop_on_signal
from alexnet.training.log import TrainingLog
from alexnet.training.plan import Phase
from alexnet.training.resume import create_or_continue, layout_metadata, recorded_start, restore, resume_command
from alexnet.training.saving import save_failed_weights, save_weights
from alexnet.training.setup import TrainingSetup, build_setup, copy_trained_layers
from alexnet.training.state import TrainingState
from alexnet.training.step import NotFiniteError, Step
from alexnet.training.tensorboard import require_tensorboard, tensorboard_folder, write_tensorboard
from alexnet.training.validation import is_finished, is_validation_due, record_validation_error, validate

LOG_EVERY_STEPS = 10
PROGRESS_INTERVAL_S = 15.0
# The phases of a step, as a process reports them to the others.
WAITS, COMPUTES, ENDS_STEP = 0, 1, 2

Settings = Mapping[str, Any]
"""Values of settings of one group of a recipe, by name."""

_logger = logging.getLogger(__name__)


def train(
    data_folder: StrPaths,
    run_folder: StrPath,
    recipe: Recipe | StrPath = "paper",
    start_from: StrPath | None = None,
    *,
    network: Settings | None = None,
    data: Settings | None = None,
    optimizer: Settings | None = None,
    schedule: Settings | None = None,
    training: Settings | None = None,
    tensorboard: bool = False,
    progress: ShowProgress = None,
    mesh: ProcessMesh = SINGLE_PROCESS,
) -> RunFolder:
    """Train the network of a recipe on a prepared data set; called again, it resumes an interrupted training.

    Args:
        data_folder: a prepared data set (`alexnet.prepare`), or several to be concatenated.
        run_folder: a new folder, or that of an interrupted training of the same recipe on the same data.
        recipe: every hyperparameter: a recipe's name, a YAML file like a run's recipe.yaml, or a `Recipe`.
        start_from: a run folder or weights file: layers of the same names are initialized from its weights, all but
            the last ones; None is the network that an unfinished run started from, if any.
        network, data, optimizer, schedule, training: changed settings of the recipe, such as
            `optimizer={"learning_rate": 0.02}` for the command's `--optimizer.learning_rate 0.02`.
        tensorboard: write the log for TensorBoard too, into the run folder; a run that has such a log continues it.
        progress: see `ShowProgress`; a function is called with (steps done, steps in total).
        mesh: the processes that share the training, each of which calls this. The main one writes the run folder,
            which the others need not see; the data set must be on every machine.

    Returns:
        The run folder, finished: weights, log and the validation error of the last epoch inside.

    Raises:
        RequestError: a setting is unknown or has a value that is not allowed, recipe and data do not fit, the run
            folder holds something else, or another process trains in it.
        WorkError: the loss or a gradient is no longer finite (the weights that gave it are kept as
            weights-at-failure.safetensors), memory is too small, the disk is full at the very end, or a stored image
            cannot be read.
        Interrupted: SIGINT (Ctrl-C, or a notebook's stop button) or SIGTERM; the folder holds a checkpoint and usable
            weights, unless no step was done yet. `resume` continues.
    """
    folders, path = as_paths(data_folder, "the data set"), as_path(run_folder, "the run folder")
    if isinstance(start_from, Trained):
        raise RequestError(
            "start_from is a network in memory; write it with `alexnet.save(trained, 'start.safetensors')` and give "
            "that file, which a resumed training may need again"
        )
    start = None if start_from is None else as_path(start_from, "start_from")
    changes = {"network": network, "data": data, "optimizer": optimizer, "schedule": schedule, "training": training}
    changed = change_settings(as_recipe(recipe), changes)
    progress = progress if mesh.is_main else False
    with lines_shown(progress), _python_noted(path), _with_gradients():
        return _train(folders, changed, path, start, mesh, tensorboard, progress, may_change=False)


def resume(
    run_folder: StrPath,
    *,
    data: StrPaths | None = None,
    optimizer: Settings | None = None,
    schedule: Settings | None = None,
    training: Settings | None = None,
    tensorboard: bool = False,
    progress: ShowProgress = None,
    mesh: ProcessMesh = SINGLE_PROCESS,
) -> RunFolder:
    """Resume an interrupted training, or train a finished run for longer, with `schedule={"epochs": 20}`.

    Args:
        run_folder: the folder of the run.
        data: where the run's data set is now, if it was moved; recorded for later calls.
        optimizer, schedule, training: changed settings, as far as `CHANGEABLE` allows, as in `train`.
        tensorboard, progress, mesh: as in `train`.

    Returns:
        The run folder, finished.

    Raises:
        RequestError: there is no such run, its data set is not where it was, a setting is unknown or may not change,
            or a finished run's schedule is not longer. Otherwise as in `train`.
    """
    path = as_path(run_folder, "the run folder")
    run = RunFolder.open(path)
    recipe = change_settings(run.recipe(), {"optimizer": optimizer, "schedule": schedule, "training": training})
    progress = progress if mesh.is_main else False
    with lines_shown(progress), _python_noted(path), _with_gradients():
        return _train(run.require_data(data), recipe, path, None, mesh, tensorboard, progress, may_change=True)


def _train(
    folders: Sequence[Path],
    recipe: Recipe,
    run_folder: Path,
    start_from: Path | None,
    mesh: ProcessMesh,
    tensorboard: bool,
    progress: ShowProgress,
    *,
    may_change: bool,
) -> RunFolder:
    """Train; with `may_change`, resume with a recipe other than the run's, or a finished run with a longer schedule."""
    data = open_data(folders)
    if tensorboard:
        require_tensorboard()
    device = choose_device(recipe.training.device)
    arithmetic = f"{choose_precision(recipe.training.precision, device)} on {device.type}"
    shared = {"data set": data.checksum, "code": source_digest(), "arithmetic": arithmetic, **layout_metadata(mesh)}
    mesh.require_same({"recipe": recipe.name} | flat_settings(recipe) | shared)
    run = RunFolder(run_folder) if mesh.is_main else UnwrittenRunFolder(run_folder)
    # With a checkpoint the first weights no longer matter, and the file they came from may be gone.
    start_from, fresh = mesh.broadcast((start_from or recorded_start(run), not has_checkpoint(run.path)))
    setup, state = build_setup(data, recipe, mesh), TrainingState()
    if start_from and fresh:
        state.copied_layers = copy_trained_layers(setup, start_from)
    with run.locked() if mesh.is_main else nullcontext() as last_writer, ExitStack() as recorded:
        changes = create_or_continue(run, setup, folders, start_from, may_change) if mesh.is_main else []
        recorded.enter_context(_failure_recorded(run, recipe.optimizer.batch_size))
        restore(setup, state, run, start_from, last_writer)
        if mesh.is_main:
            run.record_data_folders(folders)
        if changes:
            run.change_recipe(recipe)
            run.log("recipe_changed", step=state.step, changes=changes)
        parameters = sum(math.prod(shape) for shape in full_shapes(setup.network).values())
        run.update_metadata(
            state="running",
            finished=None,
            parameters=parameters,
            num_steps=setup.plan.num_steps,
            **layout_metadata(mesh),
        )
        if state.copied_layers:
            run.update_metadata(copied_layers=state.copied_layers)
        _run_steps(setup, state, run, tensorboard or tensorboard_folder(run.path).is_dir(), progress)
        run.update_metadata(
            state="finished",
            finished=utc_now(),
            duration_s=round(state.trained_s, 1),
            unreadable_images=len(state.unreadable),
        )
        if mesh.is_main:
            remove_checkpoints(run.path, state.step, state.validation_errors[-1] if state.validation_errors else None)
    return run


@contextmanager
def _python_noted(run_folder: Path) -> Iterator[None]:
    """Add to errors that name the command that resumes the call that does; the command does not print notes."""
    try:
        yield
    except AlexNetError as error:
        command = rf"`{re.escape(resume_command(run_folder))}(?: --(\w+)\.(\w+) (\w+))?"
        if found := re.search(command, str(error)):
            group, name, value = found.groups()
            changed = f", {group}={{{name!r}: {value}}}" if group else ""
            error.add_note(f"In Python: alexnet.resume({str(run_folder)!r}{changed})")
        raise


@contextmanager
def _with_gradients() -> Iterator[None]:
    """Compute gradients, also where the caller has turned them off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def _failure_recorded(run: RunFolder, batch_size: int) -> Iterator[None]:
    """Record in run.json that the block failed or was interrupted; errors name the command that resumes."""
    resume = resume_command(run.path)
    try:
        yield
    except RequestError:
        raise  # nothing was started
    except TemporaryError:
        _record_state(run, "interrupted")
        raise
    except WorkError as error:
        _record_state(run, "failed")
        with suppress(OSError):
            run.log("failed", reason=str(error))
        raise
    except BaseException as error:
        # Whatever stopped it (a second interrupt, memory, a defect): it can resume from the last checkpoint.
        _record_state(run, "interrupted")
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted without saving; resume from the last checkpoint with `{resume}`") from error
        if is_out_of_memory(error):
            raise WorkError(
                f"memory is too small for batches of {batch_size} ({_first_line(error)}); "
                f"`{resume} --training.micro_batch N` resumes with fewer images at a time and the same result; "
                "--training.precision bfloat16 and, on a GPU, --training.cache none need less memory too"
            ) from error
        if isinstance(error, UnreadableSample):
            raise WorkError(
                f"{error}; repair the data set, then resume with `{resume}` (with --training.cache none "
                "--training.on_unreadable replace, the next image is used in place of an unreadable training image)"
            ) from error
        if isinstance(error, OSError) and is_passing(error):
            problem = f"cannot access {error.filename}" if error.filename else "the training stopped"
            raise passing_error(problem, error, f"resume with `{resume}`") from error
        if is_full(error):
            raise WorkError(f"the disk of {run.path} is full; free some space, then resume with `{resume}`") from error
        raise


def _record_state(run: RunFolder, state: State) -> None:
    with suppress(OSError, WorkError):  # a full disk: the error that stopped the training matters more
        run.update_metadata(state=state)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Python, could not allocate memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _run_steps(
    setup: TrainingSetup, state: TrainingState, run: RunFolder, tensorboard: bool, shown: ShowProgress
) -> None:
    """Run the remaining steps and save the weights."""
    plan, mesh = setup.plan, setup.mesh
    setup.network.train()
    with (
        stop_on_signal() as stop,
        CheckpointWriter(run.path, mesh.is_main) as writer,
        ProgressBar(
            run.path.name,
            state.step,
            plan.num_steps,
            shown=shown,
            line_interval_s=PROGRESS_INTERVAL_S,
            first_and_last=True,
        ) as progress,
        write_tensorboard(run, setup, state) if tensorboard and mesh.is_main else nullcontext(),
    ):
        log = TrainingLog(run, setup, state, progress)
        with _stalls_logged(mesh, log):
            if slower := slow_path_message(setup.device.type):
                _logger.warning(slower)
            if mesh.is_distributed and (idle := idle_cores_message()):
                _logger.warning(idle)
            mesh.heartbeat(state.step, WAITS, "reading its images")
            device_cache = load_device_cache(setup, partial(_stop_while_reading, run, log, stop))
            step = make_step(setup, device_cache)
            # An error would keep the generator, with its threads and batches, for as long as somebody keeps the error.
            with closing(remaining_batches(setup, state, with_images=device_cache is None)) as batches:
                try:
                    _train_on(batches, setup, state, run, step, stop, writer, log, progress)
                except NotFiniteError as error:
                    save_failed_weights(setup, run, log, error)
            writer.finish()
            _log_checkpoint_failure(writer, log)
            save_weights(setup, run)  # first, where the disk has no room for both
            # What a longer schedule continues from.
            writer.begin(setup.network, setup.optimizer, state, setup.ema)
            writer.finish()
            _log_checkpoint_failure(writer, log)
    log.end()


def _train_on(
    batches: Iterator[tuple[Phase, Batch]],
    setup: TrainingSetup,
    state: TrainingState,
    run: RunFolder,
    step: Step,
    stop: StopRequest,
    writer: CheckpointWriter,
    log: TrainingLog,
    progress: ProgressBar,
) -> None:
    """One step for each batch; validation, log and checkpoints between them."""
    plan, mesh, recipe = setup.plan, setup.mesh, setup.recipe
    last_checkpoint = time.monotonic()
    # The training time covers waiting for data and the step; it excludes validation and checkpoints.
    start = time.perf_counter()
    for phase, batch in batches:
        mesh.heartbeat(state.step, COMPUTES, "its computation")
        learning_rates = plan.learning_rates(recipe, state.step, state.validation_errors)
        step.run(phase, batch, state.step, learning_rates)
        state.step += 1

        # What one process sees, all do: stop, save (when the main one has time), name unreadable images.
        log_due = state.step % LOG_EVERY_STEPS == 0 or state.step == plan.num_steps
        checkpoint_due = time.monotonic() - last_checkpoint >= recipe.training.checkpoint_every
        stopping, checkpoint_due, unreadable = mesh.any(
            bool(stop), mesh.is_main and checkpoint_due and not writer.busy, bool(batch.unreadable)
        )
        if unreadable:
            _record_unreadable(setup, state, batch, log)
        # To read metrics from a GPU is to wait for it: only when something needs them.
        ends_epoch = plan.ends_epoch(state.step)
        if step.is_synchronous or log_due or checkpoint_due or stopping or ends_epoch:
            metrics = step.take_metrics()
            state.since_log.add(metrics.sums, metrics.num)
            state.since_epoch.add(metrics.sums, metrics.num)
        state.trained_s += time.perf_counter() - start

        progress.advance(state.step)
        if log_due:
            log.steps(learning_rates)
            state.since_log, state.since_log_s, state.waited_s = RunningMetrics(), state.trained_s, 0.0
        mesh.heartbeat(state.step, ENDS_STEP, "the end of its step, which may validate or save")
        is_lowest = ends_epoch and _end_epoch(setup, state, log)
        if is_finished(setup, state):
            return
        if stopping:
            _stop(setup, state, run, writer, log, stop.signal_name or "a signal to another process")
        if is_lowest:
            writer.finish()  # the best checkpoint so far is not skipped
        if checkpoint_due or is_lowest:
            _log_checkpoint_failure(writer, log)
            writer.begin(setup.network, setup.optimizer, state, setup.ema)
            last_checkpoint = time.monotonic()
        start = time.perf_counter()
        mesh.heartbeat(state.step, WAITS, "waiting for its batch")


def _end_epoch(setup: TrainingSetup, state: TrainingState, log: TrainingLog) -> bool:
    """Log the epoch and validate if that is due; returns whether that gave the lowest validation error so far."""
    log.epoch()
    is_lowest = False
    if is_validation_due(setup, state):
        evaluation = validate(setup)
        # One error for all processes: others may round differently, and the learning rates may follow from it.
        top1_error = setup.mesh.broadcast(evaluation.top1_error)
        is_lowest, consequence = record_validation_error(setup, state, top1_error)
        if consequence:
            log.stall(consequence)
        log.validation(evaluation)
    state.since_epoch = RunningMetrics()
    return is_lowest


def _record_unreadable(setup: TrainingSetup, state: TrainingState, batch: Batch, log: TrainingLog) -> None:
    """Log every image that could not be read and was replaced, each once; all processes call it together."""
    found = {
        sample: reason for part in setup.mesh.all_gather_object(batch.unreadable) for sample, reason in part.items()
    }
    new = {sample: reason for sample, reason in found.items() if sample not in state.unreadable}
    for sample, reason in new.items():
        state.unreadable.add(sample)
        log.unreadable(sample, reason)


def _log_checkpoint_failure(writer: CheckpointWriter, log: TrainingLog) -> None:
    if (failure := writer.failure()) is not None:
        log.checkpoint_failed(failure)


def _stop_while_reading(run: RunFolder, log: TrainingLog, stop: StopRequest) -> None:
    """Stop on request while the images are read: nothing was done since the last checkpoint."""
    if stop:
        log.interrupted(stop.signal_name)
        raise Interrupted(
            f"{_interrupted_by(stop.signal_name)} while the training images were read; "
            f"resume with `{resume_command(run.path)}`"
        )


def _interrupted_by(signal_name: str | None) -> str:
    return "interrupted" if signal_name == "SIGINT" else f"interrupted by {signal_name}"


def _stop(
    setup: TrainingSetup,
    state: TrainingState,
    run: RunFolder,
    writer: CheckpointWriter,
    log: TrainingLog,
    signal_name: str,
) -> NoReturn:
    """Save everything and stop."""
    writer.finish()
    writer.failure()
    writer.begin(setup.network, setup.optimizer, state, setup.ema)
    writer.finish()
    lost = ""
    failure = writer.failure()
    if setup.mesh.any(failure is not None)[0]:
        reason = "by the main process" if failure is None else failure.strerror or str(failure)
        lost = f"; its state could not be saved ({reason}), the checkpoint before it is kept"
    else:
        save_weights(setup, run)
    log.interrupted(signal_name)
    raise Interrupted(
        f"{_interrupted_by(signal_name)} after step {state.step:,} of {setup.plan.num_steps:,}{lost}; "
        f"resume with `{resume_command(run.path)}`"
    )


@contextmanager
def _stalls_logged(mesh: ProcessMesh, log: TrainingLog) -> Iterator[None]:
    """Log stalled processes in the run folder too, while the context is open."""
    monitor = mesh.monitor
    if monitor is None or not mesh.is_main:
        yield
        return
    monitor.on_stall, before = log.stalled_process, monitor.on_stall
    try:
        yield
    finally:
        monitor.on_stall = before
