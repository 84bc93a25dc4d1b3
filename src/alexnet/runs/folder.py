"""The run folder: the settings, log and results of one training.

recipe.yaml           every hyper-parameter
run.json              format version, commit, machine, versions, seed, data checksum, state
events.jsonl          one JSON object per event, appended while training
checkpoints/          what an interrupted training resumes from
weights.safetensors   the network, with class names and preprocessing inside (of a baseline: baseline.safetensors)
predictions/          probabilities per split
evaluations/          error counts per split and number of views
report.html           the report
"""

import datetime
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from alexnet.errors import RequestError, WorkError
from alexnet.runs.baseline_recipe import BaselineRecipe, baseline_from_dict, baseline_to_dict
from alexnet.runs.recipe import Recipe
from alexnet.runs.recipe_file import recipe_from_dict, recipe_to_dict
from alexnet.storage.atomic import is_full, staged_folder, write_json, write_json_lines, write_text

FORMAT_VERSION = 1

# Keys of "step" events in logs of version 0.1.0 that have other names now.
OLD_EVENT_KEYS = {"rate": "learning_rate", "bias_rate": "bias_learning_rate", "layer_rates": "layer_learning_rates"}

State = Literal["running", "interrupted", "failed", "finished"]


def utc_now() -> str:
    """The current time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class RunFolder:
    """The folder of one training. Every read goes to the disk: another process may be writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost_events = 0
        """Events that were lost to a full disk."""
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []
        """Called with every event that is logged."""

    @staticmethod
    def create(path: Path, recipe: Recipe | BaselineRecipe, metadata: Mapping[str, Any]) -> "RunFolder":
        """Create a run folder with its recipe and metadata (see `alexnet.system.machine`), in state `running`.

        Raises:
            RequestError: the folder exists and is not empty, or cannot be created.
            WorkError: the disk is full.
        """
        start = {"format_version": FORMAT_VERSION, "name": path.name, "started": utc_now(), "finished": None}
        with staged_folder(path) as stage:
            write_text(stage / "recipe.yaml", _recipe_text(recipe))
            write_json(stage / "run.json", {**start, "state": "running", **metadata})
        return RunFolder(path)

    @staticmethod
    def open(path: Path) -> "RunFolder":
        """The run folder that exists at `path`.

        Raises:
            RequestError: there is none, or its format version is not supported.
        """
        if not (path / "run.json").is_file():
            raise RequestError(
                f"{path} is not a run folder (it has no run.json); `alexnet train DATA --run {path}` creates one"
            )
        run = RunFolder(path)
        version = run.metadata().get("format_version")
        if version != FORMAT_VERSION:
            raise RequestError(
                f"{path} has run format {version}, this version reads {FORMAT_VERSION}; "
                "use the version of alexnet named in its run.json, or train again"
            )
        return run

    def recipe(self) -> Recipe:
        """The recipe the run was started with.

        Raises:
            RequestError: it is the recipe of a baseline.
        """
        recipe = self.any_recipe()
        if isinstance(recipe, BaselineRecipe):
            raise RequestError(
                f"{self.path} is the run of a baseline ({recipe.kind}), not of a network; rerun its `alexnet baseline` "
                "command to finish it, or evaluate it with `alexnet evaluate`"
            )
        return recipe

    def any_recipe(self) -> Recipe | BaselineRecipe:
        """The recipe the run was started with, of a network or of a baseline."""
        content = yaml.safe_load((self.path / "recipe.yaml").read_text(encoding="utf-8"))
        return baseline_from_dict(content) if "baseline" in content else recipe_from_dict(content)

    @property
    def is_baseline(self) -> bool:
        """Whether this is the run of a baseline."""
        return isinstance(self.any_recipe(), BaselineRecipe)

    def metadata(self) -> dict[str, Any]:
        """The contents of run.json.

        Raises:
            WorkError: the file is not JSON.
        """
        try:
            content: dict[str, Any] = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise WorkError(f"{self.path / 'run.json'} is damaged ({error}); train again in another folder") from error
        return content

    def data_folders(self) -> list[Path]:
        """The prepared data sets that the run trains on; several are concatenated."""
        data = self.metadata()["data"]
        # Runs of earlier versions have one.
        return [Path(folder) for folder in data.get("folders") or [data["folder"]]]

    def update_metadata(self, **changes: Any) -> None:
        """Change some of run.json, atomically."""
        write_json(self.path / "run.json", {**self.metadata(), **changes})

    def change_recipe(self, recipe: Recipe) -> None:
        """Replace the stored recipe, atomically."""
        write_text(self.path / "recipe.yaml", _recipe_text(recipe))

    @property
    def lock_path(self) -> Path:
        """The lock file of the process that trains in this folder."""
        return self.path / ".lock"

    @property
    def state(self) -> State:
        """The state in run.json; after a kill it is still `running`."""
        state: State = self.metadata()["state"]
        return state

    def log(self, event: str, **content: Any) -> None:
        """Append one event to events.jsonl; on a full disk it is lost and counted in `lost_events`."""
        logged = {"event": event, "time": utc_now(), **content}
        line = json.dumps(logged) + "\n"
        try:
            with (self.path / "events.jsonl").open("a+b") as file:
                # A line that a full disk cut short must not be joined with this one.
                if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) is not None and file.read(1) != b"\n":
                    line = "\n" + line
                file.write(line.encode())
        except OSError as error:
            if not is_full(error):
                raise
            self.lost_events += 1
        for listener in self.listeners:
            listener(logged)

    def events(self) -> list[dict[str, Any]]:
        """All events in order, under this version's keys. Lines cut short by a crash or a full disk are skipped."""
        path = self.path / "events.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")
        # Text after the last line break is incomplete.
        return [event for line in lines[:-1] if (event := _event(line)) is not None]

    def drop_events_after(self, step: int) -> None:
        """Remove the events of later steps: a resumed training writes them again."""
        kept = [event for event in self.events() if event.get("step", 0) <= step]
        write_json_lines(self.path / "events.jsonl", kept)

    @property
    def weights(self) -> Path:
        """The file of the trained network."""
        return self.path / "weights.safetensors"

    def save_evaluation(self, name: str, content: Mapping[str, Any]) -> None:
        """Store one evaluation as evaluations/`name`.json."""
        folder = self.path / "evaluations"
        folder.mkdir(exist_ok=True)
        write_json(folder / f"{name}.json", dict(content))

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """All stored evaluations by name (`<split>-<views>views`)."""
        paths = sorted((self.path / "evaluations").glob("*.json"))
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}

    def forget_evaluations(self) -> None:
        """Remove stored evaluations and probabilities, which belong to weights about to be replaced."""
        for name in ("evaluations", "predictions"):
            shutil.rmtree(self.path / name, ignore_errors=True)


class UnwrittenRunFolder(RunFolder):
    """The run folder in all processes but the main one, maybe on another machine: nothing is written or read."""

    def _do_nothing(self, *arguments: Any, **content: Any) -> None:
        """Do nothing: the main process writes."""

    update_metadata = change_recipe = log = drop_events_after = save_evaluation = forget_evaluations = _do_nothing

    def events(self) -> list[dict[str, Any]]:
        """Return nothing."""
        return []


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(event, dict):
        return None
    if event.get("event") == "step":
        return {OLD_EVENT_KEYS.get(str(key), str(key)): value for key, value in event.items()}
    return event


def _recipe_text(recipe: Recipe | BaselineRecipe) -> str:
    content = baseline_to_dict(recipe) if isinstance(recipe, BaselineRecipe) else recipe_to_dict(recipe)
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return text
