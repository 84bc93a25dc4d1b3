"""CIFAR-10 and CIFAR-100 as their authors give them, in the binary and in the Python version.

Both versions of a data set make the same listing. Of the binary version images are read where they lie; the Python
version is kept in memory, 184 MB of pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.sources.class_folders import SOURCE_FILE, parse_description
from alexnet.data.sources.file_ranges import read_range
from alexnet.data.sources.listing import Content, ListingBuilder, Location, Source, build_source
from alexnet.data.sources.pickles import PickledArray, read_pickled_entries
from alexnet.errors import RequestError

CIFAR_TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST_FILE = "test_batch.bin"
CIFAR_NAMES_FILE = "batches.meta.txt"
CIFAR_SIDE_PX = 32
PIXEL_BYTES = 3 * CIFAR_SIDE_PX**2
"""Of an image: 1024 bytes each of red, green and blue, row after row."""
CIFAR_RECORD_BYTES = 1 + PIXEL_BYTES
"""Of CIFAR-10: one byte of label, then the pixels."""
CIFAR100_RECORD_BYTES = 2 + PIXEL_BYTES
"""Of CIFAR-100: a byte of superclass, a byte of class, then the pixels."""
FETCH_CIFAR10 = "alexnet fetch cifar10 DEST"
WHAT_IS_READ = (
    "CIFAR is a folder with the files of CIFAR-10 (data_batch_1.bin or data_batch_1, ...) or of CIFAR-100 (train.bin "
    "or train, ...), binary or Python version"
)


@dataclass(frozen=True, kw_only=True)
class _Form:
    """One of the four ways in which the authors give a data set."""

    kind: str
    folder: str
    """That their archive makes."""
    train_files: Sequence[str]
    test_file: str
    names_files: tuple[str, str]
    """Of the classes and of the superclasses; the same one twice where it holds both or there are none."""
    is_pickled: bool
    least: int
    """So many of the files are enough to tell this form by; the names of CIFAR-100's are common ones."""

    @property
    def title(self) -> str:
        return self.kind.upper()

    @property
    def label_bytes(self) -> int:
        return 2 if self.kind == "cifar-100" else 1

    @property
    def files(self) -> list[str]:
        return [*self.train_files, self.test_file, *dict.fromkeys(self.names_files)]

    def is_in(self, folder: Path) -> bool:
        files = self.files if self.least > 1 else [*self.train_files, self.test_file]
        return sum((folder / name).is_file() for name in files) >= self.least

    def missing(self, folder: Path, name: str) -> RequestError:
        remedy = (
            f"with: {FETCH_CIFAR10}" if self.kind == "cifar-10" else f"from its authors (the archive of {self.folder})"
        )
        return RequestError(f"{folder} looks like {self.title} but {name} is missing; get it whole {remedy}")

    def damaged(self, path: Path, fault: str) -> RequestError:
        remedy = f"run: {FETCH_CIFAR10}" if self.kind == "cifar-10" else "unpack its archive again"
        return RequestError(f"{path} is damaged: {fault}; remove the folder and {remedy}")


FORMS = (
    _Form(
        kind="cifar-10",
        folder="cifar-10-batches-bin",
        train_files=CIFAR_TRAIN_FILES,
        test_file=CIFAR_TEST_FILE,
        names_files=(CIFAR_NAMES_FILE, CIFAR_NAMES_FILE),
        is_pickled=False,
        least=1,
    ),
    _Form(
        kind="cifar-10",
        folder="cifar-10-batches-py",
        train_files=tuple(Path(name).stem for name in CIFAR_TRAIN_FILES),
        test_file="test_batch",
        names_files=("batches.meta", "batches.meta"),
        is_pickled=True,
        least=1,
    ),
    _Form(
        kind="cifar-100",
        folder="cifar-100-binary",
        train_files=("train.bin",),
        test_file="test.bin",
        names_files=("fine_label_names.txt", "coarse_label_names.txt"),
        is_pickled=False,
        least=2,
    ),
    _Form(
        kind="cifar-100",
        folder="cifar-100-python",
        train_files=("train",),
        test_file="test",
        names_files=("meta", "meta"),
        is_pickled=True,
        least=2,
    ),
)


def looks_like_cifar(path: Path) -> bool:
    """Whether files of CIFAR lie in a folder or in the sub-folder that their archive makes."""
    try:
        return bool(_found(path))
    except OSError:
        return False


def open_cifar(path: Path, *, coarse: bool = False) -> Source:
    """List a folder of CIFAR-10 or CIFAR-100; its splits are `train` and `test`.

    Args:
        path: the folder with the files, or the one above the folder that their archive makes.
        coarse: take CIFAR-100's 20 superclasses for its classes.

    Raises:
        RequestError: no such files or of two data sets, a file is missing or damaged, a file of the Python version
            asks for anything but arrays, or `coarse` for CIFAR-10.
    """
    found = _found(path)
    if not found:
        raise RequestError(f"{path} has no files of CIFAR; {WHAT_IS_READ}")
    if len({form.kind for form, _ in found}) > 1:
        folders = " and ".join(str(folder) for _, folder in found)
        raise RequestError(f"{path} holds both CIFAR-10 and CIFAR-100, in {folders}; name the folder of one of them")
    form, folder = found[0]
    if coarse and form.kind != "cifar-100":
        raise RequestError(f"{folder} is CIFAR-10, which has no superclasses; allowed is its kind cifar-10")
    for name in form.files:
        if not (folder / name).is_file():
            raise form.missing(folder, name)
    try:
        return _open_form(form, folder, coarse)
    except OSError as error:
        raise RequestError(f"cannot read {folder}: {error}; allow it or name another source") from error


def _found(path: Path) -> list[tuple[_Form, Path]]:
    """The forms that lie at a path, with their folders."""
    return [(form, folder) for form in FORMS for folder in (path, path / form.folder) if form.is_in(folder)]


def _open_form(form: _Form, folder: Path, coarse: bool) -> Source:
    """List a folder that has all files of a form."""
    class_ids = _class_names(form, folder / form.names_files[coarse], coarse)
    paths = [folder / name for name in (*form.train_files, form.test_file)]
    builders = {"train": ListingBuilder(), "test": ListingBuilder()}
    pixels: list[NDArray[np.uint8]] = []
    for number, path in enumerate(paths):
        if form.is_pickled:
            images, labels = _pickled_images(form, path, coarse)
            pixels.append(images)
        else:
            labels = _binary_labels(form, path, coarse)
        if not 0 <= labels.min() <= labels.max() < len(class_ids):
            wrong = labels.min() if labels.min() < 0 else labels.max()
            names = form.names_files[coarse]
            raise form.damaged(path, f"it has the label {wrong} and {names} {len(class_ids)} classes")
        builder = builders["test" if path.name == form.test_file else "train"]
        stem = path.name.removesuffix(".bin")
        for record, label in enumerate(labels.tolist()):
            builder.add(f"{stem}/{record:05d}", class_ids[label], (number, record, 0, 0))

    record_bytes = form.label_bytes + PIXEL_BYTES

    def read(key: str, location: Location) -> Content:
        number, record = location[:2]
        if form.is_pickled:
            flat = pixels[number][record]
        else:
            piece = read_range(paths[number], record * record_bytes + form.label_bytes, PIXEL_BYTES)
            flat = np.frombuffer(piece, np.uint8)
        planes = flat.reshape(3, CIFAR_SIDE_PX, CIFAR_SIDE_PX)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))

    description = folder / SOURCE_FILE
    described = parse_description(description.read_bytes() if description.is_file() else b"{}")
    return build_source(
        f"{form.kind}-coarse" if coarse else form.kind,
        str(described.get("title", form.title)),
        str(folder),
        builders,
        read,
        class_ids=class_ids,
        generated=bool(described.get("generated", False)),
        side=CIFAR_SIDE_PX,
    )


def _class_names(form: _Form, path: Path, coarse: bool) -> list[str]:
    """The official names, in the order of the labels."""
    try:
        if form.is_pickled:
            entry = "label_names" if form.kind == "cifar-10" else f"{'coarse' if coarse else 'fine'}_label_names"
            names = [one.decode() if isinstance(one, bytes) else str(one) for one in _unpickled(form, path)[entry]]
        else:
            names = path.read_text(encoding="utf-8").split()
    except (UnicodeDecodeError, KeyError, TypeError) as error:
        raise form.damaged(path, f"it has no list of names ({error})") from error
    if len(set(names)) != len(names):
        raise form.damaged(path, "it names a class twice")
    return names


def _binary_labels(form: _Form, path: Path, coarse: bool) -> NDArray[np.int64]:
    """The labels of a binary file, int64 (N,)."""
    size_bytes = path.stat().st_size
    record_bytes = form.label_bytes + PIXEL_BYTES
    if size_bytes == 0 or size_bytes % record_bytes:
        raise form.damaged(path, f"{size_bytes} bytes are no whole number of {record_bytes}-byte records")
    records = np.memmap(path, np.uint8, mode="r").reshape(-1, record_bytes)
    return np.array(records[:, 0 if coarse else form.label_bytes - 1], np.int64)


def _pickled_images(form: _Form, path: Path, coarse: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels, uint8 (N, 3072), and labels, int64 (N,), of a file of the Python version."""
    content = _unpickled(form, path)
    entry = "labels" if form.kind == "cifar-10" else f"{'coarse' if coarse else 'fine'}_labels"
    for name in ("data", entry):
        if name not in content:
            raise form.damaged(path, f"it has no entry {name}")
    pixels, labels = content["data"], content[entry]
    pixels = pixels.values if isinstance(pixels, PickledArray) else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXEL_BYTES:
        raise form.damaged(path, f"data is no array of bytes with {PIXEL_BYTES} columns")
    if isinstance(labels, PickledArray):
        labels = labels.values
    elif not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise form.damaged(path, f"{entry} is no list of whole numbers")
    numbers = np.asarray(labels)
    if numbers.dtype.kind not in "iu" or numbers.shape != (len(pixels),) or not len(pixels):
        raise form.damaged(path, f"{entry} has the shape {numbers.shape} for {len(pixels)} images")
    return pixels, numbers.astype(np.int64)


def _unpickled(form: _Form, path: Path) -> dict[str, Any]:
    """The entries of a file of the Python version."""
    try:
        return read_pickled_entries(path)
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise form.damaged(path, str(error)) from error
