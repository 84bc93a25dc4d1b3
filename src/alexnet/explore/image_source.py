"""The images to compute activations for: those of a prepared data set, or photographs from anywhere."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.data.shards import StoredImages
from alexnet.errors import RequestError
from alexnet.evaluation.classify import list_photographs, read_photograph
from alexnet.model.weights import Trained
from alexnet.runs.folder import RunFolder

RefusedImages = list[tuple[int, str]]
"""Place among the images, and reason, of those that cannot be read."""
ReadImages = Callable[[int, int], tuple[NDArray[np.uint8], RefusedImages]]
"""Of images `first` .. `last` - 1 those that can be read, uint8 (n, S, S, 3), and the others."""


@dataclass(frozen=True, eq=False)
class ImageSource:
    """The images to compute activations for."""

    read: ReadImages
    paths: Sequence[str]
    """(N,): where each came from."""
    labels: NDArray[np.int64] | None
    """(N,), index into the network's classes; None where nothing is known of them, or other classes."""
    identity: dict[str, Any]
    """What they are, so that other images are told from them."""
    facts: dict[str, Any]
    """Where they are."""


def split_source(
    run: Path, data_folder: Path | Sequence[Path] | None, split: str | None, trained: Trained
) -> ImageSource:
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
    data.require_split(split)
    if data.side != trained.side:
        raise RequestError(
            f"the network's images are stored at {trained.side} pixels and {data.folder} has {data.side}; prepare the "
            f"data with --side {trained.side}"
        )
    images = data.splits[split].images
    identity = {"data_checksum": data.checksum, "split": split}
    facts = {"data": [str(folder) for folder in folders]}
    labels = _labels(data, split, trained)
    return ImageSource(array_reader(images), data.splits[split].keys, labels, identity, facts)


def _labels(data: PreparedData, split: str, trained: Trained) -> NDArray[np.int64] | None:
    """Labels counted in the network's classes; None where the data set has others, which is no error here."""
    places = {one.id: place for place, one in enumerate(trained.classes)}
    if any(one.id not in places for one in data.classes):
        return None
    mapped = np.array([places[one.id] for one in data.classes], np.int64)
    return mapped[np.asarray(data.splits[split].labels)]


def photograph_source(paths: Sequence[Path], trained: Trained) -> ImageSource:
    """Photographs: files, and folders of them; those that are no readable images are passed over.

    Raises:
        RequestError: a folder has no file, or a file is missing.
    """
    files = list_photographs(paths)
    named = [str(file) for file in files]
    # With sizes and times, so that work that is gone on with later sees that a file has changed meanwhile.
    versions = []
    for file in files:
        try:
            facts = file.stat()
        except OSError as error:
            raise RequestError(f"cannot read {file}: {error.strerror or error}; name image files") from error
        versions.append((facts.st_size, facts.st_mtime_ns))
    digest = hashlib.sha256(repr((named, versions)).encode("utf-8", "surrogateescape")).hexdigest()
    identity = {"photographs": len(files), "photographs_sha256": digest}
    return ImageSource(photograph_reader(files, trained.side), named, None, identity, {})


def photograph_reader(files: Sequence[Path], side: int) -> ReadImages:
    """Reads photographs as images of `side` pixels."""

    def read(first: int, last: int) -> tuple[NDArray[np.uint8], RefusedImages]:
        images: list[NDArray[np.uint8]] = []
        refused: RefusedImages = []
        for number in range(first, last):
            try:
                images.append(read_photograph(files[number], side))
            except RequestError as error:
                refused.append((number, str(error)))
        return np.array(images, np.uint8).reshape(-1, side, side, 3), refused

    return read


def array_reader(images: NDArray[np.uint8] | StoredImages) -> ReadImages:
    """Reads images that are stored as the network reads them."""
    # A copy: torch takes neither an array that is mapped read-only without a warning nor one that runs backwards.
    return lambda first, last: (np.array(images[first:last]), [])


def require_images(images: NDArray[np.uint8], side: int) -> None:
    """Refuse an array that is not images of `side` pixels."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3):
        raise RequestError(
            f"images are {images.dtype} of shape {images.shape}; allowed are uint8 (N, {side}, {side}, 3), RGB, or "
            "paths of photographs"
        )
