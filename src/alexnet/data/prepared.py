"""The prepared data set: a folder of arrays that every later stage reads.

`dataset.json` describes it; each split has `<split>-images.npy` (uint8 (N, S, S, 3), RGB), `<split>-labels.npy`
(int64 (N,)) and `<split>-keys.npy` (where each image came from); `statistics.npz` holds what the training
images say about mean and colour; `refused.jsonl` names the files that could not be read, with the reason.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError

FORMAT_VERSION = 1
DESCRIPTION_FILE = "dataset.json"
STATISTICS_FILE = "statistics.npz"
REFUSED_FILE = "refused.jsonl"


@dataclass(frozen=True)
class ClassInfo:
    """One class: its stable id (the folder's name) and the name people read."""

    id: str
    name: str


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the training images say about mean and colour, in 0..255 units. Paper: sections 2 and 4.1."""

    mean_image: NDArray[np.float32]
    """Mean of the training images, (S, S, 3), 0..255."""
    covariance: NDArray[np.float64]
    """Population covariance of the RGB values over all training pixels, (3, 3), units of 0..255 squared."""
    eigenvalues: NDArray[np.float64]
    """Of the covariance, (3,), ascending, 0 or more."""
    eigenvectors: NDArray[np.float64]
    """Unit columns, (3, 3), in the order of `eigenvalues`; the largest component of each is positive."""


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split; `images` is mapped from disk, so indexing it reads."""

    name: str
    images: NDArray[np.uint8]
    """(N, S, S, 3), RGB, 0..255, read-only."""
    labels: NDArray[np.int64]
    """(N,), index into the classes."""
    keys: NDArray[np.bytes_]
    """(N,), UTF-8 bytes: where each image came from."""

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        """Where image `index` came from, such as `train/n01440764/n01440764_10026.JPEG`."""
        return bytes(self.keys[index]).decode("utf-8", "surrogateescape")


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A prepared data set, opened for reading."""

    folder: Path
    title: str
    generated: bool
    """Whether a program drew the images; shown wherever their results are shown."""
    classes: tuple[ClassInfo, ...]
    splits: Mapping[str, Split]
    side: int
    """Side of the stored square images, pixels."""
    statistics: Statistics
    checksum: str
    """Of all pixels, labels and class ids, see `data_checksum`."""

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.classes)

    @property
    def evaluation_split(self) -> str:
        """Name of the split that training is measured on: `val`, or `test` where there is no `val`."""
        return "val" if "val" in self.splits else "test"

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the prepared data set in folder `path`.

        Raises:
            RequestError: there is no such folder, it is no prepared data set, its format version
                is another, or it is damaged.
        """
        description_path = path / DESCRIPTION_FILE
        if not path.is_dir():
            raise RequestError(f"there is no prepared data set at {path}; make one with: alexnet prepare SOURCE {path}")
        if not description_path.is_file():
            raise RequestError(
                f"{path} is not a prepared data set (it has no {DESCRIPTION_FILE}); "
                "make one with: alexnet prepare SOURCE DEST"
            )
        try:
            description: dict[str, Any] = json.loads(description_path.read_text(encoding="utf-8"))
            version = description["format_version"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise _damaged(path, f"{DESCRIPTION_FILE} cannot be read") from error
        if version != FORMAT_VERSION:
            raise RequestError(
                f"{path} has format version {version}, this program reads {FORMAT_VERSION}; "
                "prepare it again from its source, or use the version of alexnet that wrote it"
            )
        try:
            classes = tuple(ClassInfo(one["id"], one["name"]) for one in description["classes"])
            side = int(description["side"])
            splits = {
                name: _open_split(path, name, int(facts["count"]), side)
                for name, facts in description["splits"].items()
            }
            with (path / STATISTICS_FILE).open("rb") as file, np.load(file) as arrays:
                statistics = Statistics(
                    arrays["mean_image"], arrays["covariance"], arrays["eigenvalues"], arrays["eigenvectors"]
                )
            return cls(
                folder=path,
                title=description["title"],
                generated=bool(description["generated"]),
                classes=classes,
                splits=splits,
                side=side,
                statistics=statistics,
                checksum=description["checksum"],
            )
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(path, str(error)) from error


def data_checksum(split_digests: Mapping[str, tuple[str, str]], class_ids: list[str]) -> str:
    """Fingerprint of a data set: SHA-256, hexadecimal, over its splits and class ids.

    Args:
        split_digests: per split name the SHA-256 of its pixels and of its labels (the arrays' bytes, little-endian).
        class_ids: in label order.
    """
    lines = [f"{name} {images} {labels}" for name, (images, labels) in sorted(split_digests.items())]
    return hashlib.sha256("\n".join([*lines, *class_ids]).encode()).hexdigest()


def split_file(split: str, content: str) -> str:
    """Name of a split's file; `content` is `images`, `labels` or `keys`."""
    return f"{split}-{content}.npy"


def _open_split(folder: Path, name: str, count: int, side: int) -> Split:
    """Map the images of one split and read the rest; ValueError where the shapes are not the described ones."""
    images = np.load(folder / split_file(name, "images"), mmap_mode="r")
    labels = np.load(folder / split_file(name, "labels"))
    keys = np.load(folder / split_file(name, "keys"))
    if images.shape != (count, side, side, 3) or images.dtype != np.uint8:
        raise ValueError(f"{split_file(name, 'images')} is {images.dtype} {images.shape}")
    if labels.shape != (count,) or keys.shape != (count,):
        raise ValueError(f"the {name} split has {count} images, {len(labels)} labels and {len(keys)} keys")
    return Split(name, images, labels, keys)


def _damaged(path: Path, reason: str) -> RequestError:
    """The error for a prepared data set whose files do not fit together."""
    return RequestError(f"{path} is damaged ({reason}); remove it and prepare it again: alexnet prepare SOURCE {path}")
