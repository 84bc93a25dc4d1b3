"""From a prepared split to batches: the order is f(seed, epoch), the position is the step number alone.

Nothing is remembered between steps, so a run resumed at step k sees exactly what it would have seen, whatever the
number of threads that make batches and of processes that share them (docs/decisions/012).
"""

import threading
import time
from collections.abc import Generator
from contextlib import closing
from typing import Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from alexnet.data.augment import Batch as Batch
from alexnet.data.augment import crop_margin, draw
from alexnet.data.dataset import Split, Statistics
from alexnet.data.sampler import Batching, epoch_order, repeats, share_of_rank, weighted_order
from alexnet.data.shards import StoredImages, UnreadableSample
from alexnet.errors import RequestError
from alexnet.runs.recipe import DataSettings
from alexnet.system.prefetch import prefetch

OnUnreadable = Literal["stop", "replace"]

UNREADABLE_IN_A_ROW = 100
"""So many samples in a row that cannot be read are no accident: the data set is gone or broken."""


def cut_crops(
    images: StoredImages, samples: NDArray[np.int64], corners: NDArray[np.int16], crop: int
) -> NDArray[np.uint8]:
    """Read one crop of each of some images.

    Args:
        images: (N, S, S, 3).
        samples: int64 (B,), which images.
        corners: int16 (B, 2), row and column of each crop's upper left pixel.
        crop: side of the crops, pixels.

    Returns:
        uint8 (B, crop, crop, 3), contiguous.

    Raises:
        UnreadableSample: one cannot be read.
    """
    if isinstance(images, np.ndarray):
        # Every crop of every image as one strided view whose rows are one run of bytes each, (N, rows, bytes of a row,
        # crop, crop * 3): a batch is one indexing, three times as fast as one with the colors as an axis.
        num, side, width, _ = images.shape
        windows = sliding_window_view(images.reshape(num, side, width * 3), (crop, crop * 3), axis=(1, 2))
        return windows[samples, corners[:, 0], corners[:, 1].astype(np.int64) * 3].reshape(-1, crop, crop, 3)
    cut = np.empty((len(samples), crop, crop, 3), np.uint8)
    for place, (sample, (row, column)) in enumerate(zip(samples.tolist(), corners.tolist(), strict=True)):
        cut[place] = images[sample][row : row + crop, column : column + crop]
    return cut


class Loader:
    """Training batches of one split, made ahead of the consumer by background threads.

    Args:
        split: the images and labels.
        statistics: of the training split, for the color noise.
        settings: crop, corners, mirror, which images share them, order, where batches end, color noise.
        batch_size: samples in a batch of all processes together; the last batch of an epoch, or of one of its files,
            holds what is left.
        seed: of order and draws.
        sample_ids: int64 (M,), the samples to use; None is all of them.
        weights: float64 (M,), how often each of them comes, see `weighted_order`; None serves each once an epoch.
        first_epoch: number of the epoch in which step 0 stands.
        workers: threads that make batches, 1 or more; what they make does not depend on it.
        prefetch: batches under way or ready, 1 or more; None is two more than there are threads.
        rank: which part of each batch this process takes, 0 .. num_ranks-1.
        num_ranks: processes that share each batch.
        on_unreadable: `stop` at a sample that cannot be read, or `replace` it by the next one in stored order.
        pin_memory: lay batches into memory from which a GPU copies while it computes.
        cut: whether batches hold their crops; without, their images are cut on the device (`DeviceImageCache`).

    Attributes:
        waited_s: seconds in which the consumer stood waiting for a batch.

    Raises:
        RequestError: the crop is larger than the images, or no weight is above 0.
    """

    def __init__(
        self,
        split: Split,
        statistics: Statistics,
        settings: DataSettings,
        batch_size: int,
        seed: int,
        *,
        sample_ids: NDArray[np.int64] | None = None,
        weights: NDArray[np.float64] | None = None,
        first_epoch: int = 0,
        workers: int = 1,
        prefetch: int | None = None,
        rank: int = 0,
        num_ranks: int = 1,
        on_unreadable: OnUnreadable = "stop",
        pin_memory: bool = False,
        cut: bool = True,
    ) -> None:
        self._split = split
        self._statistics = statistics
        self._settings = settings
        self._seed = seed
        self._first_epoch = first_epoch
        self._workers = workers
        self._prefetch = workers + 2 if prefetch is None else prefetch
        self._rank, self._num_ranks = rank, num_ranks
        self._on_unreadable = on_unreadable
        self._pin_memory = pin_memory
        self._cut = cut
        self._ids = np.arange(len(split), dtype=np.int64) if sample_ids is None else sample_ids
        self._cuts = Batching(num_images=len(self._ids), batch_size=batch_size, file_images=settings.file_images)
        self._weights = weights
        self._side = int(split.images.shape[1])
        crop_margin(self._side, settings.crop)
        if weights is not None and not weights.any():
            raise RequestError(
                f"no image of these has a weight above 0 ({len(weights):,} images); raise one of --data.class_weights"
            )
        self._ordering = threading.Lock()
        self._ordered: tuple[int, NDArray[np.int64], NDArray[np.int64] | None] = (-1, self._ids, None)
        self.waited_s = 0.0

    @property
    def num_samples(self) -> int:
        """Samples in an epoch."""
        return len(self._ids)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the smaller ones included."""
        return self._cuts.num_batches

    def batch(self, step: int) -> Batch:
        """This process's part of the batch of step `step` (0 or more), counted from the start of the first epoch.

        Raises:
            UnreadableSample: a sample cannot be read, and the policy is to stop, or none of the many stored behind it
                can be read either.
        """
        epochs, place = divmod(step, self.steps_per_epoch)
        epoch, whole = self._first_epoch + epochs, self._cuts.batch(place)
        order, repeated = self._order(epoch)
        own = share_of_rank(len(whole), self._rank, self._num_ranks)
        places = whole[own]
        samples = order[places.start : places.stop]
        groups = None
        if self._settings.crops_shared_by > 1:
            groups = self._cuts.groups(places, self._settings.crops_shared_by)
        draws = draw(
            self._settings,
            self._statistics,
            self._side,
            self._seed,
            epoch,
            samples,
            groups,
            None if repeated is None else repeated[places.start : places.stop],
        )
        served, images, unreadable = self._read(samples, draws.corners)
        batch = Batch(
            images=torch.from_numpy(images),
            labels=torch.from_numpy(self._split.labels[served]),
            samples=torch.from_numpy(served),
            corners=torch.from_numpy(draws.corners),
            mirror=torch.from_numpy(draws.mirror),
            noise=torch.from_numpy(draws.noise),
            unreadable=unreadable,
        )
        return batch.each(torch.Tensor.pin_memory) if self._pin_memory else batch

    def batches(self, first_step: int, last_step: int) -> Generator[Batch, None, None]:
        """The batches of steps first_step .. last_step-1, in order.

        An error of a background thread is raised here. Closing the iterator early ends the threads.
        """
        steps = range(first_step, last_step)
        made = prefetch(self.batch, steps, workers=self._workers, ahead=self._prefetch, name="alexnet-loader")
        with closing(made):
            for _ in steps:
                asked_s = time.perf_counter()
                batch = next(made)
                self.waited_s += time.perf_counter() - asked_s
                yield batch

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """The sample ids of an epoch in order and, where they may repeat, how often each came before.

        The last epoch asked for is kept.
        """
        shuffled = epoch if self._settings.order == "each-epoch" else 0
        with self._ordering:
            kept, order, repeated = self._ordered
            if kept != shuffled:
                if self._settings.order == "stored":
                    order = self._ids
                elif self._weights is None:
                    order = self._ids[epoch_order(len(self._ids), self._seed, shuffled)]
                else:
                    order = self._ids[weighted_order(self._weights, self._seed, shuffled)]
                    repeated = repeats(order)
                self._ordered = (shuffled, order, repeated)
            return order, repeated

    def _read(
        self, samples: NDArray[np.int64], corners: NDArray[np.int16]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8], dict[int, str]]:
        """The samples served, their crops, and what could not be read."""
        if not self._cut:
            return samples.copy(), np.empty((len(samples), 0, 0, 3), np.uint8), {}
        try:
            return samples.copy(), cut_crops(self._split.images, samples, corners, self._settings.crop), {}
        except UnreadableSample as error:
            if self._on_unreadable == "stop":
                raise self._split.named(error) from error
        served = samples.copy()
        images = np.empty((len(samples), self._settings.crop, self._settings.crop, 3), np.uint8)
        unreadable: dict[int, str] = {}
        used = np.sort(self._ids if self._weights is None else self._ids[self._weights > 0])
        most = min(UNREADABLE_IN_A_ROW, len(used))
        for place in range(len(samples)):
            one = slice(place, place + 1)
            for tried in range(1, most + 1):
                try:
                    images[one] = cut_crops(self._split.images, served[one], corners[one], self._settings.crop)
                    break
                except UnreadableSample as error:
                    named = self._split.named(error)
                    if tried == most:
                        text = f"{most} images in a row cannot be read: is the data set whole? The last one: {named}"
                        raise UnreadableSample(text, error.image) from error
                    unreadable[int(served[place])] = str(named)
                    # The one stored next, the first after the last.
                    served[place] = used[np.searchsorted(used, served[place], side="right") % len(used)]
        return served, images, unreadable
