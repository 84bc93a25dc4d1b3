"""Images that are stored more than once: within a split they count twice, across splits they leak the answer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Duplicate:
    """One picture and all the places where it is stored."""

    places: tuple[tuple[str, int], ...]
    """(split, index in it), two or more."""
    is_leak: bool
    """Whether it stands in the training split and in another one."""
    has_other_label: bool
    """Whether its places have different labels."""


def find_duplicates(
    digests: Mapping[str, NDArray[np.uint8]], labels: Mapping[str, NDArray[np.int64]]
) -> Iterator[Duplicate]:
    """Pictures whose stored bytes are equal, in the order of the splits.

    Args:
        digests: by split, uint8 (N, 16); the order of the splits is the order of the places.
        labels: by split, int64 (N,).
    """
    names = list(digests)
    split_of = np.repeat(np.arange(len(names)), [len(digests[name]) for name in names])
    index_of = np.concatenate([np.arange(len(digests[name])) for name in names])
    label_of = np.concatenate([labels[name] for name in names])
    halves = np.ascontiguousarray(np.concatenate([digests[name] for name in names])).view(np.uint64)  # (N, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    is_as_before = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
    # Runs of equal digests, and only those of two or more: there may be millions of others.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_as_before, [False]]).astype(np.int8)))
    groups = [order[first : last + 1] for first, last in edges.reshape(-1, 2).tolist()]
    for group in sorted(groups, key=lambda group: int(group[0])):
        splits = {names[split] for split in split_of[group]}
        yield Duplicate(
            tuple((names[split_of[place]], int(index_of[place])) for place in group),
            is_leak="train" in splits and len(splits) > 1,
            has_other_label=len(set(label_of[group].tolist())) > 1,
        )


def duplicates_text(
    duplicates: Sequence[Duplicate], keys: Mapping[str, Sequence[str]], class_ids: Sequence[str],
    labels: Mapping[str, NDArray[np.int64]],
) -> str:  # fmt: skip
    """`duplicates.jsonl`: a JSON object a line, with the places of one picture."""
    lines = []
    for one in duplicates:
        places = [
            {"split": split, "path": keys[split][index], "class": class_ids[int(labels[split][index])]}
            for split, index in one.places
        ]
        lines.append(json.dumps({"leak": one.is_leak, "other_label": one.has_other_label, "images": places}) + "\n")
    return "".join(lines)


def duplicate_counts(duplicates: Sequence[Duplicate]) -> dict[str, int]:
    """How many pictures are stored more than once, how many images that is too many, and the two grave cases."""
    return {
        "pictures": len(duplicates),
        "surplus_images": sum(len(one.places) - 1 for one in duplicates),
        "leaked_images": sum(sum(split != "train" for split, _ in one.places) for one in duplicates if one.is_leak),
        "other_label": sum(one.has_other_label for one in duplicates),
    }
