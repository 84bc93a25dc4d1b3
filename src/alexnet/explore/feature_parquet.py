"""Writes features as a Parquet file: a row per image, a column per layer."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.sources.arrow_files import pyarrow_module

GROUP_BYTES = 1 << 25
"""Of the activations in a row group, which is in memory while it is written."""
MOST_GROUP_ROWS = 1 << 16


def require_parquet() -> None:
    """Raises:
    RequestError: pyarrow is not installed.
    """
    pyarrow_module("parquet")


def write_feature_parquet(
    path: Path,
    paths: Sequence[str],
    class_ids: Sequence[str],
    labels: NDArray[np.int64] | None,
    arrays: Mapping[str, NDArray[np.floating[Any]]],
) -> None:
    """Write a row per image: its path, class and label, and a list of fixed length per layer.

    Activations of a layer with positions are flattened in the order channel, row, column; the metadata `shape` of the
    column, as JSON, has their shape, and the metadata `alexnet` of the file those of all layers. They are float32, also
    those that the arrays hold as float16, which not all readers of Parquet know. A byte of a path that is not UTF-8 is
    written as an escape such as `\\xe9`.

    Args:
        paths: (N,).
        class_ids: (N,), empty text for an image without a class.
        labels: (N,), or None; written as null, as is a label below 0.
        arrays: by layer, (N, ...), possibly memory-mapped.
    """
    arrow, parquet = pyarrow_module(), pyarrow_module("parquet")
    widths = {name: int(np.prod(array.shape[1:])) for name, array in arrays.items()}
    shapes = {name: list(array.shape[1:]) for name, array in arrays.items()}
    schema = arrow.schema(
        [
            arrow.field("path", arrow.string()),
            arrow.field("class", arrow.string()),
            arrow.field("label", arrow.int64()),
            *(
                arrow.field(name, arrow.list_(arrow.float32(), width), metadata={"shape": json.dumps(shapes[name])})
                for name, width in widths.items()
            ),
        ],
        metadata={"alexnet": json.dumps({"shapes": shapes})},
    )
    step = max(1, min(MOST_GROUP_ROWS, GROUP_BYTES // (4 * sum(widths.values()))))
    with (
        path.open("wb") as file,
        parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=["class"]) as writer,
    ):
        for first in range(0, len(paths), step):
            rows = slice(first, first + step)
            known = [None] * len(paths[rows]) if labels is None else [int(one) for one in labels[rows]]
            columns = [
                arrow.array([_as_utf8(one) for one in paths[rows]], arrow.string()),
                arrow.array([one or None for one in class_ids[rows]], arrow.string()),
                arrow.array([None if one is None or one < 0 else one for one in known], arrow.int64()),
            ]
            for name, array in arrays.items():
                flat = np.ascontiguousarray(array[rows], np.float32).reshape(-1)
                columns.append(arrow.FixedSizeListArray.from_arrays(arrow.array(flat), widths[name]))
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema), row_group_size=step)
        writer.close()
        file.flush()
        os.fsync(file.fileno())


def _as_utf8(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
