"""The run folder: the settings, log and results of one training.

recipe.yaml           every hyper-parameter; of an imported network, the file that it came from and how it was read
run.json              format version, commit, machine, versions, seed, data checksum, state
events.jsonl          one JSON object per event, appended while training
checkpoints/          what an interrupted training resumes from
weights.safetensors   the network, with class names and preprocessing inside (of a baseline: baseline.safetensors)
predictions/          probabilities per split
evaluations/          error counts per split and number of views
proof.json            of imported weights: whether they are what they claim to be
report.html           the report
"""

import datetime
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from alexnet.errors import AlexNetError, RequestError
from alexnet.runs.baseline_recipe import BaselineRecipe, baseline_from_dict, baseline_to_dict
from alexnet.runs.import_recipe import ImportRecipe, import_from_dict, import_to_dict
from alexnet.runs.recipe import Recipe
from alexnet.runs.recipe_file import recipe_from_dict, recipe_to_dict
from alexnet.runs.run_files import (
    EVENTS,
    AnyEvent,
    RunData,
    RunMetadata,
    State,
    StoredEvaluation,
    StoredProof,
    inconsistency,
)
from alexnet.storage.atomic import (
    PARTIAL,
    is_full,
    raise_if_full,
    remove_partial,
    require_free,
    unwritable,
    write_text,
)
from alexnet.storage.lock import only_writer
from alexnet.storage.paths import StrPath, StrPaths, as_path, as_paths
from alexnet.storage.typed_files import (
    Versioned,
    damaged,
    read_intact_json_lines,
    read_json,
    read_yaml,
    require_schema,
    sealed,
    sealed_line,
    write_sealed_json,
)
from alexnet.system.visible_text import shell_words

FORMAT_VERSION = 1
PROOF_VERSION = 1

_logger = logging.getLogger(__name__)

# Keys of "step" events in logs of version 0.1.0 that have other names now.
OLD_EVENT_KEYS = {"rate": "learning_rate", "bias_rate": "bias_learning_rate", "layer_rates": "layer_learning_rates"}

AnyRecipe = Recipe | BaselineRecipe | ImportRecipe

_RESTORE = "restore it from a copy, or train again in another folder"


def utc_now() -> str:
    """The current time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class RunFolder:
    """The folder of one training, also given as a path. Every read goes to the disk: another process may be writing."""

    def __init__(self, path: StrPath) -> None:
        self.path = as_path(path, "the run folder")
        self.lost_events = 0
        """Events that were lost to a full disk."""
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []
        """Called with every event that is logged."""
        self._reported_damage: list[str] = []

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        from alexnet.runs.overview import describe_run

        described, name = describe_run(self.path), type(self).__name__
        if "unreadable" in described:
            return f"{name}({str(self.path)!r})"
        error = described["top1_error"]
        split = described["split"] or "validation images"  # logs of earlier versions do not name it
        measured = "" if error is None else f", top-1 error {100 * error:.2f} % on {split}"
        num_steps = described["num_steps"]  # of a baseline None
        progress = f", {described['step']:,} of {num_steps:,} steps" if num_steps else ""
        return f"{name}({str(self.path)!r}: {described['recipe']!r}, {described['state']}{progress}{measured})"

    def _repr_html_(self) -> str:
        from alexnet.runs.run_html import run_html

        return run_html(self)

    @staticmethod
    def create(path: StrPath, recipe: AnyRecipe, metadata: Mapping[str, Any]) -> "RunFolder":
        """Create a run folder with its recipe and metadata (see `alexnet.system.machine`), in state `running`.

        Before run.json, which is written last, a folder is no run. The lock and what a killed process left of the same
        call may be there.

        Raises:
            RequestError: the folder exists and is not empty, or cannot be created.
            WorkError: the disk is full.
        """
        run, text = RunFolder(path), _recipe_text(recipe)
        path = run.path
        start = {"format_version": FORMAT_VERSION, "name": path.name, "started": utc_now(), "finished": None}
        run.require_new(text)
        try:
            path.mkdir(parents=True, exist_ok=True)
            remove_partial(path)
            write_text(path / "recipe.yaml", text)
            write_sealed_json(path / "run.json", {**start, "state": "running", **metadata})
        except BaseException as error:
            if not (path / "run.json").is_file():
                with suppress(OSError):
                    (path / "recipe.yaml").unlink(missing_ok=True)
                    path.rmdir()
            if isinstance(error, OSError):
                raise_if_full(error, path)
                raise unwritable(path, error) from error
            raise
        return run

    def require_new(self, recipe_text: str | None = None) -> None:
        """Refuse a folder that holds something, but no run.

        Args:
            recipe_text: a recipe.yaml with this text is of a process that was killed while it created the run.

        Raises:
            RequestError: there is something other than the lock and files that are being written.
        """
        if not self.path.is_dir():
            require_free(self.path)
            return
        for path in self.path.iterdir():
            is_own = path == self.lock_path or (path.name.startswith(".") and path.name.endswith(PARTIAL))
            if path.name == "recipe.yaml" and path.is_file():
                is_own = recipe_text in (None, path.read_text(encoding="utf-8", errors="replace"))
            if not is_own:
                require_free(self.path)

    @contextmanager
    def locked(self) -> Iterator[str | None]:
        """Hold the folder's lock during the block, in which the run is created or continued; see `only_writer`.

        A folder that is new and still holds no run at the end is removed.

        Raises:
            RequestError: another process trains in the folder, it holds something other than a run, or it cannot be
                created.
        """
        if not (self.path / "run.json").is_file():
            self.require_new()
        with ExitStack() as held:
            try:
                last_holder = held.enter_context(only_writer(self.lock_path, str(self.path)))
            except OSError as error:
                raise_if_full(error, self.path)
                raise unwritable(self.path, error) from error
            try:
                yield last_holder
            finally:
                if not (self.path / "run.json").is_file():
                    with suppress(OSError):
                        self.lock_path.unlink()
                        self.path.rmdir()

    @staticmethod
    def open(path: StrPath) -> "RunFolder":
        """The run folder that exists at `path`.

        Raises:
            RequestError: there is none, or its format version is not supported.
            DamagedFile: run.json is damaged.
        """
        run = RunFolder(path)
        path = run.path
        if not (path / "run.json").is_file():
            raise RequestError(f"{path} is not a run folder {_instead(path)}")
        version = read_json(path / "run.json", Versioned, _RESTORE)["format_version"]
        if version != FORMAT_VERSION:
            raise RequestError(
                f"{path} has run format {version}, this version reads {FORMAT_VERSION}; "
                "use the version of alexnet named in its run.json, or train again"
            )
        run.metadata()
        return run

    def recipe(self) -> Recipe:
        """The recipe the run was started with.

        Raises:
            RequestError: it is the recipe of a baseline, or the run was imported.
        """
        recipe = self.any_recipe()
        if isinstance(recipe, ImportRecipe) and self.state != "finished":
            raise RequestError(f"{self.path} is an import that was not finished; {self.how_to_continue()}")
        if isinstance(recipe, ImportRecipe):
            raise RequestError(
                f"{self.path} was imported from {recipe.imported.name} and has no training; train the network on with "
                f"`{shell_words('alexnet', 'finetune', self.path, 'DATA')}`"
            )
        if isinstance(recipe, BaselineRecipe):
            raise RequestError(
                f"{self.path} is the run of a baseline ({recipe.kind}), not of a network; rerun its `alexnet baseline` "
                "command to finish it, or evaluate it with `alexnet evaluate`"
            )
        return recipe

    def any_recipe(self) -> AnyRecipe:
        """The recipe the run was started with, of a training, of a baseline or of an import.

        Raises:
            DamagedFile: recipe.yaml is damaged.
        """
        path = self.path / "recipe.yaml"
        content = read_yaml(path, dict[str, Any], _RESTORE)
        try:
            recipe = _recipe_from(content)
        except RequestError as error:
            raise damaged(path, str(error), _RESTORE) from error
        if missing := _recipe_content(recipe).keys() - content.keys() - {"name", "claim"}:
            raise damaged(path, f"it lacks {', '.join(sorted(missing))}", _RESTORE)
        return recipe

    def how_to_continue(self) -> str:
        """What to do with a run that is not finished, as the end of a sentence."""
        recipe: AnyRecipe | None = None
        with suppress(AlexNetError):  # `resume` says what is damaged
            recipe = self.any_recipe()
        if isinstance(recipe, ImportRecipe):
            command = shell_words("alexnet", "import", recipe.imported.name, "--run", self.path)
            return f"rerun `{command}` with the options that it had"
        return f"resume it with `{shell_words('alexnet', 'resume', self.path)}`"

    @property
    def is_baseline(self) -> bool:
        """Whether this is the run of a baseline."""
        return isinstance(self.any_recipe(), BaselineRecipe)

    def metadata(self) -> RunMetadata:
        """The contents of run.json.

        Raises:
            DamagedFile: run.json is damaged.
        """
        return read_json(self.path / "run.json", RunMetadata, _RESTORE)

    @property
    def is_imported(self) -> bool:
        """Whether the network was imported from another program's file."""
        return isinstance(self.any_recipe(), ImportRecipe)

    def data(self) -> RunData:
        """The data set that the run was trained on, as run.json describes it.

        Raises:
            RequestError: the run was imported: it has no data of its own.
            DamagedFile: run.json is damaged, or does not name the data.
        """
        metadata = self.metadata()
        if "data" not in metadata and self.is_imported:
            raise RequestError(
                f"{self.path} was imported and has no data set of its own; name a prepared data set with --data"
            )
        if "data" not in metadata:
            raise damaged(self.path / "run.json", "it does not name the run's data", _RESTORE)
        return metadata["data"]

    def data_folders(self) -> list[Path]:
        """The prepared data sets that the run trains on; several are concatenated."""
        data = self.data()
        folders = data.get("folders") or [data["folder"]] if "folder" in data or "folders" in data else []
        if not folders:
            raise damaged(self.path / "run.json", "it does not name the folders of the run's data", _RESTORE)
        return [Path(folder) for folder in folders]

    def require_data(self, named: StrPaths | None = None) -> list[Path]:
        """The data sets that a user names, or else those that the run trains on.

        Raises:
            RequestError: a data set of the run is not where it was.
        """
        if named is not None:
            return as_paths(named, "the data set")
        folders = self.data_folders()
        if missing := [folder for folder in folders if not folder.is_dir()]:
            kept = ""
            if self.state != "finished" and not self.is_baseline:
                kept = f" (`{shell_words('alexnet', 'resume', self.path, '--data', 'DATA')}` records it)"
            raise RequestError(
                f"{' and '.join(map(str, missing))}, on which {self.path} was trained, does not exist; if the data set "
                f"was moved, give its new path with --data{kept}; otherwise restore it, or prepare it again"
            )
        return folders

    def record_data_folders(self, folders: Sequence[Path]) -> None:
        """Record where the data sets of the run are now, for later commands."""
        before, now = [str(folder) for folder in self.data_folders()], [str(folder.absolute()) for folder in folders]
        if now != before:
            self.update_metadata(data={**self.data(), "folders": now})
            _logger.info(f"{self.path}: the data set is at {' and '.join(now)} now, no longer {' and '.join(before)}")

    def update_metadata(self, **changes: Any) -> None:
        """Change some of run.json, atomically."""
        write_sealed_json(self.path / "run.json", {**self.metadata(), **changes})

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
        return self.metadata()["state"]

    def log(self, event: str, **content: Any) -> None:
        """Append one event to events.jsonl; on a full disk it is lost and counted in `lost_events`."""
        logged = {"event": event, "time": utc_now(), **content}
        line = sealed_line(logged)
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
        """All events in order, under this version's keys; a warning says how many damaged lines are left out.

        A last line that is cut short is not damage: another process may be writing it, or was killed.
        """
        path = self.path / "events.jsonl"
        if not path.exists():
            return []
        events, problems = read_intact_json_lines(path, _event, _RESTORE)
        if problems and problems != self._reported_damage:
            self._reported_damage = problems
            _logger.warning(
                f"{path}: {len(problems):,} of {len(events) + len(problems):,} lines are damaged and left out, the "
                f"first is {problems[0]}"
            )
        return events

    def drop_events_after(self, step: int) -> None:
        """Remove the events of later steps: a resumed training writes them again."""
        kept = [event for event in self.events() if event.get("step", 0) <= step]
        write_text(self.path / "events.jsonl", "".join(map(sealed_line, kept)))

    @property
    def weights(self) -> Path:
        """The file of the trained network."""
        return self.path / "weights.safetensors"

    def save_evaluation(self, name: str, content: Mapping[str, Any]) -> None:
        """Store one evaluation as evaluations/`name`.json."""
        folder = self.path / "evaluations"
        folder.mkdir(exist_ok=True)
        write_sealed_json(folder / f"{name}.json", content)

    def evaluations(self) -> dict[str, StoredEvaluation]:
        """All stored evaluations by name (`<split>-<views>views`).

        Raises:
            DamagedFile: one is damaged.
        """
        return {path.stem: self._evaluation(path) for path in sorted((self.path / "evaluations").glob("*.json"))}

    def _evaluation(self, path: Path) -> StoredEvaluation:
        advice = f"delete it and run `{shell_words('alexnet', 'evaluate', self.path)}` to write it again"
        evaluation = read_json(path, StoredEvaluation, advice)
        if problem := inconsistency(evaluation):
            raise damaged(path, problem, advice)
        return evaluation

    def save_proof(self, content: Mapping[str, Any]) -> None:
        """Store whether imported weights are what they claim to be, see `StoredProof`.

        Raises:
            ValueError: the content is not as readers require it, a figure that is not finite for example.
        """
        require_schema(content, StoredProof)
        write_sealed_json(self.path / "proof.json", content)

    def proof(self) -> StoredProof | None:
        """What an import found out about the weights; None for other runs.

        Raises:
            DamagedFile: proof.json is damaged.
            RequestError: its format version is not supported.
        """
        path = self.path / "proof.json"
        if not os.path.lexists(path):
            return None
        advice = "delete it, or import the weights again into another folder"
        if (version := read_json(path, Versioned, advice)["format_version"]) != PROOF_VERSION:
            raise RequestError(
                f"{path} has format {version}, this version reads {PROOF_VERSION}; use the version of alexnet that "
                "imported the weights, or import them again"
            )
        return read_json(path, StoredProof, advice)

    def forget_evaluations(self) -> None:
        """Remove stored evaluations and probabilities, which belong to weights about to be replaced."""
        for name in ("evaluations", "predictions"):
            shutil.rmtree(self.path / name, ignore_errors=True)


class UnwrittenRunFolder(RunFolder):
    """The run folder in all processes but the main one, maybe on another machine: nothing is written or read."""

    def _do_nothing(self, *arguments: Any, **content: Any) -> None:
        """Do nothing: the main process writes."""

    update_metadata = change_recipe = log = drop_events_after = save_evaluation = _do_nothing
    save_proof = forget_evaluations = _do_nothing

    def events(self) -> list[dict[str, Any]]:
        """Return nothing."""
        return []


def _instead(path: Path) -> str:
    """What a path is that is no run folder, and what to do."""
    if not os.path.lexists(path):
        command = shell_words("alexnet", "train", "DATA", "--run", path)
        return f"(it does not exist); `{command}` creates one, or give the folder of a run"
    if path.is_file():
        is_of_run = (path.parent / "run.json").is_file()
        folder = f"that it is in, {path.parent}" if is_of_run else "that `alexnet train` wrote"
        return f"but a file; give the run folder {folder}"
    if (path / "dataset.json").is_file():
        return "but a prepared data set; give the folder that `alexnet train` wrote"
    return "(it has no run.json); give the folder that `alexnet train` wrote"


def _event(content: Any) -> dict[str, Any]:
    """An event under this version's keys; ValueError if it is none."""
    event: dict[str, Any] = dict(require_schema(content, AnyEvent))
    if event["event"] == "step":
        event = {OLD_EVENT_KEYS.get(key, key): value for key, value in event.items()}
    require_schema(event, EVENTS.get(event["event"], AnyEvent))
    return event


def _recipe_from(content: dict[str, Any]) -> AnyRecipe:
    if "baseline" in content:
        return baseline_from_dict(content)
    return import_from_dict(content) if "imported" in content else recipe_from_dict(content)


def _recipe_content(recipe: AnyRecipe) -> dict[str, Any]:
    match recipe:
        case BaselineRecipe():
            return baseline_to_dict(recipe)
        case ImportRecipe():
            return import_to_dict(recipe)
        case _:
            return recipe_to_dict(recipe)


def _recipe_text(recipe: AnyRecipe) -> str:
    text: str = yaml.safe_dump(sealed(_recipe_content(recipe)), sort_keys=False, allow_unicode=True)
    return text
