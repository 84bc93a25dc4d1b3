"""From a prepared split to batches: the order is f(seed, epoch), the position is the step number alone.

Nothing is remembered between steps, so a run resumed at step k sees exactly what it would have seen.
"""

import queue
import threading
from collections.abc import Generator

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from alexnet.data.augment import Batch as Batch
from alexnet.data.augment import crop_margin, draw
from alexnet.data.prepared import Split, Statistics
from alexnet.data.shards import StoredImages
from alexnet.errors import RequestError
from alexnet.runs.recipe import DataSettings

STOP_CHECK_S = 0.1


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch: a permutation of 0 .. num_samples-1, int64, a function of (seed, epoch) alone."""
    key = np.array([seed, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(num_samples).astype(np.int64)


def class_balanced_subset(labels: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Choose `size` samples, as equal in number per class as can be.

    Args:
        labels: (N,).
        size: 1 .. N.
        seed: another seed, another choice.

    Returns:
        int64 (size,), indices into `labels`, ascending.

    Raises:
        RequestError: `size` is below 1 or above N.
    """
    if not 1 <= size <= len(labels):
        raise RequestError(
            f"--data.subset is {size} and the training split has {len(labels)} images; allowed is 1 up to that"
        )
    shuffled = epoch_order(len(labels), seed, 0)
    by_class = np.argsort(labels[shuffled], kind="stable")
    counts = np.unique(labels, return_counts=True)[1]
    # Place of each sample within its class; the lowest places of all classes are taken first.
    place = np.empty(len(labels), np.int64)
    place[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(shuffled[np.argsort(place, kind="stable")[:size]])


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
    """
    if isinstance(images, np.ndarray):
        # Every crop of every image as one strided view, (N, rows, columns, crop, crop, 3): a batch is one indexing.
        windows = sliding_window_view(images, (crop, crop), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
        return np.ascontiguousarray(windows[samples, corners[:, 0], corners[:, 1]])
    cut = np.empty((len(samples), crop, crop, 3), np.uint8)
    for place, (sample, (row, column)) in enumerate(zip(samples.tolist(), corners.tolist(), strict=True)):
        cut[place] = images.decode(sample)[row : row + crop, column : column + crop]
    return cut


class Loader:
    """Training batches of one split, prepared ahead of the consumer by a background thread.

    Args:
        split: the images and labels.
        statistics: of the training split, for the colour noise.
        settings: crop, corners, mirror, which images share them, order, colour noise.
        batch_size: samples in a batch; the last batch of an epoch holds what is left.
        seed: of order and draws.
        sample_ids: int64 (M,), the samples to use; None is all of them.
        first_epoch: number of the epoch in which step 0 stands.
        prefetch: batches kept ready, 1 or more.

    Raises:
        RequestError: the crop is larger than the images.
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
        first_epoch: int = 0,
        prefetch: int = 4,
    ) -> None:
        self._split = split
        self._statistics = statistics
        self._settings = settings
        self._batch_size = batch_size
        self._seed = seed
        self._first_epoch = first_epoch
        self._prefetch = prefetch
        self._ids = np.arange(len(split), dtype=np.int64) if sample_ids is None else sample_ids
        self._side = int(split.images.shape[1])
        crop_margin(self._side, settings.crop)
        self._ordered: tuple[int, NDArray[np.int64]] = (-1, self._ids)

    @property
    def num_samples(self) -> int:
        """Samples in an epoch."""
        return len(self._ids)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the last, smaller one included."""
        return -(-len(self._ids) // self._batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of step `step` (0 or more), counted from the start of the first epoch."""
        epochs, place = divmod(step, self.steps_per_epoch)
        epoch, first = self._first_epoch + epochs, place * self._batch_size
        samples = self._order(epoch)[first : first + self._batch_size]
        groups = None
        if self._settings.crops_shared_by > 1:
            groups = np.arange(first, first + len(samples)) // self._settings.crops_shared_by
        draws = draw(self._settings, self._statistics, self._side, self._seed, epoch, samples, groups)
        return Batch(
            images=torch.from_numpy(cut_crops(self._split.images, samples, draws.corners, self._settings.crop)),
            labels=torch.from_numpy(self._split.labels[samples]),
            samples=torch.from_numpy(samples.copy()),
            corners=torch.from_numpy(draws.corners),
            mirror=torch.from_numpy(draws.mirror),
            noise=torch.from_numpy(draws.noise),
        )

    def batches(self, first_step: int, last_step: int) -> Generator[Batch, None, None]:
        """The batches of steps first_step .. last_step-1, in order.

        An error of the background thread is raised here. Closing the iterator early ends the thread.
        """
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(self._prefetch)
        stopped = threading.Event()

        def hand_over(item: Batch | BaseException | None) -> bool:
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=STOP_CHECK_S)
                    return True
                except queue.Full:
                    continue
            return False

        def produce() -> None:
            try:
                for step in range(first_step, last_step):
                    if not hand_over(self.batch(step)):
                        return
                hand_over(None)
            except BaseException as error:
                hand_over(error)

        producer = threading.Thread(target=produce, name="alexnet-loader", daemon=True)
        producer.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            producer.join()

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The sample ids of an epoch in order; the last one asked for is kept."""
        shuffled = 0 if self._settings.order == "once" else epoch
        kept, order = self._ordered
        if kept != shuffled:
            order = self._ids[epoch_order(len(self._ids), self._seed, shuffled)]
            self._ordered = (shuffled, order)
        return order
