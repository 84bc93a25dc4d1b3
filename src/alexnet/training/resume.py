"""The beginning of a training: a new run folder, or an unfinished one that fits, and the state to go on from."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alexnet.data.concatenated import count_leaks
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.parallel.process_mesh import ProcessMesh
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import CHANGEABLE, Recipe
from alexnet.runs.recipe_file import recipe_differences
from alexnet.system.device import choose_device
from alexnet.system.machine import machine_summary, source_commit, versions
from alexnet.training.checkpoint import load_checkpoint
from alexnet.training.setup import Tally, Training, start_from_layers


def resume_command(run_folder: Path) -> str:
    """What to type to go on with an interrupted training."""
    return f"alexnet resume {shlex.quote(str(run_folder))}"


def recorded_start(run: RunFolder) -> Path | None:
    """The network an unfinished run began with; None for a new run, or one that began with random weights."""
    if not (run.path / "run.json").is_file():
        return None
    recorded = RunFolder.open(run.path).facts().get("start_from")
    return Path(recorded) if recorded else None


def create_or_continue(
    run: RunFolder,
    recipe: Recipe,
    data: PreparedData,
    data_folders: Sequence[Path],
    start_from: Path | None,
    may_change: bool,
) -> list[str]:
    """Make the run folder, or see that it holds an unfinished training of the same recipe on the same data.

    Returns:
        In what the recipe differs from the run's, as far as it may.
    """
    if not (run.path / "run.json").is_file():
        leaks = count_leaks(data_folders) if len(data_folders) > 1 else 0
        for joined in data.description.get("concatenated", ()):
            if data.evaluation_split not in joined["splits"]:
                _say(f"{joined['folder']} has no split {data.evaluation_split}: errors are measured without its images")
        facts = {
            "commit": source_commit(),
            "machine": _machine(recipe),
            "versions": versions(),
            "seed": recipe.training.seed,
            "start_from": str(start_from.absolute()) if start_from else None,
            "data": {
                "folders": [str(folder.absolute()) for folder in data_folders],
                "title": data.title,
                "generated": data.generated,
                "checksum": data.checksum,
                "side": data.side,
                "num_classes": data.num_classes,
                "splits": {name: len(split) for name, split in data.splits.items()},
                "leaks": leaks,
            },
        }
        RunFolder.create(run.path, recipe, facts)
        if leaks is None:
            _say("the data sets are stored differently: no image of one was looked for among those of another")
        elif leaks:
            _say(
                f"LEAK: {leaks:,} of the images that one data set keeps for measuring stand in the training images of "
                "another; the errors will be too low"
            )
        return []
    RunFolder.open(run.path)
    if run.state == "finished":
        raise RequestError(
            f"{run.path} holds a finished run; name another --run, or look at it with `alexnet report {run.path}`"
        )
    if run.state == "failed":
        raise RequestError(f"{run.path} holds a failed run; remove it or name another --run")
    differences = recipe_differences(run.recipe(), recipe)
    if may_change:
        fixed = [one for one in differences if not one.split(":")[0].startswith(CHANGEABLE)]
        if fixed:
            raise RequestError(
                f"{run.path} cannot go on with {'; '.join(fixed)}; a run may change only its {', '.join(CHANGEABLE)}"
            )
    elif differences:
        raise RequestError(
            f"{run.path} holds an unfinished run of another recipe ({'; '.join(differences)}); "
            f"go on with it by `{resume_command(run.path)}`, or name another --run"
        )
    before = run.facts().get("start_from")
    if start_from and str(start_from.absolute()) != before:
        raise RequestError(
            f"{run.path} holds an unfinished run that started from {before or 'random weights'}, not {start_from}; "
            f"go on with it by `{resume_command(run.path)}`, or name another --run"
        )
    facts = run.facts()["data"]
    if facts["checksum"] != data.checksum:
        counts = {name: len(split) for name, split in data.splits.items()}
        named = " and ".join(map(str, data_folders))
        raise RequestError(
            f"{run.path} holds an unfinished run on other data: {facts['title']!r}, {facts['num_classes']} classes, "
            f"images {facts['splits']}, checksum {facts['checksum'][:12]}; {named} holds {data.title!r}, "
            f"{data.num_classes} classes, images {counts}, checksum {data.checksum[:12]}; name another --run"
        )
    return differences


def restore(training: Training, start_from: Path | None, last_writer: str | None) -> None:
    """Take up the run's last sound checkpoint, or its beginning, and cut the log to what is behind these weights."""
    run, mesh = training.run, training.mesh
    loaded = load_checkpoint(run.path, training.network, training.optimizer, training.average, mesh)
    position = loaded.position
    if position is not None:
        if (
            mesh.is_main
            and position.step >= training.plan.num_steps
            and training.plan.num_steps < run.facts().get("num_steps", 0)
        ):
            raise RequestError(
                f"{run.path} has done {position.step} steps, and the schedule asked for has {training.plan.num_steps}; "
                "allowed is a longer one"
            )
        training.step, training.trained_s = position.step, position.trained_s
        training.window = Tally(since_s=position.trained_s)
        run.drop_events_after(position.step)
    else:
        # Without a checkpoint a run that was killed starts anew: nothing it logged is behind these weights.
        run.drop_events_after(-1)
        if start_from and not training.copied:
            start_from_layers(training, start_from)
    events = run.events()
    training.left_chance = any(event["event"] == "left_chance" for event in events)
    training.unreadable = {event["sample"] for event in events if event["event"] == "unreadable"}
    training.errors = list(position.errors) if position is not None else []
    run.log(
        "start",
        step=training.step,
        device=str(training.device),
        precision=training.precision,
        threads=torch.get_num_threads(),
        commit=source_commit(),
        last_writer=last_writer,
        **layout_facts(mesh),
    )
    if not mesh.is_main:
        return
    for name in loaded.broken:
        run.log("broken_checkpoint", step=training.step, name=name)
        _say(f"checkpoint {name} is damaged and kept as broken-{name}; going on from step {training.step}")
    if last_writer:
        _say(f"{run.path}: {last_writer} ended without letting go; going on from step {training.step}")


def layout_facts(mesh: ProcessMesh) -> dict[str, Any]:
    """How many processes share a training, and how."""
    layout = mesh.layout
    facts: dict[str, Any] = {"processes": mesh.all.size, "columns": layout.columns, "replicas": mesh.replica.size}
    if mesh.is_distributed:
        facts |= {"column_layers": layout.column_layers, "grad_dtype": layout.grad_dtype}
    return facts


def _machine(recipe: Recipe) -> dict[str, Any]:
    """The machine, with the name of the GPU where one is used."""
    used = choose_device(recipe.training.device).type == "cuda"
    return machine_summary() | ({"gpu": torch.cuda.get_device_name()} if used else {})


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
