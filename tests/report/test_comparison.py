"""The page on two runs: self-contained, with the numbers of the comparison, escaped names, and images if available."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from tests.html_page import Page

from alexnet.data.dataset import ClassInfo, PreparedData, Split, Statistics
from alexnet.data.shards import UnreadableSample
from alexnet.errors import RequestError
from alexnet.evaluation.compare import compare_runs
from alexnet.evaluation.predictions import save_predictions
from alexnet.report.comparison import NUM_IMAGES, write_comparison
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK

NUM, NUM_CLASSES = 150, 20


@pytest.fixture(autouse=True)
def made_up_folder(tmp_path, monkeypatch):
    """The folder of the data set, which is looked for; its content is made up."""
    (tmp_path / "made-up").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (NUM, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(NUM, dtype=np.int64) % NUM_CLASSES
    keys = [f"val/<i>{place}</i>.png" for place in range(NUM)]
    return PreparedData(
        folder=Path("made-up"),
        title="Made <i>up</i> & so on",
        generated=True,
        classes=tuple(ClassInfo(f"c{place}", f"<b>class {place}</b>") for place in range(NUM_CLASSES)),
        splits={"val": Split("val", images, labels, keys)},
        side=8,
        statistics=Statistics(np.zeros((8, 8, 3), np.float32), np.eye(3), np.ones(3), np.eye(3)),
        checksum="ab" * 32,
    )


@pytest.fixture
def compared(tmp_path, monkeypatch, data):
    """A function that compares two runs, whose names need escaping, by their probabilities."""
    monkeypatch.setattr("alexnet.evaluation.paired.open_data", lambda folders: data)

    def compare(first, second):
        paths = []
        for name, probabilities in (("<first> run", first), ("second & run", second)):
            facts = {"data": {"folder": "made-up", "checksum": data.checksum}}
            paths.append(RunFolder.create(tmp_path / name, QUICK, facts).path)
            save_predictions(paths[-1] / "predictions", "val", 10, probabilities, data)
        return compare_runs(*paths)

    return compare


def made_up_answers(labels):
    """The first is right on the first two thirds, the second on the last two thirds."""
    answers = np.random.default_rng(1).dirichlet(np.ones(NUM_CLASSES), (2, NUM)).astype(np.float32) / 4
    rows = np.arange(NUM)
    answers[0, rows, np.where(rows < 100, labels, (labels + 1) % NUM_CLASSES)] += 0.75
    answers[1, rows, np.where(rows >= 50, labels, (labels + 2) % NUM_CLASSES)] += 0.75
    return answers


def test_the_page_shows_both_groups_and_the_figures(tmp_path, compared, data):
    comparison = compared(*made_up_answers(data.splits["val"].labels))
    path = write_comparison(comparison, data, tmp_path / "page.html")
    page = Page(path.read_text())
    assert all(one.startswith("data:") for one in page.addresses)
    assert not re.search(r"url\(|@import|<script", page.html)
    for words in ("<first> run", "second & run", "Made <i>up</i> & so on", "<b>class 3</b>", data.checksum):
        assert words in page.text
    assert "Generated images." in page.text
    assert "Only the first is right: 50 images" in page.text and "Only the second is right: 50 images" in page.text
    assert len(page.alts) == 2 * NUM_IMAGES == 60
    assert all(re.fullmatch(r"Image val/<i>\d+</i>.png, true label <b>class \d+</b>", one) for one in page.alts)
    facts = comparison.to_dict()
    for name in ("top1", "top5"):
        for value in (facts[name]["first"]["error"], *facts[name]["second"]["interval"]):
            assert f"{100 * value:.2f} %" in page.text
        assert f"{facts[name]['p_value']:.3g}" in page.text
    # Both answers stand under the first picture, the right one ticked.
    one = next(image for image in facts["images"] if image["outcome"] == "only_first")
    assert f"first: ✓ {one['first']['name']}, {100 * one['first']['probability']:.1f} %" in page.text
    assert f"second: {one['second']['name']}, {100 * one['second']['probability']:.1f} %" in page.text
    assert write_comparison(comparison, data, tmp_path / "again.html").read_text() == page.html
    assert len(page.html) < 500_000


def test_without_data_the_page_says_that_images_are_missing(tmp_path, compared, data):
    comparison = compared(*made_up_answers(data.splits["val"].labels))
    page = Page(write_comparison(comparison, None, tmp_path / "page.html").read_text())
    assert page.alts == []
    assert "The prepared data set was not found, so there are no images to show." in page.text
    assert "Only the first is right" not in page.text and "McNemar" in page.text


def test_images_that_were_lost_since_are_named(tmp_path, compared, data):
    class Lost:
        shape = (NUM, 8, 8, 3)

        def __len__(self):
            return NUM

        def __getitem__(self, place):
            raise UnreadableSample("its shard is missing", place)

    comparison = compared(*made_up_answers(data.splits["val"].labels))
    split = dataclasses.replace(data.splits["val"], images=Lost())
    lost = dataclasses.replace(data, splits={"val": split})
    page = Page(write_comparison(comparison, lost, tmp_path / "page.html").read_text())
    assert page.alts == [] and page.text.count("can no longer be read") == 60


def test_equal_runs_give_a_page_without_differences(tmp_path, compared, data):
    first, _ = made_up_answers(data.splits["val"].labels)
    page = Page(write_comparison(compared(first, first), data, tmp_path / "page.html").read_text())
    assert page.alts == [] and page.text.count("There are no such images.") == 2
    assert "The two runs differ on 0 images." in page.text and "the same error in every class" in page.text


def test_other_data_and_a_path_that_cannot_be_written_are_refused(tmp_path, compared, data):
    comparison = compared(*made_up_answers(data.splits["val"].labels))
    with pytest.raises(RequestError, match="cdcdcdcdcdcd"):
        write_comparison(comparison, dataclasses.replace(data, checksum="cd" * 32), tmp_path / "page.html")
    (tmp_path / "notes.html").write_text("my notes")
    with pytest.raises(RequestError, match="cannot write"):
        write_comparison(comparison, data, tmp_path / "notes.html" / "page.html")
    with pytest.raises(RequestError, match="is not a picture or page that alexnet made"):
        write_comparison(comparison, data, tmp_path / "notes.html")
    assert write_comparison(comparison, data, tmp_path / "new" / "page.html").is_file()
