"""Write activations to a folder: append them to arrays, save progress regularly, and describe them at the end.

Where principal components are to be fitted, the activations themselves are appended to arrays that are removed at the
end: the fit reads them twice, and each image passes through the network once.
"""

import contextlib
import csv
import io
import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.dataset_files import NO_LABEL
from alexnet.errors import Interrupted, WorkError
from alexnet.explore.activation_pca import Projection, fit_projection
from alexnet.explore.feature_parquet import write_feature_parquet
from alexnet.explore.forward import activation_batches
from alexnet.explore.image_source import ImageSource, RefusedImages
from alexnet.model.activations import ActivationReader
from alexnet.model.receptive_field import receptive_fields
from alexnet.model.weights import Trained
from alexnet.storage.atomic import sync_folder, write_bytes, write_chunks, write_json_lines
from alexnet.storage.checksums import file_crc32
from alexnet.storage.npy import npy_header
from alexnet.storage.staging import RESTART, Staging
from alexnet.storage.typed_files import Count, damaged, read_json, write_sealed_json
from alexnet.system.device import Precision

FORMAT_VERSION = 3
PROJECTED_VERSION = 4
"""Of folders whose arrays hold principal components."""
DESCRIPTION_FILE = "features.json"
IMAGES_FILE = "images.csv"
LABELS_FILE = "labels.npy"
REFUSED_FILE = "refused.jsonl"
PARQUET_FILE = "features.parquet"
CURSOR_FILE = "done.json"
CURSOR_EVERY_S = 10.0
PROJECTED_BYTES = 1 << 26
"""Activations to project at a time."""

_logger = logging.getLogger(__name__)


def projection_file(layer: str) -> str:
    """Name of the file with a layer's principal components."""
    return f"{layer}.pca.npz"


class _Cursor(TypedDict):
    done: Count
    refused: list[tuple[Count, str]]
    crc32: NotRequired[dict[str, Count]]
    """Of each layer's rows; earlier versions did not record it."""


class FeatureWriter:
    """Writes activations to a staging folder; its cursor file records how many images are done.

    Args:
        num_components: principal components to fit and to project to; None writes the activations themselves.
        projections: by layer, to project to instead; empty without.
        as_parquet: whether to write all of it to a Parquet file, too.
    """

    def __init__(
        self,
        staging: Staging,
        trained: Trained,
        reader: ActivationReader,
        source: ImageSource,
        dtype: np.dtype[Any],
        *,
        num_components: int | None = None,
        projections: Mapping[str, Projection] | None = None,
        as_parquet: bool = False,
    ) -> None:
        self.num_done = 0
        """Images processed, including refused ones."""
        self.refused: RefusedImages = []
        self._staging = staging
        self._trained = trained
        self._reader = reader
        self._source = source
        self._dtype = dtype
        self._projections = dict(projections or {})
        self._num_components = None if projections else num_components
        self._as_parquet = as_parquet
        # Of the rows that are appended.
        is_fitted = self._num_components is not None
        self._rows_folder = staging.parts_folder if is_fitted else staging.folder
        self._rows_dtype = np.dtype(np.float32) if is_fitted else dtype
        self._crc32 = dict.fromkeys(reader.names, 0)
        if staging.cursor_path.is_file():
            cursor = read_json(staging.cursor_path, _Cursor, RESTART)
            self.num_done, self.refused = cursor["done"], [(number, reason) for number, reason in cursor["refused"]]
            self._crc32 |= cursor.get("crc32", {})
            self._require_rows(staging.cursor_path, is_checked="crc32" in cursor)

    def run(
        self,
        batch_size: int | None,
        device: torch.device,
        precision: Precision,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Compute and append the activations of all images that are not done."""
        num = len(self._source.paths)
        with contextlib.ExitStack() as opened:
            files = {name: opened.enter_context(self._array_file(name)) for name in self._reader.names}
            saved_s = time.monotonic()
            try:
                for batch in activation_batches(
                    self._trained, self._reader, self._source.read, self.num_done, num, batch_size, device, precision
                ):
                    crc32 = dict(self._crc32)  # of a batch that was refused whole, nothing changes
                    for name, values in batch.activations.items():
                        rows = self._projections[name](values) if name in self._projections else values
                        content = _convert(rows, self._rows_dtype, name).reshape(-1).view(np.uint8).data
                        files[name].write(content)
                        crc32[name] = zlib.crc32(content, self._crc32[name])
                    # Only after the whole batch is written.
                    self.num_done, self.refused, self._crc32 = batch.stop, self.refused + batch.refused, crc32
                    if progress is not None:
                        progress(self.num_done, num)
                    if time.monotonic() - saved_s > CURSOR_EVERY_S:
                        saved_s = time.monotonic()
                        self._save(files)
                self._save(files)
            except BaseException as error:
                with contextlib.suppress(OSError):  # on a full disk the previous cursor stays valid
                    self._save(files)
                if isinstance(error, KeyboardInterrupt):
                    raise self._interrupted() from error
                raise

    def _require_rows(self, cursor: Path, is_checked: bool) -> None:
        """Check that the arrays hold the rows that the cursor counts, and nothing else."""
        numbers = [number for number, _ in self.refused]
        if self.num_done > len(self._source.paths):
            raise damaged(cursor, f"done: it is {self.num_done}, of {len(self._source.paths)} images", RESTART)
        if not all(number < self.num_done for number in numbers) or len(set(numbers)) < len(numbers):
            raise damaged(cursor, "refused: it does not name images that are done", RESTART)
        for name in self._reader.names:
            path = self._rows_folder / f"{name}.npy"
            size_bytes = self._rows_bytes(name)
            if not path.is_file() or path.stat().st_size < len(self._header(name, 0)) + size_bytes:
                raise damaged(path, f"it lacks some of the {self.num_done:,} images that {cursor.name} counts", RESTART)
            if is_checked and file_crc32(path, len(self._header(name, 0)), size_bytes) != self._crc32[name]:
                raise damaged(path, "its checksum differs", RESTART)

    def _rows_bytes(self, name: str) -> int:
        num_rows = self.num_done - len(self.refused)
        return num_rows * math.prod(self._row_shape(name)) * self._rows_dtype.itemsize

    def describe(self, run: Path, plan: Mapping[str, Any]) -> None:
        """Write everything but the rows, which are already written; the description comes last."""
        try:
            self._describe(run, plan)
        except KeyboardInterrupt as error:
            raise self._interrupted() from error

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"interrupted; finished work is kept in {self._staging.folder}; rerun the same command to resume"
        )

    def _describe(self, run: Path, plan: Mapping[str, Any]) -> None:
        refused = {number for number, _ in self.refused}
        numbers = [number for number in range(len(self._source.paths)) if number not in refused]
        if not numbers:
            raise WorkError(f"none of the {len(self._source.paths)} files can be read: {self.refused[0][1]}")
        network, folder = self._trained.network, self._staging.folder
        fields = receptive_fields(network.spec)
        for name in self._reader.names:
            with (self._rows_folder / f"{name}.npy").open("r+b") as file:
                file.write(self._header(name, len(numbers)))
        crc32 = {name: self._finish_array(name, len(numbers)) for name in self._reader.names}
        shapes = {name: (len(numbers), *self._shape(name)) for name in self._reader.names}
        paths = [self._source.paths[number] for number in numbers]
        classes = [one.id for one in self._trained.classes]
        labels = None if self._source.labels is None else self._source.labels[numbers]
        ids = [""] * len(numbers) if labels is None else ["" if one == NO_LABEL else classes[one] for one in labels]
        write_bytes(folder / IMAGES_FILE, _images_csv(paths, ids))
        if labels is not None:
            with (folder / LABELS_FILE).open("wb") as file:
                np.save(file, labels)
        refusals = ({"path": self._source.paths[number], "reason": reason} for number, reason in self.refused)
        write_json_lines(folder / REFUSED_FILE, refusals)
        if self._as_parquet:
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in shapes}
            write_feature_parquet(folder / PARQUET_FILE, paths, ids, labels, arrays)
        write_sealed_json(
            self._staging.description_path,
            {
                **plan,
                "run": str(run),
                **self._source.location,
                "variant": network.variant,
                "title": self._trained.title,
                "images": len(numbers),
                "refused": len(refused),
                "shapes": {name: list(shape) for name, shape in shapes.items()},
                **({"projections": self._projections_dict()} if self._projections else {}),
                "receptive_fields": {name: fields[name].to_dict() for name in self._reader.names},
                "columns": max(layer.columns for layer in network.sized_layers),
                "classes": classes,
                "crc32": crc32,
                "files_crc32": {
                    name: file_crc32(folder / name)
                    for name in (
                        IMAGES_FILE,
                        REFUSED_FILE,
                        *([] if labels is None else [LABELS_FILE]),
                        *([PARQUET_FILE] if self._as_parquet else []),
                        *map(projection_file, self._projections),
                    )
                },
                "plan": dict(plan),
            },
        )

    def _finish_array(self, name: str, num_rows: int) -> int:
        """CRC-32 of the array's rows; with principal components, they are fitted, and the array is written first."""
        folder, num_components = self._staging.folder, self._num_components
        if num_components is not None:
            header, shape = self._header(name, num_rows), (num_rows, math.prod(self._row_shape(name)))
            rows = np.memmap(self._rows_folder / f"{name}.npy", np.float32, "r", len(header), shape)
            _logger.info(f"fitting {num_components:,} principal components to {name}: {shape[0]:,} x {shape[1]:,}")
            projection = self._projections[name] = fit_projection(rows, num_components)
            if num_zero := int((projection.explained_variance == 0).sum()):
                _logger.warning(
                    f"the activations {name} span {num_components - num_zero:,} dimensions; the other {num_zero:,} of "
                    f"{num_components:,} components are zero"
                )
            crc = self._write_projected(folder / f"{name}.npy", name, rows)
        else:
            crc = self._crc32[name]
        if name in self._projections:
            write_bytes(folder / projection_file(name), self._projections[name].file_content())
        return crc

    def _write_projected(self, path: Path, name: str, rows: NDArray[np.float32]) -> int:
        """Write the coordinates of all rows along the principal components; returns their CRC-32."""
        crc = 0

        def chunks() -> Iterator[bytes | memoryview]:
            nonlocal crc
            yield npy_header(self._dtype, (len(rows), *self._shape(name)))
            step = max(1, PROJECTED_BYTES // (rows.shape[1] * rows.itemsize))
            for first in range(0, len(rows), step):
                values = _convert(self._projections[name](rows[first : first + step]), self._dtype, name)
                content = values.reshape(-1).view(np.uint8).data
                crc = zlib.crc32(content, crc)
                yield content

        write_chunks(path, chunks())
        return crc

    def _projections_dict(self) -> dict[str, Any]:
        return {
            name: {
                "activation_shape": list(self._reader.shape(name)),
                "explained_fraction": one.explained_fraction,
                "fitted_to_images": one.num_images,
                "fitted_here": self._num_components is not None,
            }
            for name, one in self._projections.items()
        }

    def _shape(self, name: str) -> tuple[int, ...]:
        """Of one image in the array that is kept."""
        num = self._num_components
        return self._row_shape(name) if num is None else (num,)

    def _row_shape(self, name: str) -> tuple[int, ...]:
        """Of one image in the rows that are appended."""
        projection = self._projections.get(name) if self._num_components is None else None
        return self._reader.shape(name) if projection is None else (len(projection.components),)

    @contextlib.contextmanager
    def _array_file(self, name: str) -> Iterator[BinaryIO]:
        """The .npy file of a layer's activations, opened for appending; rows beyond the cursor are cut off.

        Rows are written, not memory-mapped: then a full disk raises an error instead of killing the process.
        """
        header = self._header(name, 0)  # corrected at the end, when the number of images is known
        size_bytes = len(header) + self._rows_bytes(name)
        with (self._rows_folder / f"{name}.npy").open("r+b" if self.num_done else "wb") as file:
            if self.num_done == 0:
                file.write(header)
            file.truncate(size_bytes)
            file.seek(size_bytes)
            yield file

    def _header(self, name: str, num_rows: int) -> bytes:
        return npy_header(self._rows_dtype, (num_rows, *self._row_shape(name)))

    def _save(self, files: Mapping[str, BinaryIO]) -> None:
        """Flush all files to the disk and then save the cursor, unless nothing is done."""
        if not self.num_done:
            return
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self._rows_folder)
        content = {"done": self.num_done, "refused": self.refused, "crc32": self._crc32}
        write_sealed_json(self._staging.cursor_path, content)


def _convert(values: NDArray[np.float32], dtype: np.dtype[Any], name: str) -> NDArray[np.floating[Any]]:
    largest = float(np.abs(values).max(initial=0.0))
    if largest > float(np.finfo(dtype).max):
        raise WorkError(
            f"activations {name} reach {largest:.4g}, which {dtype} cannot hold; use --dtype float32 with --restart"
        )
    return values.astype(dtype, copy=False)


def _images_csv(paths: Sequence[str], classes: Sequence[str]) -> bytes:
    text = io.StringIO()
    # Text is quoted: a file name may contain anything, even line breaks.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["number", "path", "class"])
    writer.writerows(zip(range(len(paths)), paths, classes, strict=True))
    return text.getvalue().encode("utf-8", "surrogateescape")  # file names may not be UTF-8
