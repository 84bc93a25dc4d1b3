"""Features on the disk: float16 rows in one file, written in order, and a cursor that counts the complete ones.

A folder is named by the checksum of all settings and data that determine the features, so that another run with the
same ones finds them. `<name>.f16` holds the rows, `<name>.json` the cursor.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.baselines.chunked_map import map_chunks
from alexnet.baselines.descriptors import IMAGES_PER_BATCH
from alexnet.errors import WorkError
from alexnet.storage.atomic import is_full, require_space, write_json
from alexnet.storage.read_errors import raise_unless_damage

VERSION = 2
"""Increased with every change of the settings' names or meaning, or of the arithmetic of features."""
CURSOR_EVERY_S = 2.0


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
) -> NDArray[np.float16]:
    """Features from the disk, after computing those that are missing.

    Args:
        folder: of the cache; it must exist.
        name: of the features within it.
        shape: (N, D) of all features.
        encode: rows `first` .. `last` - 1, float32 (last - first, D), finite; called in threads.
        workers: threads.
        progress: called with (rows done, N).

    Returns:
        float16 (N, D), memory-mapped, read-only.

    Raises:
        WorkError: the disk is full or too small, or a row is not finite.
    """
    path, cursor = folder / f"{name}.f16", folder / f"{name}.json"
    num, width = shape
    row_bytes = 2 * width
    done = _num_complete_rows(path, cursor, shape)
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
                    file.write(np.ascontiguousarray(rows, np.float16).data)
                    if progress is not None:
                        progress(stop, num)
                    if stop == num or time.monotonic() - last_cursor_s > CURSOR_EVERY_S:
                        last_cursor_s = time.monotonic()
                        file.flush()
                        os.fsync(file.fileno())
                        write_json(cursor, {"rows": num, "width": width, "done": stop})
        except OSError as error:
            if is_full(error):
                raise WorkError(f"the disk of {folder} is full; free some space and rerun the same command") from error
            raise
    return np.memmap(path, np.float16, "r", shape=shape)


def _num_complete_rows(path: Path, cursor: Path, shape: tuple[int, int]) -> int:
    """Complete rows in the file; 0 where there is none of this shape."""
    try:
        content = json.loads(cursor.read_text(encoding="utf-8"))
        size_bytes = path.stat().st_size
    except (OSError, ValueError) as error:
        raise_unless_damage(error, path)  # or features that took hours would be computed again
        return 0
    if (content.get("rows"), content.get("width")) != shape:
        return 0
    return min(int(content["done"]), size_bytes // (2 * shape[1]))
