"""In what order the samples of an epoch come, and which of them: arithmetic on (seed, epoch) alone.

N samples of the data set, M places in an epoch. Nothing here is remembered from epoch to epoch, so any epoch can be had
at once, by any process.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How the images of an epoch, in their order, are cut into batches."""

    num_images: int
    batch_size: int
    file_images: int = 0
    """No batch crosses from one run of so many images into the next, as the source's batches end with its files; the
    last batch of each run holds what is left of it. 0: the epoch is one run."""

    @property
    def num_batches(self) -> int:
        """Batches in an epoch, the smaller ones included."""
        files, rest = divmod(self.num_images, self._run)
        return files * self._batches_of(self._run) + self._batches_of(rest)

    def batch(self, place: int) -> range:
        """Which images of the epoch make its batch number `place`, 0 .. num_batches-1, by their place in it."""
        file, within = divmod(place, self._batches_of(self._run))
        begin = file * self._run + within * self.batch_size
        return range(begin, min(begin + self.batch_size, (file + 1) * self._run, self.num_images))

    def groups(self, places: range, size: int) -> NDArray[np.int64]:
        """For each of some places of the epoch the number of its group: each file begins groups of `size` anew."""
        files, within = np.divmod(np.asarray(places, np.int64), self._run)
        per_file = -(-self._run // size)
        groups: NDArray[np.int64] = files * per_file + within // size
        return groups

    @property
    def _run(self) -> int:
        return self.file_images or max(1, self.num_images)

    def _batches_of(self, images: int) -> int:
        return -(-images // self.batch_size)


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch: a permutation of 0 .. num_samples-1, int64, a function of (seed, epoch) alone."""
    return _generator(seed, epoch).permutation(num_samples).astype(np.int64)


def weighted_order(weights: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """An epoch in which samples come as often as their weights say.

    As many places as there are samples are dealt out: a sample of share w of all weights comes floor(N w) or
    floor(N w) + 1 times, N w times on average over the epochs (systematic sampling). Which samples get the rest of a
    place is drawn anew each epoch.

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
    # Whatever the roundings: as many places as samples, and none to what has no weight.
    ends = np.minimum(ends, len(weights)).astype(np.int64)
    ends[np.searchsorted(reached, reached[-1]) :] = len(weights)
    chosen = np.repeat(shuffled, np.diff(ends, prepend=0))
    return chosen[generator.permutation(len(chosen))].astype(np.int64)


def repeats(samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each place of an epoch, how often its sample has come before in it; (M,) -> int64 (M,)."""
    by_sample = np.argsort(samples, kind="stable")
    ordered = samples[by_sample]
    begins = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    counted = np.empty(len(samples), np.int64)
    counted[by_sample] = np.arange(len(samples)) - np.repeat(begins, np.diff(begins, append=len(samples)))
    return counted


def share_of_rank(num_samples: int, rank: int, num_ranks: int) -> slice:
    """The part of a batch of `num_samples` that process `rank` of `num_ranks` takes.

    The parts of all ranks, one after the other, are the batch; their sizes differ by one at the most.
    """
    return slice(num_samples * rank // num_ranks, num_samples * (rank + 1) // num_ranks)


def sample_weights(
    labels: NDArray[np.int64], class_weights: NDArray[np.float64], balanced: bool
) -> NDArray[np.float64]:
    """Weight of each sample, float64 (N,).

    Args:
        labels: (N,).
        class_weights: (K,), 0 or more.
        balanced: whether each class weighs what `class_weights` says as a whole, whatever its number of samples;
            else each of its samples does.

    Raises:
        RequestError: no sample has a weight above 0.
    """
    counts = np.bincount(labels, minlength=len(class_weights))
    weights = (class_weights / np.maximum(counts, 1) if balanced else class_weights)[labels]
    if not weights.any():
        raise RequestError("--data.class_weights gives no training image a weight above 0; raise one that has images")
    return weights


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


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
