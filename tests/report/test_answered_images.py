"""Images of a report: the most certain mistakes first, pairs from the right classes, lost images named."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.html_page import Page
from tests.report.made_up_runs import make_run, write_data

from alexnet.data.shards import UnreadableSample
from alexnet.report.answered_images import (
    AnsweredImages,
    answered_images,
    certain_mistakes,
    image_panels,
    pair_pictures,
)
from alexnet.report.class_errors import confused_rows

NUM = 60


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> AnsweredImages:
    folder = tmp_path_factory.mktemp("answers")
    data = write_data(folder / "data", NUM)
    run = make_run(folder / "run", data, share_right=0.3)
    found = answered_images(run, data, run.evaluations()["val-10views"])
    assert isinstance(found, AnsweredImages)
    return found


def keys(content: object) -> list[str]:
    """The images of a panel, by name."""
    return [str(re.match("Image (.*), true label", str(one))[1]) for one in Page(str(content)).alts]  # type: ignore[index]


def test_the_most_certain_mistakes_are_the_wrong_answers_of_the_highest_probability(answers: AnsweredImages) -> None:
    probabilities, labels = np.asarray(answers.probabilities), np.asarray(answers.labels)
    wrong = [row for row in range(NUM) if probabilities[row].argmax() != labels[row]]
    expected = sorted(wrong, key=lambda row: -probabilities[row].max())[:6]
    found = certain_mistakes(answers)
    assert keys(found.content) == [answers.key(row) for row in expected]
    above = sum(probabilities[row].max() > 0.9 for row in wrong)
    assert (
        found.note
        == f"The 6 most certain of {len(wrong)} wrong answers; {above} of them have a probability above 90 %."
    )


def test_without_mistakes_there_are_none(answers: AnsweredImages) -> None:
    right = replace(answers, labels=answers.predicted)
    assert certain_mistakes(right).missing == "No image was classified incorrectly."
    assert image_panels(right)[1].missing == "No image was classified incorrectly."


def test_pairs_show_their_own_images(answers: AnsweredImages) -> None:
    pairs = [
        {"true": "cat", "true_id": "c0000", "predicted": "<b>bird</b>", "predicted_id": "c0002", "num_images": 9}
        | {"fraction": 0.45}
    ]
    (found,) = pair_pictures(answers, pairs)
    predicted, labels = answers.predicted, answers.labels
    wrong = [answers.key(row) for row in range(NUM) if (labels[row], predicted[row]) == (0, 2)]
    right = [answers.key(row) for row in range(NUM) if (labels[row], predicted[row]) == (2, 2)]
    assert len(found.mistakes) == min(5, len(wrong)) > 1 and len(found.right) == 3
    assert {keys(one.picture)[0] for one in found.mistakes} <= set(wrong)
    assert {keys(one.picture)[0] for one in found.right} <= set(right)
    first = next(row for row in range(NUM) if answers.key(row) == keys(found.mistakes[0].picture)[0])
    assert found.mistakes[0].probability == pytest.approx(float(answers.probabilities[first, 2]))


def test_stored_pairs_are_found_by_their_ids(tmp_path: Path, answers: AnsweredImages) -> None:
    run = make_run(tmp_path / "run", answers.data, share_right=0.3)
    pairs = confused_rows(run.evaluations()["val-10views"])
    assert [(one.true, one.predicted) for one in pair_pictures(answers, pairs)] == [
        (one["true"], one["predicted"]) for one in pairs[:5]
    ]


def test_images_that_were_lost_since_are_named(answers: AnsweredImages) -> None:
    class Lost:
        shape = (NUM, 8, 8, 3)

        def __len__(self) -> int:
            return NUM

        def __getitem__(self, place: Any) -> Any:
            raise UnreadableSample("its shard is missing", place)

    split = replace(answers.data.splits["val"], images=Lost())
    lost = replace(answers, data=replace(answers.data, splits={**answers.data.splits, "val": split}))
    for section in (*image_panels(lost), certain_mistakes(lost)):
        assert keys(section.content) == [] and section.note.count("can no longer be read") == 6
    pairs = [
        {"true": "a", "true_id": "c0000", "predicted": "b", "predicted_id": "c0002", "num_images": 9, "fraction": 1}
    ]
    assert pair_pictures(lost, pairs)[0].mistakes == []
