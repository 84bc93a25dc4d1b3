"""A network over a whole split: probabilities averaged over views, and the errors they make."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alexnet.data.augment import MeanAt, View, cut_view, views
from alexnet.data.dataset import ClassInfo, PreparedData
from alexnet.data.shards import UnreadableSample
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.calibration import Calibration, calibration
from alexnet.evaluation.metrics import ErrorCounts, confusion_matrix, count_errors, per_class_counts, wilson_interval
from alexnet.evaluation.predictions import NumViews
from alexnet.model.network import AlexNet
from alexnet.model.sliding import class_maps
from alexnet.parallel.process_group import SINGLE_GROUP, ProcessGroup, cores_per_process
from alexnet.system.device import IMAGES_AT_A_TIME, Precision, arithmetic, images_at_a_time, rounded_weights
from alexnet.system.prefetch import MAX_READERS, prefetch

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What a network does on one split."""

    split: str
    num_views: NumViews
    data_checksum: str
    classes: tuple[ClassInfo, ...]
    counts: ErrorCounts
    per_class: tuple[ErrorCounts, ...]
    """One for each class, in the order of `classes`."""
    confusion: npt.NDArray[np.int64] = field(repr=False, compare=False)
    """(K, K) images by right class (row) and most probable class (column)."""
    probabilities: npt.NDArray[np.float32] = field(repr=False, compare=False)
    """(N, K), averaged over the views, in the split's order."""
    calibration: Calibration
    images_per_second: float | None = field(default=None, compare=False)
    """Images, not views, measured in a second; None where the probabilities were read from a file."""

    @property
    def num_images(self) -> int:
        """Images measured."""
        return self.counts.num

    @property
    def top1_error(self) -> float:
        """Fraction 0..1."""
        return self.counts.top1_error

    @property
    def top5_error(self) -> float:
        """Fraction 0..1."""
        return self.counts.top5_error

    @property
    def mean_class_accuracy(self) -> float:
        """Mean over the classes that have images of the fraction rightly named, 0..1; a tie counts as in errors."""
        found = [1 - one.top1_error for one in self.per_class if one.num]
        return sum(found) / len(found)

    @property
    def loss(self) -> float:
        """Mean of -ln p(right class), nats."""
        return self.counts.loss

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % interval of the top-1 error, fractions 0..1."""
        return wilson_interval(self.counts.top1_wrong, self.counts.num)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """95 % interval of the top-5 error, fractions 0..1."""
        return wilson_interval(self.counts.top5_wrong, self.counts.num)

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as one JSON object: errors are fractions, intervals `[low, high]` of 95 %.

        `classes_absent` is the number of classes without images; `calibration` is `Calibration.to_dict`. `per_class`
        has one object a class (`top1_error` null for a class without images); `confused_pairs` the filled places of
        the confusion matrix off its diagonal, most images first.
        """
        pairs = sorted(
            (-int(self.confusion[right, guess]), int(right), int(guess))
            for right, guess in zip(*np.nonzero(self.confusion), strict=True)
            if right != guess
        )
        return {
            "split": self.split,
            "num_views": self.num_views,
            "num_images": self.num_images,
            "num_classes": len(self.classes),
            "classes_absent": sum(counts.num == 0 for counts in self.per_class),
            "top1_error": self.top1_error,
            "top1_interval": list(self.top1_interval),
            "top5_error": self.top5_error,
            "top5_interval": list(self.top5_interval),
            "mean_class_accuracy": self.mean_class_accuracy,
            "loss": self.loss,
            "calibration": self.calibration.to_dict(),
            "images_per_second": self.images_per_second,
            "data_checksum": self.data_checksum,
            "per_class": [
                {
                    "id": one.id,
                    "name": one.name,
                    "num_images": counts.num,
                    "top1_error": counts.top1_error if counts.num else None,
                }
                for one, counts in zip(self.classes, self.per_class, strict=True)
            ],
            "confused_pairs": [
                {"true": self.classes[right].id, "predicted": self.classes[guess].id, "num_images": -count}
                for count, right, guess in pairs
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
) -> npt.NDArray[np.float32]:
    """Class probabilities of every image of a split: the softmax of each view, averaged arithmetically.

    Each image is read once for all its views. The network is left in the mode, training or evaluation, in
    which it came; it must already be on `device`.

    Args:
        crop: side of the view, pixels; at most the data set's side.
        num_views: 1 (center), 9 (three by three), 10 (corners and center, each also mirrored), or `dense`: the softmax
            at every place of the whole stored image and of its mirror image, averaged (`class_maps`).
        mean_image: float32 (S, S, 3), 0..255, what the network was trained with; None takes the data set's own.
        mean_at: which part of the mean image a view loses, as the network was trained. With `dense` the whole image
            loses the whole mean image, mirrored with it or (`center`) not, so each place loses its own part.
        batch_size: images at a time; None is what suits the device, of several processes always as many. The result
            does not depend on it but for rounding.
        precision: arithmetic of the network; the softmax and the average are always float32.
        progress: called with (images done, images in all) after each batch.
        processes: those that share the split's batches; all of them get the whole result.

    Returns:
        float32 (N, K), rows sum to 1, in the split's order.

    Raises:
        RequestError: unknown split, a split without images, a number of views or a crop that is not allowed, a
            mean image of another side, or `dense` for a network that cannot be slid.
        WorkError: the network gives scores that are not finite, or for another number of classes.
        UnreadableSample: an image cannot be read.

    Paper: section 4.1.
    """
    if split not in data.splits:
        raise RequestError(f"{data.folder} has no split {split!r}; it has {', '.join(data.splits)}")
    images = data.splits[split].images
    if len(images) == 0:
        raise RequestError(f"split {split!r} of {data.folder} has no images; choose another split")
    if not 1 <= crop <= data.side:
        raise RequestError(f"the crop is {crop} pixels; allowed is 1 to {data.side}, the side of the stored images")
    device = torch.device(device)
    if mean_image is None:
        mean_image = torch.from_numpy(np.array(data.statistics.mean_image))
    if mean_image.shape != (data.side, data.side, 3):
        raise RequestError(
            f"the network's mean image has shape {tuple(mean_image.shape)} and {data.folder} stores images of "
            f"{data.side} pixels; prepare the data with --side {mean_image.shape[0]}"
        )
    mean_image = mean_image.to(device)
    scored, seen_px, chosen = _ways_to_look(network, num_views, data.side, crop)
    num_axes = 4 if num_views == "dense" else 2
    if batch_size is None:
        batch_size = images_at_a_time(device, data.side) if processes.size == 1 else IMAGES_AT_A_TIME
    probabilities = np.zeros((len(images), data.num_classes), np.float32)
    firsts = [first for number, first in enumerate(range(0, len(images), batch_size)) if processes.owns_batch(number)]

    def read(first: int) -> torch.Tensor:
        try:
            # The store is mapped read-only: the batch is copied before torch sees it.
            batch = torch.from_numpy(np.array(images[first : first + batch_size]))
        except UnreadableSample as error:
            raise UnreadableSample(
                f"{data.splits[split].key(error.image)} of split {split!r}, which is measured whole or not at all: "
                f"{error}",
                error.image,
            ) from error
        return batch.pin_memory() if device.type == "cuda" else batch

    # A processor's cores are the network's: one thread is enough to have the next batch ready.
    readers = 1 if device.type == "cpu" else min(cores_per_process(), MAX_READERS)
    read_ahead = prefetch(read, firsts, workers=readers, ahead=readers + 1, name="alexnet-evaluation")
    was_training = network.training
    network.eval()
    try:
        with closing(read_ahead), torch.inference_mode(), rounded_weights(network, precision):
            for first, images_read in zip(firsts, read_ahead, strict=True):
                batch = images_read.to(device, non_blocking=True)  # (B, S, S, 3)
                total = torch.zeros(len(batch), data.num_classes, device=device)
                for view in chosen:
                    with arithmetic(device, precision):
                        scores = scored(cut_view(batch, view, seen_px, mean_image, mean_at))  # (B, K) or (B, K, h, w)
                    if scores.dim() != num_axes or scores.shape[:2] != total.shape:
                        raise WorkError(
                            f"the network scores {scores.shape[1 - num_axes]} classes and {data.folder} has "
                            f"{data.num_classes}; measure it on the data set it was trained on"
                        )
                    total += scores.float().softmax(dim=1).reshape(*total.shape, -1).mean(dim=2)
                probabilities[first : first + len(batch)] = (total / len(chosen)).cpu().numpy()
                if progress is not None:
                    progress(first + len(batch), len(images))
    finally:
        network.train(was_training)
    probabilities = processes.sum_rows(probabilities)
    num_lost = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if num_lost:
        raise WorkError(
            f"the network gives no finite scores for {num_lost} of {len(images)} images of split {split!r}: "
            "its training has diverged; train again with a lower rate"
        )
    return probabilities


def _ways_to_look(
    network: torch.nn.Module, num_views: NumViews, side: int, crop: int
) -> tuple[Callable[[torch.Tensor], torch.Tensor], int, list[View]]:
    """What scores a view, the view's side in pixels, and the views."""
    if num_views != "dense":
        return network, crop, views(num_views, side, crop)
    if not isinstance(network, AlexNet):
        raise RequestError(
            f"dense views slide the layers of an AlexNet over the image, and this is a {type(network).__name__}; "
            "choose 1, 9 or 10 views"
        )
    return partial(class_maps, network), side, [View(0, 0, mirrored) for mirrored in (False, True)]


def evaluate_probabilities(
    probabilities: npt.NDArray[np.float32],
    data: PreparedData,
    split: str,
    num_views: NumViews,
    images_per_second: float | None = None,
) -> Evaluation:
    """The errors that probabilities (N, K), in the split's order, make on it."""
    labels = np.asarray(data.splits[split].labels)
    return Evaluation(
        split=split,
        num_views=num_views,
        data_checksum=data.checksum,
        classes=tuple(data.classes),
        counts=count_errors(probabilities, labels),
        per_class=tuple(per_class_counts(probabilities, labels)),
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
) -> Evaluation:
    """Predict a whole split and count its errors; arguments and errors as in `predict_split`."""
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
    )
    duration_s = time.perf_counter() - start_s
    return evaluate_probabilities(probabilities, data, split, num_views, len(probabilities) / duration_s)
