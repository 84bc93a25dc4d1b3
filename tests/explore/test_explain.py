"""Explanations, against predictions of images in which a patch was replaced; bad input; pictures and pages."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image
from tests.explore.indexed_run import IndexedRun, make_indexed_run, make_run
from tests.html_page import Page

import alexnet
from alexnet.cli.main import main
from alexnet.data.dataset import ClassInfo
from alexnet.errors import RequestError
from alexnet.explore.explain import explain, find_class
from alexnet.explore.explanation import describe_effect
from alexnet.figures.explanation_figure import _draw_scale, _Page, drop_scale
from alexnet.figures.figure_style import figure_style
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained, save_trained
from alexnet.report.explanation_page import explanation_page

NASTY = "</p><script>alert(1)</script>$x$ & a name that is much too long for any bar, title or picture of a page"
FAST: dict[str, Any] = {"device": "cpu", "patch": 10, "stride": 9}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> IndexedRun:
    return make_indexed_run(tmp_path_factory.mktemp("explain"))


@pytest.fixture(scope="module")
def trained(made: IndexedRun) -> Trained:
    """The run's network, whose mean image has whole numbers, so that photographs can have its pixels."""
    found = alexnet.load(made.run.path)
    return dataclasses.replace(found, mean_image=found.mean_image.round())


def an_image(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_an_explanation_is_what_predictions_of_changed_images_are(trained: Trained) -> None:
    images = [an_image(1), an_image(2)]
    found = explain(trained, images, **FAST)
    predicted = alexnet.predict(trained, images, views=1, device="cpu", precision="float32")
    for one, image, other in zip(found, images, predicted, strict=True):
        assert [ranked.id for ranked in one.top] == [ranked.id for ranked in other.top]
        np.testing.assert_allclose([a.probability for a in one.top], [b.probability for b in other.top], atol=1e-5)
        assert one.explained.id == other.top[0].id and one.rank == 1 and one.corner == (2, 2)
        grid = one.occlusion.grid
        assert grid.starts == (0, 9, 18) and one.occlusion.drops.shape == (3, 3)
        hidden = []
        for top in grid.starts:
            for left in grid.starts:
                changed = image.copy()
                place = np.s_[2 + top : 12 + top, 2 + left : 12 + left]
                changed[place] = trained.mean_image.numpy()[place]
                hidden.append(changed)
        index = [one.id for one in trained.classes].index(one.explained.id)
        after = alexnet.predict(trained, hidden, views=1, device="cpu", precision="float32").probabilities[:, index]
        np.testing.assert_allclose(one.probability - one.occlusion.drops.ravel(), after, atol=2e-6)
        # The gradient of the score, by torch's own means.
        pixels = alexnet.preprocess(image, trained).requires_grad_()
        score = trained.network(pixels)[0, index]
        (gradient,) = torch.autograd.grad(score, pixels)
        np.testing.assert_allclose(one.gradient, gradient[0].numpy(), atol=1e-5 * float(gradient.abs().max()))
        assert one.score == pytest.approx(score.item(), rel=1e-4, abs=1e-5)
    assert not any(one.near for one in found) and "Name a run folder" in found.near_title
    assert all(one.grad is None for one in trained.network.parameters()) and trained.network.is_untouched()


def test_a_class_is_explained_that_is_not_the_most_probable(trained: Trained) -> None:
    (best,) = explain(trained, an_image(), **FAST)
    last = best.top[-1]
    found = explain(trained, an_image(), class_name=last.id, **FAST)
    assert found[0].explained.id == last.id and found[0].rank == len(trained.classes)
    assert found[0].probability == pytest.approx(last.probability, abs=1e-5)
    assert not np.array_equal(found[0].gradient, best.gradient)


CLASSES = (
    ClassInfo("n01", "crane"),
    ClassInfo("n02", "Crane"),
    ClassInfo("n03", "tench, Tinca tinca"),
    ClassInfo("n04", "crane"),
    ClassInfo("n05", "tinca tinca, tench"),
    ClassInfo("n06", "great white shark, white shark"),
)


@pytest.mark.parametrize(
    ("name", "index"),
    [("n02", 1), ("Crane", 1), ("N03", 2), ("tench, Tinca tinca", 2), ("white SHARK ", 5), ("TENCH, tinca TINCA", 2)],
)
def test_classes_are_found(name: str, index: int) -> None:
    assert find_class(CLASSES, name) == index


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crane", "--class is 'crane', the name of 2 classes; give the id of one: n01, n04"),
        ("tench", "--class is 'tench', the name of 2 classes; give the id of one: n03, n05"),
        ("white sharks", "not one of the network's 6 classes; did you mean 'great white shark, white shark'"),
        ("zzz", "'zzz', which is not one of the network's 6 classes; give an id or a name, such as 'crane', 'Crane'"),
        ("", "--class is '', which is not"),
    ],
)
def test_classes_that_are_not_found(name: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        find_class(CLASSES, name)
    assert message in str(caught.value)


@pytest.mark.parametrize("store", ["pixels", pytest.param("jpeg", marks=pytest.mark.slow)])
def test_near_images_are_the_nearest_but_the_image_itself(made: IndexedRun, store: str, tmp_path: Path) -> None:
    """A data set of JPEG files stores other pixels than those that are explained."""
    if store == "jpeg":
        made = make_indexed_run(tmp_path, store=store)
    (one,) = explain(made.run.path, made.source / "train/color0/0.png", **FAST)
    vectors = np.array(made.index.vectors, np.float64)
    copies = [made.index.keys.index(f"train/color0/{number}.png") for number in (0, 1)]  # itself and another
    distances = np.sqrt(((vectors - vectors[copies[0]]) ** 2).sum(1))
    order = [number for number in np.argsort(distances, kind="stable") if number != copies[0]][:6]
    assert [near.neighbor.key for near in one.near] == [made.index.keys[number] for number in order]
    assert [near.neighbor.is_duplicate for near in one.near] == [True] + 5 * [False]
    np.testing.assert_allclose([near.neighbor.distance for near in one.near], distances[order], rtol=1e-3, atol=1e-4)
    for near, number in zip(one.near, order, strict=True):
        assert near.neighbor.class_name == made.index.class_of(number)
        np.testing.assert_array_equal(near.image, made.index.image(number))


def test_near_images_of_a_class_are_those_with_its_id(made: IndexedRun) -> None:
    """Two classes of ImageNet are both named crane."""
    found = explain(made.run.path, made.source / "train/color0/0.png", **FAST)
    same, other = found[0].near[:2]
    crane = dataclasses.replace(found[0], explained=ClassInfo("n01", "crane"), near=tuple(
        dataclasses.replace(one, neighbor=dataclasses.replace(one.neighbor, class_id=id, class_name="crane"))
        for one, id in ((same, "n01"), (other, "n02"))
    ))  # fmt: skip
    assert [near.is_explained_class for near in found.drawn(crane).near] == [True, False]


def test_an_index_whose_data_set_was_moved(
    made: IndexedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["explain", str(made.run.path), str(made.source / "val/color1/0.png"), "--patch", "14", "--stride", "14"]
    moved = made.data.folder.rename(tmp_path / "moved")
    try:
        assert main([*words, "--index", str(made.index.folder)]) == 2
        assert "give its new path with --data" in capfd.readouterr().err
        assert main([*words, "--data", str(moved), "--json", "--out", "a.html"]) == 0
        assert len(json.loads(capfd.readouterr().out)["images"][0]["near"]) == 6
        # A data set that is named must be that of an index.
        assert main([*words, "--data", str(made.source)]) == 2
        untrained = alexnet.load(made.run.path, untrained=True)
        with pytest.raises(RequestError, match="these are not trained; omit --index and --data"):
            explain(untrained, an_image(), data=moved, **FAST)
    finally:
        moved.rename(made.data.folder)


@pytest.mark.parametrize(
    ("drop", "note", "points"),
    [
        (0.5, "The dashed patch lowers it most.", "falls 50 points"),
        (0.996, "The dashed patch lowers it most.", "falls 100 points"),
        (-0.002, "No patch lowers it; the dashed one raises it least.", "falls 0.2 points"),
    ],
)
def test_what_hiding_does_is_said(trained: Trained, drop: float, note: str, points: str) -> None:
    found = explain(trained, an_image(), device="cpu", patch=28, stride=28)
    occlusion = dataclasses.replace(found[0].occlusion, probability=0.997, drops=np.array([[drop]], np.float32))
    one = dataclasses.replace(found[0], occlusion=occlusion)
    changed = dataclasses.replace(found, explanations=(one,))
    assert note in " ".join(changed.notes())
    assert ("(no patch lowers it)" in describe_effect(one)) == (drop <= 0)
    assert points in Page(explanation_page(changed)).text


def test_an_index_of_other_weights(made: IndexedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = make_run(made.data, tmp_path / "other", seed=7)
    assert "alexnet index" in explain(other.path, an_image(), **FAST).near_title
    with pytest.raises(RequestError, match="was made with other weights"):
        explain(other.path, an_image(), index=made.index.folder, **FAST)
    (other.path / "index").symlink_to(made.index.folder)
    with caplog.at_level(logging.WARNING):
        found = explain(other.path, an_image(), **FAST)
    assert "was made with other weights" in found.near_title and "was made with other weights" in caplog.text
    assert "remove" not in caplog.text  # the link leads to another run's index
    untrained = alexnet.load(made.run.path, untrained=True)
    assert "RANDOM weights" in explain(untrained, an_image(), **FAST).network
    with pytest.raises(RequestError, match="an index needs the run"):
        explain(alexnet.load(made.run.path), an_image(), index=made.index.folder, **FAST)


def test_what_is_refused(made: IndexedRun, trained: Trained, tmp_path: Path) -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ([], {}, "no images given; pass one or more"),
        ([an_image()] * 21, {}, "more than 20 images are named; allowed is up to 20 at a time"),
        (__file__, {}, "is not a readable image"),
        ([__file__, tmp_path / "none.png"], {}, "none of the 2 images can be read: .*is not a readable image"),
        (an_image(), {"class_name": "colour1"}, "did you mean 'color1'"),
        (an_image(), {"patch": 29}, "--patch is 29; allowed is 1 to 28"),
        (an_image(), {"stride": 11, "patch": 10}, "--stride is 11; allowed is 1 to 10"),
        (an_image(), {"batch_size": 0}, "--batch-size is 0"),
    ]
    for images, options, message in cases:
        with pytest.raises(RequestError, match=message):
            explain(trained, images, **{**FAST, **options})
    without_classes = dataclasses.replace(trained, untrained_layers=("fc5",))
    with pytest.raises(RequestError, match="class scores"):
        explain(without_classes, an_image(), **FAST)


def test_an_image_that_cannot_be_read_is_left_out(trained: Trained) -> None:
    found = explain(trained, [an_image(1), __file__, an_image(2).astype(np.float32)], **FAST)
    assert [one.image for one in found] == [0]
    assert [image for image, _ in found.refused] == [__file__, 2]
    assert found.to_dict()["refused"][0] == {"image": __file__, "reason": found.refused[0][1]}
    page = Page(explanation_page(found))
    assert "is not a readable image" in page.text


def test_progress_counts_places(trained: Trained) -> None:
    calls: list[tuple[int, int]] = []
    explain(trained, [an_image(1), an_image(2)], batch_size=4, progress=lambda *done: calls.append(done), **FAST)
    assert calls == [(done, 18) for done in (4, 8, 9, 13, 17, 18)]


@pytest.fixture(scope="module")
def nasty(made: IndexedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network without ReLU whose classes have hostile names."""
    found = alexnet.load(made.run.path)
    network = AlexNet(9, "cifar-four-layer-tanh", 0.2, generator=torch.Generator().manual_seed(1))
    classes = tuple(ClassInfo(f"class{number}", f"{NASTY} {number}") for number in range(9))
    path = tmp_path_factory.mktemp("nasty") / "weights.safetensors"
    side, crop = 32, network.spec.image_px
    mean_image = torch.full((side, side, 3), 128.0)
    save_trained(path, dataclasses.replace(found, network=network, classes=classes, mean_image=mean_image, crop=crop))
    return path


def test_pages_of_hostile_names(nasty: Path, tmp_path: Path) -> None:
    photograph = tmp_path / "<img src=x>\x1b[31m.png"
    Image.fromarray(an_image()).save(photograph)
    found = explain(nasty, photograph, class_name="class4", **FAST)
    assert found[0].guided_gradient is None
    page = Page(explanation_page(found))
    assert "script" not in page.tags and f"{NASTY} 4" in page.text and "has no ReLU" in page.text
    assert "<img src=x>\\x1b[31m.png" in page.text and "\x1b" not in page.html
    assert all(str(one).startswith("data:") for one in page.addresses) and len(page.html) < 100_000
    assert page.alts[0] and not {name for name in page.attribute_names if name.startswith("on")}
    fragment = Page(found._repr_html_())
    assert set(fragment.tags) <= {"div", "strong", "bdi", "figure", "figcaption", "img"}
    assert found.figure().get_figwidth() < 14 and "class4" not in repr(found)


@pytest.mark.parametrize("has_index", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_text_of_a_figure_overlaps_or_leaves_it(has_index: bool, made: IndexedRun, nasty: Path) -> None:
    if has_index:
        found = explain(made.run.path, [an_image(1), an_image(2)], class_name="color2", **FAST)
        found = dataclasses.replace(found, title=NASTY, network=NASTY)
    else:
        found = explain(nasty, an_image(), class_name="class4", **FAST)
    figure = found.figure()
    assert len(figure.axes) == (2 * (1 + 1 + 3 + 1 + 6) if has_index else 1 + 1 + 2 + 1)
    canvas = FigureCanvasAgg(figure)
    with figure_style():
        canvas.draw()
    boxes = [
        (one.get_text(), one.get_window_extent().padded(-1))
        for one in figure.findobj(Text)
        if isinstance(one, Text) and one.get_text() and one.get_visible()
    ]
    width, height = figure.get_size_inches() * figure.dpi
    texts = [box for box in boxes if box[1].width > 0]
    assert len(texts) > 20
    for number, (text, box) in enumerate(texts):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
        for other, other_box in texts[:number]:
            assert not box.overlaps(other_box), (text, other)


def test_command(
    made: IndexedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photograph = str(made.source / "val/color1/0.png")
    words = ["explain", str(made.run.path), photograph, "--patch", "10", "--stride", "9", "--device", "cpu"]
    assert main([*words, str(made.source / "../data/dataset.json")]) == 0
    printed = capfd.readouterr()
    assert printed.out.splitlines()[-1] == "run-explain.png: classes, occlusion and gradients of 1 image"
    assert "hiding 10 × 10 pixels at row" in printed.out and "left out: " in printed.err
    assert main([*words, "--json", "--class", "color2", "--out", "b/a.html"]) == 0
    assert (tmp_path / "b/a.html").read_bytes().startswith(b"<!DOCTYPE html>")
    content = json.loads(capfd.readouterr().out)
    assert content["file"] == "b/a.html" and content["images"][0]["class"] == {"id": "color2", "name": "color2"}
    assert len(content["images"][0]["near"]) == 6
    assert np.array(content["images"][0]["occlusion"]["drops"]).shape == (3, 3)
    # The photograph itself is not replaced by the picture.
    before = Path(photograph).read_bytes()
    assert main([*words, "--out", photograph]) == 2 and Path(photograph).read_bytes() == before
    assert "is not a picture or page that alexnet made" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("drop", "ticks"),
    [(0.152, [-10, 0, 10]), (0.29, [-20, -10, 0, 10, 20]), (0.0634, [-5, 0, 5]), (0, [-0.1, -0.05, 0, 0.05, 0.1])],
)
def test_the_scale_of_drops_has_round_ticks(drop: float, ticks: list[float]) -> None:
    page = _Page(4)
    _draw_scale(page, drop_scale(np.array([drop])), 1, 1)
    (axes,) = page.figure.axes
    shown = [float(one.get_text().replace("\u2212", "-")) for one in axes.get_yticklabels()]
    assert shown == ticks == pytest.approx(list(axes.get_yticks()))
