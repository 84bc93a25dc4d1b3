"""Errors by class and confused pairs of classes, from a stored evaluation: rows, and the confusion matrix."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from alexnet.evaluation.metrics import mean_interval
from alexnet.figures.confusion_matrix import MOST_WRITTEN, confusion_figure
from alexnet.figures.figure_style import svg_element
from alexnet.report.contents import Section
from alexnet.system.visible_text import visible

MOST_CLASSES = 40
"""A confusion matrix of more classes is too small to read."""
BLOCK_CLASSES = 15
MOST_ROWS = 20
MOST_PAIRS = 10


def class_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All classes, highest error first and those without images last.

    Returns:
        For each: `name`, `num_images`, `top1_error` and `interval` (Wilson, 95 %), both None without images.
    """
    rows = [
        {
            "name": one["name"],
            "num_images": one["num_images"],
            "top1_error": one["top1_error"],
            "interval": None if one["top1_error"] is None else mean_interval(one["top1_error"], one["num_images"]),
        }
        for one in evaluation["per_class"]
    ]
    return sorted(rows, key=lambda one: 1.0 if one["top1_error"] is None else -one["top1_error"])


def confused_rows(evaluation: Mapping[str, Any], most: int = MOST_PAIRS) -> list[dict[str, Any]]:
    """The most confused pairs, most images first.

    Returns:
        For each: `true` and `predicted` (names), `true_id` and `predicted_id`, `num_images`, and `fraction` of the
        true class's images.
    """
    classes = {one["id"]: one for one in evaluation["per_class"]}
    return [
        {
            "true": classes[pair["true"]]["name"],
            "predicted": classes[pair["predicted"]]["name"],
            "true_id": pair["true"],
            "predicted_id": pair["predicted"],
            "num_images": pair["num_images"],
            "fraction": pair["num_images"] / classes[pair["true"]]["num_images"],
        }
        for pair in evaluation["confused_pairs"][:most]
    ]


def confused_block(evaluation: Mapping[str, Any], size: int = BLOCK_CLASSES) -> list[int]:
    """The classes of the most confused block, as positions in `per_class`, in their order.

    It begins with the two classes that are most confused with each other, in either direction. Then the class that is
    most confused with those already in the block joins, until there are `size` or nobody is confused with them.
    """
    position = {one["id"]: number for number, one in enumerate(evaluation["per_class"])}
    confusions: dict[int, dict[int, int]] = {}
    for pair in evaluation["confused_pairs"]:
        first, second = position[pair["true"]], position[pair["predicted"]]
        for one, other in ((first, second), (second, first)):
            row = confusions.setdefault(one, {})
            row[other] = row.get(other, 0) + pair["num_images"]
    if not confusions:
        return []
    block = [max(confusions, key=lambda one: (max(confusions[one].values()), -one))]
    gained: dict[int, int] = {}
    while len(block) < size:
        for other, num in confusions[block[-1]].items():
            gained[other] = gained.get(other, 0) + num
        candidates = [one for one in gained if one not in block]
        if not candidates:
            break
        block.append(max(candidates, key=lambda one: (gained[one], -one)))
    return sorted(block)


def confusion_counts(
    evaluation: Mapping[str, Any], classes: list[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The confusion matrix of some classes, given as positions in `per_class`.

    Returns:
        Images by true and predicted class, int64 (K, K), and those predicted as any other class, int64 (K,).
    """
    found = evaluation["per_class"]
    place = {found[one]["id"]: number for number, one in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), np.int64)
    others = np.zeros(len(classes), np.int64)
    for number, one in enumerate(classes):
        counts[number, number] = found[one]["num_images"]
    for pair in evaluation["confused_pairs"]:
        if pair["true"] not in place:
            continue
        row = place[pair["true"]]
        counts[row, row] -= pair["num_images"]
        if pair["predicted"] in place:
            counts[row, place[pair["predicted"]]] += pair["num_images"]
        else:
            others[row] += pair["num_images"]
    return counts, others


def confusion_section(evaluation: Mapping[str, Any]) -> Section:
    """The confusion matrix as a figure; of many classes the most confused block."""
    found = evaluation["per_class"]
    is_whole = len(found) <= MOST_CLASSES
    classes = list(range(len(found))) if is_whole else confused_block(evaluation)
    if not classes or not evaluation["confused_pairs"]:
        return Section(missing="No image was misclassified, so there is no confusion to show.")
    counts, others = confusion_counts(evaluation, classes)
    figure = confusion_figure(
        counts,
        [visible(found[one]["name"]) for one in classes],
        num_images=[found[one]["num_images"] for one in classes],
        others=None if is_whole else others,
    )
    num_wrong = int(counts.sum() - np.trace(counts))
    description = (
        f"Confusion matrix of {len(classes)} classes: {int(np.trace(counts)):,} images on the diagonal are right, "
        f"{num_wrong:,} are taken for another of these classes. The table of pairs has the largest numbers."
    )
    written = (
        "The number in a cell is the percentage of the true class's images. " if len(classes) <= MOST_WRITTEN else ""
    )
    chosen = (
        ""
        if is_whole
        else f"{len(classes)} of {len(found):,} classes: the two that are most confused with each other, and one by "
        "one the class that is most confused with those before it. "
    )
    wrapped = Markup('<div class="scroll matrix" role="region" aria-label="Confusion matrix" tabindex="0">{}</div>')
    return Section(
        wrapped.format(Markup(svg_element(figure, "confusion", description))),
        note=f"{chosen}A row shows where the images of a class went. {written}Empty cells are 0.",
    )
