"""Whether a network's classes are in another order than their names say."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_OWN_NAME = 1e-6
"""Counts for a class's own name, so that it wins where images do not decide."""


@dataclass(frozen=True)
class MovedClass:
    """A class that the network takes for another, as if that were its name; numbers are the network's classes."""

    label: int
    read_as: int
    num_images: int
    num_read: int
    """Of these, images that the network takes for `read_as`."""


def relabeled(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Answers under the best new names of the classes, found without the image itself, int64 (N,).

    An answer means the class of which the largest share of the other images gets it. Where the names are right, few
    answers change. Where classes were exchanged, the answers become right. Constant answers stay at chance.

    Args:
        answers: (N,), the network's most probable classes.
        labels: (N,), the true ones.
    """
    classes, counts, sizes = _counts(answers, labels)
    rows = np.searchsorted(classes, labels)
    own = np.zeros(counts.shape)
    own[np.arange(len(classes)), classes] = _OWN_NAME
    rates = counts[:, answers] / sizes[:, None] + own[:, answers]  # (classes, N)
    images = np.arange(len(labels))
    rates[rows, images] = (counts[rows, answers] - 1) / np.maximum(sizes[rows] - 1, 1) + own[rows, answers]
    best = rates.argmax(0)
    found: NDArray[np.int64] = np.where(rates[best, images] > 0, classes[best], answers)
    return found


def moved_classes(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[MovedClass, ...]:
    """The classes whose images mostly get another class's name, which no other class's images get as often."""
    classes, counts, sizes = _counts(answers, labels)
    most_frequent = counts.argmax(1)
    holders = (counts / sizes[:, None]).argmax(0)
    return tuple(
        MovedClass(int(classes[row]), int(name), int(sizes[row]), int(counts[row, name]))
        for row, name in enumerate(most_frequent.tolist())
        if name != classes[row] and holders[name] == row
    )


def _counts(
    answers: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The classes with images (C,), how often each gets which answer (C, K), and how many images each has (C,)."""
    classes, sizes = np.unique(labels, return_counts=True)
    counts = np.zeros((len(classes), int(max(answers.max(), labels.max())) + 1), np.int64)
    np.add.at(counts, (np.searchsorted(classes, labels), answers), 1)
    return classes, counts, sizes
