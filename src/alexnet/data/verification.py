"""Verifies a prepared data set whole, and names every file and image that is not what was written."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset_files import DESCRIPTION_FILE, STATISTICS_FILE, DataFiles, split_file
from alexnet.data.shards import StoredFiles
from alexnet.storage.typed_files import DamagedFile
from alexnet.system.machine import num_cores
from alexnet.system.prefetch import prefetch

_CHUNK_IMAGES = 256


@dataclass(frozen=True)
class Damage:
    """A file, or a range of images in it, that is not what was written."""

    file: str
    problem: str
    """Such as `is missing`."""
    split: str | None = None
    first: int | None = None
    """The damaged images are `first` .. `last` of the split; None if the problem is the file's."""
    last: int | None = None
    first_key: str | None = None
    """Where the first of them came from; None if the keys are damaged too."""

    @property
    def num_images(self) -> int:
        """Number of damaged images."""
        return 0 if self.first is None or self.last is None else self.last - self.first + 1

    def __str__(self) -> str:
        if self.first is None or self.last is None:
            return f"{self.file} {self.problem}"
        is_one = self.first == self.last
        which = f"image {self.first:,}" if is_one else f"images {self.first:,} to {self.last:,}"
        came_from = (
            "" if self.first_key is None else f" ({self.first_key})" if is_one else f" (from {self.first_key} on)"
        )
        return f"{self.file}: {which} of split {self.split}{came_from} {self.problem}"


@dataclass(frozen=True)
class Verification:
    """What was found in the data set in `folder`."""

    folder: Path
    num_files: int
    num_images: int
    """Images that were compared with their checksums."""
    damages: tuple[Damage, ...]

    @property
    def num_damaged_files(self) -> int:
        """Files that are not what was written."""
        return len({one.file for one in self.damages})

    @property
    def num_damaged_images(self) -> int:
        """Images that are not what was written."""
        return sum(one.num_images for one in self.damages)

    def to_dict(self) -> dict[str, Any]:
        """What `alexnet inspect --verify --json` prints."""
        return {
            "data": str(self.folder),
            "intact": not self.damages,
            "files": self.num_files,
            "images": self.num_images,
            "damaged_images": self.num_damaged_images,
            "damages": [asdict(one) for one in self.damages],
        }


def verify_data(folder: Path, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Read a prepared data set whole and compare it with its checksums.

    Data sets of format version 2 have checksums of images, labels and shards; of their other files the form is checked.

    Args:
        progress: called repeatedly with the number of images done and of all images.

    Raises:
        RequestError: the data set has another format version.
        WorkError: `dataset.json` is damaged, or the system cannot read a file.
    """
    files = DataFiles(folder)
    damages: dict[str, Damage] = {}  # by file: one problem of each is enough
    names = {DESCRIPTION_FILE}
    for name, check in _file_checks(files):
        names.add(name)
        try:
            check()
        except DamagedFile as error:
            damages.setdefault(error.path.name, Damage(error.path.name, error.problem))
    ranges: list[Damage] = []
    num_done, num_images = 0, sum(split["count"] for split in files.description["splits"].values())
    for split in files.description["splits"]:
        try:
            images = files.images(split, require_shards=False)
        except DamagedFile as error:
            damages.setdefault(error.path.name, Damage(error.path.name, error.problem))
            continue
        is_intact = np.ones(len(images), np.bool_)
        for first, found in _intact_chunks(images):
            is_intact[first : first + len(found)] = found
            num_done += len(found)
            if progress is not None:
                progress(num_done, num_images)
        ranges += _damaged_ranges(files, split, images, is_intact)
    return Verification(folder, len(names), num_done, (*damages.values(), *ranges))


def _file_checks(files: DataFiles) -> Iterator[tuple[str, Callable[[], object]]]:
    """The files of a data set, each with a function that raises `DamagedFile` if it is not what was written."""
    for name in files.checksums:
        yield name, partial(files.verify, name)
    yield STATISTICS_FILE, files.statistics
    for split in files.description["splits"]:
        contents = {"labels": files.labels, "digests": files.digests, "keys": files.packed_keys, "sizes": files.sizes}
        for content, read in contents.items():
            yield split_file(split, content), partial(read, split)
        if files.description["store"] == "pixels":
            yield split_file(split, "images"), partial(files.images, split)


def _intact_chunks(images: StoredFiles) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Whether each image is what was written: the first image of each chunk, and bool (n,)."""

    def verify(first: int) -> tuple[int, NDArray[np.bool_]]:
        stop = min(first + _CHUNK_IMAGES, len(images))
        return first, np.array([images.is_intact(image) for image in range(first, stop)])

    workers = num_cores()
    firsts = range(0, len(images), _CHUNK_IMAGES)
    with closing(prefetch(verify, firsts, workers=workers, ahead=2 * workers, name="alexnet-verify")) as chunks:
        yield from chunks


def _damaged_ranges(
    files: DataFiles, split: str, images: StoredFiles, is_intact: NDArray[np.bool_]
) -> Iterator[Damage]:
    """The damaged images of a split, those that follow each other in a file in one."""
    ranges: list[tuple[str, int, int]] = []
    for image in np.flatnonzero(~is_intact).tolist():
        name = images.path_of(image).name
        if ranges and ranges[-1][0] == name and ranges[-1][2] == image - 1:
            ranges[-1] = (name, ranges[-1][1], image)
        else:
            ranges.append((name, image, image))
    try:
        keys = files.packed_keys(split) if ranges else None
    except DamagedFile:
        keys = None
    for name, first, last in ranges:
        first_key = None if keys is None else keys[first]
        yield Damage(name, "is damaged" if first == last else "are damaged", split, first, last, first_key)
