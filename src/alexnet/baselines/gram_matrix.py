"""Products of all pairs of feature rows that lie on the disk, and sums of these rows, in bounded memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.baselines.chunked_map import single_threaded_libraries
from alexnet.errors import AlexNetError
from alexnet.storage.npy import ArrayFile
from alexnet.storage.tensors import read_tensors, write_sealed_tensors

Features = NDArray[np.floating[Any]] | ArrayFile
"""(N, D); rows of a file are read when they are needed."""

TILE = 512
"""Rows and columns of the products that one thread computes at a time."""
PANEL = 4 * TILE
"""Rows of products between two checkpoints."""
BLOCK_BYTES = 1 << 25
"""Memory of the block of columns of features, float32, that is read at a time."""
BLOCK_COLUMNS = 1 << 12
"""Most columns in it."""

_ADVICE = "its products are computed again"


def _read_columns(features: Features, rows: slice, columns: slice) -> NDArray[np.float32]:
    """A block of features, float32, of consecutive rows and columns."""
    if not isinstance(features, ArrayFile):
        return np.ascontiguousarray(features[rows, columns], np.float32)
    itemsize, width = features.dtype.itemsize, columns.stop - columns.start
    block = np.empty((rows.stop - rows.start, width), features.dtype)
    content = block.reshape(-1).view(np.uint8).data
    size = width * itemsize
    for place in range(len(block)):
        offset = (rows.start + place) * features.row_bytes + columns.start * itemsize
        features.read_into(content[place * size : (place + 1) * size], offset)
    return block.astype(np.float32)


def _read_block(features: Features, num_rows: int, columns: slice, pool: ThreadPoolExecutor) -> NDArray[np.float32]:
    """The first rows of a block of columns, float32, read by threads."""
    block = np.empty((num_rows, columns.stop - columns.start), np.float32)

    def read(rows: slice) -> None:
        block[rows] = _read_columns(features, rows, columns)

    list(pool.map(read, _edges(num_rows, TILE)))
    return block


def _edges(stop: int, step: int) -> list[slice]:
    """Consecutive slices of `step` that cover 0 .. stop - 1; the last may be shorter."""
    return [slice(first, last) for first, last in pairwise([*range(0, stop, step), stop])]


def _column_blocks(num_rows: int, num_columns: int) -> list[slice]:
    """Blocks of columns of which `num_rows` rows take about `BLOCK_BYTES` in float32."""
    return _edges(num_columns, min(BLOCK_COLUMNS, max(16, BLOCK_BYTES // (4 * num_rows))))


def gram_matrix(
    features: Features,
    workers: int,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float32]:
    """The products of all pairs of rows, float32 (N, N), symmetric, summed in float32.

    Only pairs below the diagonal are computed, tile by tile. The sums do not depend on the number of threads.

    Args:
        features: (N, D), N and D 1 or more.
        workers: threads.
        checkpoint: the beginning of the path of files to which finished rows are written; a later call reads them.
        progress: called with (pairs done, pairs in all).
    """
    num, width = features.shape
    products = np.empty((num, num), np.float32)
    total = num * (num + 1) // 2
    with single_threaded_libraries(), ThreadPoolExecutor(workers) as pool:
        for panel in _edges(num, PANEL):
            part = products[panel, : panel.stop]
            file = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}-{panel.start}.safetensors")
            before, stop = panel.start * (panel.start + 1) // 2, panel.stop * (panel.stop + 1) // 2
            if file is None or not _read_panel(file, part):
                blocks = _column_blocks(panel.stop, width)
                for number, columns in enumerate(blocks):
                    _add_products(part, features, panel, columns, pool, is_first=number == 0)
                    progress(before + (stop - before) * (number + 1) // len(blocks), total)
                if file is not None:
                    write_sealed_tensors(file, {"products": np.ascontiguousarray(part)}, {})
            progress(stop, total)
        list(pool.map(lambda rows: _mirror(products, rows), _edges(num, TILE)))
    return products


def _read_panel(file: Path, part: NDArray[np.float32]) -> bool:
    """Fill `part` from its checkpoint; False where there is none that is intact."""
    if not file.is_file():
        return False
    try:
        stored = read_tensors(file, "numpy", _ADVICE)[0].get("products")
    except AlexNetError:
        return False
    if stored is None or stored.shape != part.shape or stored.dtype != part.dtype:
        return False
    part[...] = stored
    return True


def _add_products(
    part: NDArray[np.float32],
    features: Features,
    panel: slice,
    columns: slice,
    pool: ThreadPoolExecutor,
    *,
    is_first: bool,
) -> None:
    """Add the products over some columns to the tiles of a panel that touch the diagonal or are below it.

    Args:
        part: (rows of the panel, panel.stop), changed in place; where `is_first`, what it holds is overwritten.
    """
    target = torch.from_numpy(part)
    values = torch.from_numpy(_read_block(features, panel.stop, columns, pool))
    tiles = _edges(panel.stop, TILE)

    def add(pair: tuple[slice, slice]) -> None:
        rows, others = pair
        tile = target[rows.start - panel.start : rows.stop - panel.start, others]
        tile.addmm_(values[rows], values[others].T, beta=0 if is_first else 1)

    of_panel = [rows for rows in tiles if rows.start >= panel.start]
    list(pool.map(add, [(rows, others) for rows in of_panel for others in tiles if others.start <= rows.start]))


def _mirror(products: NDArray[np.float32], rows: slice) -> None:
    """Copy the tiles left of the diagonal to their mirror images above it, and make the diagonal tile symmetric."""
    products[: rows.start, rows] = products[rows, : rows.start].T
    tile = products[rows, rows]
    upper = np.triu_indices(len(tile), 1)
    tile[upper] = tile.T[upper]


def weighted_row_sums(
    weights: NDArray[np.float32],
    features: Features,
    workers: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float32]:
    """The matrix product of weights (K, N) and features (N, D), float32 (K, D), by blocks of columns.

    Args:
        progress: called with (columns done, D).
    """
    num, width = features.shape
    sums = np.empty((len(weights), width), np.float32)
    factors = torch.from_numpy(weights)
    with single_threaded_libraries(), ThreadPoolExecutor(workers) as pool:
        for columns in _column_blocks(num, width):
            block = torch.from_numpy(_read_block(features, num, columns, pool))
            target = torch.from_numpy(sums[:, columns])

            def multiply(part: slice, block: torch.Tensor = block, target: torch.Tensor = target) -> None:
                target[:, part] = factors @ block[:, part]

            list(pool.map(multiply, _edges(block.shape[1], TILE // 2)))
            progress(columns.stop, width)
    return sums
