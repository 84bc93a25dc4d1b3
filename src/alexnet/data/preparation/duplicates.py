"""Finds images that are stored more than once: in a split they count twice, across splits they leak labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import UNLABELED
from alexnet.data.dataset_files import NO_LABEL


@dataclass(frozen=True, eq=False)
class Duplicate:
    """A picture that is stored more than once."""

    images: tuple[tuple[str, int], ...]
    """Split and index of each of its images, two or more."""
    is_leak: bool
    """Whether it is in the training split and in another one on which errors are measured."""
    has_other_label: bool
    """Whether its images have different labels."""


def find_duplicates(
    digests: Mapping[str, NDArray[np.uint8]], labels: Mapping[str, NDArray[np.int64]]
) -> Iterator[Duplicate]:
    """Pictures with equal stored bytes, in the order of the splits.

    Args:
        digests: by split, uint8 (N, 16).
        labels: by split, int64 (N,).
    """
    names = list(digests)
    split_of = np.repeat(np.arange(len(names)), [len(digests[name]) for name in names])
    index_of = np.concatenate([np.arange(len(digests[name])) for name in names])
    label_of = np.concatenate([labels[name] for name in names])
    halves = np.ascontiguousarray(np.concatenate([digests[name] for name in names])).view(np.uint64)  # (N, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    is_as_before = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
    # Only runs of two or more equal digests: there may be millions of others.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_as_before, [False]]).astype(np.int8)))
    groups = [order[first : last + 1] for first, last in edges.reshape(-1, 2).tolist()]
    for group in sorted(groups, key=lambda group: int(group[0])):
        splits = {names[split] for split in split_of[group]} - {UNLABELED}
        yield Duplicate(
            tuple((names[split_of[row]], int(index_of[row])) for row in group),
            is_leak="train" in splits and len(splits) > 1,
            has_other_label=len(set(label_of[group].tolist()) - {NO_LABEL}) > 1,
        )


def class_id_of(class_ids: Sequence[str], label: int) -> str:
    """The id of an image's class; empty without a label."""
    return "" if label == NO_LABEL else class_ids[label]


def describe_duplicates(
    duplicates: Sequence[Duplicate],
    keys: Mapping[str, Sequence[str]],
    class_ids: Sequence[str],
    labels: Mapping[str, NDArray[np.int64]],
) -> Iterator[dict[str, Any]]:
    """The lines of `duplicates.jsonl`, each with the images of one picture."""
    for one in duplicates:
        images = [
            {"split": split, "path": keys[split][index], "class": class_id_of(class_ids, int(labels[split][index]))}
            for split, index in one.images
        ]
        yield {"leak": one.is_leak, "other_label": one.has_other_label, "images": images}


def duplicate_counts(duplicates: Sequence[Duplicate]) -> dict[str, int]:
    """Numbers of pictures stored more than once, surplus images, leaked images, and pictures with several labels."""
    return {
        "pictures": len(duplicates),
        "surplus_images": sum(len(one.images) - 1 for one in duplicates),
        "leaked_images": sum(
            sum(split not in ("train", UNLABELED) for split, _ in one.images) for one in duplicates if one.is_leak
        ),
        "other_label": sum(one.has_other_label for one in duplicates),
    }
