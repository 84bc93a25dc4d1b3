"""The prepared data set: a folder that everything after preparation reads.

- `dataset.json` describes it: format version, classes, splits, image side, store, checksum, how it was made.
- `<split>-images.npy` (`store=pixels`): uint8 (N, S, S, 3), RGB.
- `<split>-000000.tar` ... (`store=jpeg`): shards of JPEG files, and `<split>-index.npy`: int64 (N, 3), the shard of
  each image, its offset there and its length.
- `<split>-labels.npy`: int64 (N,), index into the classes; -1 for an image without a label.
- `<split>-keys.npy`, `<split>-key-ends.npy`: where each image came from.
- `<split>-digests.npy`: uint8 (N, 16), of the stored bytes. `<split>-sizes.npy`: int32 (N, 2), height and width of the
  originals.
- `statistics.npz`: mean image and color covariance of the training images.
- `refused.jsonl`: the images that could not be used, with reasons. `skipped.jsonl`: the files that are no images.
  `duplicates.jsonl`: images stored more than once.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from alexnet.data.packed import PackedStrings
from alexnet.data.shards import JpegImages, StoredImages, UnreadableSample
from alexnet.errors import RequestError
from alexnet.storage.read_errors import raise_unless_damage

FORMAT_VERSION = 2
DESCRIPTION_FILE = "dataset.json"
STATISTICS_FILE = "statistics.npz"
REFUSED_FILE = "refused.jsonl"
SKIPPED_FILE = "skipped.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
STORES = ("pixels", "jpeg")
UNLABELED = "unlabeled"
"""Name of the split of images without labels, such as a competition's test images."""
NO_LABEL = -1
DIGEST_BYTES = 16
"""Bytes stored of each image's SHA-256: enough to distinguish all images."""


@dataclass(frozen=True)
class ClassInfo:
    """A class: its stable id (the folder's name) and its readable name."""

    id: str
    name: str


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean image and color covariance of the training images, in 0..255 units. Paper: sections 2 and 4.1."""

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
    """The images of one split; indexing `images` reads them from the disk."""

    name: str
    images: StoredImages
    """(N, S, S, 3), RGB, 0..255, read-only."""
    labels: NDArray[np.int64]
    """(N,), index into the classes; `NO_LABEL` where there is none."""
    keys: Sequence[str]
    """(N,): where each image came from, such as `train/n01440764/n01440764_10026.JPEG`."""

    def __len__(self) -> int:
        return len(self.labels)

    def with_key(self, error: UnreadableSample) -> UnreadableSample:
        """The error with the key of its image."""
        return UnreadableSample(f"{self.keys[error.image]}: {error}", error.image)


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A prepared data set, opened for reading."""

    folder: Path
    title: str
    generated: bool
    """Whether a program drew the images; reported with every result on them."""
    classes: tuple[ClassInfo, ...]
    splits: Mapping[str, Split]
    side: int
    """Side of the stored square images, pixels."""
    statistics: Statistics
    checksum: str
    """Of all stored images, labels and class ids, see `data_checksum`."""
    store: str = "pixels"
    """`pixels` or `jpeg`."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """The content of `dataset.json`."""

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.classes)

    @property
    def evaluation_split(self) -> str:
        """Name of the split that training is measured on: `val`, or `test` where there is no `val`.

        Raises:
            RequestError: there is neither.
        """
        if not self.has_evaluation_split:
            raise RequestError(
                f"{self.folder} has no validation or test split; it has {', '.join(self.splits)}. Name one of these "
                "with --split, or prepare the data again with --hold-out 0.1"
            )
        return "val" if "val" in self.splits else "test"

    @property
    def has_evaluation_split(self) -> bool:
        """Whether there is a `val` or a `test` split."""
        return "val" in self.splits or "test" in self.splits

    @property
    def num_skipped(self) -> int:
        """Files of the source that were no images; 0 if the data set is older than this count."""
        return int(self.description.get("num_skipped", 0))

    def require_split(self, name: str) -> Split:
        """The split `name`.

        Raises:
            RequestError: there is no such split.
        """
        if name not in self.splits:
            raise RequestError(f"{self.folder} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]

    def require_labels(self, name: str) -> Split:
        """The split `name`, in which every image has a label.

        Raises:
            RequestError: there is no such split, or it has images without labels.
        """
        split = self.require_split(name)
        if num := int(np.count_nonzero(np.asarray(split.labels) == NO_LABEL)):
            raise RequestError(
                f"{num:,} of {len(split):,} images of split {name!r} of {self.folder} have no label, so errors cannot "
                "be counted; choose another split (`alexnet predict` and `alexnet features` need no labels)"
            )
        return split

    def original_sizes(self, split: str) -> NDArray[np.int32]:
        """Height and width of the originals of a split as they were read, int32 (N, 2), pixels."""
        return self._array(split, "sizes", np.int32, 2)

    def digests(self, split: str) -> NDArray[np.uint8]:
        """The first 16 bytes of the SHA-256 of each stored image, uint8 (N, 16)."""
        return self._array(split, "digests", np.uint8, DIGEST_BYTES)

    def _array(self, split: str, content: str, dtype: type[np.generic], width: int) -> NDArray[Any]:
        """Read an array of a split that training does not need."""
        if "concatenated" in self.description:
            raise RequestError(f"several data sets are concatenated here; open each of them to read its {content}")
        name = split_file(split, content)
        try:
            array: NDArray[Any] = np.load(self.folder / name, mmap_mode="r")
        except (ValueError, OSError, EOFError) as error:
            raise_unless_damage(error, self.folder / name)
            raise _damaged(self.folder, f"{name}: {error}") from error
        if array.dtype != dtype or array.shape != (len(self.splits[split]), width):
            raise _damaged(self.folder, f"{name} is {array.dtype} {array.shape}")
        return array

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the prepared data set in folder `path`.

        Raises:
            RequestError: there is no such folder, it is not a prepared data set, it has another format version, or
                it is damaged.
        """
        description_path = path / DESCRIPTION_FILE
        if not path.is_dir():
            raise RequestError(f"{path} does not exist; prepare a data set with: alexnet prepare SOURCE {path}")
        if not description_path.is_file():
            raise RequestError(
                f"{path} is not a prepared data set (it has no {DESCRIPTION_FILE}); "
                "prepare one with: alexnet prepare SOURCE DEST"
            )
        try:
            description: dict[str, Any] = json.loads(description_path.read_text(encoding="utf-8"))
            version = description["format_version"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise_unless_damage(error, description_path)
            raise _damaged(path, f"{DESCRIPTION_FILE} cannot be read") from error
        if version != FORMAT_VERSION:
            raise RequestError(
                f"{path} has format version {version}; this version of alexnet reads {FORMAT_VERSION}. "
                "Prepare it again from its source, or use the version of alexnet that wrote it"
            )
        try:
            classes = tuple(ClassInfo(one["id"], one["name"]) for one in description["classes"])
            side = int(description["side"])
            store = str(description["store"])
            if store not in STORES:
                raise ValueError(f"its store is {store!r}; known are {', '.join(STORES)}")
            splits = {name: _open_split(path, name, one, side, store) for name, one in description["splits"].items()}
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
                store=store,
                description=description,
            )
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise_unless_damage(error, path)
            raise _damaged(path, str(error)) from error


def data_checksum(split_digests: Mapping[str, tuple[str, str]], class_ids: Sequence[str]) -> str:
    """Fingerprint of a data set: SHA-256, hexadecimal, over its splits and class ids.

    Args:
        split_digests: per split name the SHA-256 of its images' digests and of its labels (the arrays' bytes,
            little-endian).
        class_ids: in label order.
    """
    lines = [f"{name} {images} {labels}" for name, (images, labels) in sorted(split_digests.items())]
    return hashlib.sha256("\n".join([*lines, *class_ids]).encode()).hexdigest()


def prepare_again_words(data: PreparedData, side: int) -> list[str]:
    """The command that prepares the source of a data set with another side, in a folder next to it."""
    plan = data.description.get("plan", {})
    words = ["alexnet", "prepare", plan.get("source", "SOURCE"), f"{data.folder}-{side}px", "--side", str(side)]
    words += ["--source-format", plan["kind"]] if "kind" in plan else []
    if (folders := plan.get("split_folders")) is not None:
        words += [word for split, path in folders.items() for word in ("--split", f"{split}={path}")]
        words += [] if folders else ["--split", "none"]
    words += ["--hold-out", str(plan["hold_out"]), "--seed", str(plan["seed"])] if plan.get("hold_out") else []
    words += ["--exif", plan["exif"]] if "exif" in plan else []
    return words


def renumber_labels(labels: NDArray[np.int64], numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels after the classes are renumbered, (N,).

    Args:
        labels: (N,), 0..K-1; `NO_LABEL` stays.
        numbers: (K,), the new number of each class.
    """
    return np.append(np.asarray(numbers, np.int64), NO_LABEL)[labels]  # the last one is that of `NO_LABEL`


def split_file(split: str, content: str) -> str:
    """Name of a split's array file; `content` is such as `images` or `labels`, see the module's docstring."""
    return f"{split}-{content}.npy"


def _open_split(folder: Path, name: str, described: Mapping[str, Any], side: int, store: str) -> Split:
    """Map the images of a split and read the rest; ValueError if the shapes differ from the description."""
    count = int(described["count"])
    labels = np.load(folder / split_file(name, "labels"))
    keys = PackedStrings(
        np.load(folder / split_file(name, "keys"), mmap_mode="r"),
        np.load(folder / split_file(name, "key-ends"), mmap_mode="r"),
    )
    if labels.shape != (count,) or len(keys) != count or (count and int(keys.ends[-1]) != len(keys.content)):
        raise ValueError(f"the {name} split has {count} images, {len(labels)} labels and {len(keys)} keys")
    if store == "pixels":
        pixels = np.load(folder / split_file(name, "images"), mmap_mode="r")
        if pixels.shape != (count, side, side, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"{split_file(name, 'images')} is {pixels.dtype} {pixels.shape}")
        return Split(name, pixels, labels, keys)
    index = np.load(folder / split_file(name, "index"), mmap_mode="r")
    shards = described["shards"]
    if index.shape != (count, 3) or index.dtype != np.int64:
        raise ValueError(f"{split_file(name, 'index')} is {index.dtype} {index.shape}")
    for shard in shards:
        size_bytes = (folder / shard["file"]).stat().st_size
        if size_bytes != shard["bytes"]:
            raise ValueError(f"{shard['file']} has {size_bytes:,} bytes, expected {shard['bytes']:,}")
    return Split(name, JpegImages(folder, [str(shard["file"]) for shard in shards], index, side), labels, keys)


def _damaged(path: Path, reason: str) -> RequestError:
    return RequestError(f"{path} is damaged ({reason}); remove it and prepare it again: alexnet prepare SOURCE {path}")
