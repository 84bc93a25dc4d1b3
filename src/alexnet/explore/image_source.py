"""The images to compute activations for: a split of a prepared data set, or photographs."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData, renumber_labels, warn_of_other_fit
from alexnet.data.dataset_files import NO_LABEL
from alexnet.data.download import Downloads
from alexnet.data.http_transfer import is_url
from alexnet.data.image_inputs import InputImage, list_named
from alexnet.data.photographs import ImageInput
from alexnet.data.shards import StoredImages
from alexnet.errors import RequestError
from alexnet.model.weights import Trained
from alexnet.runs.folder import RunFolder
from alexnet.storage.paths import StrPath, StrPaths, as_path, as_paths
from alexnet.storage.read_errors import raise_unless_damage

RefusedImages = list[tuple[int, str]]
"""Index and reason for each image that cannot be read."""
ReadImages = Callable[[int, int], tuple[NDArray[np.uint8], RefusedImages]]
"""Reads images `first` .. `stop` - 1: the readable ones, uint8 (n, S, S, 3), and the refused ones."""


@dataclass(frozen=True, eq=False)
class ImageSource:
    """The images to compute activations for."""

    read: ReadImages
    paths: Sequence[str]
    """(N,): the path of each image, or its name in the data set."""
    labels: NDArray[np.int64] | None
    """(N,), index into the network's classes; None for photographs, for a split without labels and for data with other
    classes."""
    identity: dict[str, Any]
    """Identifies the images: other images have another identity."""
    location: dict[str, Any]
    """Where the images are stored."""


def split_source(run: Path, data_folder: StrPaths | None, split: str | None, trained: Trained) -> ImageSource:
    """The images of a split.

    Args:
        run: a run folder, or a weights file, which names no data set.
        data_folder: the prepared data set, or several to concatenate; None is what the run was trained on.
        split: None is the data set's evaluation split.

    Raises:
        RequestError: no data set or no such split, or images of another side than the network's.
    """
    if data_folder is None:
        if not run.is_dir():
            raise RequestError(
                f"{run} is a weights file, which names no data set; name one with --data, or name photographs"
            )
        folders = RunFolder.open(run).require_data()
    else:
        folders = as_paths(data_folder, "the data set")
    data = open_data(folders)
    split = split or data.evaluation_split
    images = data.require_split(split).images
    require_fitting(data, trained)
    return ImageSource(
        read=array_reader(images),
        paths=data.splits[split].keys,
        labels=_labels(data, split, trained),
        identity={"data_checksum": data.checksum, "split": split},
        location={"data": [str(folder) for folder in folders]},
    )


def require_fitting(data: PreparedData, trained: Trained) -> None:
    """Refuse a data set whose images are not of the side that a network takes, and warn of another fit.

    Raises:
        RequestError: the sides differ.
    """
    if data.side != trained.side:
        raise RequestError(
            f"the network was trained on images of {trained.side} pixels, but {data.folder} stores {data.side}; "
            f"prepare the data with --side {trained.side}"
        )
    warn_of_other_fit(data, trained.fit)


def _labels(data: PreparedData, split: str, trained: Trained) -> NDArray[np.int64] | None:
    """Labels as indices into the network's classes; None if the split has no labels or the data set other classes."""
    labels = np.asarray(data.splits[split].labels)
    indices = {one.id: index for index, one in enumerate(trained.classes)}
    if any(one.id not in indices for one in data.classes) or (labels == NO_LABEL).all():
        return None
    return renumber_labels(labels, [indices[one.id] for one in data.classes])


def photograph_source(photographs: StrPaths, trained: Trained, downloads: Downloads) -> ImageSource:
    """Photographs, named as `list_images` takes them; those that are not readable images are refused one by one.

    Raises:
        RequestError: a folder, an archive or a pattern has no images, or a file is missing.
    """
    given = [photographs] if isinstance(photographs, str | os.PathLike) else photographs
    images = list_named([_as_name(one) for one in given], downloads)
    names = [str(image.name) for image in images]
    # Sizes and times, so that resumed work notices a file that has changed meanwhile.
    versions = file_versions(images)
    digest = hashlib.sha256(repr((names, versions)).encode("utf-8", "surrogateescape")).hexdigest()
    identity = {"photographs": len(images), "photographs_sha256": digest}
    return ImageSource(
        read=photograph_reader(images, trained), paths=names, labels=None, identity=identity, location={}
    )


def _as_name(given: StrPath) -> str:
    """A URL as it is, a path in the form in which `images.csv` has it."""
    return given if isinstance(given, str) and is_url(given) else str(as_path(given, "an image"))


def image_reader(
    images: ImageInput | Iterable[ImageInput], trained: Trained, downloads: Downloads
) -> tuple[ReadImages, int]:
    """Reads images of any types, and those that `list_images` finds by their names; and their number.

    Raises:
        RequestError: images of no allowed type, a folder, an archive or a pattern without images, or a missing file.
    """
    side = trained.side
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (side, side, 3):
        return array_reader(np.asarray(images, np.uint8)), len(images)
    listed = list_named(images, downloads)
    file_versions(listed)
    return photograph_reader(listed, trained), len(listed)


def file_versions(images: Sequence[InputImage]) -> list[tuple[int, int]]:
    """Size and time of each image's file, zeros without one; RequestError if one is missing, before work is done."""
    versions: dict[str | None, tuple[int, int]] = {None: (0, 0)}
    for name in dict.fromkeys(image.file for image in images if image.file is not None):
        file = Path(name)
        try:
            status = file.stat() if file.exists() else file.lstat()  # a link to nothing is refused when it is read
        except OSError as error:
            raise_unless_damage(error, file)
            raise RequestError(f"cannot read {file}: {error.strerror or error}; name image files") from error
        versions[name] = (status.st_size, status.st_mtime_ns)
    return [versions[image.file] for image in images]


def photograph_reader(images: Sequence[InputImage], trained: Trained) -> ReadImages:
    """Reads photographs as squares."""

    def read(first: int, stop: int) -> tuple[NDArray[np.uint8], RefusedImages]:
        squares: list[NDArray[np.uint8]] = []
        refused: RefusedImages = []
        for number in range(first, stop):
            name = images[number].name
            try:
                squares.append(images[number].square(trained.side, trained.fit))
            except RequestError as error:
                is_one_of_several = isinstance(name, int) and len(images) > 1
                refused.append((number, f"images[{name}]: {error}" if is_one_of_several else str(error)))
        return np.array(squares, np.uint8).reshape(-1, trained.side, trained.side, 3), refused

    return read


def array_reader(images: NDArray[np.uint8] | StoredImages) -> ReadImages:
    """Reads stored images."""
    # A copy: torch warns about read-only arrays and rejects negative strides.
    return lambda first, stop: (np.array(images[first:stop]), [])
