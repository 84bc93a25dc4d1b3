"""What a person should know of a prepared data set before training on it: plain facts, no layout."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet.data.dataset import ClassInfo, PreparedData
from alexnet.report.data_issues import summarize_duplicates, summarize_refused
from alexnet.report.data_measures import summarize_colors, summarize_sizes
from alexnet.report.formatting import printable

FEW_IMAGES = 10
"""A class with fewer training images is hardly learned."""
GREAT_IMBALANCE = 10
"""From here on a network may gain more by naming the large classes than by looking."""


def summarize_data(data: PreparedData) -> dict[str, Any]:
    """What `alexnet inspect --json` prints; counting takes one pass over labels, sizes and the two lists of troubles.

    Text that cannot be shown, such as a file name that is not UTF-8, has replacement characters in it.

    Returns:
        `folder`, `title`, `generated`, `num_classes`, `side` (pixels), `store`, `checksum`, `bytes` (on the disk) and
        `made` (how it was prepared);
        `splits`: by name, `images`, `listed` (files found), `refused`, `largest` and `smallest` class with `id`, `name`
        and `images`, `imbalance` (their ratio, None where a class has no image) and `missing` (ids of such classes);
        `classes`: in label order, `id`, `name`, and `images` by split;
        `refused`: see `summarize_refused`; `duplicates`: see `summarize_duplicates`; `sizes`: see `summarize_sizes`;
        `color`: see `summarize_colors`;
        `warnings`: the gravest first, each with `about` (`leak`, `labels`, `missing`, `few`, `imbalance`, `refused`)
        and `text`.

    Raises:
        RequestError: a file of the data set is missing or damaged.
    """
    counts = {
        name: np.bincount(split.labels, minlength=data.num_classes).astype(np.int64)
        for name, split in data.splits.items()
    }
    facts = {
        "folder": str(data.folder),
        "title": data.title,
        "generated": data.generated,
        "num_classes": data.num_classes,
        "side": data.side,
        "store": data.store,
        "checksum": data.checksum,
        "bytes": _bytes_on_disk(data.folder),
        "made": dict(data.description["plan"]),
        "splits": {
            name: _split_facts(data.classes, counts[name], int(data.description["splits"][name]["listed"]))
            for name in data.splits
        },
        "classes": _class_facts(data.classes, counts),
        "refused": summarize_refused(data.folder),
        "duplicates": summarize_duplicates(data.folder, data.description["duplicates"]),
        "sizes": summarize_sizes({name: np.asarray(data.original_sizes(name)) for name in data.splits}, data.side),
        "color": summarize_colors(data.statistics),
    }
    facts["warnings"] = _warnings(facts)
    shown: dict[str, Any] = printable(facts)
    return shown


def _split_facts(classes: Sequence[ClassInfo], counts: npt.NDArray[np.int64], num_listed: int) -> dict[str, Any]:
    """Counts of one split; among equal classes the first is named."""
    num_images, most, least = int(counts.sum()), int(counts.argmax()), int(counts.argmin())
    return {
        "images": num_images,
        "listed": num_listed,
        "refused": num_listed - num_images,
        "largest": {"id": classes[most].id, "name": classes[most].name, "images": int(counts[most])},
        "smallest": {"id": classes[least].id, "name": classes[least].name, "images": int(counts[least])},
        "imbalance": float(counts[most] / counts[least]) if counts[least] else None,
        "missing": [classes[label].id for label in np.flatnonzero(counts == 0).tolist()],
    }


def _class_facts(classes: Sequence[ClassInfo], counts: Mapping[str, npt.NDArray[np.int64]]) -> list[dict[str, Any]]:
    """Every class with its images in each split."""
    columns = {name: of_split.tolist() for name, of_split in counts.items()}
    return [
        {"id": one.id, "name": one.name, "images": {name: column[label] for name, column in columns.items()}}
        for label, one in enumerate(classes)
    ]


def _bytes_on_disk(folder: Path) -> int:
    """Size of all files of the data set."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def _warnings(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """What may spoil a training or what is measured on it, in words."""
    found = []
    twice, train = facts["duplicates"], facts["splits"]["train"]
    if num := twice["leaked_images"]:
        verb = "stands" if num == 1 else "stand"
        found.append(
            (
                "leak",
                f"{_many(num, 'image')} of the held-out splits {verb} in the training split too, so errors measured on "
                "them are too good. Remove the copies from the source and prepare it again.",
            )
        )
    if num := twice["other_label"]:
        verb = "is" if num == 1 else "are"
        found.append(("labels", f"{_many(num, 'picture')} {verb} stored under more than one class."))
    for name, split in facts["splits"].items():
        if num := len(split["missing"]):
            verb, whose = ("has", "its") if num == 1 else ("have", "their")
            found.append(("missing", f"{_many(num, 'class')} {verb} no {name} images: {whose} error is not measured."))
    if num := sum(one["images"]["train"] < FEW_IMAGES for one in facts["classes"]):
        verb = "has" if num == 1 else "have"
        found.append(("few", f"{_many(num, 'class')} {verb} fewer than {FEW_IMAGES} training images."))
    if train["imbalance"] is not None and train["imbalance"] > GREAT_IMBALANCE:
        found.append(
            (
                "imbalance",
                f"The largest class has {train['imbalance']:,.0f} times as many training images as the smallest: "
                f"{train['largest']['name']} ({train['largest']['images']:,}) and {train['smallest']['name']} "
                f"({train['smallest']['images']:,}).",
            )
        )
    if num := sum(split["refused"] for split in facts["splits"].values()):
        verb = "was" if num == 1 else "were"
        num_listed = sum(split["listed"] for split in facts["splits"].values())
        found.append(("refused", f"{num:,} of {_many(num_listed, 'file')} {verb} refused."))
    return [{"about": about, "text": text} for about, text in found]


def _many(number: int, noun: str) -> str:
    """`1 class`, `2 classes`."""
    plural = noun if number == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {plural}"
