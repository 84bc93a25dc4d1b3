"""The images that a network is shown: of a prepared data set, or photographs from anywhere."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.joined import open_data
from alexnet.data.prepared import PreparedData
from alexnet.errors import RequestError
from alexnet.evaluation.photographs import photographs_in, read_photograph
from alexnet.model.weights import Trained
from alexnet.runs.folder import RunFolder

Read = Callable[[int, int], NDArray[np.uint8]]
"""Images `first` .. `last` - 1, uint8 (last - first, S, S, 3)."""


@dataclass(frozen=True, eq=False)
class Shown:
    """The images that a network is shown."""

    read: Read
    paths: Sequence[str]
    """(N,): where each came from."""
    labels: NDArray[np.int64] | None
    """(N,), index into the network's classes; None where nothing is known of them, or other classes."""
    facts: dict[str, Any]
    """What they are, for a file."""


def of_split(run: Path, data_folder: Path | Sequence[Path] | None, split: str | None, trained: Trained) -> Shown:
    """The images of a split.

    Args:
        run: a run folder, or a weights file, which knows no data set.
        data_folder: the prepared data set, or several to be joined; None is what the run was trained on.
        split: None is the data set's evaluation split.

    Raises:
        RequestError: no data set or no such split, or images of another side than the network's.
    """
    if data_folder is None:
        if not run.is_dir():
            raise RequestError(
                f"{run} is a weights file, which knows no data set; name one with --data, or photographs"
            )
        folders: Sequence[Path] = RunFolder.open(run).data_folders()
    else:
        folders = [data_folder] if isinstance(data_folder, Path) else data_folder
    data = open_data(folders)
    split = split or data.evaluation_split
    if split not in data.splits:
        raise RequestError(f"{data.folder} has no split {split!r}; it has {', '.join(data.splits)}")
    if data.side != trained.side:
        raise RequestError(
            f"the network's images are stored at {trained.side} pixels and {data.folder} has {data.side}; prepare the "
            f"data with --side {trained.side}"
        )
    images = data.splits[split].images
    # A copy: the store is mapped read-only, and torch warns of arrays it may not write to.
    read: Read = lambda first, last: np.array(images[first:last])  # noqa: E731
    facts = {"data": str(data.folder), "data_checksum": data.checksum, "split": split}
    return Shown(read, data.splits[split].keys, _labels(data, split, trained), facts)


def _labels(data: PreparedData, split: str, trained: Trained) -> NDArray[np.int64] | None:
    """Labels counted in the network's classes; None where the data set has others, which is no error here."""
    places = {one.id: place for place, one in enumerate(trained.classes)}
    if any(one.id not in places for one in data.classes):
        return None
    mapped = np.array([places[one.id] for one in data.classes], np.int64)
    return mapped[np.asarray(data.splits[split].labels)]


def of_photographs(paths: Sequence[Path], trained: Trained) -> Shown:
    """Photographs: files, and folders of them.

    Raises:
        RequestError: a folder has no file.
    """
    files = photographs_in(paths)
    named = [str(file) for file in files]
    # With sizes and times, so that work that is gone on with later sees that a file has changed meanwhile.
    versions = [(file.stat().st_size, file.stat().st_mtime_ns) if file.exists() else None for file in files]
    digest = hashlib.sha256(repr((named, versions)).encode("utf-8", "surrogateescape")).hexdigest()
    return Shown(reader_of(files, trained.side), named, None, {"photographs": len(files), "photographs_sha256": digest})


def reader_of(files: Sequence[Path], side: int) -> Read:
    """Reads photographs as images of `side` pixels; RequestError where one is missing or unreadable."""

    def read(first: int, last: int) -> NDArray[np.uint8]:
        return np.stack([read_photograph(file, side) for file in files[first:last]])

    return read


def require_images(images: NDArray[np.uint8], side: int) -> None:
    """Refuse an array that is not images of `side` pixels."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3):
        raise RequestError(
            f"images are {images.dtype} of shape {images.shape}; allowed are uint8 (N, {side}, {side}, 3), RGB, or "
            "paths of photographs"
        )
