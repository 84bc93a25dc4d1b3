"""MNIST and similar data sets: gray images and labels in IDX files, a pair of files per split."""

import gzip
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.data.sources.file_ranges import read_range
from alexnet.data.sources.listing import Content, ListingBuilder, Location, SkippedFiles, Source, build_source
from alexnet.errors import RequestError
from alexnet.storage.typed_files import read_bounded

FILE_NAME = re.compile(
    r"(?P<prefix>[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*-)?(?P<split>train|t10k|test)-(?P<content>images[-.]idx3|labels[-.]idx1)"
    r"-ubyte(?P<gzip>\.gz)?"
)
"""`train-images-idx3-ubyte`, or for EMNIST `emnist-balanced-train-images-idx3-ubyte`."""
SPLITS = {"train": "train", "t10k": "test", "test": "test"}
NAMES_FILE = "classes.txt"
"""Optional, in the same folder: one class name per line."""
MAX_NAMES_BYTES = 2**20
UNSIGNED_BYTES = 0x08
"""Type of the values, in the third byte of a file."""
MAX_UNPACKED_BYTES = 2**31
"""A compressed file that claims more is refused, since a small file can claim any size."""
BLOCK_BYTES = 2**20
EXPECTED = "expected are train-images-idx3-ubyte and train-labels-idx1-ubyte, with or without .gz"


@dataclass(frozen=True)
class _Idx:
    """An IDX file of unsigned bytes whose header agrees with its size."""

    path: Path
    sizes: tuple[int, ...]
    unpacked: bytearray | None
    """The whole file, if it is compressed."""

    def item(self, index: int) -> NDArray[np.uint8]:
        """The values at `index` of the first dimension, in the shape of the other dimensions."""
        shape = self.sizes[1:]
        size_bytes = math.prod(shape)
        offset = _header_bytes(len(self.sizes)) + index * size_bytes
        if self.unpacked is None:
            return np.frombuffer(read_range(self.path, offset, size_bytes), np.uint8).reshape(shape)
        return np.frombuffer(self.unpacked, np.uint8, size_bytes, offset).reshape(shape)


def looks_like_idx(path: Path) -> bool:
    """Whether a folder has IDX files of training images, or a path is such a file."""
    return any(split == "train" for _, split, content in _files(path) if content == "images")


def open_idx(path: Path) -> Source:
    """List a folder of IDX files; its splits are `train` and, if it has such files, `test`.

    Images are read as stored, with gray repeated to RGB; EMNIST stores them on their side. Class ids are the labels as
    decimal numbers. Compressed files are kept in memory.

    Args:
        path: the folder, or the file of training images if the folder has several data sets.

    Raises:
        RequestError: files are missing, damaged or larger than 2 GiB unpacked, there are several data sets, or
            `classes.txt` has the wrong number of lines.
    """
    files = _files(path)
    prefixes = sorted({prefix for prefix, _, _ in files})
    if not prefixes:
        raise RequestError(f"{path} has no IDX files; {EXPECTED}")
    if len(prefixes) > 1:
        choices = ", ".join(prefix.rstrip("-") or "without a prefix" for prefix in prefixes)
        raise RequestError(
            f"{path} has the IDX files of {len(prefixes)} data sets ({choices}); name the file of training images of "
            "one of them"
        )
    prefix = prefixes[0]
    folder = path if path.is_dir() else path.parent
    builders = {split: ListingBuilder() for split in ("train", "test")}
    images: list[_Idx] = []
    for number, (split, builder) in enumerate(builders.items()):
        image_file, label_file = (files.get((prefix, split, content)) for content in ("images", "labels"))
        if split == "test" and image_file is None and label_file is None:
            continue
        if image_file is None or label_file is None:
            missing = "images" if image_file is None else "labels"
            raise RequestError(f"{folder} has no IDX file of {split} {missing}; {EXPECTED}")
        pictures, labels = _open_idx_file(image_file, 3), _open_idx_file(label_file, 1)
        num_images, num_labels = pictures.sizes[0], labels.sizes[0]
        if num_images != num_labels:
            raise _damaged(label_file, f"it has {num_labels} labels and {image_file.name} {num_images} images")
        images.append(pictures)
        values = read_range(label_file, 8, num_labels) if labels.unpacked is None else labels.unpacked[8:]
        for index, label in enumerate(values):
            builder.add(f"{split}/{index:06d}", str(label), (number, index, 0, 0))

    def read(key: str, location: Location) -> Content:
        return np.repeat(images[location[0]].item(location[1])[:, :, None], 3, axis=2)

    skipped = SkippedFiles()
    used = {file.name for (_, split, _), file in files.items() if len(builders[split])}
    skipped.add_rest_of(folder, used | {NAMES_FILE})
    class_ids = sorted(builders["train"].class_ids, key=int)
    height, width = images[0].sizes[1:]
    return build_source(
        "idx",
        prefix.rstrip("-") or folder.resolve().name,
        str(path),
        builders,
        read,
        class_ids=class_ids,
        class_names=_class_names(folder / NAMES_FILE, class_ids),
        side=height if height == width else None,
        skipped=skipped,
    )


def _files(path: Path) -> dict[tuple[str, str, str], Path]:
    """The IDX files at a path by prefix, split and content (`images`, `labels`)."""
    only = FILE_NAME.fullmatch(path.name) if path.is_file() else None
    if not path.is_dir() and only is None:
        return {}
    found: dict[tuple[str, str, str], Path] = {}
    # Shorter names first: the uncompressed file is preferred to the same file compressed.
    for file in sorted((path if only is None else path.parent).iterdir(), key=lambda one: (len(one.name), one.name)):
        match = FILE_NAME.fullmatch(file.name)
        if match is None or not file.is_file() or (only is not None and match["prefix"] != only["prefix"]):
            continue
        found.setdefault((match["prefix"] or "", SPLITS[match["split"]], match["content"][:6]), file)
    return found


def _header_bytes(num_dimensions: int) -> int:
    """Of an IDX file: two zeros, type, number of dimensions, then four bytes for each of them."""
    return 4 + 4 * num_dimensions


def _open_idx_file(path: Path, num_dimensions: int) -> _Idx:
    """Check a file's header against its size; a compressed file is unpacked."""
    if path.suffix == ".gz":
        return _unpacked(path, num_dimensions)
    with path.open("rb") as file:
        sizes = _sizes(path, file.read(_header_bytes(num_dimensions)), num_dimensions)
    _require_bytes(path, path.stat().st_size, sizes)
    return _Idx(path, sizes, None)


def _sizes(path: Path, header: bytes, num_dimensions: int) -> tuple[int, ...]:
    if len(header) != _header_bytes(num_dimensions) or header[:2] != b"\0\0" or header[3] != num_dimensions:
        raise _damaged(
            path, f"it does not begin like an IDX file of {num_dimensions} dimensions, but with {header[:4].hex(' ')}"
        )
    if header[2] != UNSIGNED_BYTES:
        raise _damaged(path, f"its values have the type 0x{header[2]:02x}; allowed is 0x08, unsigned bytes")
    sizes = tuple(int(size) for size in np.frombuffer(header[4:], ">u4"))
    if 0 in sizes:
        raise _damaged(path, f"it claims {' x '.join(map(str, sizes))} values; each size must be 1 or more")
    return sizes


def _require_bytes(path: Path, num_bytes: int, sizes: tuple[int, ...]) -> None:
    """Refuse a file that is shorter or longer than its header claims."""
    expected = _header_bytes(len(sizes)) + math.prod(sizes)
    if num_bytes != expected:
        raise _damaged(path, f"it has {num_bytes:,} bytes and its header claims {expected:,}")


def _unpacked(path: Path, num_dimensions: int) -> _Idx:
    """A compressed file; unpacks at most one byte more than its header claims."""
    header_bytes = _header_bytes(num_dimensions)
    content = bytearray()
    try:
        with gzip.open(path) as file:
            content += file.read(header_bytes)
            sizes = _sizes(path, bytes(content), num_dimensions)
            wanted = header_bytes + math.prod(sizes)
            if wanted > MAX_UNPACKED_BYTES:
                raise RequestError(
                    f"{path} claims {wanted:,} bytes unpacked; allowed are {MAX_UNPACKED_BYTES:,}; if it is not "
                    "damaged, unpack it with gunzip, since unpacked files are not kept in memory"
                )
            while part := file.read(min(BLOCK_BYTES, wanted + 1 - len(content))):
                content += part
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    _require_bytes(path, len(content), sizes)
    return _Idx(path, sizes, content)


def _class_names(path: Path, class_ids: list[str]) -> dict[str, str]:
    """Names by class id from an optional file: a line per number from 0, or per number that occurs."""
    if not path.is_file():
        return {}
    try:
        content = read_bounded(path, MAX_NAMES_BYTES).decode("utf-8-sig")
    except ValueError as error:
        raise RequestError(f"{path} is not a list of class names ({error}); save it as UTF-8 text") from error
    lines = [line.strip() for line in content.rstrip().splitlines()]
    if len(lines) > int(class_ids[-1]):
        names = {class_id: lines[int(class_id)] for class_id in class_ids}
    elif len(lines) == len(class_ids):
        names = dict(zip(class_ids, lines, strict=True))
    else:
        raise RequestError(
            f"{path} has {len(lines)} lines, and the labels go from {class_ids[0]} to {class_ids[-1]}; write one name "
            "per line for each of them"
        )
    return names


def _damaged(path: Path, fault: str) -> RequestError:
    return RequestError(f"{path} is damaged: {fault}; download it again")
