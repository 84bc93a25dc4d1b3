"""A whole baseline: learn vocabularies, make features, learn classifiers, measure; into a run folder.

Each stage leaves on the disk what it has done, so that the same command goes on after any interruption.
"""

import shlex
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.baseline_evaluation import keep_measured, measured_split, probabilities_of_rows
from alexnet.baselines.baseline_model import FILE, Baseline, Channel, save_baseline
from alexnet.baselines.classifier_training import (
    ROWS_AT_ONCE,
    Lesson,
    fitted_temperature,
    held_out_lessons,
    learned_classifiers,
)
from alexnet.baselines.feature_cache import cached_rows
from alexnet.baselines.resource_usage import ResourceUsage
from alexnet.baselines.training_subset import training_images
from alexnet.baselines.vocabulary import (
    channels_of,
    features_checksum,
    learn,
    row_width,
    rows_of,
    vocabulary_checksum,
)
from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData, Split
from alexnet.data.shards import UnreadableSample
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.runs.baseline_recipe import BaselineRecipe, baseline_differences, baseline_to_dict
from alexnet.runs.folder import RunFolder, utc_now
from alexnet.storage.lock import only_writer
from alexnet.system.machine import machine_summary, num_cores, source_commit, versions

Counting = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Given what is done, a context that yields a function to be called with (images done, images in all)."""


def run_baseline(
    data_folder: Path | Sequence[Path],
    recipe: BaselineRecipe,
    run_folder: Path,
    *,
    cache: Path | None = None,
    workers: int | None = None,
    counting: Counting,
    say: Callable[[str], None],
) -> RunFolder:
    """Learn and measure a baseline, or go on with one that was interrupted.

    Args:
        data_folder: a prepared data set, or several to be joined.
        run_folder: a new folder, or that of an unfinished run of the same recipe on the same data.
        cache: folder of features, made where it is missing; None is `baseline-features` beside the run folder.
        workers: threads; None is one a core. The result does not depend on it.
        say: is given lines for people.

    Returns:
        The run folder, finished: baseline.safetensors, log, and the errors on the evaluation split, if there is one.

    Raises:
        RequestError: recipe and data do not fit, or the folder holds something else.
        WorkError: the disk is full, or a stored image cannot be read.
        Interrupted: Ctrl-C or SIGTERM.
    """
    folders = [data_folder] if isinstance(data_folder, Path) else list(data_folder)
    data = open_data(folders)
    training = training_images(data, recipe.protocol)
    try:
        measured: tuple[PreparedData, str] | None = measured_split(data, recipe, None)
    except RequestError as error:
        if recipe.protocol.measure == "rest":
            raise
        measured = None
        say(f"it learns and is not measured: {error}")
    run = _created_or_continued(run_folder, recipe, data, folders)
    cache = cache or run_folder.parent / "baseline-features"
    with only_writer(run.lock_path, str(run.path)):
        effort = ResourceUsage(run)
        run.update_facts(state="running", features=str(cache))
        try:
            run.log("start", commit=source_commit(), elapsed_s=round(effort.elapsed_s, 2))
            work = _Work(run, recipe, data, training, effort, cache, workers or num_cores(), counting, say)
            work.all_stages(measured)
        except KeyboardInterrupt:
            _note(run, effort, "interrupted")
            raise Interrupted(f"stopped; go on with `{_command(recipe, folders, run_folder)}`") from None
        except UnreadableSample as error:
            _note(run, effort, "interrupted")
            raise WorkError(f"{training.with_key(error)}; repair the data set and rerun the same command") from error
        except (RequestError, WorkError):
            _note(run, effort, "failed")
            raise
        except BaseException:
            _note(run, effort, "interrupted")
            raise
        effort.keep()
        run.update_facts(state="finished", finished=utc_now())
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return run


def _note(run: RunFolder, effort: ResourceUsage, state: str) -> None:
    with suppress(OSError):  # a full disk: what stopped the work is the message that counts
        effort.keep()
        run.update_facts(state=state)
        run.log(state, elapsed_s=round(effort.elapsed_s, 2))


def _command(recipe: BaselineRecipe, folders: Sequence[Path], run_folder: Path) -> str:
    """What goes on with a run, but for changed settings."""
    named = [] if recipe.name == recipe.kind else ["--recipe", recipe.name]
    return shlex.join(["alexnet", "baseline", recipe.kind, *map(str, folders), *named, "--run", str(run_folder)])


def _created_or_continued(path: Path, recipe: BaselineRecipe, data: PreparedData, folders: Sequence[Path]) -> RunFolder:
    if not (path / "run.json").is_file():
        return RunFolder.create(
            path,
            recipe,
            {
                "commit": source_commit(),
                "machine": machine_summary(),
                "versions": versions(),
                "seed": recipe.protocol.seed,
                "baseline": recipe.kind,
                "data": {
                    "folders": [str(folder.resolve()) for folder in folders],
                    "title": data.title,
                    "checksum": data.checksum,
                    "generated": data.generated,
                    "num_classes": data.num_classes,
                    "splits": {name: len(split) for name, split in data.splits.items()},
                },
            },
        )
    run = RunFolder.open(path)
    before = run.any_recipe()
    if not isinstance(before, BaselineRecipe):
        raise RequestError(f"{path} is the run of a network; name another folder with --run")
    if run.state == "finished":
        raise RequestError(f"{path} is finished; `alexnet evaluate {path}` measures it, another --run begins anew")
    if changes := baseline_differences(before, recipe):
        raise RequestError(f"{path} was begun with other settings ({'; '.join(changes)}); name another folder")
    if run.facts()["data"]["checksum"] != data.checksum:
        raise RequestError(f"{path} was begun on other data; name another folder with --run")
    return run


class _Work:
    """The stages of one run."""

    def __init__(
        self,
        run: RunFolder,
        recipe: BaselineRecipe,
        data: PreparedData,
        training: Split,
        effort: ResourceUsage,
        cache: Path,
        workers: int,
        counting: Counting,
        say: Callable[[str], None],
    ) -> None:
        self.run, self.recipe, self.data, self.training = run, recipe, data, training
        self.effort, self.cache, self.workers = effort, cache, workers
        self.counting, self.say = counting, say

    def all_stages(self, measured: tuple[PreparedData, str] | None) -> None:
        channels = channels_of(self.recipe)
        folders = [self._learned(channel) for channel in channels]
        rows = [self._rows(one, at, self.training, "train") for one, at in zip(channels, folders, strict=True)]
        model = self._classified(channels, rows)
        save_baseline(self.run.path / FILE, model, baseline_to_dict(self.recipe))
        if measured is None:
            return
        data, split = measured
        images = data.splits[split]
        own = [self._rows(one, at, images, split) for one, at in zip(channels, folders, strict=True)]
        with self.effort.stage("measure", len(images)):
            result = keep_measured(self.run, data, split, probabilities_of_rows(model, own, ROWS_AT_ONCE), None)
        self.run.log(
            "validation",
            split=split,
            epoch=self.recipe.classifier.epochs,
            num_images=result["num_images"],
            elapsed_s=round(self.effort.elapsed_s, 2),
            **{name: result[name] for name in ("loss", "top1_error", "top5_error", "mean_class_accuracy")},
        )
        accuracy = 100 * result["mean_class_accuracy"]
        self.say(
            f"{split}: top-1 error {100 * result['top1_error']:.2f} %, mean over classes {accuracy:.2f} % right, "
            f"{result['num_images']:,} images"
        )

    def _learned(self, channel: Channel) -> Path:
        """Let the channel learn; returns the folder of its features."""
        vocabulary = self.cache / vocabulary_checksum(self.recipe, channel, self.data.checksum)[:16]
        vocabulary.mkdir(parents=True, exist_ok=True)
        with (
            only_writer(vocabulary / ".lock", str(vocabulary)),
            self.counting(f"{channel.name}: sample") as progress,
            self.effort.stage(f"learn {channel.name}") as worked_on,
        ):
            worked_on.append(learn(self.recipe, channel, self.training, vocabulary, self.workers, progress))
        features = self.cache / features_checksum(self.recipe, channel, self.data.checksum)[:16]
        features.mkdir(exist_ok=True)
        return features

    def _rows(self, channel: Channel, folder: Path, split: Split, name: str) -> NDArray[np.float16]:
        make = rows_of(channel, split)
        with (
            only_writer(folder / ".lock", str(folder)),
            self.counting(f"{channel.name}: {name}") as progress,
            self.effort.stage(f"encode {channel.name} {name}") as worked_on,
        ):

            def counted(first: int, last: int) -> NDArray[np.float32]:
                worked_on.append(last - first)
                return make(first, last)

            def told(done: int, total: int) -> None:
                self.effort.watch()
                progress(done, total)

            return cached_rows(folder, name, (len(split), row_width(channel)), counted, self.workers, told)

    def _classified(self, channels: Sequence[Channel], rows: Sequence[NDArray[np.float16]]) -> Baseline:
        checkpoints = self.run.path / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        labels, num_classes = np.asarray(self.training.labels), self.data.num_classes
        epochs = self.recipe.classifier.epochs

        def told(name: str, epoch: int) -> None:
            self.effort.watch()
            self.run.log("pass", name=name, number=epoch, of=epochs, elapsed_s=round(self.effort.elapsed_s, 2))

        lessons = [Lesson(channel.name, one, labels) for channel, one in zip(channels, rows, strict=True)]
        held_out, held = held_out_lessons(rows, labels, self.recipe.protocol.seed)
        with self.effort.stage("classify", len(labels)):
            classifiers = learned_classifiers(
                [*lessons, *held_out], num_classes, self.recipe, checkpoints, self.workers, told
            )
        temperature = fitted_temperature(classifiers[len(lessons) :], rows, labels, held)
        return Baseline(
            tuple(channels),
            tuple(classifiers[: len(lessons)]),
            temperature,
            tuple(self.data.classes),
            self.data.side,
            self.data.title,
            self.data.generated,
        )
