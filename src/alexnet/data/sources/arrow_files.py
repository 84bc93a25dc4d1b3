"""Reads images and labels of Parquet and Arrow files with bounded memory."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alexnet.data.sources.listing import Content, Location
from alexnet.errors import RequestError

WINDOW_BYTES = 64 * 2**20
"""Uncompressed size of the images of a Parquet row group that a thread keeps; the reader needs one page more."""
BUFFER_BYTES = 2**20


def pyarrow_module(module: str = "") -> Any:
    """Import pyarrow, or a module of it."""
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.ipc  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise RequestError(
            "Parquet and Arrow files need pyarrow, which is not installed; run: pip install 'alexnet[parquet]'"
        ) from error
    return getattr(pyarrow, module) if module else pyarrow


@dataclass(frozen=True)
class Columns:
    """The columns to read of a file."""

    image: str
    is_struct: bool
    """Whether an image is a record with bytes in it instead of the bytes themselves."""
    label: str
    is_number: bool
    """Whether labels are numbers instead of names."""
    names: tuple[str, ...]
    """Of the numbers, in order; empty if they have no names."""

    @property
    def class_ids(self) -> list[str]:
        """Of numbers with names: the names, or the numbers if two names are equal."""
        is_unique = len(set(self.names)) == len(self.names)
        return list(self.names) if is_unique else [str(number) for number in range(len(self.names))]


class DataFile:
    """A Parquet file, an Arrow file or an Arrow stream; its groups are row groups or record batches."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            start = file.read(6)
        self.is_parquet = start.startswith(b"PAR1")
        self.is_stream = not self.is_parquet and start != b"ARROW1"
        if self.is_parquet:
            # Without pre-buffering, which would keep whole row groups.
            self._opened = pyarrow_module("parquet").ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
            self.schema = self._opened.schema_arrow
        else:
            self.schema = self._reader().schema

    def _reader(self, column: str | None = None) -> Any:
        arrow, ipc = pyarrow_module(), pyarrow_module("ipc")
        fields = [] if column is None else [self.schema.names.index(column)]
        options = ipc.IpcReadOptions(use_threads=False, included_fields=fields)
        mapped = arrow.memory_map(str(self.path))
        return (ipc.open_stream if self.is_stream else ipc.open_file)(mapped, options=options)

    def labels(self, column: str) -> Iterator[list[Any]]:
        """The labels of each group, None for each image if there is no such column; reads no other column."""
        if column not in self.schema.names:
            return ([None] * num_rows for num_rows in self._group_sizes())
        return (values.to_pylist() for values in self._values(column))

    def _group_sizes(self) -> Iterator[int]:
        if self.is_parquet:
            metadata = self._opened.metadata
            return (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        return (len(values) for values in self._values(self.schema.names[0]))

    def _values(self, column: str) -> Iterator[Any]:
        """A column of each group."""
        if self.is_parquet:
            read_group = partial(self._opened.read_row_group, columns=[column], use_threads=False)
            groups = map(read_group, range(self._opened.metadata.num_row_groups))
        elif self.is_stream:
            groups = self._reader(column)
        else:
            reader = self._reader(column)
            groups = map(reader.get_batch, range(reader.num_record_batches))
        return map(_only_column, groups)

    def windows(self, columns: Columns, group: int) -> Iterator[tuple[int, int, Any]]:
        """Windows of images of a group as (group, first row, images); for a stream of all groups."""
        if self.is_parquet:
            leaf = f"{columns.image}.bytes" if columns.is_struct else columns.image
            metadata = self._opened.metadata.row_group(group)
            chunks = [metadata.column(number) for number in range(metadata.num_columns)]
            size_bytes = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == leaf)
            num_rows = max(1, metadata.num_rows * WINDOW_BYTES // max(size_bytes, WINDOW_BYTES))
            first = 0
            for batch in self._opened.iter_batches(num_rows, row_groups=[group], columns=[leaf], use_threads=False):
                yield group, first, _only_column(batch)
                first += batch.num_rows
                del batch  # or it stays in memory while the next one is read
        elif self.is_stream:
            for number, batch in enumerate(self._reader(columns.image)):
                yield number, 0, _only_column(batch)
        else:
            yield group, 0, _only_column(self._reader(columns.image).get_batch(group))


def _only_column(batch: Any) -> Any:
    """The column, after validation: a damaged file would crash Python otherwise."""
    column = batch.column(0)
    column.validate(full=True)
    return column


class _Cursor:
    """The read position of a thread in a file. Reading rows in order reads each once; going back restarts a group."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self._columns = columns
        self._file = DataFile(path)
        self._windows: Iterator[tuple[int, int, Any]] = iter(())
        self._group = -1
        self._first = 0
        self._images: Any = None

    def read(self, group: int, row: int) -> bytes | None:
        """The bytes of an image; StopIteration if the file no longer has such a row."""
        is_other = group != self._group and not self._file.is_stream
        if self._images is None or is_other or (group, row) < (self._group, self._first):
            self._images = None  # freed before the next window is read
            self._windows = self._file.windows(self._columns, group)
            self._group, self._first, self._images = next(self._windows)
        while (group, row) >= (self._group, self._first + len(self._images)):
            self._images = None
            self._group, self._first, self._images = next(self._windows)
        if self._group != group:
            raise StopIteration
        image = self._images[row - self._first]
        if self._columns.is_struct and image.is_valid:
            image = image["bytes"]
        content: bytes | None = image.as_py()
        return content


class ImageReader:
    """Reads images from several threads, each with a file open."""

    def __init__(self, paths: list[Path], columns: Columns) -> None:
        self._paths = paths
        self._columns = columns
        self._of_thread = threading.local()

    def read(self, key: str, location: Location) -> Content:
        """The bytes of the image at a location; OSError if it has none or the file is damaged."""
        path = self._paths[location[0]]
        cursor: _Cursor | None = getattr(self._of_thread, "cursor", None)
        # Removed until the read succeeds: after an error the next read starts over.
        self._of_thread.cursor = None
        try:
            if cursor is None or cursor.path != path:
                cursor = _Cursor(path, self._columns)
            content = cursor.read(location[1], location[2])
        except (pyarrow_module().ArrowException, ValueError, LookupError, StopIteration, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the file itself, for example because it is missing
            raise OSError(f"{path.name} is damaged or has changed ({error})") from error
        self._of_thread.cursor = cursor
        if content is None:
            raise OSError(f"{path.name} has no bytes for it")
        return content
