"""A whole baseline, from the prepared data set to its errors: runs, interruption and resumption, the run folder."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.baseline_evaluation import NUM_VIEWS, select_evaluation_split
from alexnet.baselines.baseline_model import FILE, Baseline, save_baseline
from alexnet.baselines.channels import Channel, build_channels
from alexnet.baselines.classifier_training import (
    ProgressBar,
    TrainingJob,
    calibration_jobs,
    chunk_rows,
    fit_temperature,
    train_classifiers,
)
from alexnet.baselines.feature_cache import cached_features
from alexnet.baselines.linear_classifier import LinearClassifier
from alexnet.baselines.resource_usage import ResourceUsage
from alexnet.baselines.svm_training import require_room_for_products, train_svms
from alexnet.baselines.training_subset import training_split
from alexnet.baselines.vocabulary import features_checksum, fit_vocabulary, vocabulary_checksum
from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData, Split
from alexnet.data.shards import UnreadableSample
from alexnet.data.whole_photographs import read_photographs, with_known_borders
from alexnet.errors import Interrupted, RequestError, TemporaryError, WorkError
from alexnet.evaluation.evaluate import evaluate_probabilities
from alexnet.evaluation.run_evaluation import save_run_evaluation
from alexnet.runs.baseline_recipe import BaselineRecipe, baseline_differences, baseline_to_dict
from alexnet.runs.folder import RunFolder, utc_now
from alexnet.storage.lock import only_writer
from alexnet.storage.npy import ArrayFile
from alexnet.storage.read_errors import is_passing, passing_error
from alexnet.system.machine import machine_summary, num_cores, source_commit, versions
from alexnet.system.visible_text import shell_words

_logger = logging.getLogger(__name__)


def run_baseline(
    data_folder: Path | Sequence[Path],
    recipe: BaselineRecipe,
    run_folder: Path,
    *,
    cache: Path | None = None,
    workers: int | None = None,
    progress_bar: ProgressBar = lambda title: nullcontext(lambda done, total: None),
) -> RunFolder:
    """Train and evaluate a baseline, or resume one that was interrupted.

    Args:
        data_folder: a prepared data set, or several to concatenate.
        run_folder: a new folder, or that of an unfinished run of the same recipe on the same data.
        cache: folder of features, created if missing; None is `baseline-features` next to the run folder.
        workers: threads; None is one per core. The result does not depend on it.
        progress_bar: shows the progress of each stage.

    Returns:
        The finished run folder: baseline.safetensors, log, and the errors on the evaluation split, if there is one.

    Raises:
        RequestError: recipe and data do not fit, or the folder holds something else.
        WorkError: the disk is full, or a stored image cannot be read.
        Interrupted: Ctrl-C or SIGTERM.
    """
    folders = [data_folder] if isinstance(data_folder, Path) else list(data_folder)
    data = with_known_borders(open_data(folders))
    training = training_split(data, recipe.protocol)
    if recipe.classifier.kind == "svm":
        require_room_for_products(len(training))
    evaluated: tuple[PreparedData, str] | None = None
    try:
        evaluated = select_evaluation_split(data, recipe, None)
    except RequestError as error:
        if recipe.protocol.evaluate_on == "rest":
            raise
        _logger.warning("the baseline is trained but not evaluated: %s", error)
    cache = cache or run_folder.parent / "baseline-features"
    with RunFolder(run_folder).locked():
        run = _create_or_open_run(run_folder, recipe, data, folders)
        usage = ResourceUsage(run)
        run.update_metadata(state="running", features=str(cache))
        try:
            run.log("start", commit=source_commit(), elapsed_s=round(usage.elapsed_s, 2))
            stages = _Stages(run, recipe, data, training, usage, cache, workers or num_cores(), progress_bar)
            stages.run_all(evaluated)
        except BaseException as error:
            is_failure = isinstance(error, RequestError | WorkError) and not isinstance(error, TemporaryError)
            _log_stop(run, usage, "failed" if is_failure else "interrupted")
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted("interrupted; rerun the same command to resume") from error
            if isinstance(error, UnreadableSample):
                raise WorkError(f"{error}; repair the data set and rerun the same command") from error
            if isinstance(error, OSError) and is_passing(error):
                raise passing_error(f"cannot access {error.filename or run.path}", error) from error
            raise
        usage.save()
        run.update_metadata(state="finished", finished=utc_now())
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return run


def _log_stop(run: RunFolder, usage: ResourceUsage, state: str) -> None:
    with suppress(OSError):  # of a full disk: the error that stopped the work is the one to report
        usage.save()
        run.update_metadata(state=state)
        run.log(state, elapsed_s=round(usage.elapsed_s, 2))


def _create_or_open_run(path: Path, recipe: BaselineRecipe, data: PreparedData, folders: Sequence[Path]) -> RunFolder:
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
                    **({} if data.fit == "crop" else {"fit": data.fit}),
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
        raise RequestError(
            f"{path} is finished; evaluate it with `{shell_words('alexnet', 'evaluate', path)}`, or name another "
            "folder with --run"
        )
    if changes := baseline_differences(before, recipe):
        raise RequestError(
            f"{path} was started with other settings ({'; '.join(changes)}); name another folder with --run"
        )
    if run.data()["checksum"] != data.checksum:
        raise RequestError(f"{path} was started on other data; name another folder with --run")
    run.record_data_folders([folder.resolve() for folder in folders])
    return run


@contextmanager
def _keys_in_errors(split: Split) -> Iterator[None]:
    """Name the image of this split that cannot be read."""
    try:
        yield
    except UnreadableSample as error:
        raise split.with_key(error) from error


@dataclass(frozen=True, eq=False)
class _Stages:
    """The stages of one run: vocabularies, features, classifiers, evaluation."""

    run: RunFolder
    recipe: BaselineRecipe
    data: PreparedData
    training: Split
    usage: ResourceUsage
    cache: Path
    workers: int
    progress_bar: ProgressBar

    def run_all(self, evaluated: tuple[PreparedData, str] | None) -> None:
        channels = build_channels(self.recipe)
        for channel in channels:
            self.fit_vocabulary(channel)
        model = self.train_classifiers(channels, [self.encode(one, self.training, "train") for one in channels])
        save_baseline(self.run.path / FILE, model, baseline_to_dict(self.recipe))
        if evaluated is None:
            return
        data, split = evaluated
        features = [self.encode(channel, data.splits[split], split) for channel in channels]
        num = len(data.splits[split])
        with self.progress_bar("evaluating") as progress, self.usage.stage("evaluate") as images:
            images.append(num)
            probabilities, step = [], chunk_rows(max(one.shape[1] for one in features))
            for first in range(0, num, step):
                probabilities.append(model.probabilities([one[first : first + step] for one in features]))
                progress(min(first + step, num), num)
            evaluation = evaluate_probabilities(np.concatenate(probabilities), data, split, NUM_VIEWS)
            result = save_run_evaluation(self.run, data, evaluation)
        self.run.log(
            "validation",
            split=split,
            epoch=self.recipe.classifier.epochs if self.recipe.classifier.kind == "sgd" else 1,
            num_images=result["num_images"],
            elapsed_s=round(self.usage.elapsed_s, 2),
            **{name: result[name] for name in ("loss", "top1_error", "top5_error", "mean_class_accuracy")},
        )
        _logger.info(
            "%s: top-1 error %.2f %%, mean class accuracy %.2f %%, %s images",
            split,
            100 * result["top1_error"],
            100 * result["mean_class_accuracy"],
            f"{result['num_images']:,}",
        )

    def fit_vocabulary(self, channel: Channel) -> None:
        """Fit the channel, or read its vocabulary from the cache."""
        folder = self.cache / vocabulary_checksum(self.recipe, channel, self.data.checksum)[:16]
        folder.mkdir(parents=True, exist_ok=True)
        with (
            only_writer(folder / ".lock", str(folder)),
            self.progress_bar(f"{channel.name}: vocabulary") as progress,
            self.usage.stage(f"fit {channel.name}") as images,
            _keys_in_errors(self.training),
        ):
            images.append(fit_vocabulary(self.recipe, channel, self.training, folder, self.workers, progress))

    def encode(self, channel: Channel, split: Split, name: str) -> ArrayFile:
        """The features of a split in a fitted channel, (N, D), through the cache."""
        folder = self.cache / features_checksum(self.recipe, channel, self.data.checksum)[:16]
        folder.mkdir(exist_ok=True)
        with (
            only_writer(folder / ".lock", str(folder)),
            self.progress_bar(f"{channel.name}: {name}") as progress,
            self.usage.stage(f"encode {channel.name} {name}") as images,
        ):

            def encode_chunk(first: int, last: int) -> NDArray[np.float32]:
                images.append(last - first)
                return channel.transform(read_photographs(split.images, range(first, last)))

            def on_progress(done: int, total: int) -> None:
                self.usage.update_peak()
                progress(done, total)

            shape = (len(split), channel.encoder.num_features)
            with _keys_in_errors(split):
                return cached_features(folder, name, shape, encode_chunk, self.workers, on_progress)

    def train_classifiers(self, channels: Sequence[Channel], features: Sequence[ArrayFile]) -> Baseline:
        """Train the classifier of each channel and fit the temperature of their mean score."""
        checkpoints = self.run.path / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        labels = np.asarray(self.training.labels)
        with self.usage.stage("train classifiers") as num_images:
            num_images.append(len(labels))
            classifiers: Sequence[LinearClassifier]
            if self.recipe.classifier.kind == "svm":
                by_name = {channel.name: rows for channel, rows in zip(channels, features, strict=True)}
                classifiers, temperature = self._train_svms(by_name, labels, checkpoints)
            else:
                classifiers, temperature = self._train_by_sgd(channels, features, labels, checkpoints)
        return Baseline(
            channels=tuple(channels),
            classifiers=tuple(classifiers),
            temperature=temperature,
            classes=tuple(self.data.classes),
            side=self.data.side,
            title=self.data.title,
            generated=self.data.generated,
        )

    def _train_svms(
        self, features: Mapping[str, ArrayFile], labels: NDArray[np.int64], checkpoints: Path
    ) -> tuple[Sequence[LinearClassifier], float]:
        @contextmanager
        def measured(title: str) -> Iterator[Callable[[int, int], None]]:
            with self.progress_bar(title) as progress:

                def on_progress(done: int, total: int) -> None:
                    self.usage.update_peak()
                    progress(done, total)

                yield on_progress

        def log(event: str, **values: Any) -> None:
            self.run.log(event, **values, elapsed_s=round(self.usage.elapsed_s, 2))

        recipe = self.recipe
        classifiers, temperature = train_svms(
            features,
            labels,
            self.data.num_classes,
            recipe.classifier,
            recipe.protocol.seed,
            checkpoints,
            self.workers,
            measured,
            log,
        )
        self.run.update_metadata(classifier_c=classifiers[0].c)
        return classifiers, temperature

    def _train_by_sgd(
        self,
        channels: Sequence[Channel],
        features: Sequence[ArrayFile],
        labels: NDArray[np.int64],
        checkpoints: Path,
    ) -> tuple[Sequence[LinearClassifier], float]:
        """Train one classifier for each channel, and others on a part of the images to fit the temperature."""

        def on_epoch(name: str, epoch: int) -> None:
            self.usage.update_peak()
            self.run.log(
                "classifier_epoch",
                name=name,
                epoch=epoch,
                epochs=self.recipe.classifier.epochs,
                elapsed_s=round(self.usage.elapsed_s, 2),
            )

        images = np.arange(len(labels))
        jobs = [TrainingJob(channel.name, one, labels, images) for channel, one in zip(channels, features, strict=True)]
        held_out_jobs, held_out = calibration_jobs(features, labels, self.recipe.protocol.seed)
        all_jobs = [*jobs, *held_out_jobs]
        with self.progress_bar("classifiers") as progress:
            classifiers = train_classifiers(
                all_jobs, self.data.num_classes, self.recipe, checkpoints, self.workers, on_epoch, progress
            )
        return classifiers[: len(jobs)], fit_temperature(classifiers[len(jobs) :], features, labels, held_out)
