"""Classify photographs with a trained network."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alexnet.data.augment import crop_view, views
from alexnet.data.dataset import PreparedData, warn_of_other_fit
from alexnet.data.not_images import START_BYTES, has_image_name, not_an_image
from alexnet.data.photographs import square_image
from alexnet.data.sources.file_ranges import read_file_start
from alexnet.errors import RequestError, WorkError
from alexnet.model.weights import Trained
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.typed_files import read_bounded
from alexnet.system.device import choose_device, choose_precision

MAX_ORDER_BYTES = 2**24
FEW_VIEWS = 300
"""Up to this number of views torch's own operations are faster: loading the fast kernels costs more than they gain."""

_logger = logging.getLogger(__name__)


def classify_photographs(
    trained: Trained, paths: Sequence[Path], num_views: int = 10, num_top: int = 5
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Predict the classes of each photograph, most probable class first; files that cannot be read are skipped.

    A photograph is preprocessed like the training images: rotated upright by its EXIF orientation, resized to the
    stored size, cropped to the central square; the mean image is subtracted from each view, and the probabilities of
    the views are averaged.

    Args:
        paths: image files of any format `alexnet prepare` reads.
        num_views: 1 (center), 9 or 10.
        num_top: classes to return for each photograph; fewer if the network has fewer.

    Returns:
        For each photograph `{"image": path, "top": [{"id", "name", "probability"}, ...]}`, and for each file that
        cannot be read `{"image": path, "reason": text}`; a log line names it too.

    Raises:
        RequestError: no file can be read, or one is missing.
        WorkError: the network's scores are not finite.
    """
    chosen = views(num_views, trained.side, trained.crop)
    for path in paths:
        try:
            path.lstat()  # a link to nothing is refused like a file that cannot be read
        except OSError as error:
            raise_unless_damage(error, path)
            raise RequestError(f"cannot read {path}: {error.strerror}; name image files, or folders of them") from error
    answers: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    for path in paths:
        try:
            image = torch.from_numpy(square_image(path, trained.side, trained.fit))[None]  # (1, S, S, 3) uint8
        except RequestError as error:
            if len(paths) == 1:
                raise
            _logger.warning(str(error))
            refused.append({"image": str(path), "reason": str(error)})
            continue
        with torch.inference_mode():
            cuts = [crop_view(image, view, trained.crop, trained.mean_image, trained.mean_at) for view in chosen]
            probabilities = torch.cat([trained.network(cut) for cut in cuts]).softmax(dim=1).mean(dim=0)  # (K,)
        if not probabilities.isfinite().all():
            raise WorkError(
                "the network's scores are not finite: its training has diverged; train again with a lower learning rate"
            )
        answers.append(_answer(str(path), probabilities, trained, num_top))
    if not answers:
        raise RequestError(f"none of the {len(paths):,} files can be read: {refused[0]['reason']}")
    return answers, refused


def classify_split(
    trained: Trained,
    data: PreparedData,
    split: str,
    num_views: int = 10,
    num_top: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Predict the classes of the images of a split, which needs no labels.

    Returns answers as `classify_photographs` does.

    Args:
        trained: its classes may differ from those of the data set.
        progress: called with (images done, total images).

    Raises:
        RequestError: there is no such split, or its images have another side than the network's.
        WorkError: the network's scores are not finite.
        UnreadableSample: a stored image cannot be read.
    """
    from alexnet.evaluation.evaluate import predict_split  # loads what photographs do not need

    warn_of_other_fit(data, trained.fit)
    device = choose_device("auto")
    probabilities = predict_split(
        trained.network.to(device),
        replace(data, classes=tuple(trained.classes)),
        split,
        trained.crop,
        num_views,
        mean_image=trained.mean_image,
        mean_at=trained.mean_at,
        device=device,
        precision=choose_precision("auto", device),
        progress=progress,
    )
    keys = data.splits[split].keys
    return [_answer(keys[index], torch.from_numpy(one), trained, num_top) for index, one in enumerate(probabilities)]


def _answer(image: str, probabilities: torch.Tensor, trained: Trained, num_top: int) -> dict[str, Any]:
    """The most probable classes of an image, from its probabilities (K,)."""
    best = probabilities.topk(min(num_top, len(trained.classes)))
    top = [
        {"id": trained.classes[index].id, "name": trained.classes[index].name, "probability": round(value, 6)}
        for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return {"image": image, "top": top}


def list_photographs(paths: Sequence[Path]) -> list[Path]:
    """The given files, and all below the given folders that are images, sound or damaged, sorted by path.

    What `alexnet prepare` skips as no image is passed over in folders, such as hidden files, Thumbs.db and text.

    Raises:
        RequestError: a folder has no image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        files = sorted(_files_below(path))
        below = [one for one in files if not _is_skipped(one, path)]
        if not below:
            raise RequestError(f"the folder {path} has no images; name photographs, or folders of them")
        if len(below) < len(files):
            _logger.info(f"skipped {len(files) - len(below):,} of {len(files):,} files in {path} that are not images")
        found += below
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and those below it, also by links, as `alexnet prepare` finds them; each folder once."""
    visited: set[str] = set()
    for root, folder_names, file_names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in visited:
            folder_names.clear()
            continue
        visited.add(real)
        folder_names.sort()
        paths = (Path(root, name) for name in file_names)
        yield from (path for path in paths if path.is_file() or path.is_symlink())


def _is_skipped(file: Path, folder: Path) -> bool:
    """Whether a file in a folder is not an image; one that cannot be read counts as an image, and is refused later."""
    name = file.relative_to(folder).as_posix()
    try:
        start = None if has_image_name(name) else read_file_start(str(file), START_BYTES)
    except OSError:
        start = None
    return not_an_image(name, start) is not None


def ilsvrc_lines(
    answers: Sequence[dict[str, Any]], trained: Trained, label_order: Sequence[str] | None = None
) -> list[str]:
    """Predictions in the format of the challenge's test server: one line per image, up to five labels, best first.

    Args:
        answers: from `classify_photographs`.
        trained: the network that made them.
        label_order: class ids, starting with the class with label 1; None uses the order of the network's classes.

    Raises:
        RequestError: a class of the network is missing in `label_order`, or appears twice.
    """
    order = [one.id for one in trained.classes] if label_order is None else list(label_order)
    if len(set(order)) != len(order):
        repeated = next(name for name in order if order.count(name) > 1)
        raise RequestError(f"--label-order names {repeated} twice; allowed is one line per class")
    if missing := [one.id for one in trained.classes if one.id not in set(order)]:
        raise RequestError(f"--label-order has no line for {', '.join(missing[:5])}, which the network has")
    labels = {name: number + 1 for number, name in enumerate(order)}
    return [" ".join(str(labels[one["id"]]) for one in answer["top"]) for answer in answers]


def read_label_order(path: Path) -> list[str]:
    """Class ids from a text file: the first word of each line; empty lines are skipped.

    Raises:
        RequestError: the file cannot be read.
    """
    try:
        text = read_bounded(path, MAX_ORDER_BYTES).decode()
    except (OSError, ValueError) as error:
        raise_unless_damage(error, path)
        raise RequestError(f"cannot read {path}: {error}; name a text file of class ids") from error
    return [line.split()[0] for line in text.splitlines() if line.strip()]
