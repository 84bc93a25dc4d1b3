"""Training batches of a prepared split: a batch depends on the seed and the step number alone.

No state is kept between steps, so a run resumed at step k gets exactly the batches that it would have had,
for any number of threads that make batches and of processes that share them (docs/decisions/012).
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

from alexnet.data.augment import Batch, crop_margin, draw
from alexnet.data.dataset import Split, Statistics
from alexnet.data.sampler import Batching, earlier_occurrences, epoch_order, rank_slice, weighted_order
from alexnet.data.shards import StoredImages, UnreadableSample
from alexnet.errors import RequestError
from alexnet.runs.recipe import DataSettings
from alexnet.system.prefetch import prefetch

OnUnreadable = Literal["stop", "replace"]

UNREADABLE_IN_A_ROW = 100
"""This many unreadable samples in a row mean that the data set itself is missing or broken."""


def read_crops(
    images: StoredImages, samples: NDArray[np.int64], corners: NDArray[np.int16], crop: int
) -> NDArray[np.uint8]:
    """Read a crop of each of some images.

    Args:
        images: (N, S, S, 3).
        samples: int64 (B,), which images.
        corners: int16 (B, 2), row and column of each crop's top left pixel.
        crop: side of the crops, pixels.

    Returns:
        uint8 (B, crop, crop, 3), contiguous.

    Raises:
        UnreadableSample: one cannot be read.
    """
    if isinstance(images, np.ndarray):
        # All crops of all images as one strided view whose rows are contiguous, (N, rows, bytes of a row, crop,
        # crop * 3): indexing it once gives a batch, three times as fast as with an axis of colors.
        num, side, width, _ = images.shape
        windows = sliding_window_view(images.reshape(num, side, width * 3), (crop, crop * 3), axis=(1, 2))
        return windows[samples, corners[:, 0], corners[:, 1].astype(np.int64) * 3].reshape(-1, crop, crop, 3)
    return images.crops(samples, corners, crop)


class Loader:
    """Training batches of a split, made ahead by background threads.

    Args:
        split: the images and labels.
        statistics: of the training split, for the color noise.
        settings: crop, corners, mirror, which images share them, order, where batches end, color noise.
        batch_size: samples in a batch, over all processes; the last batch of an epoch, or of a file in it, may have
            fewer.
        seed: of the order and the augmentation.
        sample_ids: int64 (M,), the samples to use; None is all.
        weights: float64 (M,), of each of these samples, see `weighted_order`; None uses each once per epoch.
        first_epoch: number of the epoch of step 0.
        workers: threads that make batches, 1 or more; two batches more than threads are in progress or ready. The
            batches do not depend on it.
        rank: which slice of each batch this process takes, 0 .. num_ranks-1.
        num_ranks: processes that share each batch.
        on_unreadable: `stop` at an unreadable sample, or `replace` it by the next one in stored order.
        pin_memory: whether to put batches in pinned memory, from which a GPU copies while it computes.
        with_images: whether batches hold their crops; without, the device takes the crops from its own images
            (`DeviceImageCache`).

    Attributes:
        waited_s: seconds that the consumer waited for batches.

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
        rank: int = 0,
        num_ranks: int = 1,
        on_unreadable: OnUnreadable = "stop",
        pin_memory: bool = False,
        with_images: bool = True,
    ) -> None:
        self._split = split
        self._statistics = statistics
        self._settings = settings
        self._seed = seed
        self._first_epoch = first_epoch
        self._workers = workers
        self._rank, self._num_ranks = rank, num_ranks
        self._on_unreadable = on_unreadable
        self._pin_memory = pin_memory
        self._with_images = with_images
        self._ids = np.arange(len(split), dtype=np.int64) if sample_ids is None else sample_ids
        self._batching = Batching(num_images=len(self._ids), batch_size=batch_size, file_images=settings.file_images)
        self._weights = weights
        self._side = int(split.images.shape[1])
        crop_margin(self._side, settings.crop)
        if weights is not None and not weights.any():
            raise RequestError(
                f"none of these {len(weights):,} images has a weight above 0; raise one of --data.class_weights"
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
        return self._batching.num_batches

    def batch(self, step: int) -> Batch:
        """This process's slice of the batch of step `step` (0 or more), counted from the start of the first epoch.

        Raises:
            UnreadableSample: a sample cannot be read, and the policy is to stop, or the many samples after it cannot
                be read either.
        """
        epochs, index = divmod(step, self.steps_per_epoch)
        epoch, whole = self._first_epoch + epochs, self._batching.batch(index)
        order, earlier = self._order(epoch)
        own = rank_slice(len(whole), self._rank, self._num_ranks)
        positions = whole[own]
        samples = order[positions.start : positions.stop]
        groups = None
        if self._settings.crops_shared_by > 1:
            groups = self._batching.groups(positions, self._settings.crops_shared_by)
        draws = draw(
            self._settings,
            self._statistics,
            self._side,
            self._seed,
            epoch,
            samples,
            groups,
            None if earlier is None else earlier[positions.start : positions.stop],
        )
        chosen, images, unreadable = self._read(samples, draws.corners)
        batch = Batch(
            images=torch.from_numpy(images),
            labels=torch.from_numpy(self._split.labels[chosen]),
            samples=torch.from_numpy(chosen),
            corners=torch.from_numpy(draws.corners),
            mirror=torch.from_numpy(draws.mirror),
            noise=torch.from_numpy(draws.noise),
            unreadable=unreadable,
        )
        return batch.map(torch.Tensor.pin_memory) if self._pin_memory else batch

    def batches(self, first_step: int, last_step: int) -> Generator[Batch, None, None]:
        """The batches of steps first_step .. last_step-1, in order.

        Errors in background threads are raised here. Closing the generator early ends the threads.
        """
        steps = range(first_step, last_step)
        batches = prefetch(self.batch, steps, workers=self._workers, ahead=self._workers + 2, name="alexnet-loader")
        with closing(batches):
            for _ in steps:
                start_s = time.perf_counter()
                batch = next(batches)
                self.waited_s += time.perf_counter() - start_s
                yield batch

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """The sample ids of an epoch in order and, if they may repeat, how often each occurs earlier in the epoch.

        The latest epoch is cached.
        """
        shuffled = epoch if self._settings.order == "each-epoch" else 0
        with self._ordering:
            kept, order, earlier = self._ordered
            if kept != shuffled:
                if self._settings.order == "stored":
                    order = self._ids
                elif self._weights is None:
                    order = self._ids[epoch_order(len(self._ids), self._seed, shuffled)]
                else:
                    order = self._ids[weighted_order(self._weights, self._seed, shuffled)]
                    earlier = earlier_occurrences(order)
                self._ordered = (shuffled, order, earlier)
            return order, earlier

    def _read(
        self, samples: NDArray[np.int64], corners: NDArray[np.int16]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8], dict[int, str]]:
        """The samples used, their crops, and the unreadable samples with reasons."""
        chosen = samples.copy()
        if not self._with_images:
            return chosen, np.empty((len(samples), 0, 0, 3), np.uint8), {}
        try:
            return chosen, read_crops(self._split.images, samples, corners, self._settings.crop), {}
        except UnreadableSample as error:
            if self._on_unreadable == "stop":
                raise self._split.with_key(error) from error
        images = np.empty((len(samples), self._settings.crop, self._settings.crop, 3), np.uint8)
        unreadable: dict[int, str] = {}
        used = np.sort(self._ids if self._weights is None else self._ids[self._weights > 0])
        most = min(UNREADABLE_IN_A_ROW, len(used))
        for index in range(len(samples)):
            one = slice(index, index + 1)
            for tried in range(1, most + 1):
                try:
                    images[one] = read_crops(self._split.images, chosen[one], corners[one], self._settings.crop)
                    break
                except UnreadableSample as error:
                    named = self._split.with_key(error)
                    if tried == most:
                        text = f"{most} images in a row cannot be read: is the data set complete? The last one: {named}"
                        raise UnreadableSample(text, error.image) from error
                    unreadable[int(chosen[index])] = str(named)
                    # The next one in stored order; after the last one the first.
                    chosen[index] = used[np.searchsorted(used, chosen[index], side="right") % len(used)]
        return chosen, images, unreadable
