"""Probabilities kept beside a run, so that errors, panels and ensembles need no network.

One file per split and number of views, `<split>-<views>views.safetensors` or `<split>-dense.safetensors` in the run's
`predictions/`: tensors `probabilities` float32 (N, K) and `samples` int64 (N,), and strings saying what they belong to.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError, WorkError
from alexnet.runs.folder import RunFolder
from alexnet.storage.atomic import write_bytes

FORMAT_VERSION = 1

NumViews = int | Literal["dense"]
"""Views of an image whose probabilities are averaged; `dense` is the network slid over the whole image."""


@dataclass(frozen=True)
class Predictions:
    """Probabilities of a split's images, as one network and one number of views gave them."""

    split: str
    num_views: NumViews
    data_checksum: str
    class_ids: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    """(N, K), columns in the order of `class_ids`."""
    samples: npt.NDArray[np.int64]
    """(N,) each row's place in the split."""

    def labels(self, data: PreparedData) -> npt.NDArray[np.int64]:
        """The right class of each image as a column of `probabilities`, (N,); the data set's own order may differ."""
        columns = {one: column for column, one in enumerate(self.class_ids)}
        return np.array([columns[one.id] for one in data.classes], np.int64)[data.splits[self.split].labels]


def views_slug(num_views: NumViews) -> str:
    """The number of views as names of files have it: `10views`, `dense`."""
    return num_views if num_views == "dense" else f"{num_views}views"


def describe_views(num_views: int | str) -> str:
    """`1 view`, `10 views` or `dense views`."""
    return "1 view" if num_views == 1 else f"{num_views} views"


def available_views(runs: Sequence[RunFolder], num_views: NumViews) -> NumViews:
    """The number of views of which some runs have probabilities where `num_views` are asked for.

    A baseline looks at the whole image once, so its probabilities of one view stand for any number.
    """
    return 1 if all(run.is_baseline for run in runs) else num_views


def views_sort_key(num_views: NumViews) -> int:
    """By what results are sorted: fewer views first, and `dense`, which the paper does not have, before them all."""
    return 0 if num_views == "dense" else num_views


def predictions_folder(run_folder: Path, trained_on: str, measured_on: str) -> Path:
    """Where a run keeps probabilities, by the checksums of its own data and of the data they are of.

    What was measured on other data must not take the place of the run's own result.
    """
    return run_folder / "predictions" / ("" if trained_on == measured_on else measured_on[:12])


def predictions_path(folder: Path, split: str, num_views: NumViews) -> Path:
    """Where `folder`, a run's `predictions/`, keeps those of a split."""
    return folder / f"{split}-{views_slug(num_views)}.safetensors"


def save_predictions(
    folder: Path, split: str, num_views: NumViews, probabilities: npt.NDArray[np.float32], data: PreparedData
) -> Path:
    """Store probabilities (N, K), in the split's order, in `folder`, a run's `predictions/`, whole.

    Columns stand in the order of the data set's classes. Those of a network that knows other classes, or the same in
    another order, go with the data set as `remap_classes` (evaluation/run_evaluation.py) has it.

    Raises:
        ValueError: one row an image and one column a class is not what was got.
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
    samples = np.arange(len(probabilities), dtype=np.int64)
    tensors: dict[str, npt.NDArray[Any]] = {"probabilities": probabilities, "samples": samples}
    path = predictions_path(folder, split, num_views)
    try:
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, safetensors.numpy.save(tensors, metadata))
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror or error}; make room and evaluate again") from error
    return path


def load_predictions(folder: Path, split: str, num_views: NumViews, data: PreparedData) -> Predictions:
    """The predictions that `save_predictions` stored in `folder` for this data set.

    The columns are the network's classes, `class_ids`: the data set's own in its order, unless `folder` is of another
    data set than the network was trained on. Then the order may differ, and some classes may have no images here.

    Raises:
        RequestError: there are none, or they are of another data set or another format.
        WorkError: the file is damaged.
    """
    path = predictions_path(folder, split, num_views)
    again = f"`alexnet evaluate {folder.parent} --views {num_views}` writes it anew"
    if not path.is_file():
        raise RequestError(f"{path} does not exist; {again}")
    if split not in data.splits:
        raise RequestError(f"{data.folder} has no split {split!r}; it has {', '.join(data.splits)}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            version = metadata.get("format_version")
            if version != str(FORMAT_VERSION):
                raise RequestError(f"{path} has format {version}, this version reads {FORMAT_VERSION}; {again}")
            if metadata["data_checksum"] != data.checksum:
                raise RequestError(
                    f"{path} was made from data {metadata['data_checksum'][:12]}, but {data.folder} is "
                    f"{data.checksum[:12]}; name the data set it was made from, or {again}"
                )
            found = Predictions(
                split=metadata["split"],
                num_views="dense" if metadata["num_views"] == "dense" else int(metadata["num_views"]),
                data_checksum=metadata["data_checksum"],
                class_ids=tuple(json.loads(metadata["class_ids"])),
                probabilities=file.get_tensor("probabilities"),
                samples=file.get_tensor("samples"),
            )
            digest = metadata["sha256"]
    except RequestError:
        raise
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise WorkError(f"{path} is damaged ({error}); {again}") from error
    if (found.split, found.num_views) != (split, num_views):
        raise WorkError(f"{path} holds {found.num_views} views of split {found.split!r}: it was renamed; {again}")
    known = set(found.class_ids)
    lacking = [one.id for one in data.classes if one.id not in known]
    if lacking or len(known) < len(found.class_ids):
        what = f"has no class {lacking[0]!r}" if lacking else "names a class twice"
        raise WorkError(f"{path} is damaged (it {what}); {again}")
    expected = (len(data.splits[split]), len(found.class_ids))
    if found.probabilities.shape != expected or _digest(found.probabilities) != digest:
        raise WorkError(f"{path} is damaged (its probabilities are not those that were saved); {again}")
    return found


def _digest(probabilities: npt.NDArray[np.float32]) -> str:
    """SHA-256 of the values' bytes."""
    return hashlib.sha256(np.ascontiguousarray(probabilities).tobytes()).hexdigest()
