"""Responses of a trained network to many images, in arrays on the disk that any program can read.

A folder with `<point>.npy` for each kind of responses (float32 or float16, (N, D) or (N, C, H, W)), `images.csv` with
the images in the same order (number, path, class), `labels.npy` (int64 (N,), of a data set) and `features.json`, which
says what they are of.
"""

import contextlib
import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.augment import cut_view, views
from alexnet.data.stage import PARTS_FOLDER, Stage, opened_stage
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.explore.shown import Read, Shown, of_photographs, of_split, reader_of, require_images
from alexnet.model.device import Precision, arithmetic, choose_device, choose_precision
from alexnet.model.network import AlexNet
from alexnet.model.responses import ResponseReader
from alexnet.model.weights import Trained, load_trained, weights_file
from alexnet.storage.atomic import require_free, require_space, write_bytes, write_json
from alexnet.storage.checksums import file_digest

FORMAT_VERSION = 1
DESCRIPTION_FILE = "features.json"
IMAGES_FILE = "images.csv"
LABELS_FILE = "labels.npy"
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
    images: NDArray[np.uint8] | Sequence[Path | str],
    points: Sequence[str] = (),
    *,
    batch_size: int = 128,
    device: Device = "auto",
    precision: AskedPrecision = "auto",
) -> dict[str, NDArray[np.float32]]:
    """Responses of a trained network to images, in memory; to many images `write_features` writes them to the disk.

    Args:
        run: a run folder or a weights file.
        images: uint8 (N, S, S, 3), RGB, S as the network's training images were stored; or photographs of any size.
        points: see `response_points`; none is what the last layer reads, before dropout.

    Returns:
        By point, float32 (N, C, H, W) of maps or (N, D) of units, of the central crop, dropout's factor not applied
        (the points `.drop` have it).

    Raises:
        RequestError: no trained network, an unknown point, images of another form, or no readable photograph.
        WorkError: responses that are not finite.
    """
    trained = load_trained(run)
    reader = ResponseReader(trained.network, points or default_points(trained.network))
    if isinstance(images, np.ndarray):
        require_images(images, trained.side)
        read: Read = lambda first, last: images[first:last]  # noqa: E731
    else:
        read = reader_of([Path(one) for one in images], trained.side)
    chosen = choose_device(device)
    chosen_precision = choose_precision(precision, chosen)
    found = {name: np.empty((len(images), *reader.shape(name)), np.float32) for name in reader.names}
    for first, responses in in_batches(trained, reader, read, 0, len(images), batch_size, chosen, chosen_precision):
        for name, values in responses.items():
            found[name][first : first + len(values)] = values
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
    require_free(destination)
    trained = load_trained(run)
    reader = ResponseReader(trained.network, points or default_points(trained.network))
    if photographs:
        if data_folder is not None or split is not None:
            raise RequestError("photographs are named and a data set or split too; name one or the other")
        shown = of_photographs(photographs, trained)
    else:
        shown = of_split(run, data_folder, split, trained)
    chosen = choose_device(device)
    chosen_precision = choose_precision(precision, chosen)
    shapes = {name: (len(shown.paths), *reader.shape(name)) for name in reader.names}
    plan = {
        "format_version": FORMAT_VERSION,
        "run": str(run),
        "weights_sha256": file_digest(weights_file(run)),
        "variant": trained.network.variant,
        "title": trained.title,
        "points": list(reader.names),
        "dtype": dtype,
        "precision": chosen_precision,
        **shown.facts,
    }
    with opened_stage(destination, plan, restart=restart) as stage:
        done = _num_done(stage)
        if done:
            report(f"going on: {done:,} of {len(shown.paths):,} images are done already")
        left = len(shown.paths) - done
        needed = sum(left * math.prod(shape[1:]) for shape in shapes.values()) * np.dtype(dtype).itemsize
        require_space(stage.folder, needed)
        with contextlib.ExitStack() as opened:
            files = {
                name: opened.enter_context(_array_file(stage.folder / f"{name}.npy", np.dtype(dtype), shape, done))
                for name, shape in shapes.items()
            }
            try:
                saved_s = time.monotonic()
                for first, responses in in_batches(
                    trained, reader, shown.read, done, len(shown.paths), batch_size, chosen, chosen_precision
                ):
                    for name, values in responses.items():
                        files[name].write(_as(values, dtype, name).data)
                    done = min(first + batch_size, len(shown.paths))  # once all of a batch is there
                    if progress is not None:
                        progress(done, len(shown.paths))
                    if time.monotonic() - saved_s > CURSOR_EVERY_S or done == len(shown.paths):
                        saved_s = time.monotonic()
                        _save_done(stage, files, done)
            except KeyboardInterrupt as error:
                _save_done(stage, files, done)
                raise Interrupted(
                    f"interrupted; what is done is kept in {stage.folder}, and the same command goes on"
                ) from error
        write_bytes(stage.folder / IMAGES_FILE, _images_csv(shown, trained))
        if shown.labels is not None:
            with (stage.folder / LABELS_FILE).open("wb") as file:
                np.save(file, shown.labels)
        write_json(
            stage.folder / DESCRIPTION_FILE,
            {
                **plan,
                "images": len(shown.paths),
                "shapes": {name: list(shape) for name, shape in shapes.items()},
                "columns": _columns(trained.network),
                "classes": [one.id for one in trained.classes],
            },
        )
        stage.publish(destination)
    return open_features(destination)


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


def in_batches(
    trained: Trained,
    reader: ResponseReader,
    read: Read,
    start: int,
    num: int,
    batch_size: int,
    device: torch.device,
    precision: Precision,
) -> Iterator[tuple[int, dict[str, NDArray[np.float32]]]]:
    """Responses batch by batch; the next batch is read meanwhile.

    Args:
        read: gives the images, on another thread.
        start: the first image.
        num: the image behind the last one.

    Yields:
        Place of the batch's first image, and the responses by point, float32 (B, ...).

    Raises:
        RequestError: a batch size below 1.
        WorkError: responses that are not finite.
    """
    if batch_size < 1:
        raise RequestError(f"--batch-size is {batch_size}; allowed is 1 or more")
    trained.network.to(device)
    (view,) = views(1, trained.side, trained.crop)
    starts = range(start, num, batch_size)
    with ThreadPoolExecutor(1, thread_name_prefix="alexnet-features") as pool, torch.inference_mode():
        coming = [pool.submit(read, first, min(first + batch_size, num)) for first in starts[:1]]
        for first in starts:
            images = torch.from_numpy(coming.pop().result()).to(device)  # (B, S, S, 3)
            if first + batch_size < num:
                coming.append(pool.submit(read, first + batch_size, min(first + 2 * batch_size, num)))
            with arithmetic(device, precision):
                responses = reader(cut_view(images, view, trained.crop, trained.mean_image, trained.mean_at))
            found = {name: values.float().contiguous().cpu().numpy() for name, values in responses.items()}
            for name, values in found.items():
                if not np.isfinite(values).all():
                    raise WorkError(
                        f"the responses {name} to images {first} to {first + len(values) - 1} are not finite: the "
                        "network's training has diverged; train again with a lower rate"
                    )
            yield first, found


def _as(values: NDArray[np.float32], dtype: Dtype, name: str) -> NDArray[np.floating[Any]]:
    if dtype == "float32":
        return values
    largest = float(np.abs(values).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise WorkError(f"responses {name} reach {largest:.4g}, which float16 cannot hold; take --dtype float32")
    return values.astype(np.float16)


def _num_done(stage: Stage) -> int:
    path = stage.folder / PARTS_FOLDER / CURSOR_FILE
    return int(json.loads(path.read_text())["done"]) if path.is_file() else 0


@contextlib.contextmanager
def _array_file(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], num_rows: int) -> Iterator[BinaryIO]:
    """The .npy file of an array, to append rows to; what stands behind its first `num_rows` rows is cut off.

    Rows are written, not mapped: a full disk is an error then, and not the end of the process.
    """
    header = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    with path.open("r+b" if num_rows else "wb") as file:
        if num_rows == 0:
            file.write(header.getvalue())
        file.truncate(len(header.getvalue()) + num_rows * math.prod(shape[1:]) * dtype.itemsize)
        file.seek(0, os.SEEK_END)
        yield file


def _save_done(stage: Stage, files: dict[str, BinaryIO], done: int) -> None:
    for file in files.values():
        file.flush()
        os.fsync(file.fileno())
    write_json(stage.folder / PARTS_FOLDER / CURSOR_FILE, {"done": done})


def _columns(network: AlexNet) -> int:
    """Columns of the network: of the first half of a layer's maps reads and speaks the first, and so on."""
    return max((getattr(place.layer, "columns", 1) for place in network.placed), default=1)


def _images_csv(shown: Shown, trained: Trained) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "path", "class"])
    for number in range(len(shown.paths)):
        class_id = "" if shown.labels is None else trained.classes[int(shown.labels[number])].id
        writer.writerow([number, shown.paths[number], class_id])
    return text.getvalue().encode("utf-8", "surrogateescape")  # the name of a file need not be UTF-8
