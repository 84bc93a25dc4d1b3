"""Evaluate a network on a split: probabilities averaged over views, and the metrics computed from them."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alexnet.data.augment import MeanAt, View, views
from alexnet.data.dataset import ClassInfo, PreparedData
from alexnet.data.shards import UnreadableSample
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.calibration import Calibration, calibration
from alexnet.evaluation.metrics import (
    METRICS,
    ErrorCounts,
    MetricInputs,
    confusion_matrix,
    count_errors,
    per_class_counts,
)
from alexnet.evaluation.predictions import NumViews, describe_views
from alexnet.evaluation.view_probabilities import DIVERGED, view_probabilities
from alexnet.figures.notebook_html import Cell, result_html, table_html
from alexnet.parallel.process_group import SINGLE_GROUP, ProcessGroup, cores_per_process
from alexnet.system.device import EVALUATION_BATCH_SIZE, Precision, evaluation_batch_size
from alexnet.system.prefetch import MAX_READERS, prefetch

Progress = Callable[[int, int], None]
NUM_WORST_CLASSES = 10
"""Classes that a notebook shows of an evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """A network's results on one split."""

    split: str
    num_views: NumViews
    num_images: int
    data_checksum: str
    classes: tuple[ClassInfo, ...]
    metrics: Mapping[str, float]
    """By the keys of `METRICS`."""
    intervals: Mapping[str, tuple[float, float]]
    """95 % intervals of the metrics that have one, by `Metric.interval_key`."""
    per_class: tuple[ErrorCounts, ...]
    """One for each class, in the order of `classes`."""
    confusion: npt.NDArray[np.int64] = field(repr=False, compare=False)
    """(K, K) images by true class (row) and most probable class (column)."""
    probabilities: npt.NDArray[np.float32] = field(repr=False, compare=False)
    """(N, K), averaged over the views, in the split's order."""
    calibration: Calibration
    images_per_second: float | None = field(default=None, compare=False)
    """Images, not views, per second; None if the probabilities were not computed here."""

    def __repr__(self) -> str:
        says_something = METRICS["top5_error"].says_something(len(self.classes))
        top5 = f", top-5 error {100 * self.top5_error:.2f} %" if says_something else ""
        return (
            f"Evaluation({self.split}: {self.num_images:,} images, {describe_views(self.num_views)}, "
            f"top-1 error {100 * self.top1_error:.2f} %{top5})"
        )

    def _repr_html_(self) -> str:
        rows: list[list[Cell]] = []
        for key, metric in METRICS.items():
            scale, unit = (100, " %") if metric.unit == "percent" else (1, "")
            if not metric.says_something(len(self.classes)):
                few = metric.least_classes - 1
                rows.append([metric.title, "–", f"0 by definition with {few} classes or fewer"])
                continue
            interval = self.intervals.get(metric.interval_key or "", ())
            span = " to ".join(f"{scale * one:.2f}" for one in interval)
            rows.append([metric.title, f"{scale * self.metrics[key]:.2f}{unit}", f"{span}{unit}" if span else ""])
        counted = [
            (counts.top1_error, one.name, counts.num_images)
            for one, counts in zip(self.classes, self.per_class, strict=True)
            if counts.num_images
        ]
        worst = sorted(counted, key=lambda one: -one[0])[:NUM_WORST_CLASSES]
        return result_html(
            f"split {self.split}, {self.num_images:,} images, {describe_views(self.num_views)}",
            table_html(["metric", "value", "95 % interval"], rows),
            table_html(
                ["class", "images", "top-1 error"],
                [[name, number, f"{100 * error:.2f} %"] for error, name, number in worst],
                caption=f"classes with the highest error, {len(worst)} of {len(counted):,}",
            ),
        )

    @property
    def top1_error(self) -> float:
        """Fraction 0..1."""
        return self.metrics["top1_error"]

    @property
    def top5_error(self) -> float:
        """Fraction 0..1."""
        return self.metrics["top5_error"]

    @property
    def loss(self) -> float:
        """Mean of -ln p(true class), nats."""
        return self.metrics["loss"]

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as one JSON object: each metric under its key, 95 % intervals as `[low, high]`.

        `classes_absent` is the number of classes without images; `calibration` is `Calibration.to_dict`. `per_class`
        has one object per class (`top1_error` null for a class without images). `confused_pairs` lists the nonzero
        off-diagonal cells of the confusion matrix, most images first.
        """
        pairs = sorted(
            (-int(self.confusion[true, predicted]), int(true), int(predicted))
            for true, predicted in zip(*np.nonzero(self.confusion), strict=True)
            if true != predicted
        )
        return {
            "split": self.split,
            "num_views": self.num_views,
            "num_images": self.num_images,
            "num_classes": len(self.classes),
            "classes_absent": sum(counts.num_images == 0 for counts in self.per_class),
            **self.metrics,
            **{key: list(interval) for key, interval in self.intervals.items()},
            "calibration": self.calibration.to_dict(),
            "images_per_second": self.images_per_second,
            "data_checksum": self.data_checksum,
            "per_class": [
                {
                    "id": one.id,
                    "name": one.name,
                    "num_images": counts.num_images,
                    "top1_error": counts.top1_error if counts.num_images else None,
                }
                for one, counts in zip(self.classes, self.per_class, strict=True)
            ],
            "confused_pairs": [
                {"true": self.classes[true].id, "predicted": self.classes[predicted].id, "num_images": -count}
                for count, true, predicted in pairs
            ],
        }


def predict_split(
    network: torch.nn.Module,
    data: PreparedData,
    split: str,
    crop: int,
    num_views: NumViews,
    *,
    mean_image: torch.Tensor | None = None,
    mean_at: MeanAt = "crop",
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    progress: Progress | None = None,
    processes: ProcessGroup = SINGLE_GROUP,
    center: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Class probabilities of every image of a split: the arithmetic mean of the softmax over the views.

    Each image is read once for all its views. The network must already be on `device`; its training or evaluation
    mode is restored afterwards.

    Args:
        crop: side of a view, pixels; at most the data set's side.
        num_views: 1 (center), 9 (three by three), 10 (corners and center, each also mirrored), or `dense`: the mean
            softmax over all positions of the whole stored image and of its mirror image (`class_maps`).
        mean_image: float32 (S, S, 3), 0..255, that the network was trained with; None uses the data set's.
        mean_at: which part of the mean image is subtracted from a view, as in training. With `dense` the whole mean
            image is subtracted from the whole image, so each position loses its own part; it is mirrored with the
            image, except for `center`.
        batch_size: images per batch; None suits the device, and is the same for any number of processes above one.
            The result depends on it only by rounding.
        precision: of the network; softmax and mean are always float32.
        progress: called with (images done, total images) after each batch.
        processes: those that share the split's batches; all of them return the whole result.
        center: float32 (N, K), receives the probabilities of the center alone, which is one of 9 or 10 views.

    Returns:
        float32 (N, K), rows sum to 1, in the split's order.

    Raises:
        RequestError: unknown split, a split without images, a number of views or a crop that is not allowed, a
            mean image of another side, or `dense` for a network that cannot slide over a larger image.
        WorkError: the network's scores are not finite, or are for another number of classes.
        UnreadableSample: an image cannot be read.

    Paper: section 4.1.
    """
    images = data.require_split(split).images
    if len(images) == 0:
        raise RequestError(f"split {split!r} of {data.folder} has no images; choose another split")
    if not 1 <= crop <= data.side:
        raise RequestError(f"the crop is {crop} pixels; allowed is 1 to {data.side}, the side of the stored images")
    device = torch.device(device)
    if mean_image is None:
        mean_image = torch.from_numpy(np.array(data.statistics.mean_image))
    if mean_image.shape != (data.side, data.side, 3):
        raise RequestError(
            f"the network's mean image has shape {tuple(mean_image.shape)}, but {data.folder} stores images of "
            f"{data.side} pixels; prepare the data with --side {mean_image.shape[0]}"
        )
    if batch_size is None:
        batch_size = evaluation_batch_size(device, data.side) if processes.size == 1 else EVALUATION_BATCH_SIZE
    probabilities = np.zeros((len(images), data.num_classes), np.float32)
    starts = [start for number, start in enumerate(range(0, len(images), batch_size)) if processes.owns_batch(number)]

    def read(start: int) -> torch.Tensor:
        try:
            batch = torch.from_numpy(np.require(images[start : start + batch_size], requirements=["C", "W"]))
        except UnreadableSample as error:
            raise UnreadableSample(
                f"{data.splits[split].keys[error.image]} of split {split!r} cannot be read, and a split is evaluated "
                f"as a whole or not at all: {error}",
                error.image,
            ) from error
        return batch.pin_memory() if device.type == "cuda" else batch

    # On a CPU the network needs the cores: one thread is enough to have the next batch ready.
    readers = 1 if device.type == "cpu" else min(cores_per_process(), MAX_READERS)
    batches = prefetch(read, starts, workers=readers, ahead=readers + 1, name="alexnet-evaluation")
    average = view_probabilities(
        network,
        num_views,
        data.side,
        crop,
        mean_image,
        mean_at,
        num_classes=data.num_classes,
        classes_in=data.folder,
        device=device,
        precision=precision,
    )
    (center_view,) = views(1, data.side, crop)
    if center is not None:
        center[:] = 0

    def keep_center(start: int, view: View, found: torch.Tensor) -> None:
        if center is not None and view == center_view:
            center[start : start + len(found)] = found.cpu().numpy()

    with closing(batches), average as probabilities_of:
        for start, batch in zip(starts, batches, strict=True):
            found = probabilities_of(batch, each=partial(keep_center, start))
            probabilities[start : start + len(batch)] = found.cpu().numpy()
            if progress is not None:
                progress(start + len(batch), len(images))
    probabilities = processes.sum_rows(probabilities)
    if center is not None:
        center[:] = processes.sum_rows(center)
    num_lost = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if num_lost:
        raise WorkError(
            f"the network's scores are not finite for {num_lost} of {len(images)} images of split {split!r}: {DIVERGED}"
        )
    return probabilities


def evaluate_probabilities(
    probabilities: npt.NDArray[np.float32],
    data: PreparedData,
    split: str,
    num_views: NumViews,
    images_per_second: float | None = None,
) -> Evaluation:
    """Compute every metric from probabilities (N, K), in the split's order."""
    labels = np.asarray(data.splits[split].labels)
    inputs = MetricInputs(
        probabilities=probabilities,
        labels=labels,
        counts=count_errors(probabilities, labels),
        per_class=tuple(per_class_counts(probabilities, labels)),
    )
    return Evaluation(
        split=split,
        num_views=num_views,
        num_images=len(labels),
        data_checksum=data.checksum,
        classes=tuple(data.classes),
        metrics={key: metric.compute(inputs) for key, metric in METRICS.items()},
        intervals={
            metric.interval_key: metric.interval(inputs)
            for metric in METRICS.values()
            if metric.interval_key and metric.interval
        },
        per_class=inputs.per_class,
        confusion=confusion_matrix(probabilities, labels),
        probabilities=probabilities,
        calibration=calibration(probabilities, labels),
        images_per_second=images_per_second,
    )


def evaluate_split(
    network: torch.nn.Module,
    data: PreparedData,
    split: str,
    crop: int,
    num_views: NumViews,
    *,
    mean_image: torch.Tensor | None = None,
    mean_at: MeanAt = "crop",
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    progress: Progress | None = None,
    processes: ProcessGroup = SINGLE_GROUP,
    center: npt.NDArray[np.float32] | None = None,
) -> Evaluation:
    """Predict a whole split and compute the metrics; arguments and errors as in `predict_split`.

    Raises:
        RequestError: also if images of the split have no label.
    """
    data.require_labels(split)
    start_s = time.perf_counter()
    probabilities = predict_split(
        network,
        data,
        split,
        crop,
        num_views,
        mean_image=mean_image,
        mean_at=mean_at,
        batch_size=batch_size,
        device=device,
        precision=precision,
        progress=progress,
        processes=processes,
        center=center,
    )
    duration_s = time.perf_counter() - start_s
    return evaluate_probabilities(probabilities, data, split, num_views, len(probabilities) / duration_s)
