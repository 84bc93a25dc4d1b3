"""Summarize a prepared data set for `alexnet inspect`: what to know before training on it, without layout."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet.data.dataset import (
    DUPLICATES_FILE,
    REFUSED_FILE,
    SKIPPED_FILE,
    UNLABELED,
    ClassInfo,
    PreparedData,
)
from alexnet.data.dataset_files import NO_LABEL, DataFiles
from alexnet.report.data_issues import summarize_duplicates, summarize_refused, summarize_skipped
from alexnet.report.data_measures import summarize_colors, summarize_sizes
from alexnet.report.formatting import count_noun

FEW_IMAGES = 10
"""A class with fewer training images is hard to learn."""
GREAT_IMBALANCE = 10
"""Beyond this ratio a network may gain more by predicting the large classes than from the images."""


def summarize_data(data: PreparedData) -> dict[str, Any]:
    """The object that `alexnet inspect --json` prints, from one pass over labels, sizes, refused files and duplicates.

    Returns:
        `folder`, `title`, `generated`, `num_classes`, `side` (pixels), `fit`, `store`, `checksum`, `bytes` (on disk)
        and `preparation` (its settings);
        `splits`: by name, `images`, `listed` (files found), `refused`, `largest` and `smallest` class with `id`, `name`
        and `images` (null for `unlabeled`), `imbalance` (their ratio, null if a class has no images) and `missing` (ids
        of such classes);
        `classes`: in label order, `id`, `name`, and `images` by split, without `unlabeled`;
        `refused`: see `summarize_refused`; `skipped`: see `summarize_skipped`; `duplicates`: see
        `summarize_duplicates`; `sizes`: see `summarize_sizes`; `color`: see `summarize_colors`;
        `warnings`: most serious first, with `topic` (`leak`, `labels`, `missing`, `few`, `imbalance`, `refused`) and
        `text`.

    Raises:
        DamagedFile: a file of the data set is missing or damaged.
    """
    files = DataFiles(data.folder)
    for name in files.checksums.keys() & {REFUSED_FILE, SKIPPED_FILE, DUPLICATES_FILE}:
        files.verify(name)
    counts = {
        name: np.bincount(split.labels[split.labels != NO_LABEL], minlength=data.num_classes).astype(np.int64)
        for name, split in data.splits.items()
        if name != UNLABELED
    }
    summary: dict[str, Any] = {
        "folder": str(data.folder),
        "title": data.title,
        "generated": data.generated,
        "num_classes": data.num_classes,
        "side": data.side,
        "fit": data.fit,
        "store": data.store,
        "checksum": data.checksum,
        "bytes": sum(file.stat().st_size for file in data.folder.iterdir() if file.is_file()),
        "preparation": dict(data.description["plan"]),
        "splits": {
            name: _summarize_split(
                data.classes, len(split), int(data.description["splits"][name]["listed"]), counts.get(name)
            )
            for name, split in data.splits.items()
        },
        "classes": [
            {"id": one.id, "name": one.name, "images": {name: int(counts[name][label]) for name in counts}}
            for label, one in enumerate(data.classes)
        ],
        "refused": summarize_refused(data.folder),
        "skipped": summarize_skipped(data.folder, data.description),
        "duplicates": summarize_duplicates(data.folder, data.description["duplicates"]),
        "sizes": summarize_sizes(
            {name: np.asarray(data.original_sizes(name)) for name in data.splits}, data.side, data.fit
        ),
        "color": summarize_colors(data.statistics),
    }
    summary["warnings"] = _warnings(summary)
    return summary


def _summarize_split(
    classes: Sequence[ClassInfo], num_images: int, num_listed: int, counts: npt.NDArray[np.int64] | None
) -> dict[str, Any]:
    """Counts of one split; of equally large classes the first is named. `counts` (K,) is None without labels."""
    numbers = {"images": num_images, "listed": num_listed, "refused": num_listed - num_images}
    if counts is None:
        return {**numbers, "largest": None, "smallest": None, "imbalance": None, "missing": []}

    def named(label: int) -> dict[str, Any]:
        return {"id": classes[label].id, "name": classes[label].name, "images": int(counts[label])}

    least = int(counts.min())
    return {
        **numbers,
        "largest": named(int(counts.argmax())),
        "smallest": named(int(counts.argmin())),
        "imbalance": float(counts.max() / least) if least else None,
        "missing": [classes[label].id for label in np.flatnonzero(counts == 0).tolist()],
    }


def _warnings(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """What may impair training or evaluation, as sentences, most serious first."""
    found = []

    def warn(topic: str, text: str) -> None:
        found.append({"topic": topic, "text": text})

    duplicates, splits = summary["duplicates"], summary["splits"]
    if num := duplicates["leaked_images"]:
        warn(
            "leak",
            f"{count_noun(num, 'image')} of the held-out splits {'is' if num == 1 else 'are'} also in the training "
            "split, so errors measured on them are too low. Remove the copies from the source and prepare it again.",
        )
    if num := duplicates["other_label"]:
        warn("labels", f"{count_noun(num, 'image')} {'is' if num == 1 else 'are'} stored under more than one class.")
    for name, split in splits.items():
        if num := len(split["missing"]):
            verb, whose = ("has", "its") if num == 1 else ("have", "their")
            warn("missing", f"{count_noun(num, 'class')} {verb} no {name} images: {whose} error is not measured.")
    if num := sum(one["images"]["train"] < FEW_IMAGES for one in summary["classes"]):
        verb = "has" if num == 1 else "have"
        warn("few", f"{count_noun(num, 'class')} {verb} fewer than {FEW_IMAGES} training images.")
    ratio, largest, smallest = (splits["train"][key] for key in ("imbalance", "largest", "smallest"))
    if ratio is not None and ratio > GREAT_IMBALANCE:
        warn(
            "imbalance",
            f"The largest class has {ratio:,.0f} times as many training images as the smallest: {largest['name']} "
            f"({largest['images']:,}) and {smallest['name']} ({smallest['images']:,}).",
        )
    if num := sum(split["refused"] for split in splits.values()):
        num_listed = sum(split["listed"] for split in splits.values())
        warn("refused", f"{num:,} of {count_noun(num_listed, 'file')} {'was' if num == 1 else 'were'} refused.")
    return found
