"""What a notebook shows of each result: small HTML without scripts in which all text is escaped, and a line of text."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.html_page import Page
from tests.prepared_files import write_prepared
from tests.training.small_trainings import small_recipe, train_interrupted

import alexnet
from alexnet.explore.features import write_features
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe

NASTY = "</td><script>alert(1)</script><img src=x onerror=alert(2)>"
CLASSES = tuple((f"class{number}", f"{NASTY}{number}") for number in range(12))
TAGS = {
    *("div", "strong", "bdi", "table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("figure", "figcaption", "img", "svg", "g", "path", "defs", "clippath", "rect", "use", "text"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of twelve classes with hostile names, `data`, and an evaluated run, `run`."""
    folder = tmp_path_factory.mktemp("results")
    write_prepared(folder / "data", {"train": 36, "val": 24}, title=NASTY, classes=CLASSES, side=32)
    recipe = small_recipe(2)
    alexnet.train(folder / "data", folder / "run", recipe, data={"crop": 28})
    alexnet.evaluate(folder / "run", device="cpu")
    return folder


def require_plain(page: Page, text: str) -> None:
    """The page acts on nothing, and holds the text as text."""
    assert set(page.tags) <= TAGS, set(page.tags) - TAGS
    assert not {name for name in page.attribute_names if name.startswith("on")}
    assert all(str(one).startswith(("data:image/jpeg;base64,", "#")) for one in page.addresses)
    assert text in page.text and len(page.html) < 60_000
    assert len(page.ids) == len(set(page.ids))


def results(work: Path) -> Iterator[tuple[Any, str, str]]:
    """Each result, a text that its HTML holds, and its representation."""
    folder = re.escape(str(work))
    data = alexnet.PreparedData.open(work / "data")
    title = re.escape(NASTY)
    yield (
        data,
        f"{NASTY}5",
        rf"PreparedData\('{folder}/data': '{title}', 12 classes, train 36, val 24 images, 32 pixels\)",
    )
    run = alexnet.RunFolder(work / "run")
    yield run, NASTY, rf"RunFolder\('{folder}/run': 'small', finished, 8 of 8 steps, top-1 error [\d.]+ % on val\)"
    yield (
        alexnet.evaluate(work / "run", views=10, device="cpu"),
        f"{NASTY}3",
        r"Evaluation\(val: 24 images, 10 views, top-1 error [\d.]+ %, top-5 error [\d.]+ %\)",
    )
    trained = alexnet.load(work / "run")
    yield trained, f"{NASTY}11", rf"Trained\(quick, 12 classes, [\d,]+ parameters, trained on '{title}'\)"
    images = np.zeros((3, 32, 32, 3), np.uint8)
    arrays = alexnet.features(work / "run", images, ["conv1", "fc5"], device="cpu")
    yield arrays, "3 x 12", r"ActivationArrays\(conv1 float32 \(3, \d+, \d+, \d+\), fc5 float32 \(3, 12\)\)"
    written = write_features(work / "run", work / "features", layers=["fc5"], device="cpu")
    yield written, "24 x 12", rf"Features\('{folder}/features': fc5 float32 \(24, 12\)\)"


def test_results_show_themselves(work: Path) -> None:
    for result, text, shown in results(work):
        require_plain(Page(result._repr_html_()), text)
        assert re.fullmatch(shown, repr(result)), repr(result)


def test_the_parts_of_a_data_set_print_no_arrays(work: Path) -> None:
    data = alexnet.PreparedData.open(work / "data")
    assert repr(data.splits["train"]) == "Split('train': 36 images)"
    assert re.fullmatch(r"Statistics\(mean image 32 x 32, mean color [\d.]+, [\d.]+, [\d.]+\)", repr(data.statistics))


def test_an_evaluation_names_the_worst_classes_first(work: Path) -> None:
    evaluation = alexnet.evaluate(work / "run", device="cpu")
    text = Page(evaluation._repr_html_()).text
    errors = [one.top1_error for one in evaluation.per_class]
    worst = sorted(range(12), key=lambda number: -errors[number])
    places = [text.index(f"{NASTY}{number}2") for number in worst[:10]]  # the name, then 2 images
    assert places == sorted(places) and f"{NASTY}{worst[10]}2" not in text
    low, high = evaluation.intervals["top1_interval"]
    assert f"{100 * evaluation.top1_error:.2f} %{100 * low:.2f} to {100 * high:.2f} %" in text


def test_two_runs_on_one_page_do_not_share_ids(work: Path, tmp_path: Path) -> None:
    other = alexnet.train(work / "data", tmp_path / "other", small_recipe(1), data={"crop": 28})
    page = Page(f"<div>{other._repr_html_()}{alexnet.RunFolder(work / 'run')._repr_html_()}</div>")
    assert page.ids and len(page.ids) == len(set(page.ids))


def test_a_run_is_shown_in_every_state(work: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "nowhere")
    assert repr(run) == f"RunFolder({str(tmp_path / 'nowhere')!r})"
    assert "cannot be read" in Page(run._repr_html_()).text
    recipe: Recipe = replace(small_recipe(2), data=replace(small_recipe().data, crop=28))
    train_interrupted(work / "data", recipe, tmp_path / "cut", 3)
    cut = RunFolder(tmp_path / "cut")
    assert "interrupted, 3 of 8 steps)" in repr(cut)
    require_plain(Page(cut._repr_html_()), "interrupted")
    (tmp_path / "cut" / "run.json").write_text("{<script>")
    assert "cannot be read" in Page(cut._repr_html_()).text and repr(cut).endswith("cut')")


def test_damaged_examples_are_left_out(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = alexnet.PreparedData.open(work / "data")
    images = data.splits["train"].images

    class Damaged:
        def __getitem__(self, index: int) -> Any:
            if index in (0, 5):
                raise alexnet.WorkError("damaged")
            return images[index]

    split = replace(data.splits["train"], images=Damaged())  # type: ignore[arg-type]
    shown = replace(data, splits={"train": split})._repr_html_()
    assert len(Page(shown).images) == 10  # the next image of the class takes its place


def test_a_network_names_twenty_of_many_classes() -> None:
    from alexnet.data.dataset import ClassInfo

    trained = alexnet.Trained(
        network=alexnet.AlexNet(30, "quick", 0.1),
        classes=tuple(ClassInfo(f"c{number}", f"name{number}") for number in range(30)),
        mean_image=torch.zeros(32, 32, 3),
        crop=28,
        title="t",
        generated=False,
    )
    text = Page(trained._repr_html_()).text
    assert "name19 and 10 more" in text and "name20" not in text
