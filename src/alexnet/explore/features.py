"""Activations of a trained network to many images, in arrays on the disk that any program can read.

A folder with `<point>.npy` for each kind of activations (float32 or float16, (N, D) or (N, C, H, W)), `images.csv` with
the images in the same order (number, path, class), `labels.npy` (int64 (N,), of a data set), `refused.jsonl` (path and
reason of photographs that could not be read) and `features.json`, which says what they are of.
"""

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.explore.feature_writer import (
    CURSOR_FILE,
    DESCRIPTION_FILE,
    IMAGES_FILE,
    LABELS_FILE,
    REFUSED_FILE,
    FeatureWriter,
)
from alexnet.explore.forward import activation_batches
from alexnet.explore.image_source import array_reader, photograph_source, require_images, split_source
from alexnet.model.activations import ActivationReader
from alexnet.model.kernels import slow_path_message
from alexnet.model.network import AlexNet
from alexnet.model.weights import load_trained, weights_file
from alexnet.storage.atomic import require_free, require_space
from alexnet.storage.checksums import file_digest
from alexnet.storage.staging import open_staging, staging_folder
from alexnet.system.device import choose_device, choose_precision

FORMAT_VERSION = 1
Dtype = Literal["float32", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
AskedPrecision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, eq=False)
class Features:
    """A folder of activations, opened for reading."""

    folder: Path
    activations: dict[str, NDArray[np.floating[Any]]]
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
    batch_size: int | None = None,
    device: Device = "auto",
    precision: AskedPrecision = "auto",
) -> dict[str, NDArray[np.float32]]:
    """Activations of a trained network to images, in memory; to many images `write_features` writes them to the disk.

    Args:
        run: a run folder or a weights file.
        images: uint8 (N, S, S, 3), RGB, S as the network's training images were stored; or
            photographs of any size, files or folders.
        points: see `activation_points`; none is what the last layer reads, before dropout.

    Returns:
        By point, float32 (N, C, H, W) of maps or (N, D) of units, of the central crop, dropout's factor not applied
        (the points `.drop` have it).

    Raises:
        RequestError: no trained network, an unknown point, images of another form, or no readable photograph.
        WorkError: activations that are not finite.
    """
    trained = load_trained(run)
    reader = ActivationReader(trained.network, _listed(points) or default_layers(trained.network))
    chosen = choose_device(device)
    chosen_precision = choose_precision(precision, chosen)
    if isinstance(images, np.ndarray):
        require_images(images, trained.side)
        read, num = array_reader(images), len(images)
    else:
        given = [images] if isinstance(images, str | Path) else images
        source = photograph_source([Path(one) for one in given], trained)
        read, num = source.read, len(source.paths)
    found = {name: np.empty((num, *reader.shape(name)), np.float32) for name in reader.names}
    for batch in activation_batches(trained, reader, read, 0, num, batch_size, chosen, chosen_precision):
        if batch.refused:
            raise RequestError(batch.refused[0][1])
        for name, values in batch.activations.items():
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
    batch_size: int | None = None,
    device: Device = "auto",
    precision: AskedPrecision = "auto",
    restart: bool = False,
    report: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Write a network's activations to a split, or to photographs, into a folder; the same call goes on after a kill.

    Args:
        run: a run folder or a weights file.
        destination: the folder to make.
        data_folder: the prepared data set, or several to be joined; None is what the run was trained on.
        split: None is the data set's evaluation split.
        photographs: files, and folders of them, instead of a data set.
        points: see `activation_points`; none is what the last layer reads, before dropout.
        dtype: of the arrays.
        restart: throw away what an unfinished call has done.
        report: is given lines for people.
        progress: called with (images done, images in all).

    Raises:
        RequestError: no trained network, an unknown point or split, no readable photograph, images of another side than
            the network's, or the destination is taken.
        WorkError: the disk is full, or activations are not finite or do not fit the dtype.
        Interrupted: from the keyboard; what is done is kept.
    """
    run, destination = Path(run), Path(destination)
    if dtype not in get_args(Dtype):
        raise RequestError(f"--dtype is {dtype!r}; allowed is {' or '.join(get_args(Dtype))}")
    require_free(destination)
    trained = load_trained(run)
    reader = ActivationReader(trained.network, _listed(points) or default_layers(trained.network))
    if photographs:
        if data_folder is not None or split is not None:
            raise RequestError("photographs are named and a data set or split too; name one or the other")
        source = photograph_source([Path(one) for one in photographs], trained)
    else:
        source = split_source(run, data_folder, split, trained)
    chosen = choose_device(device)
    chosen_precision = choose_precision(precision, chosen)
    shapes = {name: reader.shape(name) for name in reader.names}
    plan = {
        "format_version": FORMAT_VERSION,
        "weights_sha256": file_digest(weights_file(run)),
        "points": list(reader.names),
        "dtype": dtype,
        "precision": chosen_precision,
        **source.identity,
    }
    if not staging_folder(destination).exists():
        num_numbers = len(source.paths) * sum(math.prod(shape) for shape in shapes.values())
        require_space(destination, num_numbers * np.dtype(dtype).itemsize)
    with open_staging(
        destination, plan, description_file=DESCRIPTION_FILE, cursor_file=CURSOR_FILE, restart=restart
    ) as staging:
        if not staging.is_complete:
            work = FeatureWriter(staging, trained, reader, source, shapes, np.dtype(dtype))
            if slower := slow_path_message(chosen.type):
                report(slower)
            if work.done:
                report(f"going on: {work.done:,} of {len(source.paths):,} images are done already")
            work.run(batch_size, chosen, chosen_precision, progress)
            work.describe(run, plan)
        staging.publish(destination)
    made = open_features(destination)
    num_refused = len(source.paths) - len(made.paths)
    if num_refused:
        report(
            f"refused {num_refused:,} of {len(source.paths):,} files; the reasons are in {destination / REFUSED_FILE}"
        )
    return made


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
        activations={name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in description["points"]},
        paths=paths,
        labels=np.load(labels) if labels.is_file() else None,
        classes=tuple(description["classes"]),
        description=description,
    )


def default_layers(network: AlexNet) -> tuple[str, ...]:
    """What the last layer reads: the features that the paper's section 6.1 compares images by."""
    return ([place.name for place in network.sized_layers if place.weight_shape][-2],)


def _listed(points: Sequence[str] | str) -> Sequence[str]:
    return [points] if isinstance(points, str) else points
