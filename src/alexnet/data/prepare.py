"""From a source to a prepared data set: decoded, scaled and cropped images, and their statistics.

The result does not depend on the number of workers: images keep the source's order, and mean and
covariance come from exact integer sums. Paper: section 2 (256 x 256 pixels) and 4.1 (colour).
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.decode import UnreadableImage, decode_image, resize_and_crop
from alexnet.data.prepared import (
    DESCRIPTION_FILE,
    FORMAT_VERSION,
    REFUSED_FILE,
    STATISTICS_FILE,
    PreparedData,
    Statistics,
    data_checksum,
    split_file,
)
from alexnet.data.sources import Entry, Source, open_source, with_hold_out
from alexnet.errors import RequestError, WorkError
from alexnet.storage.atomic import require_free, require_space, staged_folder, write_json

DEFAULT_SIDE_PX = 256
MIN_SIDE_PX, MAX_SIDE_PX = 8, 1024
GROUP_BYTES = 2**20
"""Stored bytes that one piece of work makes: large enough to hide its overhead, small enough to share out."""


@dataclass(frozen=True, eq=False)
class _Group:
    """What a worker made of some neighbouring entries."""

    entries: list[Entry]
    images: NDArray[np.uint8]
    """(n, S, S, 3), the readable ones."""
    reasons: list[str | None]
    """Per entry why it was refused; None where it was read."""


@dataclass
class _Sums:
    """Exact sums over the training images."""

    side: int
    num_images: int = 0
    pixel_sums: NDArray[np.int64] = field(init=False)
    """(S, S, 3)."""
    products: list[list[int]] = field(default_factory=lambda: [[0] * 3 for _ in range(3)])
    """Sum over all pixels of channel times channel."""

    def __post_init__(self) -> None:
        self.pixel_sums = np.zeros((self.side, self.side, 3), np.int64)

    def add(self, images: NDArray[np.uint8]) -> None:
        """Count (n, S, S, 3) images in."""
        self.num_images += len(images)
        self.pixel_sums += images.sum(axis=0, dtype=np.int64)
        for image in images:
            # Products of bytes, summed over one image, stay far below 2^53: float64 is exact here, and fast.
            pixels = image.reshape(-1, 3).astype(np.float64)
            products = pixels.T @ pixels
            for row in range(3):
                for column in range(3):
                    self.products[row][column] += int(products[row, column])

    def statistics(self) -> Statistics:
        """Mean image, and covariance with its components, each rounded once from the exact value."""
        num_pixels = self.num_images * self.side**2
        sums = [int(total) for total in self.pixel_sums.sum(axis=(0, 1))]
        covariance = np.array(
            [
                [
                    (num_pixels * self.products[row][column] - sums[row] * sums[column]) / num_pixels**2
                    for column in range(3)
                ]
                for row in range(3)
            ]
        )
        eigenvalues, eigenvectors = np.linalg.eigh(covariance)
        largest = np.take_along_axis(eigenvectors, np.abs(eigenvectors).argmax(axis=0)[None], axis=0)
        return Statistics(
            mean_image=(self.pixel_sums / self.num_images).astype(np.float32),
            covariance=covariance,
            eigenvalues=np.maximum(eigenvalues, 0.0),
            eigenvectors=eigenvectors * np.sign(largest),
        )


def _say_nothing(line: str) -> None:
    """The report of a caller that wants none."""


def prepare(
    source: Path,
    destination: Path,
    *,
    side: int | None = None,
    hold_out: float = 0.0,
    seed: int = 0,
    workers: int | None = None,
    report: Callable[[str], None] = _say_nothing,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedData:
    """Prepare the photographs of `source` in a new folder; nothing is left of it if the work does not end.

    Args:
        source: see `open_source`.
        destination: a folder that does not exist yet, or is empty.
        side: of the stored square images, 8..1024 pixels; None is what the source suggests, else 256.
        hold_out: fraction of each class to hold out as `val` where the source has no such split.
        seed: of the held-out choice.
        workers: threads that decode; None is one for each core.
        report: is given lines for people.
        progress: is given the number of files done and of all files, now and then.

    Raises:
        RequestError: the source or an option makes no sense, or the destination is taken.
        WorkError: the disk is full, or all images of a class or of a split are unreadable.
    """
    if side is not None and not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
        raise RequestError(f"--side is {side}; allowed is {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels")
    if workers is not None and workers < 1:
        raise RequestError(f"--workers is {workers}; allowed is 1 or more")
    if seed < 0:
        raise RequestError(f"--seed is {seed}; allowed is 0 or more")
    require_free(destination)
    opened = with_hold_out(open_source(source), hold_out, seed)
    side = side or opened.side or DEFAULT_SIDE_PX
    workers = workers or os.cpu_count() or 1
    num_files = sum(len(entries) for entries in opened.splits.values())
    require_space(destination, num_files * side**2 * 3)
    counts = ", ".join(f"{name} {len(entries):,}" for name, entries in opened.splits.items())
    report(f"{opened.title}: {len(opened.class_ids)} classes, {counts}; storing {side} x {side} pixels")

    num_torch_threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # the workers are the parallelism; more threads below each would only get in each other's way
    try:
        with staged_folder(destination) as stage, ThreadPoolExecutor(workers) as pool:
            work = _Preparation(opened, stage, side, pool, workers, progress, num_files)
            try:
                work.run({"side": side, "hold_out": hold_out, "seed": seed}, str(source))
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        torch.set_num_threads(num_torch_threads)
    if work.num_refused:
        report(f"refused {work.num_refused:,} of {num_files:,} files; the reasons are in {destination / REFUSED_FILE}")
    return PreparedData.open(destination)


@dataclass
class _Preparation:
    """The work of `prepare` on one opened source."""

    source: Source
    stage: Path
    side: int
    pool: ThreadPoolExecutor
    workers: int
    progress: Callable[[int, int], None] | None
    num_files: int
    num_done: int = 0
    num_refused: int = 0

    def run(self, options: dict[str, Any], source_path: str) -> None:
        """Fill the stage."""
        class_ids = self.source.class_ids
        sums = _Sums(self.side)
        splits: dict[str, dict[str, Any]] = {}
        with (self.stage / REFUSED_FILE).open("w", encoding="utf-8") as refused:
            for name, entries in self.source.splits.items():

                def refuse(entry: Entry, reason: str) -> None:
                    self.num_refused += 1
                    refused.write(json.dumps({"path": entry.key, "reason": reason}) + "\n")

                splits[name] = self._write_split(name, entries, class_ids, sums if name == "train" else None, refuse)
        statistics = sums.statistics()
        with (self.stage / STATISTICS_FILE).open("wb") as file:
            np.savez(
                file,
                mean_image=statistics.mean_image,
                covariance=statistics.covariance,
                eigenvalues=statistics.eigenvalues,
                eigenvectors=statistics.eigenvectors,
            )
        digests = {name: (facts["images_sha256"], facts["labels_sha256"]) for name, facts in splits.items()}
        write_json(
            self.stage / DESCRIPTION_FILE,
            {
                "format_version": FORMAT_VERSION,
                "title": self.source.title,
                "generated": self.source.generated,
                "classes": [{"id": one, "name": self.source.class_names.get(one, one)} for one in class_ids],
                "splits": splits,
                "side": self.side,
                "store": "pixels",
                "source": {"kind": self.source.kind, "path": source_path},
                "options": options,
                "num_refused": self.num_refused,
                "checksum": data_checksum(digests, class_ids),
            },
        )

    def _write_split(
        self,
        name: str,
        entries: list[Entry],
        class_ids: list[str],
        sums: _Sums | None,
        refuse: Callable[[Entry, str], None],
    ) -> dict[str, Any]:
        """Write one split's arrays; returns what dataset.json says of it."""
        label_of = {class_id: label for label, class_id in enumerate(class_ids)}
        labels: list[int] = []
        keys: list[bytes] = []
        digest = hashlib.sha256()
        with (self.stage / split_file(name, "images")).open("wb") as file:
            header_bytes = _write_header(file, len(entries), self.side)
            for group in self._groups(entries):
                file.write(group.images.data)
                digest.update(group.images.data)
                if sums is not None:
                    sums.add(group.images)
                for entry, reason in zip(group.entries, group.reasons, strict=True):
                    if reason is None:
                        labels.append(label_of[entry.class_id])
                        keys.append(entry.key.encode("utf-8", "surrogateescape"))
                    else:
                        refuse(entry, reason)
                self.num_done += len(group.entries)
                if self.progress is not None:
                    self.progress(self.num_done, self.num_files)
            # The count is known only now; NumPy leaves room in the header for a first axis of any length.
            file.seek(0)
            if _write_header(file, len(labels), self.side) != header_bytes:
                raise AssertionError("the header of the images changed its length")
            file.flush()
            os.fsync(file.fileno())
        label_array = np.array(labels, np.int64)
        self._require_images(name, label_array, class_ids)
        np.save(self.stage / split_file(name, "labels"), label_array)
        np.save(self.stage / split_file(name, "keys"), np.array(keys, dtype=np.bytes_))
        return {
            "count": len(labels),
            "images": split_file(name, "images"),
            "labels": split_file(name, "labels"),
            "keys": split_file(name, "keys"),
            "images_sha256": digest.hexdigest(),
            "labels_sha256": hashlib.sha256(label_array.astype("<i8").tobytes()).hexdigest(),
        }

    def _require_images(self, name: str, labels: NDArray[np.int64], class_ids: list[str]) -> None:
        """Refuse a training class, or a whole split, of which nothing was readable."""
        if len(labels) == 0:
            raise WorkError(
                f"no image of the {name} split of {self.source.title} can be read; is it made of photographs?"
            )
        counts = np.bincount(labels, minlength=len(class_ids))
        if name == "train" and not counts.all():
            raise WorkError(
                f"no training image of the class {class_ids[int(counts.argmin())]} of {self.source.title} can be read; "
                "replace its files or remove its folder"
            )

    def _groups(self, entries: list[Entry]) -> Iterator[_Group]:
        """Decoded groups in the source's order, a few of them worked on ahead."""
        group_size = max(1, GROUP_BYTES // (self.side**2 * 3))
        waiting: deque[Future[_Group]] = deque()
        for start in range(0, len(entries), group_size):
            waiting.append(self.pool.submit(_decode_group, entries[start : start + group_size], self.side))
            if len(waiting) > 2 * self.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _decode_group(entries: list[Entry], side: int) -> _Group:
    """Read, decode and crop some entries."""
    images: list[NDArray[np.uint8]] = []
    reasons: list[str | None] = []
    for entry in entries:
        try:
            content = entry.read()
            image = decode_image(content, apply_orientation=True) if isinstance(content, bytes) else content
            images.append(resize_and_crop(image, side))
            reasons.append(None)
        except UnreadableImage as error:
            reasons.append(str(error))
        except OSError as error:
            reasons.append(f"cannot be read: {error.strerror or error}")
    stacked = np.stack(images) if images else np.empty((0, side, side, 3), np.uint8)
    return _Group(entries, stacked, reasons)


def _write_header(file: BinaryIO, num_images: int, side: int) -> int:
    """Write the .npy header of the images at the file's position; returns the position after it."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (num_images, side, side, 3)}
    )
    return file.tell()
