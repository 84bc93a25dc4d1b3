"""Classify photographs, or the images of a prepared split, with a trained network."""

import contextlib
import itertools
import logging
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import UNLABELED, ClassInfo, PreparedData, warn_of_other_fit
from alexnet.data.dataset_files import DESCRIPTION_FILE
from alexnet.data.download import Downloads
from alexnet.data.http_transfer import is_url, without_credentials
from alexnet.data.image_inputs import InputImage, list_images
from alexnet.data.photographs import Fit, ImageInput, as_images, require_fit
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.temperature import Calibrator, calibrator_for
from alexnet.evaluation.view_probabilities import DIVERGED, view_probabilities
from alexnet.figures.notebook_html import Cell, bars_html, picture_html, result_html, table_html
from alexnet.model.kernels import reference_ops
from alexnet.model.weights import Trained, load_trained
from alexnet.storage.arguments import is_number, is_whole
from alexnet.storage.paths import StrPath, as_path, described
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.typed_files import read_bounded
from alexnet.system.device import (
    Device,
    Precision,
    PrecisionChoice,
    choose_device,
    choose_precision,
    evaluation_batch_size,
)
from alexnet.system.machine import num_cores
from alexnet.system.prefetch import prefetch
from alexnet.system.progress import ShowProgress, counted

MAX_ORDER_BYTES = 2**24
ALLOWED_VIEWS = (1, 9, 10)
DEFAULT_TOP = 5
FEW_VIEWS = 40
"""Below this number of views torch's own operations are faster: loading the fast kernels costs more than they gain."""
MAX_DECODERS = 16
"""Threads that read and decode: each may hold the pixels of a large photograph."""
URL_READERS = 8
"""Threads where there are or may be URLs: they mostly wait."""
NUM_SHOWN = 12
"""First images, which a notebook shows of predictions."""
NUM_REFUSED_SHOWN = 6
"""Images after these that it shows because they cannot be read."""

_logger = logging.getLogger(__name__)


class RankedClass(NamedTuple):
    """A class that an image may show."""

    id: str
    name: str
    probability: float
    """0..1, the mean over the views."""


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """What a network says about an image, or why the image cannot be read."""

    image: str | int
    """Path, URL, `archive.tar/member.jpg` or key; of an image that was given in memory the index among the inputs."""
    top: tuple[RankedClass, ...] = ()
    """The most probable classes, best first; empty if the image cannot be read."""
    reason: str | None = None
    """Why it cannot be read; None if it was."""
    calibrated_probability: float | None = None
    """Of the most probable class, 0..1; None without calibration."""
    is_rejected: bool = False
    """Whether the answer is "unknown", because the calibrated probability is too low."""

    def to_dict(self) -> dict[str, Any]:
        """`image` and `top`, a list of `id`, `name` and `probability`; or `image` and `reason`.

        With calibration also `calibrated_probability` and `rejected`.
        """
        if self.reason is not None:
            return {"image": self.image, "reason": self.reason}
        row: dict[str, Any] = {
            "image": self.image,
            "top": [{"id": one.id, "name": one.name, "probability": one.probability} for one in self.top],
        }
        if self.calibrated_probability is not None:
            row |= {"calibrated_probability": self.calibrated_probability, "rejected": self.is_rejected}
        return row


def percent(prediction: ImagePrediction) -> str:
    """The calibrated probability in words."""
    assert prediction.calibrated_probability is not None
    return f"calibrated probability {100 * prediction.calibrated_probability:.1f} %"


@dataclass(frozen=True, eq=False)
class ClassifiedImage:
    """An image and its probabilities, as `classify` yields it."""

    image: str | int
    square: NDArray[np.uint8] | None = None
    """(S, S, 3), RGB, as the network's data set would store it; None if the image cannot be read."""
    probabilities: NDArray[np.float32] | None = None
    """(K,), in the order of the network's classes."""
    reason: str | None = None


def require_num_views(num_views: int) -> None:
    """Refuse a number of views that a prediction cannot have."""
    if num_views not in ALLOWED_VIEWS:
        raise RequestError(
            f"--views is {num_views!r}; allowed are 1 (the center), 9 (three by three) and 10 (the paper's)"
        )


def fitting_ops(num_images: int, num_views: int) -> contextlib.AbstractContextManager[None]:
    """For few views torch's own operations, else the fast kernels, which must be loaded first."""
    return reference_ops() if num_images * num_views < FEW_VIEWS else contextlib.nullcontext()


def classify(
    trained: Trained,
    images: Iterable[InputImage],
    *,
    num_views: int = 10,
    batch_size: int | None = None,
    device: torch.device,
    precision: Precision,
    fit: Fit | None = None,
    downloads: Downloads | None = None,
) -> Generator[ClassifiedImage, None, None]:
    """Classify images in batches, in order; others are read and decoded meanwhile. Only some batches are in memory.

    An image is preprocessed like the training images: turned upright, resized to the stored size and made square; the
    mean image is subtracted from each view, and the probabilities of the views are averaged.

    Args:
        trained: its network stays as it is, see `inference_network`.
        images: any number; they are taken one by one, some batches ahead. A sequence without URLs is read by as many
            threads as there are cores.
        num_views: 1 (center), 9 or 10.
        batch_size: views that the network takes at once; None suits the device. The result depends on it only by
            rounding.
        fit: how an image is made square; None is the way of the network's data set.
        downloads: those of the images' URLs, which are closed when the generator is.

    Raises:
        RequestError: a number of views, a batch size or a fit that is not allowed, or a network that cannot be used.
        WorkError: the network's scores are not finite.
        TemporaryError: the machine or the drive failed.
    """
    if batch_size is None:
        batch_size = evaluation_batch_size(device, trained.side)
    if not is_whole(batch_size, 1):
        raise RequestError(f"--batch-size is {described(batch_size)}; allowed is 1 or more")
    require_num_views(num_views)
    chosen_fit: Fit = trained.fit if fit is None else fit
    require_fit(chosen_fit)
    _require_classes(trained)
    trained.require_trained()
    # Any of those that an iterator has not given yet may be a URL.
    has_urls = not isinstance(images, Sequence) or any(is_url(str(one.name)) for one in images)
    images = iter(images)
    first = list(itertools.islice(images, -(-FEW_VIEWS // num_views)))

    def read(image: InputImage) -> ClassifiedImage:
        try:
            return ClassifiedImage(image.name, image.square(trained.side, chosen_fit))
        except RequestError as error:
            return ClassifiedImage(image.name, reason=str(error))

    read_images = prefetch(
        read,
        itertools.chain(first, images),
        workers=max(min(num_cores(), MAX_DECODERS), URL_READERS if has_urls else 0),
        ahead=2 * batch_size,
        name="alexnet-predict",
    )
    average = view_probabilities(
        trained.network,
        num_views,
        trained.side,
        trained.crop,
        trained.mean_image,
        trained.mean_at,
        num_classes=len(trained.classes),
        classes_in="its list",
        device=device,
        precision=precision,
    )
    # The downloads end first: closing the reader waits for them.
    with closing(read_images), closing(downloads or Downloads()), average as probabilities_of:
        while some := list(itertools.islice(read_images, batch_size)):
            squares = [one.square for one in some if one.square is not None]
            found: Iterator[NDArray[np.float32]] = iter(())
            if squares:
                batch = torch.from_numpy(np.stack(squares))
                if device.type == "cuda":
                    batch = batch.pin_memory()
                with fitting_ops(len(first), num_views):
                    probabilities = probabilities_of(batch, max(1, batch_size // len(batch))).cpu().numpy()
                if not np.isfinite(probabilities).all():
                    raise WorkError(f"the network's scores are not finite: {DIVERGED}")
                found = iter(probabilities)
            for one in some:
                yield one if one.square is None else ClassifiedImage(one.image, one.square, next(found))


def _require_classes(trained: Trained) -> None:
    """Refuse classes that are not those of the network, with what to do."""
    for index, one in enumerate(trained.classes):
        if not isinstance(one, ClassInfo):
            raise RequestError(f"classes[{index}] is {described(one)}; allowed is alexnet.ClassInfo(id, name)")
    try:
        num_scores = trained.network.num_classes
    except (RequestError, AttributeError):
        return  # a layer whose number of scores is known when it has been run
    if num_scores != len(trained.classes):
        raise RequestError(
            f"the network scores {num_scores:,} classes and `classes` names {len(trained.classes):,}; pass "
            "`dataclasses.replace(trained, network=network, classes=classes)`"
        )


@dataclass(frozen=True)
class Ranking:
    """Makes predictions of probabilities."""

    classes: Sequence[ClassInfo]
    num_top: int
    """Classes of each prediction."""
    calibrator: Calibrator | None = None
    reject: float = 0.0
    """With a calibrator: the answer is "unknown" if the best calibrated probability is lower, 0..1."""

    @classmethod
    def of(
        cls, trained: Trained, num_top: int | None = None, calibrator: Calibrator | None = None, reject: float = 0.0
    ) -> "Ranking":
        """The ranking of a network's classes; `num_top` None is five, or all if there are fewer.

        Raises:
            RequestError: a number that is not allowed.
        """
        num_classes = len(trained.classes)
        if num_top is not None and not is_whole(num_top, 1, num_classes):
            raise RequestError(
                f"--top is {described(num_top)}; allowed is 1 to {num_classes:,}, the number of the network's classes"
            )
        return cls(trained.classes, num_top or min(DEFAULT_TOP, num_classes), calibrator, reject)

    def __call__(self, classified: ClassifiedImage) -> ImagePrediction:
        """The most probable classes of an image; ties are in the order of the network's classes."""
        probabilities = classified.probabilities
        if probabilities is None:
            return ImagePrediction(image=classified.image, reason=classified.reason)
        best = np.argsort(-probabilities, kind="stable")[: self.num_top].tolist()
        calibrated = None
        if self.calibrator is not None:
            calibrated = float(self.calibrator.calibrated(probabilities[None]).max())
        return ImagePrediction(
            image=classified.image,
            top=tuple(
                RankedClass(self.classes[index].id, self.classes[index].name, round(value, 6))
                for index, value in zip(best, probabilities[best].tolist(), strict=True)
            ),
            calibrated_probability=None if calibrated is None else round(calibrated, 6),
            is_rejected=calibrated is not None and calibrated < self.reject,
        )


def calibrator_of(run: Trained | StrPath, num_views: int, reject: float | None, fit: Fit | None) -> Calibrator | None:
    """What `reject` needs; None without it. The calibration is logged.

    Raises:
        RequestError: a probability that is not allowed, or a run without saved probabilities (the message says what to
            do).
    """
    if reject is None:
        return None
    if not is_number(reject, 0, 1):
        raise RequestError(f"--reject is {described(reject)}; allowed is a probability from 0 to 1")
    if isinstance(run, Trained):
        raise RequestError("reject needs the probabilities that an evaluation saves in a run folder; give the folder")
    calibrator = calibrator_for(as_path(run, "the run"), num_views)
    _logger.info(calibrator.describe(reject))
    if fit is not None:
        _logger.warning(f"the calibration holds for images that are made square as the run's are, not for --fit {fit}")
    return calibrator


def split_images(data: PreparedData, split: str) -> list[InputImage]:
    """The images of a prepared split, for `classify`; labels are not needed.

    Raises:
        RequestError: there is no such split.
    """
    chosen = data.require_split(split)
    return [InputImage(key, partial(chosen.images.__getitem__, index)) for index, key in enumerate(chosen.keys)]


def named_split(
    images: Sequence[object], split: str | None, fit: Fit | None
) -> tuple[list[InputImage], PreparedData] | None:
    """The images of a split, and the data set, if prepared data sets are named; None if it is something else.

    Args:
        images: what a caller named; several data sets are concatenated.
        split: None is `unlabeled` if it exists, otherwise the evaluation split.
        fit: None: stored images are square.

    Raises:
        RequestError: data sets and other images are named together, there is no such split, a split is asked for where
            no data set is named, or a fit where one is.
    """
    prepared: list[Any] = [one for one in images if _is_prepared(one)]
    if not prepared:
        if split is not None:
            first = images[0] if images else "an empty list"
            name = without_credentials(str(first)) if isinstance(first, str | os.PathLike) else "an image in memory"
            raise RequestError(f"--split is {split}, and {name} is not a prepared data set; omit it")
        return None
    name = str(prepared[0].folder if isinstance(prepared[0], PreparedData) else prepared[0])
    if len(prepared) < len(images):
        raise RequestError(f"{name} is a prepared data set, but other arguments are photographs; give one or the other")
    if fit is not None:
        raise RequestError(f"--fit is {fit}, and the images of {name} are square already; omit it")
    is_open = len(prepared) == 1 and isinstance(prepared[0], PreparedData)
    data: PreparedData = prepared[0] if is_open else open_data(prepared)
    return split_images(data, split or (UNLABELED if UNLABELED in data.splits else data.evaluation_split)), data


def _is_prepared(image: object) -> bool:
    if isinstance(image, PreparedData):
        return True
    name = os.fspath(image) if isinstance(image, str | os.PathLike) else None
    return isinstance(name, str) and os.path.isfile(os.path.join(os.path.expanduser(name), DESCRIPTION_FILE))


def require_fitting(data: PreparedData, trained: Trained) -> None:
    """Refuse a data set whose images have another side than the network's; warn if they were made square otherwise."""
    if data.side != trained.side:
        raise RequestError(
            f"the network was trained on images of {trained.side} pixels, but {data.folder} stores {data.side}; "
            f"prepare the data with --side {trained.side}"
        )
    warn_of_other_fit(data, trained.fit)


@dataclass(frozen=True, eq=False)
class Predictions(Sequence[ImagePrediction]):
    """Predictions for some images, in their order. In a notebook, the first twelve are shown with their pictures, and
    the next six of those that cannot be read.
    """

    predictions: tuple[ImagePrediction, ...]
    probabilities: NDArray[np.float32]
    """(N, K), in the order of `classes`; NaN for images that cannot be read."""
    classes: tuple[ClassInfo, ...]
    _squares: tuple[NDArray[np.uint8] | None, ...]
    """The first images as the network's data set would store them, (S, S, 3); None for those that cannot be read."""

    def __len__(self) -> int:
        return len(self.predictions)

    @overload
    def __getitem__(self, index: int) -> ImagePrediction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ImagePrediction, ...]: ...
    def __getitem__(self, index: int | slice) -> ImagePrediction | tuple[ImagePrediction, ...]:
        return self.predictions[index]

    def __repr__(self) -> str:
        return f"Predictions({len(self):,} images, {self.num_refused:,} of which cannot be read)"

    @property
    def num_refused(self) -> int:
        """Images that cannot be read."""
        return sum(one.reason is not None for one in self.predictions)

    def _repr_html_(self) -> str:
        shown = list(zip(self.predictions, self._squares, strict=False))
        later = (one for one in self.predictions[len(shown) :] if one.reason is not None)
        rows = []
        for one, square in [*shown, *((one, None) for one in itertools.islice(later, NUM_REFUSED_SHOWN))]:
            picture = "" if square is None else picture_html(square, str(one.image), side=96)
            cell: Cell = one.reason or ""
            if one.reason is None:
                bars = [(ranked.name, ranked.probability) for ranked in one.top]
                cell = bars_html(bars, f"unknown, {percent(one)}" if one.is_rejected else "")
            rows.append((picture, str(one.image), cell))
        parts = [table_html(("", "image", "prediction"), rows)] if rows else []
        if len(self) > len(rows):
            more = len(self) - len(rows)
            parts.append(table_html((), [(f"{more:,} more image{'' if more == 1 else 's'}",)]))
        refused = f", {self.num_refused:,} of which cannot be read" if self.num_refused else ""
        return result_html(f"{len(self):,} images{refused}", *parts)


def predict(
    run: Trained | StrPath,
    images: ImageInput | Iterable[ImageInput],
    *,
    views: int = 10,
    top: int | None = None,
    split: str | None = None,
    fit: Fit | None = None,
    reject: float | None = None,
    batch_size: int | None = None,
    device: Device = "auto",
    precision: PrecisionChoice = "auto",
    progress: ShowProgress = None,
) -> Predictions:
    """Predict the classes of images. One that cannot be read does not end the work: its prediction has the reason.

    Args:
        run: a run folder, a weights file, or what `alexnet.load` returned.
        images: one image or many: files, folders, patterns such as `photos/**/*.jpg`, tars, zips, http and https URLs,
            images of Pillow, arrays, tensors, see `list_images`; or a prepared data set, opened or as its folder, or
            several to concatenate. An iterator, such as a generator, is consumed step by step, and has no data sets.
        views: crops of each image, over which probabilities are averaged: 1 (center), 9 or 10.
        top: classes of each prediction; None is five, or all if the network has fewer.
        split: of the prepared data set; None is `unlabeled` if it exists, otherwise `val`, otherwise `test`. The
            predictions' `image` is the image's key.
        fit: how an image is made square: `crop`, `pad` or `squash`; None is the way of the network's data set.
        reject: a probability, 0..1: below it the best calibrated probability means "unknown" (`is_rejected`). It needs
            a run folder that was evaluated with as many views.
        batch_size: views that the network takes at once; None suits the device.
        device: `auto` is a GPU if there is one. The network stays on its own device.
        progress: see `ShowProgress`; a function is called with (images done, images in total); of an iterator both are
            the images done.

    Returns:
        Predictions, with the probabilities of all classes in memory: 4 bytes per image and class. For a million images,
        let `alexnet predict` write lines, or loop over `classify`.

    Raises:
        RequestError: no trained network, or an argument that is not allowed.
        WorkError: the network's scores are not finite.
        TemporaryError: the machine or the drive failed.
    """
    require_num_views(views)
    downloads = Downloads(are_options=False)
    data, num_images = None, None
    with counted("predicting", shown=progress) as update:
        if isinstance(images, Iterator):
            if split is not None:
                raise RequestError(f"--split is {split}, and an iterator is not a prepared data set; omit it")
            listed: Iterable[InputImage] = list_images(images, downloads)
        else:
            named = list(as_images(images))
            listed, data = named_split(named, split, fit) or (list(list_images(named, downloads)), None)
            num_images = len(listed)
        with fitting_ops(FEW_VIEWS if num_images is None else num_images, views):
            trained = run if isinstance(run, Trained) else load_trained(as_path(run, "the run"))
        if data is not None:
            require_fitting(data, trained)
        ranking = Ranking.of(trained, top, calibrator_of(run, views, reject, fit), float(reject or 0))
        chosen_device = choose_device(device)
        predictions: list[ImagePrediction] = []
        probabilities: list[NDArray[np.float32]] = []
        squares: list[NDArray[np.uint8] | None] = []
        unknown = np.full(len(trained.classes), np.nan, np.float32)
        for one in classify(
            trained,
            listed,
            num_views=views,
            batch_size=batch_size,
            device=chosen_device,
            precision=choose_precision(precision, chosen_device),
            fit=fit,
            downloads=downloads,
        ):
            predictions.append(ranking(one))
            probabilities.append(unknown if one.probabilities is None else one.probabilities)
            if len(squares) < NUM_SHOWN:
                squares.append(one.square)
            update(len(predictions), num_images)
    found = np.stack(probabilities) if probabilities else np.empty((0, len(trained.classes)), np.float32)
    return Predictions(tuple(predictions), found, trained.classes, tuple(squares))


def ilsvrc_lines(
    predictions: Iterable[ImagePrediction], trained: Trained, label_order: Sequence[str] | None = None
) -> list[str]:
    """Predictions in the format of the challenge's test server: one line per image, up to five labels, best first.

    Args:
        predictions: all of them, with five classes.
        trained: the network that made them.
        label_order: class ids, starting with the class with label 1; None uses the order of the network's classes.

    Raises:
        RequestError: an image cannot be read, or a class of the network is missing in `label_order`, or appears twice.
    """
    order = [one.id for one in trained.classes] if label_order is None else list(label_order)
    labels = {name: number + 1 for number, name in enumerate(order)}
    if len(labels) != len(order):
        repeated = next(name for name, count in Counter(order).items() if count > 1)
        raise RequestError(f"--label-order names {repeated} twice; allowed is one line per class")
    if missing := [one.id for one in trained.classes if one.id not in labels]:
        raise RequestError(f"--label-order has no line for {', '.join(missing[:5])}, which the network has")
    lines, reasons = [], []
    for one in predictions:
        if one.reason is not None:
            reasons.append(one.reason)
        lines.append(" ".join(str(labels[ranked.id]) for ranked in one.top))
    if reasons:
        raise RequestError(
            f"--format ilsvrc has one line per image, and {len(reasons):,} of {len(lines):,} cannot be read "
            f"({reasons[0]}); fix or delete them, or omit --format ilsvrc"
        )
    return lines


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
