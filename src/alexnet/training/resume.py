"""The start of a training: a new run folder, or an unfinished one that matches, and the state to resume from."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alexnet.data.concatenated import count_leaks
from alexnet.data.dataset import PreparedData, prepare_again_words
from alexnet.errors import RequestError
from alexnet.parallel.process_mesh import ProcessMesh
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import CHANGEABLE, Recipe
from alexnet.runs.recipe_file import recipe_differences
from alexnet.runs.recipes import is_small_crop, side_for_crop
from alexnet.system.device import choose_device
from alexnet.system.machine import machine_summary, source_commit, versions
from alexnet.system.visible_text import shell_words
from alexnet.training.checkpoint import checkpoint_folder, load_checkpoint, manifest_name, read_manifest
from alexnet.training.schedule import ended
from alexnet.training.setup import TrainingSetup, copy_trained_layers
from alexnet.training.state import TrainingState

_logger = logging.getLogger(__name__)


def resume_command(run_folder: Path) -> str:
    """The command that resumes an interrupted training."""
    return shell_words("alexnet", "resume", run_folder)


def recorded_start(run: RunFolder) -> Path | None:
    """The network an unfinished run began with; None for a new run, or one that began with random weights."""
    if not (run.path / "run.json").is_file():
        return None
    recorded = RunFolder.open(run.path).metadata().get("start_from")
    return Path(recorded) if recorded else None


def create_or_continue(
    run: RunFolder,
    setup: TrainingSetup,
    data_folders: Sequence[Path],
    start_from: Path | None,
    may_change: bool,
) -> list[str]:
    """Create the run folder, or check that it holds an unfinished training of the same recipe on the same data.

    With `may_change` it may also hold a finished training, if the recipe's schedule is longer.

    Returns:
        The allowed differences between the recipe and the run's.

    Raises:
        RequestError: the folder holds a failed run, one of another recipe, start or data set, or a finished one that
            cannot be continued.
    """
    if not (run.path / "run.json").is_file():
        _create(run, setup, data_folders, start_from)
        return []
    RunFolder.open(run.path).recipe()  # refuses the run of a baseline or of an import
    if run.state == "finished":
        _require_longer_schedule(run, setup, data_folders, may_change)
    if run.state == "failed":
        raise RequestError(f"{run.path} holds a failed run; remove it or choose another --run")
    differences = _allowed_differences(run, setup.recipe, may_change)
    _require_same_start(run, start_from)
    _require_same_data(run, setup.data, data_folders, may_change)
    return differences


def _create(run: RunFolder, setup: TrainingSetup, data_folders: Sequence[Path], start_from: Path | None) -> None:
    """Create the run folder; warn of data on which its errors mean little."""
    recipe, data = setup.recipe, setup.data
    _require_large_crops(recipe, data, data_folders)
    leaks = count_leaks(data_folders) if len(data_folders) > 1 else 0
    metadata = {
        "commit": source_commit(),
        "machine": _machine(recipe),
        "versions": versions(),
        "seed": recipe.training.seed,
        "start_from": str(start_from.absolute()) if start_from else None,
        "data": {**data.summary(data_folders), "leaks": leaks},
    }
    RunFolder.create(run.path, recipe, metadata)
    if not data.has_evaluation_split:
        _logger.warning(
            f"{data.folder} has no validation or test split: no error is measured during training, and the last "
            "weights are kept; prepare it again with --hold-out 0.1 to measure one"
        )
    for joined in data.description.get("concatenated", ()):
        if data.has_evaluation_split and data.evaluation_split not in joined["splits"]:
            _logger.warning(
                f"{joined['folder']} has no split {data.evaluation_split}: errors are measured without its images"
            )
    if leaks is None:
        _logger.warning("the data sets are stored differently: duplicates between them cannot be found")
    elif leaks:
        _logger.warning(
            f"LEAK: {leaks:,} evaluation images of one data set are among the training images of another; the "
            "errors will be too low"
        )


def _require_same_start(run: RunFolder, start_from: Path | None) -> None:
    before = run.metadata().get("start_from")
    if start_from and str(start_from.absolute()) != before:
        raise RequestError(
            f"{run.path} holds an unfinished run that started from {before or 'random weights'}, not {start_from}; "
            f"resume it with `{resume_command(run.path)}`, or choose another --run"
        )


def _require_same_data(run: RunFolder, data: PreparedData, data_folders: Sequence[Path], may_change: bool) -> None:
    recorded = run.data()
    if recorded["checksum"] == data.checksum:
        return
    counts = {name: len(split) for name, split in data.splits.items()}
    raise RequestError(
        f"{run.path} holds an unfinished run on other data: {recorded.get('title')!r}, {recorded.get('num_classes')} "
        f"classes, images {recorded.get('splits')}, checksum {recorded['checksum'][:12]}; "
        f"{' and '.join(map(str, data_folders))} holds {data.title!r}, {data.num_classes} classes, images {counts}, "
        f"checksum {data.checksum[:12]}; "
        + ("name the data set that it was started on" if may_change else "choose another --run")
    )


def _allowed_differences(run: RunFolder, recipe: Recipe, may_change: bool) -> list[str]:
    """Differences between the recipe and the run's, all of which may change in a run."""
    differences = recipe_differences(run.recipe(), recipe)
    if may_change:
        fixed = [one for one in differences if not one.split(":")[0].startswith(CHANGEABLE)]
        if fixed:
            raise RequestError(
                f"{run.path} cannot resume with {'; '.join(fixed)}; a run may change only its {', '.join(CHANGEABLE)}"
            )
    elif differences:
        raise RequestError(
            f"{run.path} holds an unfinished run of another recipe ({'; '.join(differences)}); "
            f"resume it with `{resume_command(run.path)}`, or choose another --run"
        )
    return differences


def _require_longer_schedule(
    run: RunFolder, setup: TrainingSetup, data_folders: Sequence[Path], may_change: bool
) -> None:
    """Refuse to continue a finished run unless its schedule has more steps and its last checkpoint exists."""
    done = max((event.get("step", 0) for event in run.events()), default=0)
    longer = f"`{shell_words('alexnet', 'resume', run.path)} --schedule.epochs N`"
    view = f"view it with `{shell_words('alexnet', 'report', run.path)}`"
    if not may_change:
        raise RequestError(
            f"{run.path} holds a finished run; choose another run folder, train it for more epochs with {longer}, or "
            f"{view}"
        )
    final = checkpoint_folder(run.path) / manifest_name(done)
    exists = final.is_file() and final.with_suffix(".safetensors").is_file()
    manifest = read_manifest(final) if exists else {}
    if not manifest:
        reason = "without the checkpoint of its last step (it was deleted, or an older version wrote the run)"
        if exists:
            reason = f"whose last checkpoint, {final}, is damaged"
        again = shell_words("alexnet", "train", *data_folders, "--config", run.path / "recipe.yaml", "--run", "NEW")
        raise RequestError(
            f"{run.path} holds a finished run {reason}, so it cannot be trained for more epochs; train again with "
            f"`{again} --schedule.epochs N`, or {view}"
        )
    schedule = setup.recipe.schedule
    if setup.plan.num_steps <= done:
        done_epochs = setup.plan.epochs_at(done)
        raise RequestError(
            f"{run.path} holds a finished run of {done:,} steps, and the schedule has {setup.plan.num_steps:,}; train "
            f"it for more than {round(done_epochs, 2):g} epochs with {longer}, or {view}"
        )
    if ended(manifest.get("validation_errors", []), schedule):
        raise RequestError(
            f"{run.path} holds a finished run whose validation error has stopped improving more often than "
            f"--schedule.plateau_drops {schedule.plateau_drops} allows; raise it to train on, or {view}"
        )


def _require_large_crops(recipe: Recipe, data: PreparedData, data_folders: Sequence[Path]) -> None:
    """Refuse crops that show corners of the photographs, with the commands that prepare them for the recipe."""
    crop = recipe.data.crop
    if recipe.data.small_crops or not is_small_crop(crop, data.side):
        return
    side = side_for_crop(crop)
    words = [prepare_again_words(PreparedData.open(folder), side) for folder in data_folders]
    commands = [f"`{shell_words(*command)}`" for command in words]
    raise RequestError(
        f"the images of {' and '.join(map(str, data_folders))} are stored at {data.side} pixels, and crops of {crop} "
        f"pixels would show only corners of the photographs; allowed is a crop of at least half of the stored side. "
        f"Prepare the images at {side} pixels with {' and '.join(commands)}, or allow such crops with "
        "--data.small_crops true"
    )


def restore(
    setup: TrainingSetup, state: TrainingState, run: RunFolder, start_from: Path | None, last_writer: str | None
) -> None:
    """Load the run's last intact checkpoint, or start from the beginning, and drop events of later steps.

    Args:
        state: that of a new training; changed to that of the checkpoint.
        start_from: the network whose layers a new training starts from.
        last_writer: a process that ended without releasing the run folder.
    """
    mesh = setup.mesh
    loaded = load_checkpoint(run.path, setup.network, setup.optimizer, state, setup.ema, mesh)
    if loaded.step is None:
        # A run that was killed before its first checkpoint: no event belongs to the current weights.
        run.drop_events_after(-1)
        if start_from and not state.copied_layers:
            state.copied_layers = copy_trained_layers(setup, start_from)
    else:
        num_steps = setup.plan.num_steps
        if mesh.is_main and loaded.step >= num_steps and num_steps < run.metadata().get("num_steps", 0):
            raise RequestError(
                f"{run.path} has done {loaded.step} steps, and the new schedule has {num_steps}; "
                "allowed is a longer one"
            )
        run.drop_events_after(loaded.step)
    state.unreadable = {event["sample"] for event in run.events() if event["event"] == "unreadable"}
    run.log(
        "start",
        step=state.step,
        device=str(setup.device),
        precision=setup.precision,
        threads=torch.get_num_threads(),
        commit=source_commit(),
        last_writer=last_writer,
        **layout_metadata(mesh),
    )
    for name in loaded.broken:
        run.log("broken_checkpoint", step=state.step, name=name)
        _logger.warning(f"checkpoint {name} is damaged and kept as broken-{name}; resuming from step {state.step}")
    if last_writer:
        _logger.info(f"{run.path}: {last_writer} ended without releasing it; resuming from step {state.step}")


def layout_metadata(mesh: ProcessMesh) -> dict[str, Any]:
    """How many processes share a training, and how, under the keys of run.json and of the "start" event."""
    layout = mesh.layout
    metadata: dict[str, Any] = {"processes": mesh.all.size, "columns": layout.columns, "replicas": mesh.replica.size}
    if mesh.is_distributed:
        metadata |= {"column_layers": layout.column_layers, "grad_dtype": layout.grad_dtype}
    return metadata


def _machine(recipe: Recipe) -> dict[str, Any]:
    """The machine, with the name of the GPU if one is used."""
    used = choose_device(recipe.training.device).type == "cuda"
    return machine_summary() | ({"gpu": torch.cuda.get_device_name()} if used else {})
