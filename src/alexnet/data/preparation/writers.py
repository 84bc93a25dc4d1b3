"""Where the images of a piece go: a tar shard of its own, or a stretch of the array of its split."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet.data.shards import ShardWriter
from alexnet.storage.atomic import PARTIAL
from alexnet.storage.npy import npy_header


class ChunkFile(Protocol):
    """Takes the images of one piece in order."""

    def add(self, content: Sequence[bytes | memoryview], extents: list[tuple[int, int]]) -> None:
        """Append some images.

        Args:
            content: their bytes as they are stored, in parts of any number.
            extents: where in them each JPEG file begins, and its length, bytes; empty for pixels.
        """

    def end(self) -> None:
        """Nothing is added any more; the next piece may begin."""

    def keep(self) -> dict[str, NDArray[Any]]:
        """Bring everything to the disk, which takes its time; returns what the part should say of it."""

    def close(self) -> None:
        """Close the file, kept or not."""


class ShardChunk:
    """A tar shard; it takes its name when it is whole.

    Args:
        path: of the shard.
        number: of the shard in its split.
    """

    def __init__(self, path: Path, number: int) -> None:
        self._path = path
        self._number = number
        self._partial = path.with_name(f".{path.name}{PARTIAL}")
        self._file: BinaryIO = self._partial.open("wb")
        self._shard = ShardWriter(self._file)
        self._extents: list[tuple[int, int, int]] = []

    def add(self, content: Sequence[bytes | memoryview], extents: list[tuple[int, int]]) -> None:
        before = self._shard.position
        self._extents.extend((self._number, before + offset, size_bytes) for offset, size_bytes in extents)
        for part in content:
            self._shard.write(part)

    def end(self) -> None:
        self._shard.end()
        self._file.flush()

    def keep(self) -> dict[str, NDArray[Any]]:
        os.fsync(self._file.fileno())
        self._partial.replace(self._path)
        return {
            "index": np.array(self._extents, np.int64).reshape(-1, 3),
            "shard_bytes": np.array(self._shard.position, np.int64),
            "shard_sha256": np.array(self._shard.digest.hexdigest()),
        }

    def close(self) -> None:
        self._file.close()


class PixelsChunk:
    """A stretch of a split's array, behind what the earlier pieces wrote.

    Args:
        path: of the array.
        num_rows: images that stand in it already; what an earlier, broken-off attempt wrote behind them is cut off.
        side: of the images, pixels.
    """

    def __init__(self, path: Path, num_rows: int, side: int) -> None:
        header = images_header(0, side)
        if num_rows == 0:
            path.write_bytes(header)  # mended at the end, when the number of images is known
        _cut(path, len(header) + num_rows * side**2 * 3)
        self._file: BinaryIO = path.open("ab")

    def add(self, content: Sequence[bytes | memoryview], extents: list[tuple[int, int]]) -> None:
        for part in content:
            self._file.write(part)

    def end(self) -> None:
        self._file.flush()

    def keep(self) -> dict[str, NDArray[Any]]:
        os.fsync(self._file.fileno())
        return {}

    def close(self) -> None:
        self._file.close()


def images_header(num_images: int, side: int) -> bytes:
    """The .npy header of uint8 (N, S, S, 3); NumPy makes it equally long for any N."""
    return npy_header(np.dtype(np.uint8), (num_images, side, side, 3))


def _cut(path: Path, size_bytes: int) -> None:
    """Batching a file to `size_bytes`; a shorter one is an error of ours."""
    with path.open("ab") as file:
        if file.tell() == size_bytes:
            return
        if file.tell() < size_bytes:
            raise AssertionError(f"{path} is shorter than the cursor says")
        file.truncate(size_bytes)
        os.fsync(file.fileno())
