"""What the report selects: images by rule, the paper's errors only for the same evaluation."""

import numpy as np
import pytest

from alexnet.data.sampler import evenly_spaced
from alexnet.report.class_errors import class_rows
from alexnet.report.contents import headline_evaluation, sort_evaluations
from alexnet.report.published_errors import published_errors


def evaluation(num_classes=1000, num_images=50_000, num_views=10, split="val"):
    per_class = [
        {"id": f"n{place:08}", "name": str(place), "top1_error": None, "num_images": 100}
        for place in range(num_classes)
    ]
    return {"per_class": per_class, "num_images": num_images, "num_views": num_views, "split": split}


def test_images_are_the_middles_of_equal_parts():
    assert evenly_spaced(np.arange(60) * 2, 6).tolist() == [10, 30, 50, 70, 90, 110]
    assert evenly_spaced(np.arange(4), 6).tolist() == [0, 1, 2, 3]
    assert evenly_spaced(np.arange(7), 6).tolist() == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize(
    ("change", "variant", "expected"),
    [
        ({}, "paper", (0.407, 0.182)),
        ({"num_images": 150_000}, "original", (0.375, 0.170)),
        ({"num_images": 150_000, "num_views": 1}, "paper", (0.390, 0.183)),
        ({"num_views": 1}, "paper", None),
        ({"num_classes": 10, "num_images": 10_000}, "paper", None),
        ({}, "quick", None),
    ],
)
def test_the_papers_figure_is_shown_only_for_the_same_measurement(change, variant, expected):
    found = published_errors(evaluation(**change), variant)
    assert (None if found is None else (found.top1_error, found.top5_error)) == expected


def test_held_out_splits_come_first_and_most_views_are_best():
    stored = {
        str(place): evaluation(10, 5, views, split)
        for place, (split, views) in enumerate([("train", 10), ("val", 10), ("val", 1)])
    }
    table = sort_evaluations(stored)
    assert [(one["split"], one["num_views"]) for one in table] == [("val", 1), ("val", 10), ("train", 10)]
    assert headline_evaluation(table) is table[1]
    assert headline_evaluation([]) is None


def test_classes_are_listed_highest_error_first():
    some = evaluation(30)
    for place, one in enumerate(some["per_class"][:28]):
        one["top1_error"] = place / 100
    rows = class_rows(some)
    assert len(rows) == 30
    assert [one["name"] for one in rows[:3]] == ["27", "26", "25"]
    few = evaluation(3)
    few["per_class"][2]["top1_error"] = 0.0
    assert [one["name"] for one in class_rows(few)] == ["2", "0", "1"]
