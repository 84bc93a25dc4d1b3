"""Which chunks of a preparation are done: on the disk, recorded and counted.

The cursor file counts the committed chunks. It is replaced by one rename, after everything it counts is on the disk;
what was written beyond it is written again after a kill, with the same bytes. In its arrays `pieces` is the number of
chunks.
"""

import io
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from alexnet.data.preparation.color_sums import ColorAccumulator
from alexnet.data.preparation.statistics import ColorSums
from alexnet.data.preparation.writers import ChunkWriter
from alexnet.storage.atomic import sync_folder, write_bytes
from alexnet.storage.npy import read_npz_members
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.staging import RESTART, Staging
from alexnet.storage.tensors import require_array
from alexnet.storage.typed_files import damaged, parse_json

CURSOR_FILE = "cursor.npz"


class Commits:
    """The committed chunks of a preparation. As a context manager, commits further ones in a background thread.

    Attributes:
        num_chunks: chunks committed, counted over all splits.
        color_sums: over the training images of these chunks.

    Args:
        staging: the folder of the preparation.
        side: of the stored images, pixels.
    """

    def __init__(self, staging: Staging, side: int) -> None:
        self._staging = staging
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="alexnet-prepare-commit")
        self._pending: Future[None] | None = None
        self.num_chunks, self.color_sums = 0, ColorSums.none(side)
        if staging.cursor_path.is_file():
            self.num_chunks, self.color_sums = _read_cursor(staging.cursor_path, side)

    def record(self, index: int) -> dict[str, NDArray[Any]]:
        """The record of committed chunk `index`, see `ChunkWriter.record`.

        Raises:
            DamagedFile: it is damaged.
        """
        path = self._record_path(index)
        record = _read_npz(path)
        try:
            num = len(require_array(record, "numbers", np.int64, 1))
            for name, dtype, columns in (("digests", np.uint8, 16), ("sizes", np.int32, 2)):
                if require_array(record, name, dtype, 2).shape != (num, columns):
                    raise ValueError(f"{name}: it is {record[name].shape}, of {num} images")
            refused = require_array(record, "refused", np.int64, 1)
            reasons = require_array(record, "reasons", np.uint8, 1).tobytes()
            if len(parse_json(reasons, list[str], path, RESTART)) != len(refused):
                raise ValueError("reasons: they are not those of the refused files")
        except ValueError as error:
            raise damaged(path, str(error), RESTART) from error
        return record

    def submit(self, writer: ChunkWriter, colors: ColorAccumulator) -> None:
        """Commit the next chunk in the background, once the one before it is committed.

        Args:
            writer: of a chunk whose images are all written; it is closed here, on an error too.
            colors: sums over its training images.

        Raises:
            OSError: the commit of the chunk before failed.
        """
        try:
            self._wait()
        except BaseException:
            writer.close()
            raise
        self._pending = self._thread.submit(self._commit, writer, colors)

    def _commit(self, writer: ChunkWriter, colors: ColorAccumulator) -> None:
        try:
            writer.sync()
            write_bytes(self._record_path(self.num_chunks), _npz(writer.record()))
        finally:
            writer.close()
        num_chunks, color_sums = self.num_chunks + 1, self.color_sums + colors.sums()
        sync_folder(self._staging.parts_folder)
        sync_folder(self._staging.folder)
        write_bytes(self._staging.cursor_path, _npz({"pieces": np.array(num_chunks), **color_sums.arrays()}))
        self.num_chunks, self.color_sums = num_chunks, color_sums

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _record_path(self, index: int) -> Path:
        return self._staging.parts_folder / f"{index:08d}.npz"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        """Finish the commit in the background, even after an error; the lock must outlive it."""
        try:
            if error_type is None:
                self._wait()
        finally:
            while True:
                try:
                    self._thread.shutdown()
                    break
                except KeyboardInterrupt:
                    continue


def _read_cursor(path: Path, side: int) -> tuple[int, ColorSums]:
    """The number of committed chunks, and their sums of colors."""
    arrays = _read_npz(path)
    try:
        num_chunks = int(require_array(arrays, "pieces", np.int64, 0))
        require_array(arrays, "num_images", np.int64, 0)
        pixel_sums = require_array(arrays, "pixel_sums", np.int64, 3)
        if pixel_sums.shape != (side, side, 3) or arrays["products"].shape != (3, 3):
            raise ValueError(f"pixel_sums: it is {pixel_sums.shape}, of images of {side} pixels")
        return num_chunks, ColorSums.from_arrays(arrays)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, str(error), RESTART) from error


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, each after its checksum was verified: NumPy trusts the headers of arrays."""
    try:
        members = read_npz_members(path.read_bytes())
        return {name: np.lib.format.read_array(io.BytesIO(member)) for name, member in members.items()}
    except (OSError, ValueError) as error:
        raise_unless_damage(error, path)
        raise damaged(path, str(error), RESTART) from error


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()
