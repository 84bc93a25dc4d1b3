"""Features on the disk: float16 rows in one file, written in order, with a cursor that says how many are whole.

A folder is named by the checksum of all settings and data that the features follow from, so that another run with the
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

from alexnet.baselines.chunked_map import in_pieces
from alexnet.errors import WorkError
from alexnet.storage.atomic import is_full, require_space, write_json

VERSION = 1
"""Of what the settings mean; a change of the arithmetic of features takes the next number."""
ROWS_OF_PIECE = 4
CURSOR_EVERY_S = 2.0


def settings_checksum(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings and of `VERSION`, hexadecimal."""
    text = json.dumps({"version": VERSION, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def cached_rows(
    folder: Path,
    name: str,
    shape: tuple[int, int],
    make: Callable[[int, int], NDArray[np.float32]],
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float16]:
    """Rows that are on the disk, after those that are not yet have been made.

    Args:
        folder: of the cache; it must exist.
        name: of the rows within it.
        shape: (N, D) of all rows.
        make: rows `first` .. `last` - 1, float32 (last - first, D), finite; called in threads.
        workers: threads.
        progress: called with (rows done, N).

    Returns:
        float16 (N, D), mapped from the file, read-only.

    Raises:
        WorkError: the disk is full or too small, or a row is not finite.
    """
    path, cursor = folder / f"{name}.f16", folder / f"{name}.json"
    num, width = shape
    row_bytes = 2 * width
    done = _rows_done(path, cursor, shape)
    if done < num:
        require_space(path, (num - done) * row_bytes)
        try:
            with path.open("r+b" if done else "wb") as file:
                file.truncate(done * row_bytes)
                file.seek(0, os.SEEK_END)
                said_s = time.monotonic()
                for stop, rows in in_pieces(make, done, num, ROWS_OF_PIECE, workers):
                    if not np.isfinite(rows).all():
                        raise WorkError(f"features of images {stop - len(rows)} to {stop - 1} are not finite")
                    file.write(np.ascontiguousarray(rows, np.float16).data)
                    if progress is not None:
                        progress(stop, num)
                    if stop == num or time.monotonic() - said_s > CURSOR_EVERY_S:
                        said_s = time.monotonic()
                        file.flush()
                        os.fsync(file.fileno())
                        write_json(cursor, {"rows": num, "width": width, "done": stop})
        except OSError as error:
            if is_full(error):
                raise WorkError(f"the disk of {folder} is full; free some space and run the same again") from error
            raise
    return np.memmap(path, np.float16, "r", shape=shape)


def _rows_done(path: Path, cursor: Path, shape: tuple[int, int]) -> int:
    """How many rows are whole; 0 where there are none of that shape."""
    try:
        said = json.loads(cursor.read_text(encoding="utf-8"))
        size_bytes = path.stat().st_size
    except (OSError, ValueError):
        return 0
    if (said.get("rows"), said.get("width")) != shape:
        return 0
    return min(int(said["done"]), size_bytes // (2 * shape[1]))
