"""Writes the images of a chunk to its part of the prepared data set: a tar shard, or rows of a split's array."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from alexnet.data.preparation.workers import ImageGroup
from alexnet.data.shards import DIGEST_BYTES, END_OF_TAR
from alexnet.storage.atomic import PARTIAL
from alexnet.storage.npy import npy_header


class ChunkWriter(ABC):
    """Writes the images of one chunk, in order, and collects what is recorded of them.

    Args:
        path: the file that the images go to.
        mode: in which it is opened.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._file: BinaryIO = path.open(mode)  # type: ignore[assignment]
        self._numbers: list[int] = []
        self._digests: list[bytes] = []
        self._sizes: list[tuple[int, int]] = []
        self._refused: list[tuple[int, str]] = []
        self._deep: list[bool] = []

    @property
    def num_images(self) -> int:
        """Images written."""
        return len(self._numbers)

    @property
    def num_files(self) -> int:
        """Source files so far, the refused ones included."""
        return len(self._numbers) + len(self._refused)

    def write(self, group: ImageGroup) -> None:
        """Append the images of a group."""
        self._write_content(group)
        self._numbers += group.numbers
        self._digests += group.digests
        self._sizes += group.sizes
        self._refused += group.refused
        self._deep += group.deep

    @abstractmethod
    def _write_content(self, group: ImageGroup) -> None:
        """Append the bytes of a group to the file."""

    def finish(self) -> None:
        """Hand everything to the system: no image follows, and the next chunk may begin."""
        self._file.flush()

    def sync(self) -> None:
        """Wait until the file is on the disk."""
        os.fsync(self._file.fileno())

    def record(self) -> dict[str, NDArray[Any]]:
        """What `finalize` needs to know of the chunk.

        Returns:
            numbers: int64 (n,), positions in the source's listing of the images written.
            digests: uint8 (n, 16), of their stored bytes.
            sizes: int32 (n, 2), height and width of the originals, pixels.
            refused: int64 (m,), positions in the listing of the refused files.
            reasons: uint8, their reasons, a JSON list.
            deep: bool (k,), for each file with 16 bits per channel, whether its values need 12 at most.
        """
        return {
            "numbers": np.array(self._numbers, np.int64),
            "digests": np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, DIGEST_BYTES),
            "sizes": np.array(self._sizes, np.int32).reshape(-1, 2),
            "refused": np.array([number for number, _ in self._refused], np.int64),
            "reasons": np.frombuffer(json.dumps([reason for _, reason in self._refused]).encode(), np.uint8),
            "deep": np.array(self._deep, np.bool_),
        }

    def close(self) -> None:
        """Close the file, committed or not."""
        self._file.close()


class ShardChunkWriter(ChunkWriter):
    """Writes a chunk as a tar shard, which takes its name when it is on the disk.

    Args:
        path: of the shard.
        number: of the shard in its split.
    """

    def __init__(self, path: Path, number: int) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}{PARTIAL}")
        super().__init__(self._partial, "wb")
        self._number = number
        self._position = 0
        self._digest = hashlib.sha256()
        self._index: list[tuple[int, int, int]] = []

    def _write_content(self, group: ImageGroup) -> None:
        before = self._position
        self._index += [(self._number, before + offset, size_bytes) for offset, size_bytes in group.extents]
        for part in group.content:
            self._append(part)

    def _append(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._position += len(content)

    def finish(self) -> None:
        self._append(END_OF_TAR)
        super().finish()

    def sync(self) -> None:
        super().sync()
        self._partial.replace(self._path)

    def record(self) -> dict[str, NDArray[Any]]:
        """Also index: int64 (n, 3), shard, offset and length of each JPEG; and the shard's length and SHA-256."""
        return {
            **super().record(),
            "index": np.array(self._index, np.int64).reshape(-1, 3),
            "shard_bytes": np.array(self._position, np.int64),
            "shard_sha256": np.array(self._digest.hexdigest()),
        }


class PixelsChunkWriter(ChunkWriter):
    """Appends a chunk to the array of its split, after the images of earlier chunks.

    Args:
        path: of the array.
        num_rows: images of earlier chunks in it; whatever an interrupted call wrote after them is cut off.
        side: of the images, pixels.
    """

    def __init__(self, path: Path, num_rows: int, side: int) -> None:
        header = images_header(0, side)
        if num_rows == 0:
            path.write_bytes(header)  # replaced at the end, when the number of images is known
        _truncate(path, len(header) + num_rows * side**2 * 3)
        super().__init__(path, "ab")

    def _write_content(self, group: ImageGroup) -> None:
        for part in group.content:
            self._file.write(part)


def images_header(num_images: int, side: int) -> bytes:
    """The .npy header of uint8 (N, S, S, 3); NumPy makes it equally long for any N."""
    return npy_header(np.dtype(np.uint8), (num_images, side, side, 3))


def _truncate(path: Path, size_bytes: int) -> None:
    """Cut a file to `size_bytes`; a shorter file means a bug."""
    with path.open("ab") as file:
        if file.tell() == size_bytes:
            return
        if file.tell() < size_bytes:
            raise AssertionError(f"{path} is shorter than the cursor says")
        file.truncate(size_bytes)
        os.fsync(file.fileno())
