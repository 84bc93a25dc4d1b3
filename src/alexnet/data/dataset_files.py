"""The files of a prepared data set: each is checked against the description when it is read.

The description, `dataset.json`, is under a checksum of its own and holds those of the other files. Each image is
verified when it is read for the first time (`alexnet.data.shards`).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from alexnet.data.decode import Fit
from alexnet.data.packed import PackedStrings
from alexnet.data.shards import DIGEST_BYTES, JpegImages, PixelImages, StoredFiles
from alexnet.errors import RequestError
from alexnet.storage.checksums import file_digest
from alexnet.storage.npy import CHANGED, ArrayFile, Shape, read_npy, read_npy_header, read_npz
from alexnet.storage.typed_files import (
    Count,
    DamagedFile,
    FileName,
    Sha256,
    Versioned,
    damaged,
    raise_unreadable,
    read_bounded,
    read_json,
)

FORMAT_VERSION, OLDEST_VERSION, FIRST_SEALED_VERSION = 3, 2, 3
DESCRIPTION_FILE = "dataset.json"
STATISTICS_FILE = "statistics.npz"
NO_LABEL = -1
MIN_SIDE_PX, MAX_SIDE_PX = 8, 1024
"""Sides of stored images that `prepare` makes."""
_STATISTICS_MARGIN_BYTES = 2**16
"""Of `statistics.npz`, for everything but the pixels of the mean image."""

Side = Annotated[int, Meta(ge=1, le=MAX_SIDE_PX)]
Store = Literal["pixels", "jpeg"]
SplitName = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_-]*\Z", max_length=64)]


class StoredClass(TypedDict):
    """A class as data sets, weights and baselines store it."""

    id: str
    name: str
    number: NotRequired[int]


class _Shard(TypedDict):
    file: FileName
    count: Count
    bytes: Count
    sha256: Sha256


class _Split(TypedDict):
    count: Count
    listed: Count
    images_sha256: Sha256
    labels_sha256: Sha256
    shards: NotRequired[list[_Shard]]


class _File(TypedDict):
    bytes: Count
    sha256: Sha256


class _Plan(TypedDict):
    source: str
    kind: str
    source_sha256: Sha256
    side: Side
    store: Store
    split_folders: NotRequired[dict[str, str] | None]
    hold_out: Annotated[float, Meta(ge=0, lt=1)]
    seed: Count
    exif: Literal["apply", "ignore"]
    fit: NotRequired[Fit]
    made_with: dict[str, str]


class Description(Versioned):
    """The content of `dataset.json`."""

    title: str
    generated: bool
    classes: Annotated[list[StoredClass], Meta(min_length=1)]
    splits: dict[SplitName, _Split]
    side: Side
    store: Store
    num_refused: Count
    num_skipped: NotRequired[Count]
    num_16_bit: NotRequired[Count]
    num_12_in_16_bit: NotRequired[Count]
    duplicates: dict[str, Count]
    checksum: Sha256
    plan: _Plan
    files: NotRequired[dict[FileName, _File]]


class DataFiles:
    """Reads the files of the prepared data set in `folder`.

    Attributes:
        description: the content of `dataset.json`.
        checksums: SHA-256 by file; format version 2 has only those of the shards.
        advice: what to do about damage.

    Raises:
        RequestError: the data set has another format version.
        DamagedFile: `dataset.json` is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.advice = f"remove {folder} and prepare it again: alexnet prepare SOURCE {folder}"
        path = folder / DESCRIPTION_FILE
        version = read_json(path, Versioned, self.advice)["format_version"]
        if not OLDEST_VERSION <= version <= FORMAT_VERSION:
            raise RequestError(
                f"{folder} has format version {version}; this version of alexnet reads {OLDEST_VERSION} to "
                f"{FORMAT_VERSION}. Prepare it again from its source, or use the version of alexnet that wrote it"
            )
        self.description = read_json(path, Description, self.advice, sealed_since=FIRST_SEALED_VERSION)
        with self._named(DESCRIPTION_FILE):
            self._check_description()
        self.checksums = {name: one["sha256"] for name, one in self.description.get("files", {}).items()}
        for split in self.description["splits"].values():
            self.checksums |= {shard["file"]: shard["sha256"] for shard in split.get("shards", [])}

    def _check_description(self) -> None:
        described = self.description
        ids = [one["id"] for one in described["classes"]]
        if len(set(ids)) < len(ids):
            raise ValueError("classes: an id occurs twice")
        if "train" not in described["splits"]:
            raise ValueError("splits: there is no train")
        if described["format_version"] >= FIRST_SEALED_VERSION:
            contents = ["labels", "keys", "key-ends", "digests", "sizes"] + ["index"] * (described["store"] == "jpeg")
            expected = {split_file(split, content) for split in described["splits"] for content in contents}
            if missing := sorted({*expected, STATISTICS_FILE} - set(described.get("files", {}))):
                raise ValueError(f"files: {missing[0]} is missing")
        digests = {
            name: (split["images_sha256"], split["labels_sha256"]) for name, split in described["splits"].items()
        }
        if described["checksum"] != data_checksum(digests, ids):
            raise ValueError("checksum is not that of its splits and classes")

    def labels(self, split: str) -> NDArray[np.int64]:
        """The labels of a split, int64 (N,)."""
        described, name = self.description["splits"][split], split_file(split, "labels")
        labels = self.array(split, "labels", np.int64, ())
        with self._named(name):
            if hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest() != described["labels_sha256"]:
                raise ValueError("the labels are not those that were written: their checksum differs")
            num_classes = len(self.description["classes"])
            if len(labels) and not NO_LABEL <= labels.min() <= labels.max() < num_classes:
                raise ValueError(f"labels are {labels.min()} to {labels.max()}, and there are {num_classes} classes")
        return labels

    def digests(self, split: str) -> NDArray[np.uint8]:
        """The beginning of the SHA-256 of each stored image of a split, uint8 (N, 16)."""
        digests = self.array(split, "digests", np.uint8, (DIGEST_BYTES,))
        with self._named(split_file(split, "digests")):
            if hashlib.sha256(digests.tobytes()).hexdigest() != self.description["splits"][split]["images_sha256"]:
                raise ValueError("the images' checksums are not those that were written")
        return digests

    def array(self, split: str, content: str, dtype: type[np.generic], row_shape: tuple[int, ...]) -> NDArray[Any]:
        """An array with a row for each image of a split."""
        return self._read(split_file(split, content), dtype, (self.description["splits"][split]["count"], *row_shape))

    def sizes(self, split: str) -> NDArray[np.int32]:
        """Height and width of the originals of a split, int32 (N, 2)."""
        return self.array(split, "sizes", np.int32, (2,))

    def keys(self, split: str) -> "StoredKeys":
        """Where each image of a split came from."""
        for content, rows in (("keys", None), ("key-ends", self.description["splits"][split]["count"])):
            self._open_array(split_file(split, content), np.uint8 if content == "keys" else np.int64, (rows,))
        return StoredKeys(self, split)

    def packed_keys(self, split: str) -> PackedStrings:
        """The keys of a split, read and checked."""
        ends = self.array(split, "key-ends", np.int64, ())
        keys = PackedStrings(self._read(split_file(split, "keys"), np.uint8, (None,)), ends)
        with self._named(split_file(split, "key-ends")):
            if (np.diff(ends, prepend=0) < 0).any() or (ends[-1] if len(ends) else 0) != len(keys.content):
                raise ValueError("they are not the ends of the keys")
        return keys

    def images(self, split: str, *, require_shards: bool = True) -> StoredFiles:
        """The images of a split; each is verified when it is read for the first time.

        Args:
            require_shards: whether all shards must be there and whole.
        """
        described, side = self.description["splits"][split], self.description["side"]
        digests = self.digests(split)
        if self.description["store"] == "pixels":
            shape = (described["count"], side, side, 3)
            return PixelImages(self._open_array(split_file(split, "images"), np.uint8, shape), digests)
        index = self.array(split, "index", np.int64, (3,))
        shards = described.get("shards", [])
        with self._named(split_file(split, "index")):
            _check_index(index, np.array([shard["bytes"] for shard in shards], np.int64))
        for shard in shards if require_shards else ():
            with self._named(shard["file"]):
                size_bytes = (self.folder / shard["file"]).stat().st_size
                if size_bytes != shard["bytes"]:
                    raise ValueError(f"it has {size_bytes:,} bytes, expected {shard['bytes']:,}")
        return JpegImages(self.folder, [shard["file"] for shard in shards], index, side, digests)

    def verify(self, name: str) -> None:
        """Compare the checksum of a whole file of `checksums`."""
        with self._named(name):
            if file_digest(self.folder / name) != self.checksums[name]:
                raise ValueError(CHANGED)

    def statistics(self) -> dict[str, NDArray[Any]]:
        """`mean_image`, `covariance`, `eigenvalues` and `eigenvectors` of the training images."""
        side = self.description["side"]
        shapes: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "mean_image": (np.float32, (side, side, 3)),
            "covariance": (np.float64, (3, 3)),
            "eigenvalues": (np.float64, (3,)),
            "eigenvectors": (np.float64, (3, 3)),
        }
        with self._named(STATISTICS_FILE):
            content = read_bounded(self.folder / STATISTICS_FILE, _STATISTICS_MARGIN_BYTES + 12 * side**2)
            if (
                STATISTICS_FILE in self.checksums
                and hashlib.sha256(content).hexdigest() != self.checksums[STATISTICS_FILE]
            ):
                raise ValueError(CHANGED)
            arrays = read_npz(content, shapes)
            for name, array in arrays.items():
                if not np.isfinite(array).all():
                    raise ValueError(f"{name} is not finite")
            if arrays["mean_image"].min() < 0 or arrays["mean_image"].max() > 255:
                raise ValueError("mean_image is outside of 0..255")
        return arrays

    def _read(self, name: str, dtype: type[np.generic], shape: Shape) -> NDArray[Any]:
        with self._named(name):
            return read_npy(self.folder / name, dtype, shape, self.checksums.get(name))

    def _open_array(self, name: str, dtype: type[np.generic], shape: Shape) -> ArrayFile:
        """An array of which parts are read later."""
        path = self.folder / name
        with self._named(name), path.open("rb") as file:
            header, found = read_npy_header(file, path.stat().st_size, np.dtype(dtype), shape)
            return ArrayFile(path, np.dtype(dtype), found, len(header))

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Name the file in errors."""
        try:
            yield
        except DamagedFile:
            raise
        except (ValueError, MemoryError) as error:
            raise damaged(self.folder / name, str(error) or "it does not fit into memory", self.advice) from error
        except OSError as error:
            raise_unreadable(self.folder / name, error, self.advice)


class StoredKeys(Sequence[str]):
    """The keys of a split, which are read when the first one is asked for: they may take a gigabyte."""

    def __init__(self, files: DataFiles, split: str) -> None:
        self._files = files
        self._split = split

    @cached_property
    def _packed(self) -> PackedStrings:
        return self._files.packed_keys(self._split)

    def __len__(self) -> int:
        return self._files.description["splits"][self._split]["count"]

    # Only this form of indexing is needed.
    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return self._packed[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)


def split_file(split: str, content: str) -> str:
    """Name of a split's array file; `content` is such as `images` or `labels`, see `alexnet.data.dataset`."""
    return f"{split}-{content}.npy"


def data_checksum(split_digests: Mapping[str, tuple[str, str]], class_ids: Sequence[str]) -> str:
    """Fingerprint of a data set: SHA-256, hexadecimal, over its splits and class ids.

    Args:
        split_digests: per split name the SHA-256 of its images' digests and of its labels (the arrays' bytes,
            little-endian).
        class_ids: in label order.
    """
    lines = [f"{name} {images} {labels}" for name, (images, labels) in sorted(split_digests.items())]
    return hashlib.sha256("\n".join([*lines, *class_ids]).encode()).hexdigest()


def _check_index(index: NDArray[np.int64], shard_bytes: NDArray[np.int64]) -> None:
    """ValueError if a range of the index, int64 (N, 3), is outside of its shard."""
    if not len(index):
        return
    shards, offsets, sizes = index.T
    if shards.min() < 0 or shards.max() >= len(shard_bytes) or offsets.min() < 0 or sizes.min() < 1:
        raise ValueError("it points outside of the shards")
    if (sizes > shard_bytes[shards] - offsets).any():
        raise ValueError("it points outside of the shards")
