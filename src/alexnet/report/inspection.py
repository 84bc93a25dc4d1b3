"""Summarize a prepared data set for `alexnet inspect`: what to know before training on it, without layout."""

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
"""A class with fewer training images is hard to learn."""
GREAT_IMBALANCE = 10
"""Beyond this ratio a network may gain more by predicting the large classes than from the images."""


def summarize_data(data: PreparedData) -> dict[str, Any]:
    """The object that `alexnet inspect --json` prints, from one pass over labels, sizes, refused files and duplicates.

    Text that cannot be printed, such as a file name that is not UTF-8, contains replacement characters.

    Returns:
        `folder`, `title`, `generated`, `num_classes`, `side` (pixels), `store`, `checksum`, `bytes` (on disk) and
        `preparation` (its settings);
        `splits`: by name, `images`, `listed` (files found), `refused`, `largest` and `smallest` class with `id`, `name`
        and `images`, `imbalance` (their ratio, null if a class has no images) and `missing` (ids of such classes);
        `classes`: in label order, `id`, `name`, and `images` by split;
        `refused`: see `summarize_refused`; `duplicates`: see `summarize_duplicates`; `sizes`: see `summarize_sizes`;
        `color`: see `summarize_colors`;
        `warnings`: most serious first, with `topic` (`leak`, `labels`, `missing`, `few`, `imbalance`, `refused`) and
        `text`.

    Raises:
        RequestError: a file of the data set is missing or damaged.
    """
    counts = {
        name: np.bincount(split.labels, minlength=data.num_classes).astype(np.int64)
        for name, split in data.splits.items()
    }
    summary = {
        "folder": str(data.folder),
        "title": data.title,
        "generated": data.generated,
        "num_classes": data.num_classes,
        "side": data.side,
        "store": data.store,
        "checksum": data.checksum,
        "bytes": _bytes_on_disk(data.folder),
        "preparation": dict(data.description["plan"]),
        "splits": {
            name: _summarize_split(data.classes, counts[name], int(data.description["splits"][name]["listed"]))
            for name in data.splits
        },
        "classes": _summarize_classes(data.classes, counts),
        "refused": summarize_refused(data.folder),
        "duplicates": summarize_duplicates(data.folder, data.description["duplicates"]),
        "sizes": summarize_sizes({name: np.asarray(data.original_sizes(name)) for name in data.splits}, data.side),
        "color": summarize_colors(data.statistics),
    }
    summary["warnings"] = _warnings(summary)
    result: dict[str, Any] = printable(summary)
    return result


def _summarize_split(classes: Sequence[ClassInfo], counts: npt.NDArray[np.int64], num_listed: int) -> dict[str, Any]:
    """Counts of one split; of equally large classes the first is named."""
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


def _summarize_classes(
    classes: Sequence[ClassInfo], counts: Mapping[str, npt.NDArray[np.int64]]
) -> list[dict[str, Any]]:
    """Every class with its number of images in each split."""
    columns = {name: of_split.tolist() for name, of_split in counts.items()}
    return [
        {"id": one.id, "name": one.name, "images": {name: column[label] for name, column in columns.items()}}
        for label, one in enumerate(classes)
    ]


def _bytes_on_disk(folder: Path) -> int:
    """Size of all files of the data set."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def _warnings(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """What may impair training or evaluation, as sentences."""
    found = []
    duplicates, train = summary["duplicates"], summary["splits"]["train"]
    if num := duplicates["leaked_images"]:
        verb = "is" if num == 1 else "are"
        found.append(
            (
                "leak",
                f"{_many(num, 'image')} of the held-out splits {verb} also in the training split, so errors measured "
                "on them are too low. Remove the copies from the source and prepare it again.",
            )
        )
    if num := duplicates["other_label"]:
        verb = "is" if num == 1 else "are"
        found.append(("labels", f"{_many(num, 'image')} {verb} stored under more than one class."))
    for name, split in summary["splits"].items():
        if num := len(split["missing"]):
            verb, whose = ("has", "its") if num == 1 else ("have", "their")
            found.append(("missing", f"{_many(num, 'class')} {verb} no {name} images: {whose} error is not measured."))
    if num := sum(one["images"]["train"] < FEW_IMAGES for one in summary["classes"]):
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
    if num := sum(split["refused"] for split in summary["splits"].values()):
        verb = "was" if num == 1 else "were"
        num_listed = sum(split["listed"] for split in summary["splits"].values())
        found.append(("refused", f"{num:,} of {_many(num_listed, 'file')} {verb} refused."))
    return [{"topic": topic, "text": text} for topic, text in found]


def _many(number: int, noun: str) -> str:
    """`1 class`, `2 classes`."""
    plural = noun if number == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {plural}"
