"""Write activations to a folder: append them to arrays, save progress regularly, and describe them at the end."""

import contextlib
import csv
import io
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
from alexnet.explore.forward import activation_batches
from alexnet.explore.image_source import ImageSource, RefusedImages
from alexnet.model.activations import ActivationReader
from alexnet.model.weights import Trained
from alexnet.storage.atomic import sync_folder, write_bytes, write_json_lines
from alexnet.storage.checksums import file_crc32
from alexnet.storage.npy import npy_header
from alexnet.storage.staging import RESTART, Staging
from alexnet.storage.typed_files import Count, damaged, read_json, write_sealed_json
from alexnet.system.device import Precision

FORMAT_VERSION = 3
DESCRIPTION_FILE = "features.json"
IMAGES_FILE = "images.csv"
LABELS_FILE = "labels.npy"
REFUSED_FILE = "refused.jsonl"
CURSOR_FILE = "done.json"
CURSOR_EVERY_S = 10.0


class _Cursor(TypedDict):
    done: Count
    refused: list[tuple[Count, str]]
    crc32: NotRequired[dict[str, Count]]
    """Of each layer's rows; earlier versions did not record it."""


class FeatureWriter:
    """Writes activations to a staging folder; its cursor file records how many images are done."""

    def __init__(
        self, staging: Staging, trained: Trained, reader: ActivationReader, source: ImageSource, dtype: np.dtype[Any]
    ) -> None:
        self.num_done = 0
        """Images processed, including refused ones."""
        self.refused: RefusedImages = []
        self._staging = staging
        self._trained = trained
        self._reader = reader
        self._source = source
        self._dtype = dtype
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
                    crc32 = {}
                    for name, values in batch.activations.items():
                        content = _convert(values, self._dtype, name).reshape(-1).view(np.uint8).data
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
                    raise Interrupted(
                        f"interrupted; finished work is kept in {self._staging.folder}; "
                        "rerun the same command to resume"
                    ) from error
                raise

    def _require_rows(self, cursor: Path, is_checked: bool) -> None:
        """Check that the arrays hold the rows that the cursor counts, and nothing else."""
        numbers = [number for number, _ in self.refused]
        if self.num_done > len(self._source.paths):
            raise damaged(cursor, f"done: it is {self.num_done}, of {len(self._source.paths)} images", RESTART)
        if not all(number < self.num_done for number in numbers) or len(set(numbers)) < len(numbers):
            raise damaged(cursor, "refused: it does not name images that are done", RESTART)
        for name in self._reader.names:
            path = self._staging.folder / f"{name}.npy"
            size_bytes = self._rows_bytes(name)
            if not path.is_file() or path.stat().st_size < len(self._header(name, 0)) + size_bytes:
                raise damaged(path, f"it lacks some of the {self.num_done:,} images that {cursor.name} counts", RESTART)
            if is_checked and file_crc32(path, len(self._header(name, 0)), size_bytes) != self._crc32[name]:
                raise damaged(path, "its checksum differs", RESTART)

    def _rows_bytes(self, name: str) -> int:
        num_rows = self.num_done - len(self.refused)
        return num_rows * math.prod(self._reader.shape(name)) * self._dtype.itemsize

    def describe(self, run: Path, plan: Mapping[str, Any]) -> None:
        """Write everything but the activations, which are already written; the description comes last."""
        refused = {number for number, _ in self.refused}
        numbers = [number for number in range(len(self._source.paths)) if number not in refused]
        if not numbers:
            raise WorkError(f"none of the {len(self._source.paths)} files can be read: {self.refused[0][1]}")
        network, folder = self._trained.network, self._staging.folder
        for name in self._reader.names:
            with (folder / f"{name}.npy").open("r+b") as file:
                file.write(self._header(name, len(numbers)))
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
                "shapes": {name: [len(numbers), *self._reader.shape(name)] for name in self._reader.names},
                "columns": max(layer.columns for layer in network.sized_layers),
                "classes": classes,
                "crc32": self._crc32,
                "files_crc32": {
                    name: file_crc32(folder / name)
                    for name in (IMAGES_FILE, REFUSED_FILE, *([] if labels is None else [LABELS_FILE]))
                },
                "plan": dict(plan),
            },
        )

    @contextlib.contextmanager
    def _array_file(self, name: str) -> Iterator[BinaryIO]:
        """The .npy file of a layer's activations, opened for appending; rows beyond the cursor are cut off.

        Rows are written, not memory-mapped: then a full disk raises an error instead of killing the process.
        """
        header = self._header(name, 0)  # corrected at the end, when the number of images is known
        size_bytes = len(header) + self._rows_bytes(name)
        with (self._staging.folder / f"{name}.npy").open("r+b" if self.num_done else "wb") as file:
            if self.num_done == 0:
                file.write(header)
            file.truncate(size_bytes)
            file.seek(size_bytes)
            yield file

    def _header(self, name: str, num_rows: int) -> bytes:
        return npy_header(self._dtype, (num_rows, *self._reader.shape(name)))

    def _save(self, files: Mapping[str, BinaryIO]) -> None:
        """Flush all files to the disk and then save the cursor, unless nothing is done."""
        if not self.num_done:
            return
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self._staging.folder)
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
