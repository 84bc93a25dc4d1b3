"""Responses of a trained network to many images, in arrays on the disk that any program can read.

A folder with `<point>.npy` for each kind of responses (float32 or float16, (N, D) or (N, C, H, W)), `images.csv` with
the images in the same order (number, path, class), `labels.npy` (int64 (N,), of a data set), `refused.jsonl` (path and
reason of photographs that could not be read) and `features.json`, which says what they are of.
"""

import contextlib
import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.augment import cut_view, views
from alexnet.data.stage import Stage, opened_stage, stage_folder
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.explore.shown import (
    Read,
    Refused,
    Shown,
    of_photographs,
    of_split,
    reader_of_array,
    require_images,
)
from alexnet.model.device import Precision, arithmetic, choose_device, choose_precision, rounded_weights
from alexnet.model.network import AlexNet
from alexnet.model.responses import ResponseReader
from alexnet.model.weights import Trained, load_trained, weights_file
from alexnet.storage.atomic import require_free, require_space, sync_folder, write_bytes, write_json, write_text
from alexnet.storage.checksums import file_digest
from alexnet.storage.npy import npy_header

FORMAT_VERSION = 1
DESCRIPTION_FILE = "features.json"
IMAGES_FILE = "images.csv"
LABELS_FILE = "labels.npy"
REFUSED_FILE = "refused.jsonl"
CURSOR_FILE = "done.json"
CURSOR_EVERY_S = 10.0
Dtype = Literal["float32", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
AskedPrecision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, eq=False)
class Features:
    """A folder of responses, opened for reading."""

    folder: Path
    responses: dict[str, NDArray[np.floating[Any]]]
    """By point, (N, ...), mapped from the disk, read-only."""
    paths: tuple[str, ...]
    """(N,): where each image came from."""
    labels: NDArray[np.int64] | None
    """(N,), index into `classes`; None for photographs, of which nothing is known."""
    classes: tuple[str, ...]
    """Ids of the network's classes."""
    description: dict[str, Any]
    """What `features.json` says, whole."""


def features(
    run: Path | str,
    images: NDArray[np.uint8] | Sequence[Path | str] | Path | str,
    points: Sequence[str] | str = (),
    *,
    batch_size: int = 128,
    device: Device = "auto",
    precision: AskedPrecision = "auto",
) -> dict[str, NDArray[np.float32]]:
    """Responses of a trained network to images, in memory; to many images `write_features` writes them to the disk.

    Args:
        run: a run folder or a weights file.
        images: uint8 (N, S, S, 3), RGB, S as the network's training images were stored; or
            photographs of any size, files or folders.
        points: see `response_points`; none is what the last layer reads, before dropout.

    Returns:
        By point, float32 (N, C, H, W) of maps or (N, D) of units, of the central crop, dropout's factor not applied
        (the points `.drop` have it).

    Raises:
        RequestError: no trained network, an unknown point, images of another form, or no readable photograph.
        WorkError: responses that are not finite.
    """
    trained = load_trained(run)
    reader = ResponseReader(trained.network, _listed(points) or default_points(trained.network))
    chosen = choose_device(device)
    chosen_precision = choose_precision(precision, chosen)
    if isinstance(images, np.ndarray):
        require_images(images, trained.side)
        read, num = reader_of_array(images), len(images)
    else:
        given = [images] if isinstance(images, str | Path) else images
        shown = of_photographs([Path(one) for one in given], trained)
        read, num = shown.read, len(shown.paths)
    found = {name: np.empty((num, *reader.shape(name)), np.float32) for name in reader.names}
    for batch in in_batches(trained, reader, read, 0, num, batch_size, chosen, chosen_precision):
        if batch.refused:
            raise RequestError(batch.refused[0][1])
        for name, values in batch.responses.items():
            found[name][batch.last - len(values) : batch.last] = values
    return found


def write_features(
    run: Path,
    destination: Path,
    *,
    data_folder: Path | Sequence[Path] | None = None,
    split: str | None = None,
    photographs: Sequence[Path] = (),
    points: Sequence[str] = (),
    dtype: Dtype = "float32",
    batch_size: int = 128,
    device: Device = "auto",
    precision: AskedPrecision = "auto",
    restart: bool = False,
    report: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Write a network's responses to a split, or to photographs, into a folder; the same call goes on after a kill.

    Args:
        run: a run folder or a weights file.
        destination: the folder to make.
        data_folder: the prepared data set, or several to be joined; None is what the run was trained on.
        split: None is the data set's evaluation split.
        photographs: files, and folders of them, instead of a data set.
        points: see `response_points`; none is what the last layer reads, before dropout.
        dtype: of the arrays.
        restart: throw away what an unfinished call has done.
        report: is given lines for people.
        progress: called with (images done, images in all).

    Raises:
        RequestError: no trained network, an unknown point or split, no readable photograph, images of another side than
            the network's, or the destination is taken.
        WorkError: the disk is full, or responses are not finite or do not fit the dtype.
        Interrupted: from the keyboard; what is done is kept.
    """
    run, destination = Path(run), Path(destination)
    if dtype not in get_args(Dtype):
        raise RequestError(f"--dtype is {dtype!r}; allowed is {' or '.join(get_args(Dtype))}")
    require_free(destination)
    trained = load_trained(run)
    reader = ResponseReader(trained.network, _listed(points) or default_points(trained.network))
    if photographs:
        if data_folder is not None or split is not None:
            raise RequestError("photographs are named and a data set or split too; name one or the other")
        shown = of_photographs([Path(one) for one in photographs], trained)
    else:
        shown = of_split(run, data_folder, split, trained)
    chosen = choose_device(device)
    chosen_precision = choose_precision(precision, chosen)
    shapes = {name: reader.shape(name) for name in reader.names}
    plan = {
        "format_version": FORMAT_VERSION,
        "weights_sha256": file_digest(weights_file(run)),
        "points": list(reader.names),
        "dtype": dtype,
        "precision": chosen_precision,
        **shown.identity,
    }
    if not stage_folder(destination).exists():
        num_numbers = len(shown.paths) * sum(math.prod(shape) for shape in shapes.values())
        require_space(destination, num_numbers * np.dtype(dtype).itemsize)
    stage_files = {"description_file": DESCRIPTION_FILE, "cursor_file": CURSOR_FILE}
    with opened_stage(destination, plan, restart=restart, **stage_files) as stage:
        if not stage.is_complete:
            work = _Work(stage, trained, reader, shown, shapes, np.dtype(dtype))
            if work.done:
                report(f"going on: {work.done:,} of {len(shown.paths):,} images are done already")
            work.run(batch_size, chosen, chosen_precision, progress)
            work.describe(run, plan)
        stage.publish(destination)
    made = open_features(destination)
    num_refused = len(shown.paths) - len(made.paths)
    if num_refused:
        report(
            f"refused {num_refused:,} of {len(shown.paths):,} files; the reasons are in {destination / REFUSED_FILE}"
        )
    return made


class _Work:
    """Responses on their way to the disk; what is done is known from the stage's cursor."""

    def __init__(
        self,
        stage: Stage,
        trained: Trained,
        reader: ResponseReader,
        shown: Shown,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: np.dtype[Any],
    ) -> None:
        self.done = 0
        """Images that were shown, refused ones among them."""
        self.refused: Refused = []
        self._stage = stage
        self._trained = trained
        self._reader = reader
        self._shown = shown
        self._shapes = shapes
        self._dtype = dtype
        if stage.cursor_path.is_file():
            said = json.loads(stage.cursor_path.read_text())
            self.done, self.refused = said["done"], [(number, reason) for number, reason in said["refused"]]

    def run(
        self,
        batch_size: int,
        device: torch.device,
        precision: Precision,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Show the network what it has not seen yet."""
        num = len(self._shown.paths)
        with contextlib.ExitStack() as opened:
            files = {name: opened.enter_context(self._array_file(name)) for name in self._reader.names}
            saved_s = time.monotonic()
            try:
                for batch in in_batches(
                    self._trained, self._reader, self._shown.read, self.done, num, batch_size, device, precision
                ):
                    for name, values in batch.responses.items():
                        files[name].write(_as(values, self._dtype, name).data)
                    # Once all of a batch is there.
                    self.done, self.refused = batch.last, self.refused + batch.refused
                    if progress is not None:
                        progress(self.done, num)
                    if time.monotonic() - saved_s > CURSOR_EVERY_S:
                        saved_s = time.monotonic()
                        self._save(files)
                self._save(files)
            except BaseException as error:
                with contextlib.suppress(OSError):  # on a full disk what was last kept counts
                    self._save(files)
                if isinstance(error, KeyboardInterrupt):
                    raise Interrupted(
                        f"interrupted; what is done is kept in {self._stage.folder}, and the same command goes on"
                    ) from error
                raise

    def describe(self, run: Path, plan: Mapping[str, Any]) -> None:
        """Write everything but the responses, which are there; the description comes last."""
        refused = {number for number, _ in self.refused}
        numbers = [number for number in range(len(self._shown.paths)) if number not in refused]
        if not numbers:
            raise WorkError(f"none of the {len(self._shown.paths)} files can be read: {self.refused[0][1]}")
        network, folder = self._trained.network, self._stage.folder
        for name in self._reader.names:
            with (folder / f"{name}.npy").open("r+b") as file:
                file.write(self._header(name, len(numbers)))
        paths = [self._shown.paths[number] for number in numbers]
        classes = [one.id for one in self._trained.classes]
        labels = None if self._shown.labels is None else self._shown.labels[numbers]
        write_bytes(
            folder / IMAGES_FILE, _images_csv(paths, None if labels is None else [classes[one] for one in labels])
        )
        if labels is not None:
            with (folder / LABELS_FILE).open("wb") as file:
                np.save(file, labels)
        lines = [json.dumps({"path": self._shown.paths[number], "reason": why}) + "\n" for number, why in self.refused]
        write_text(folder / REFUSED_FILE, "".join(lines))
        write_json(
            self._stage.description_path,
            {
                **plan,
                "run": str(run),
                **self._shown.facts,
                "variant": network.variant,
                "title": self._trained.title,
                "images": len(numbers),
                "refused": len(refused),
                "shapes": {name: [len(numbers), *shape] for name, shape in self._shapes.items()},
                "columns": max((getattr(place.layer, "columns", 1) for place in network.placed), default=1),
                "classes": classes,
                "plan": dict(plan),
            },
        )

    @contextlib.contextmanager
    def _array_file(self, name: str) -> Iterator[BinaryIO]:
        """The .npy file of responses, to append to; what stands behind the counted ones is cut off.

        They are written, not mapped: a full disk is an error then, and not the end of the process.
        """
        num_rows = self.done - len(self.refused)
        header = self._header(name, 0)  # mended at the end, when the number of images is known
        size_bytes = len(header) + num_rows * math.prod(self._shapes[name]) * self._dtype.itemsize
        with (self._stage.folder / f"{name}.npy").open("r+b" if self.done else "wb") as file:
            if self.done == 0:
                file.write(header)
            if file.seek(0, os.SEEK_END) < size_bytes:
                raise WorkError(f"{file.name} is shorter than what was counted; add --restart to begin anew")
            file.truncate(size_bytes)
            file.seek(size_bytes)
            yield file

    def _header(self, name: str, num_rows: int) -> bytes:
        return npy_header(self._dtype, (num_rows, *self._shapes[name]))

    def _save(self, files: Mapping[str, BinaryIO]) -> None:
        """Bring everything to the disk, and count it; where nothing is done, nothing is claimed."""
        if not self.done:
            return
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self._stage.folder)
        write_json(self._stage.cursor_path, {"done": self.done, "refused": self.refused})


def open_features(folder: Path) -> Features:
    """Open what `write_features` wrote.

    Raises:
        RequestError: it is none of ours, or of another format version.
    """
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        version = description["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{folder} holds no features ({DESCRIPTION_FILE}: {error}); `alexnet features RUN --out {folder}` makes "
            "them"
        ) from error
    if version != FORMAT_VERSION:
        raise RequestError(
            f"{folder} has features of format {version}, this version reads {FORMAT_VERSION}; make them again"
        )
    with (folder / IMAGES_FILE).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        paths = tuple(row["path"] for row in csv.DictReader(file))
    labels = folder / LABELS_FILE
    return Features(
        folder=folder,
        responses={name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in description["points"]},
        paths=paths,
        labels=np.load(labels) if labels.is_file() else None,
        classes=tuple(description["classes"]),
        description=description,
    )


def default_points(network: AlexNet) -> tuple[str, ...]:
    """What the last layer reads: the features that the paper's section 6.1 compares images by."""
    return ([place.name for place in network.placed if place.weight_shape][-2],)


@dataclass(frozen=True, eq=False)
class Answered:
    """The responses to a batch."""

    last: int
    """The image behind the batch's last one."""
    responses: dict[str, NDArray[np.float32]]
    """By point, (B, ...), of the images that could be read."""
    refused: Refused


def in_batches(
    trained: Trained,
    reader: ResponseReader,
    read: Read,
    start: int,
    num: int,
    batch_size: int,
    device: torch.device,
    precision: Precision,
) -> Iterator[Answered]:
    """Responses batch by batch; the next batch is read meanwhile, on another thread.

    Args:
        start: the first image.
        num: the image behind the last one.

    Raises:
        RequestError: a batch size below 1.
        WorkError: responses that are not finite.
    """
    if batch_size < 1:
        raise RequestError(f"--batch-size is {batch_size}; allowed is 1 or more")
    trained.network.to(device)
    (view,) = views(1, trained.side, trained.crop)
    starts = range(start, num, batch_size)
    with (
        ThreadPoolExecutor(1, thread_name_prefix="alexnet-features") as pool,
        torch.inference_mode(),
        rounded_weights(trained.network, precision),
    ):
        coming = [pool.submit(read, first, min(first + batch_size, num)) for first in starts[:1]]
        for first in starts:
            last = min(first + batch_size, num)
            images, refused = coming.pop().result()  # (B, S, S, 3)
            if last < num:
                coming.append(pool.submit(read, last, min(last + batch_size, num)))
            if not len(images):
                yield Answered(last, {}, refused)
                continue
            batch = torch.from_numpy(images).to(device)
            with arithmetic(device, precision):
                responses = reader(cut_view(batch, view, trained.crop, trained.mean_image, trained.mean_at))
            found = {name: values.float().contiguous().cpu().numpy() for name, values in responses.items()}
            for name, values in found.items():
                if not np.isfinite(values).all():
                    raise WorkError(
                        f"the responses {name} to images {first} to {last - 1} are not finite: the network's training "
                        "has diverged; train again with a lower rate"
                    )
            yield Answered(last, found, refused)


def _as(values: NDArray[np.float32], dtype: np.dtype[Any], name: str) -> NDArray[np.floating[Any]]:
    largest = float(np.abs(values).max(initial=0.0))
    if largest > float(np.finfo(dtype).max):
        raise WorkError(
            f"responses {name} reach {largest:.4g}, which {dtype} cannot hold; take --dtype float32 and --restart"
        )
    return values.astype(dtype, copy=False)


def _listed(points: Sequence[str] | str) -> Sequence[str]:
    return [points] if isinstance(points, str) else points


def _images_csv(paths: Sequence[str], classes: Sequence[str] | None) -> bytes:
    text = io.StringIO()
    # Texts in quotation marks: a file's name may hold anything, a line's end too.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["number", "path", "class"])
    for number, path in enumerate(paths):
        writer.writerow([number, path, "" if classes is None else classes[number]])
    return text.getvalue().encode("utf-8", "surrogateescape")  # the name of a file need not be UTF-8
