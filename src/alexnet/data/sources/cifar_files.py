"""CIFAR-10 and CIFAR-100 in their authors' binary and Python versions.

Both versions of a data set give the same listing. Images of the binary version are read in place; the Python version
is kept in memory, 184 MB of pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.not_images import START_BYTES
from alexnet.data.sources.class_folders import SOURCE_FILE, parse_description
from alexnet.data.sources.file_ranges import read_file_start, read_range
from alexnet.data.sources.listing import Content, ListingBuilder, Location, SkippedFiles, Source, build_source
from alexnet.data.sources.pickles import read_pickled_entries
from alexnet.errors import RequestError
from alexnet.storage.inert_unpickler import PickledArray
from alexnet.storage.typed_files import read_bounded

CIFAR_TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST_FILE = "test_batch.bin"
CIFAR_NAMES_FILE = "batches.meta.txt"
CIFAR_SIDE_PX = 32
PIXEL_BYTES = 3 * CIFAR_SIDE_PX**2
"""Of an image: 1024 bytes each of red, green and blue, in rows."""
CIFAR_RECORD_BYTES = 1 + PIXEL_BYTES
"""Of CIFAR-10: one byte of label, then the pixels."""
EXPECTED = (
    "expected is a folder with the files of CIFAR-10 (data_batch_1.bin or data_batch_1, ...) or of CIFAR-100 "
    "(train.bin or train, ...), binary or Python version"
)
MAX_NAMES_BYTES = 2**16
"""Of a file of class names, of which the longest has 700 bytes."""
_MAX_NAMES = 1000
"""Of classes; CIFAR-100 has 100."""
_RECORDS_AT_ONCE = 1024


@dataclass(frozen=True)
class _Version:
    """The files of a data set in one of its two versions."""

    kind: str
    is_pickled: bool
    """Whether it is the Python version."""
    folder: str
    """In the authors' archive."""
    train_files: Sequence[str]
    test_file: str
    names_files: tuple[str, str]
    """Of the classes and of the superclasses; the same file twice if it has both, or if there are no superclasses."""

    @property
    def title(self) -> str:
        return self.kind.upper()

    @property
    def fetch(self) -> str:
        """The command that gets a complete copy."""
        return f"alexnet fetch {self.kind.replace('-', '')} DEST"

    @property
    def label_bytes(self) -> int:
        """Before the pixels: CIFAR-100 has a byte of superclass before that of the class."""
        return 2 if self.kind == "cifar-100" else 1

    @property
    def files(self) -> list[str]:
        return [*self.train_files, self.test_file, *dict.fromkeys(self.names_files)]

    def is_in(self, folder: Path) -> bool:
        """Whether one file of images is in `folder`; for CIFAR-100, whose names are common, any two files."""
        files, min_files = ([*self.train_files, self.test_file], 1) if self.kind == "cifar-10" else (self.files, 2)
        return sum((folder / name).is_file() for name in files) >= min_files

    def missing(self, folder: Path, name: str) -> RequestError:
        return RequestError(
            f"{folder} looks like {self.title} but {name} is missing; get a complete copy with: {self.fetch}"
        )

    def damaged(self, path: Path, fault: str) -> RequestError:
        return RequestError(f"{path} is damaged: {fault}; remove the folder and run: {self.fetch}")


VERSIONS = (
    _Version("cifar-10", False, "cifar-10-batches-bin", CIFAR_TRAIN_FILES, CIFAR_TEST_FILE, (CIFAR_NAMES_FILE,) * 2),
    _Version(
        "cifar-10",
        True,
        "cifar-10-batches-py",
        tuple(Path(name).stem for name in CIFAR_TRAIN_FILES),
        Path(CIFAR_TEST_FILE).stem,
        ("batches.meta", "batches.meta"),
    ),
    _Version(
        "cifar-100",
        False,
        "cifar-100-binary",
        ("train.bin",),
        "test.bin",
        ("fine_label_names.txt", "coarse_label_names.txt"),
    ),
    _Version("cifar-100", True, "cifar-100-python", ("train",), "test", ("meta", "meta")),
)


def looks_like_cifar(path: Path) -> bool:
    """Whether a folder, or the subfolder that the authors' archive makes, has files of CIFAR."""
    return bool(_found(path))


def open_cifar(path: Path, *, coarse: bool = False) -> Source:
    """List a folder of CIFAR-10 or CIFAR-100; its splits are `train` and `test`.

    Args:
        path: the folder with the files, or its parent if the folder has its original name.
        coarse: use CIFAR-100's 20 superclasses as classes.

    Raises:
        RequestError: there are no such files or those of both data sets, a file is missing or damaged, a pickle refers
            to anything but arrays, or `coarse` is set for CIFAR-10.
    """
    found = _found(path)
    if not found:
        raise RequestError(f"{path} has no files of CIFAR; {EXPECTED}")
    if len({version.kind for version, _ in found}) > 1:
        folders = " and ".join(str(folder) for _, folder in found)
        raise RequestError(f"{path} has both CIFAR-10 and CIFAR-100, in {folders}; name one of these folders")
    version, folder = found[0]
    if coarse and version.kind != "cifar-100":
        raise RequestError(f"{folder} is CIFAR-10, which has no superclasses; use --source-format cifar")
    for name in version.files:
        if not (folder / name).is_file():
            raise version.missing(folder, name)
    skipped = SkippedFiles()
    skipped.add_rest_of(folder, {*version.files, SOURCE_FILE}, "" if folder == path else f"{folder.name}/")
    if folder != path:
        skipped.add_rest_of(path, {folder.name})
    return _open_version(version, folder, coarse, skipped)


def _found(path: Path) -> list[tuple[_Version, Path]]:
    return [
        (version, folder) for version in VERSIONS for folder in (path, path / version.folder) if version.is_in(folder)
    ]


def _open_version(version: _Version, folder: Path, coarse: bool, skipped: SkippedFiles) -> Source:
    class_ids = _class_names(version, folder / version.names_files[coarse], coarse)
    paths = [folder / name for name in (*version.train_files, version.test_file)]
    builders = {"train": ListingBuilder(), "test": ListingBuilder()}
    pixels: list[NDArray[np.uint8]] = []
    for number, path in enumerate(paths):
        if version.is_pickled:
            images, labels = _pickled_images(version, path, coarse)
            pixels.append(images)
        else:
            labels = _binary_labels(version, path, coarse)
        if not 0 <= labels.min() <= labels.max() < len(class_ids):
            wrong = labels.min() if labels.min() < 0 else labels.max()
            names = version.names_files[coarse]
            raise version.damaged(path, f"it has the label {wrong}, and {names} has {len(class_ids)} classes")
        builder = builders["test" if path.name == version.test_file else "train"]
        stem = path.name.removesuffix(".bin")
        for record, label in enumerate(labels.tolist()):
            builder.add(f"{stem}/{record:05d}", class_ids[label], (number, record, 0, 0))

    record_bytes = version.label_bytes + PIXEL_BYTES

    def read(key: str, location: Location) -> Content:
        number, record = location[:2]
        if version.is_pickled:
            flat = pixels[number][record]
        else:
            piece = read_range(paths[number], record * record_bytes + version.label_bytes, PIXEL_BYTES)
            flat = np.frombuffer(piece, np.uint8)
        planes = flat.reshape(3, CIFAR_SIDE_PX, CIFAR_SIDE_PX)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))

    description = folder / SOURCE_FILE
    content = read_file_start(str(description), START_BYTES) if description.is_file() else b"{}"
    described = parse_description(content, description)
    return build_source(
        f"{version.kind}-coarse" if coarse else version.kind,
        described.get("title", version.title),
        str(folder),
        builders,
        read,
        class_ids=class_ids,
        generated=described.get("generated", False),
        side=CIFAR_SIDE_PX,
        skipped=skipped,
    )


def _class_names(version: _Version, path: Path, coarse: bool) -> list[str]:
    """The official names, in the order of the labels."""
    try:
        if version.is_pickled:
            entry = "label_names" if version.kind == "cifar-10" else f"{'coarse' if coarse else 'fine'}_label_names"
            names = _checked_names(_unpickled(version, path)[entry])
        else:
            names = read_bounded(path, MAX_NAMES_BYTES).decode().split()
    except RequestError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise version.damaged(path, f"it has no list of names ({error})") from error
    if len(set(names)) != len(names):
        raise version.damaged(path, "it names a class twice")
    return names


def _checked_names(found: object) -> list[str]:
    """Names of classes in a pickle; TypeError or ValueError if it has something else there."""
    if not isinstance(found, list) or len(found) > _MAX_NAMES:
        raise TypeError(f"it has a {type(found).__name__} there")
    names = [one.decode() if isinstance(one, bytes) else one for one in found]
    if not all(isinstance(one, str) for one in names):
        raise TypeError("a name is not text")
    return names


def _binary_labels(version: _Version, path: Path, coarse: bool) -> NDArray[np.int64]:
    """The labels of a binary file, int64 (N,)."""
    size_bytes = path.stat().st_size
    record_bytes = version.label_bytes + PIXEL_BYTES
    if size_bytes == 0 or size_bytes % record_bytes:
        raise version.damaged(path, f"{size_bytes} bytes are not a multiple of {record_bytes}, the size of a record")
    return bytes_of_records(path, record_bytes, 0 if coarse else version.label_bytes - 1).astype(np.int64)


def bytes_of_records(path: Path, record_bytes: int, position: int) -> NDArray[np.uint8]:
    """The byte at `position` of each record of a file, uint8 (N,)."""
    found = []
    with path.open("rb") as file:
        while len(content := file.read(_RECORDS_AT_ONCE * record_bytes)) >= record_bytes:
            whole = len(content) // record_bytes * record_bytes
            found.append(np.frombuffer(content[:whole], np.uint8).reshape(-1, record_bytes)[:, position].copy())
    return np.concatenate(found) if found else np.empty(0, np.uint8)


def _pickled_images(version: _Version, path: Path, coarse: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels, uint8 (N, 3072), and labels, int64 (N,), of a file of the Python version."""
    content = _unpickled(version, path)
    entry = "labels" if version.kind == "cifar-10" else f"{'coarse' if coarse else 'fine'}_labels"
    for name in ("data", entry):
        if name not in content:
            raise version.damaged(path, f"it has no entry {name}")
    pixels, labels = content["data"], content[entry]
    pixels = pixels.values if isinstance(pixels, PickledArray) else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXEL_BYTES:
        raise version.damaged(path, f"data is not an array of bytes with {PIXEL_BYTES} columns")
    if isinstance(labels, PickledArray):
        labels = labels.values
    elif not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise version.damaged(path, f"{entry} is not a list of integers")
    numbers = np.asarray(labels)
    if numbers.dtype.kind not in "iu" or numbers.shape != (len(pixels),) or not len(pixels):
        raise version.damaged(path, f"{entry} has the shape {numbers.shape} for {len(pixels)} images")
    return pixels, numbers.astype(np.int64)


def _unpickled(version: _Version, path: Path) -> dict[str, Any]:
    try:
        return read_pickled_entries(path)
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise version.damaged(path, str(error)) from error
