"""Features on the disk: float16 rows in one file, written in order, and a cursor that counts the complete ones.

A folder is named by the checksum of all settings and data that determine the features, so that another run with the
same ones finds them. `<name>.f16` holds the rows, `<name>.json` the cursor with the CRC-32 of the complete rows, which
is verified when they are used again.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.chunked_map import map_chunks
from alexnet.baselines.descriptors import IMAGES_PER_BATCH
from alexnet.errors import WorkError
from alexnet.storage.atomic import is_full, require_space
from alexnet.storage.checksums import file_crc32
from alexnet.storage.npy import ArrayFile
from alexnet.storage.typed_files import Count, DamagedFile, damaged, read_json, write_sealed_json

VERSION = 5
"""Increased with every change of the settings' names or meaning, or of the arithmetic of features."""
CURSOR_EVERY_S = 2.0

_logger = logging.getLogger(__name__)


class _Cursor(TypedDict):
    rows: Count
    width: Count
    done: Count
    crc32: NotRequired[Count]
    """Of the complete rows; earlier versions did not record it."""


def settings_checksum(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings and of `VERSION`, hexadecimal."""
    text = json.dumps({"version": VERSION, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def cached_features(
    folder: Path,
    name: str,
    shape: tuple[int, int],
    encode: Callable[[int, int], NDArray[np.float32]],
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> ArrayFile:
    """Features from the disk, after computing those that are missing.

    Args:
        folder: of the cache; it must exist.
        name: of the features within it.
        shape: (N, D) of all features.
        encode: rows `first` .. `last` - 1, float32 (last - first, D), finite; called in threads.
        workers: threads.
        progress: called with (rows done, N).

    Returns:
        float16 (N, D); rows are read on access.

    Raises:
        WorkError: the disk is full or too small, or a row is not finite.
    """
    path, cursor = folder / f"{name}.f16", folder / f"{name}.json"
    num, width = shape
    row_bytes = 2 * width
    done, crc = _complete_rows(path, cursor, shape)
    if done < num:
        require_space(path, (num - done) * row_bytes)
        try:
            with path.open("r+b" if done else "wb") as file:
                file.truncate(done * row_bytes)
                file.seek(0, os.SEEK_END)
                last_cursor_s = time.monotonic()
                for stop, rows in map_chunks(encode, num, IMAGES_PER_BATCH, workers=workers, start=done):
                    if not np.isfinite(rows).all():
                        raise WorkError(f"features of images {stop - len(rows)} to {stop - 1} are not finite")
                    content = np.ascontiguousarray(rows, np.float16).reshape(-1).view(np.uint8).data
                    file.write(content)
                    crc = zlib.crc32(content, crc)
                    if progress is not None:
                        progress(stop, num)
                    if stop == num or time.monotonic() - last_cursor_s > CURSOR_EVERY_S:
                        last_cursor_s = time.monotonic()
                        file.flush()
                        os.fsync(file.fileno())
                        write_sealed_json(cursor, {"rows": num, "width": width, "done": stop, "crc32": crc})
        except OSError as error:
            if is_full(error):
                raise WorkError(f"the disk of {folder} is full; free some space and rerun the same command") from error
            raise
    return ArrayFile(path, np.dtype(np.float16), shape, 0)


def _complete_rows(path: Path, cursor: Path, shape: tuple[int, int]) -> tuple[int, int]:
    """Complete rows in the file and their CRC-32; none, with a warning, where the file or its cursor is damaged."""
    if not (path.is_file() and cursor.is_file()):
        return 0, 0
    try:
        content = read_json(cursor, _Cursor, "its features are computed again")
        if (content["rows"], content["width"]) != shape:
            return 0, 0
        size_bytes, row_bytes = path.stat().st_size, 2 * shape[1]
        if content["done"] > content["rows"] or size_bytes < content["done"] * row_bytes:
            raise damaged(path, f"it has {size_bytes:,} bytes", "its features are computed again")
        crc = file_crc32(path, 0, content["done"] * row_bytes)
        if crc != content.get("crc32", crc):
            raise damaged(path, "its checksum differs", "its features are computed again")
    except DamagedFile as error:
        _logger.warning(str(error))
        return 0, 0
    return content["done"], crc
