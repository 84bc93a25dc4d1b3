"""Saved probabilities of a run, so that errors, ensembles and pictures can be computed without the network.

One file per split and number of views, `<split>-<views>views.safetensors` or `<split>-dense.safetensors` in the run's
`predictions/`: tensors `probabilities` float32 (N, K), `samples` and `labels` int64 (N,), and metadata that says what
they are. Earlier versions did not write `labels`.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from alexnet.data.dataset import PreparedData, renumber_labels
from alexnet.errors import RequestError, WorkError
from alexnet.runs.folder import RunFolder
from alexnet.runs.import_recipe import ImportRecipe, refuse_untrained
from alexnet.storage.tensors import read_tensors, require_array, write_sealed_tensors
from alexnet.storage.typed_files import damaged, parse_json, require_schema
from alexnet.system.visible_text import shell_words

FORMAT_VERSION = 1

NumViews = int | Literal["dense"]
"""Number of views per image whose probabilities are averaged; `dense` slides the network over the whole image."""


class _Metadata(TypedDict):
    split: str
    num_views: Annotated[str, Meta(pattern=r"\A(dense|[1-9][0-9]{0,3})\Z")]
    data_checksum: str
    class_ids: str
    sha256: str


@dataclass(frozen=True)
class SavedPredictions:
    """Class probabilities of a split's images for one network and one number of views."""

    split: str
    num_views: NumViews
    data_checksum: str
    class_ids: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    """(N, K), rows in the split's order, columns in the order of `class_ids`."""
    saved_labels: npt.NDArray[np.int64] | None
    """(N,), each image's true class as a column of `probabilities`; None in files of earlier versions."""

    def labels(self, data: PreparedData) -> npt.NDArray[np.int64]:
        """Each image's true class as a column of `probabilities`, (N,); the data set's own order may differ."""
        columns = {one: column for column, one in enumerate(self.class_ids)}
        return renumber_labels(data.splits[self.split].labels, [columns[one.id] for one in data.classes])


def views_slug(num_views: NumViews) -> str:
    """The number of views in a file name: `10views`, `dense`."""
    return num_views if num_views == "dense" else f"{num_views}views"


def describe_views(num_views: int | str) -> str:
    """`1 view`, `10 views` or `dense views`."""
    return "1 view" if num_views == 1 else f"{num_views} views"


def available_views(runs: Sequence[RunFolder], num_views: NumViews) -> NumViews:
    """`num_views`, or 1 if all runs are baselines: a baseline reads the whole image once."""
    return 1 if all(run.is_baseline for run in runs) else num_views


def views_sort_key(num_views: NumViews) -> int:
    """Sorts results by number of views; `dense`, which the paper does not have, comes first."""
    return 0 if num_views == "dense" else num_views


def first_class_difference(ids: Sequence[str], other_ids: Sequence[str]) -> str | None:
    """A message that names the first position at which two lists of class ids differ; None if they are equal."""
    for number, (mine, other) in enumerate(itertools.zip_longest(ids, other_ids, fillvalue="none")):
        if mine != other:
            return (
                f"it has {len(ids)}, the other {len(other_ids)}, and number {number} is {mine!r}, the other's {other!r}"
            )
    return None


def training_checksum(run: RunFolder) -> str | None:
    """Checksum of the data that the run was trained on; None of an imported run, of whose training nothing is known."""
    return None if run.is_imported else run.data()["checksum"]


def predictions_folder(run_folder: Path, trained_on: str | None, evaluated_on: str) -> Path:
    """Where a run stores probabilities, by the checksums of the data it was trained on and evaluated on.

    Results on other data go to a subfolder, so that they never replace those on the run's own data.
    """
    return run_folder / "predictions" / ("" if trained_on == evaluated_on else evaluated_on[:12])


def predictions_path(folder: Path, split: str, num_views: NumViews) -> Path:
    """The file in `folder` (see `predictions_folder`) with a split's probabilities."""
    return folder / f"{split}-{views_slug(num_views)}.safetensors"


def save_predictions(
    folder: Path, split: str, num_views: NumViews, probabilities: npt.NDArray[np.float32], data: PreparedData
) -> Path:
    """Write probabilities (N, K), in the split's order, to `folder` (see `predictions_folder`), atomically.

    Columns follow the order of the data set's classes; for a network with other classes, or the same in another order,
    pass the data set as `remap_classes` returns it.

    Raises:
        ValueError: the shape is not one row per image and one column per class.
        WorkError: the folder cannot be written.
    """
    expected = (len(data.splits[split]), data.num_classes)
    if probabilities.shape != expected:
        raise ValueError(f"probabilities have shape {probabilities.shape}; split {split!r} needs {expected}")
    probabilities = np.ascontiguousarray(probabilities, np.float32)
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "split": split,
        "num_views": str(num_views),
        "data_checksum": data.checksum,
        "class_ids": json.dumps([one.id for one in data.classes]),
        "sha256": _digest(probabilities),
    }
    # The wider types first, so that all are aligned.
    tensors: dict[str, npt.NDArray[Any]] = {
        "samples": np.arange(len(probabilities), dtype=np.int64),
        "labels": np.ascontiguousarray(data.splits[split].labels, np.int64),
        "probabilities": probabilities,
    }
    path = predictions_path(folder, split, num_views)
    try:
        path.parent.mkdir(exist_ok=True)
        write_sealed_tensors(path, tensors, metadata)
    except OSError as error:
        raise WorkError(
            f"cannot write {path}: {error.strerror or error}; free some space and evaluate again"
        ) from error
    return path


def load_predictions(
    folder: Path, split: str, num_views: NumViews, data: PreparedData, command: str | None = None
) -> SavedPredictions:
    """Read what `save_predictions` wrote to `folder` for this data set.

    The columns are the network's classes, `class_ids`. They equal the data set's classes unless the network was trained
    on another data set; then their order may differ, and some of them may have no images here.

    Args:
        command: computes the file again, for error messages; None is `alexnet evaluate` on the run's own data.

    Raises:
        RequestError: there is no such file, or it is of another data set or another format.
        WorkError: the file is damaged.
    """
    path = predictions_path(folder, split, num_views)
    rerun = f"run `{command or f'alexnet evaluate {folder.parent} --views {num_views}'}` to write it again"
    if not path.is_file():
        raise RequestError(f"{path} does not exist; {rerun}")
    data.require_split(split)
    predictions = _read(path, split, num_views, rerun)
    if predictions.data_checksum != data.checksum:
        raise RequestError(
            f"{path} was computed on data {predictions.data_checksum[:12]}, but {data.folder} is "
            f"{data.checksum[:12]}; name the data set it was computed on, or {rerun}"
        )
    advice = f"delete it and {rerun}"
    missing = [one.id for one in data.classes if one.id not in set(predictions.class_ids)]
    if missing:
        raise damaged(path, f"it has no class {missing[0]!r}", advice)
    if len(predictions.probabilities) != len(data.splits[split]):
        raise damaged(path, f"its images are not in the order of split {split!r}", advice)
    return predictions


def load_labeled_predictions(run: RunFolder, num_views: NumViews) -> tuple[SavedPredictions, npt.NDArray[np.int64]]:
    """A run's saved probabilities of the evaluation split of its own data, and the true classes, (N,).

    Those of an imported run are of the one data set that it was evaluated on. The data set is opened only for a file of
    an earlier version, which has no labels.

    Raises:
        RequestError: nothing was saved with this number of views; the message names the command.
        WorkError: the file is damaged.
    """
    if run.is_imported:
        return _predictions_of_import(run, num_views)
    folder = run.path / "predictions"
    splits = run.data().get("splits") or [
        split for split in ("val", "test") if predictions_path(folder, split, num_views).is_file()
    ]
    split = "test" if "test" in splits and "val" not in splits else "val"
    path = predictions_path(folder, split, num_views)
    command = f"run `{shell_words('alexnet', 'evaluate', run.path, '--views', num_views)}`"
    if not path.is_file():
        raise RequestError(
            f"{run.path} has no saved probabilities of split {split!r} with {describe_views(num_views)}; {command}"
        )
    predictions = _read(path, split, num_views, f"{command} to write it again")
    if predictions.data_checksum != training_checksum(run):
        raise RequestError(f"{path} was computed on data that {run.path} was not trained on; {command}")
    if predictions.saved_labels is not None:
        return predictions, predictions.saved_labels
    from alexnet.data.concatenated import open_data  # loads torch, which tables of runs do without

    try:
        data = open_data(run.require_data())
    except RequestError as error:
        raise RequestError(
            f"{path} has no labels, because an earlier version of alexnet wrote it, and the data set cannot be opened "
            f"({error}); {command} to write it again"
        ) from error
    predictions = load_predictions(folder, split, num_views, data)
    return predictions, predictions.labels(data)


def _predictions_of_import(run: RunFolder, num_views: NumViews) -> tuple[SavedPredictions, npt.NDArray[np.int64]]:
    command = shell_words("alexnet", "evaluate", run.path, "--data", "DATA", "--views", num_views)
    of_split = [
        sorted((run.path / "predictions").glob(predictions_path(Path("*"), split, num_views).as_posix()))
        for split in ("val", "test")
    ]
    paths = of_split[0] or of_split[1]
    if len(paths) != 1:
        found = f"saved probabilities of {len(paths)} data sets" if paths else "no saved probabilities"
        raise RequestError(
            f"{run.path} was imported, and has {found} with {describe_views(num_views)}; allowed are those of one data "
            f"set, which `{command}` writes"
        )
    split = paths[0].name.partition("-")[0]
    predictions = _read(paths[0], split, num_views, f"run `{command}` to write it again")
    if predictions.saved_labels is None:
        raise damaged(paths[0], "it has no labels", f"delete it and run `{command}`")
    return predictions, predictions.saved_labels


def load_run_predictions(
    run: RunFolder, data: PreparedData, split: str, num_views: NumViews, data_folder: Path | Sequence[Path] | None
) -> tuple[SavedPredictions, str]:
    """A run's saved probabilities of a split, and the command that would compute them again.

    Args:
        num_views: a baseline has 1, whatever is asked for.
        data_folder: as the user named it, for the command; None is the run's own data.

    Raises:
        RequestError: as `load_predictions`; if nothing was saved, the message names the command.
        WorkError: the file is damaged.
    """
    num_views = available_views([run], num_views)
    words: list[object] = ["alexnet", "evaluate", run.path, "--split", split, "--views", num_views]
    if data_folder is not None:
        words += ["--data", *([data_folder] if isinstance(data_folder, Path) else data_folder)]
    command = shell_words(*words)
    folder = predictions_folder(run.path, training_checksum(run), data.checksum)
    if not predictions_path(folder, split, num_views).is_file():
        recipe = run.any_recipe()
        if isinstance(recipe, ImportRecipe) and recipe.network.untrained_layers:
            refuse_untrained(recipe.network.untrained_layers, "class scores", run.path)
        raise RequestError(
            f"{run.path} has no saved probabilities for split {split!r} of {data.folder} with "
            f"{describe_views(num_views)}; run `{command}`"
        )
    return load_predictions(folder, split, num_views, data, command), command


def _read(path: Path, split: str, num_views: NumViews, rerun: str) -> SavedPredictions:
    """Read a file of probabilities, whatever data set it is of."""
    advice = f"delete it and {rerun}"
    tensors, metadata = read_tensors(path, "numpy", advice)
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        raise RequestError(f"{path} has format {version}, this version reads {FORMAT_VERSION}; {rerun}")
    try:
        described = require_schema(metadata, _Metadata)
        probabilities = require_array(tensors, "probabilities", np.float32, 2)
        samples = require_array(tensors, "samples", np.int64, 1)
        labels = require_array(tensors, "labels", np.int64, 1) if "labels" in tensors else None
    except ValueError as error:
        raise damaged(path, str(error), advice) from error
    predictions = SavedPredictions(
        split=described["split"],
        num_views="dense" if described["num_views"] == "dense" else int(described["num_views"]),
        data_checksum=described["data_checksum"],
        class_ids=tuple(parse_json(described["class_ids"], list[str], path, advice)),
        probabilities=probabilities,
        saved_labels=labels,
    )
    if (predictions.split, predictions.num_views) != (split, num_views):
        raise WorkError(
            f"{path} was renamed: it contains {describe_views(predictions.num_views)} of split "
            f"{predictions.split!r}; {rerun}"
        )
    num_images, num_classes = len(samples), len(predictions.class_ids)
    if len(set(predictions.class_ids)) < num_classes:
        raise damaged(path, "it names a class twice", advice)
    if not np.array_equal(samples, np.arange(num_images)):
        raise damaged(path, f"its images are not in the order of split {split!r}", advice)
    if probabilities.shape != (num_images, num_classes) or _digest(probabilities) != described["sha256"]:
        raise damaged(path, "its probabilities are not those that were saved", advice)
    if labels is not None and not (labels.shape == samples.shape and ((labels >= 0) & (labels < num_classes)).all()):
        raise damaged(path, f"labels: they are not {num_images:,} of {num_classes} classes", advice)
    return predictions


def _digest(probabilities: npt.NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(probabilities).tobytes()).hexdigest()
