"""Which samples an epoch has, in what order and in which batches: a function of (seed, epoch) alone.

N samples of the data set, M positions in an epoch. No state is kept between epochs, so that any process can start at
any epoch. `evenly_spaced` chooses a few to look at.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How the images of an epoch, in their order, are divided into batches."""

    num_images: int
    batch_size: int
    file_images: int = 0
    """No batch spans two files of this many consecutive images, as in the original source, whose batches end with its
    files; the last batch of each file holds its remaining images. 0: the epoch is one file."""

    @property
    def num_batches(self) -> int:
        """Batches in an epoch, the smaller ones included."""
        files, rest = divmod(self.num_images, self._file_size)
        return files * self._batches_of(self._file_size) + self._batches_of(rest)

    def batch(self, index: int) -> range:
        """Positions in the epoch of the images of batch `index`, 0 .. num_batches-1."""
        file, within = divmod(index, self._batches_of(self._file_size))
        begin = file * self._file_size + within * self.batch_size
        return range(begin, min(begin + self.batch_size, (file + 1) * self._file_size, self.num_images))

    def groups(self, positions: range, size: int) -> NDArray[np.int64]:
        """The group of each of some positions of the epoch: groups are of `size` images, and none spans two files."""
        files, within = np.divmod(np.asarray(positions, np.int64), self._file_size)
        per_file = -(-self._file_size // size)
        groups: NDArray[np.int64] = files * per_file + within // size
        return groups

    @property
    def _file_size(self) -> int:
        return self.file_images or max(1, self.num_images)

    def _batches_of(self, images: int) -> int:
        return -(-images // self.batch_size)


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch: a permutation of 0 .. num_samples-1, int64, a function of (seed, epoch) alone."""
    return _generator(seed, epoch).permutation(num_samples).astype(np.int64)


def weighted_order(weights: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """An epoch in which samples occur in proportion to their weights.

    The epoch has N positions: a sample with the fraction w of all weights occurs floor(N w) or floor(N w) + 1 times,
    and N w times on average over the epochs (systematic sampling). Each epoch draws anew which samples are rounded up.

    Args:
        weights: (N,), 0 or more, not all 0.
        seed: 0 .. 2^64-1.
        epoch: 0 or more.

    Returns:
        int64 (N,), indices into `weights`.
    """
    generator = _generator(seed, epoch)
    shuffled = generator.permutation(len(weights))
    reached = np.cumsum(weights[shuffled])
    ends = np.floor(reached * (len(weights) / reached[-1]) + generator.random())
    # Regardless of rounding: as many positions as samples, and none for samples without weight.
    ends = np.minimum(ends, len(weights)).astype(np.int64)
    ends[np.searchsorted(reached, reached[-1]) :] = len(weights)
    chosen = np.repeat(shuffled, np.diff(ends, prepend=0))
    return chosen[generator.permutation(len(chosen))].astype(np.int64)


def earlier_occurrences(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each position, how often its value occurs before it; (M,) -> int64 (M,)."""
    by_value = np.argsort(values, kind="stable")
    ordered = values[by_value]
    begins = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    counted = np.empty(len(values), np.int64)
    counted[by_value] = np.arange(len(values)) - np.repeat(begins, np.diff(begins, append=len(values)))
    return counted


def rank_slice(num_samples: int, rank: int, num_ranks: int) -> slice:
    """The slice of a batch of `num_samples` that belongs to process `rank` of `num_ranks`.

    The slices of all ranks, concatenated, are the batch; their sizes differ by at most one.
    """
    return slice(num_samples * rank // num_ranks, num_samples * (rank + 1) // num_ranks)


def sample_weights(
    labels: NDArray[np.int64], class_weights: NDArray[np.float64], balanced: bool
) -> NDArray[np.float64]:
    """Weight of each sample, float64 (N,).

    Args:
        labels: (N,).
        class_weights: (K,), 0 or more.
        balanced: whether `class_weights` are the weights of whole classes, regardless of their number of samples;
            otherwise of each of their samples.

    Raises:
        RequestError: no sample has a weight above 0.
    """
    counts = np.bincount(labels, minlength=len(class_weights))
    weights = (class_weights / np.maximum(counts, 1) if balanced else class_weights)[labels]
    if not weights.any():
        raise RequestError("--data.class_weights gives no training image a weight above 0; raise one that has images")
    return weights


def class_balanced_subset(labels: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Choose `size` samples, as evenly distributed over the classes as possible.

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
    # Rank of each sample within its class; the lowest ranks of all classes are taken first.
    rank = earlier_occurrences(labels[shuffled])
    return np.sort(shuffled[np.argsort(rank, kind="stable")[:size]])


def evenly_spaced(ids: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """The middle elements of `number` equal parts of `ids`; all of them if there are fewer."""
    if len(ids) <= number:
        return ids
    return ids[(2 * np.arange(number) + 1) * len(ids) // (2 * number)]


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
