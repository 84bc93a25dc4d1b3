"""The report of made-up runs: self-contained, with the run's numbers, and naming what is missing."""

import re
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from tests.html_page import Page
from tests.report.made_up_runs import make_run, write_data

from alexnet.cli.main import main
from alexnet.data.dataset import ClassInfo, PreparedData, Split, Statistics
from alexnet.errors import RequestError
from alexnet.evaluation.evaluate import evaluate_probabilities
from alexnet.evaluation.predictions import save_predictions
from alexnet.report.answered_images import answered_images
from alexnet.report.contents import data_of_claim
from alexnet.report.page import write_run_page
from alexnet.runs.baseline_recipe import BASELINES
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK, RECIPES

NAMES = ("cat", "dog & wolf", "<b>bird</b>")


@pytest.fixture
def data(tmp_path):
    num = 30
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(num, dtype=np.int64) % 3
    keys = [f"test/{place}" for place in range(num)]
    return PreparedData(
        folder=tmp_path / "data",
        title="Made up",
        generated=True,
        classes=tuple(ClassInfo(f"c{place}", name) for place, name in enumerate(NAMES)),
        splits={"test": Split("test", images, labels, keys)},
        side=8,
        statistics=Statistics(np.zeros((8, 8, 3), np.float32), np.eye(3), np.ones(3), np.eye(3)),
        checksum="ab" * 32,
    )


@pytest.fixture
def run(tmp_path, data):
    """A run that was interrupted in its second epoch and has stored neither weights nor evaluation."""
    facts = {
        "commit": "0123456789ab",
        "machine": {"processor": "a processor", "cores": 2},
        "versions": {"torch": "2.13.0"},
        "seed": 7,
        "data": {
            "folder": "data-that-is-gone",
            "title": data.title,
            "generated": True,
            "checksum": data.checksum,
            "side": 8,
        },
        "parameters": 12345,
        "duration_s": 12.5,
    }
    run = RunFolder.create(tmp_path / "my run", QUICK, facts)
    for step in range(1, 16):
        run.log("step", step=step, epoch=step / 10, loss=2.3 / step, top1_error=1 / step, rate=0.1, elapsed_s=step)
    run.log("epoch", epoch=1, step=10, train_loss=1.25, train_top1_error=0.625, elapsed_s=10.0)
    run.log("validation", epoch=1, step=10, split="test", top1_error=0.5125, top5_error=0, loss=1.5, num_images=30)
    run.update_metadata(state="interrupted")
    return run


def finish(run, data):
    """Store weights, predictions and evaluations of one and ten views."""
    generator = np.random.default_rng(1)
    filters = generator.normal(size=(8, 3, 3, 3)).astype(np.float32)
    safetensors.numpy.save_file({"conv1.weight": filters}, run.weights)
    for num_views in (1, 10):
        probabilities = generator.dirichlet(np.ones(3), 30).astype(np.float32)
        save_predictions(run.path / "predictions", "test", num_views, probabilities, data)
        content = evaluate_probabilities(probabilities, data, "test", num_views, 100.0).to_dict()
        run.save_evaluation(f"test-{num_views}views", content)
    run.update_metadata(state="finished", finished="2026-01-01T00:00:00+00:00")


def test_a_finished_run_gives_one_whole_page_the_same_each_time(run, data):
    finish(run, data)
    path = write_run_page(run.path, data)
    assert path == run.path / "report.html"
    html = path.read_text()
    page = Page(html)
    assert all(one.startswith(("data:", "#")) for one in page.addresses)
    assert not re.search(r"url\((?!#)|@import|<script", html)
    assert len(page.ids) == len(set(page.ids))
    for evaluation in run.evaluations().values():
        low, high = evaluation["top1_interval"]
        for figure in (evaluation["top1_error"], low, high):
            assert f"{100 * figure:.2f} %" in page.text
    assert "Generated images." in page.text
    assert "State:" not in page.text
    assert html.count('class="missing"') == 1 and "This run has no index of images" in page.text
    assert html.count('class="panel"') == 3 and len(page.images) == 3 * 6 + 34  # panels, and confused pairs
    for words in ("conv1", "dog & wolf", "<b>bird</b>", "a processor", "2.13.0", data.checksum, "warmup", "12,345"):
        assert words in page.text
    assert "paper, top-1" not in page.text
    assert f"alexnet predict '{run.path}' photo.jpg" in page.text
    assert write_run_page(run.path, data).read_text() == html
    assert not list(run.path.glob(".*"))


@pytest.mark.usefixtures("blank_figures")
def test_the_page_counts_what_the_data_set_left_out(run, data):
    finish(run, data)
    counted = replace(data, description={"num_refused": 17, "num_skipped": 2345})
    text = " ".join(Page(write_run_page(run.path, counted).read_text()).text.split())
    assert re.search("images refused *17 *other files skipped *2,?345", text)
    assert "images refused" not in Page(write_run_page(run.path, data).read_text()).text


@pytest.mark.usefixtures("blank_figures")
def test_an_interrupted_run_says_what_is_missing(run, data):
    page = Page(write_run_page(run.path, data).read_text())
    assert "State: interrupted." in page.text
    assert f"Its log ends at step 15, epoch 1.5 of {QUICK.schedule.epochs}." in page.text
    assert "has not been evaluated yet" in page.text
    assert "top-1 error 51.25 %" in page.text
    assert "no stored weights yet" in page.text
    assert "62.50 %" in page.text


def test_a_run_that_has_just_started(tmp_path):
    run = RunFolder.create(tmp_path / "begun", QUICK, {})
    page = Page(write_run_page(run.path, None).read_text())
    assert "The log has no steps yet" in page.text
    assert "State: running." in page.text


@pytest.mark.usefixtures("blank_figures")
def test_damaged_and_missing_pieces_are_named(run, data):
    finish(run, data)
    run.weights.write_bytes(b"not weights")
    (run.path / "predictions" / "test-10views.safetensors").unlink()
    page = Page(write_run_page(run.path, data).read_text())
    assert "The filters cannot be shown" in page.text
    assert "There are no images to show" in page.text
    assert "was not found" in answered_images(run, None, run.evaluations()["test-1views"]).missing


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.usefixtures("blank_figures")
def test_a_diverged_run_has_a_page_that_says_so(run, data):
    finish(run, data)
    safetensors.numpy.save_file({"conv1.weight": np.full((8, 3, 3, 3), np.nan, np.float32)}, run.weights)
    text = " ".join(Page(write_run_page(run.path, None).read_text()).text.split())
    assert "The filters cannot be shown: the filters have weights that are not finite" in text


def test_damage_is_told_where_the_command_was_given(run, data, caplog):
    finish(run, data)
    write_run_page(run.path, data)
    assert not caplog.messages
    predictions = run.path / "predictions" / "test-10views.safetensors"
    for path in (run.weights, predictions):
        path.write_bytes(path.read_bytes()[:-1])
    write_run_page(run.path, data)
    images, filters = caplog.messages
    assert filters.startswith(f"the report shows no filters: {run.weights} is damaged (")
    assert images.startswith(f"the report shows no images: {predictions} is damaged (")


@pytest.mark.usefixtures("blank_figures")
def test_another_data_set_is_refused(run, data):
    run.update_metadata(data={"checksum": "cd" * 32, "folder": "elsewhere"})
    with pytest.raises(RequestError, match="elsewhere"):
        write_run_page(run.path, data)
    assert not (run.path / "report.html").exists()


@pytest.mark.usefixtures("blank_figures")
def test_no_run_folder_is_refused(tmp_path):
    with pytest.raises(RequestError, match="not a run folder"):
        write_run_page(tmp_path, None)


@pytest.mark.usefixtures("blank_figures")
def test_changed_settings_are_shown_beside_the_claim(tmp_path):
    usual = QUICK.schedule.epochs
    changed = replace(QUICK, schedule=replace(QUICK.schedule, epochs=3))
    on_cifar = {"data": {"checksum": "ab" * 32, "title": "CIFAR-10"}}
    for name, recipe in (("changed", changed), ("same", QUICK)):
        run = RunFolder.create(tmp_path / name, recipe, on_cifar)
        page = write_run_page(run.path, None).read_text()
        said = f"This run changed the recipe, so it does not test the claim: schedule.epochs: {usual} -&gt; 3."
        assert (said in page) == (name == "changed")
        assert QUICK.claim in " ".join(Page(page).text.split())


@pytest.mark.usefixtures("blank_figures")
def test_a_claim_about_other_data_is_not_shown(tmp_path):
    clothing = {"data": {"checksum": "ab" * 32, "title": "clothing"}}
    changed = replace(QUICK, schedule=replace(QUICK.schedule, epochs=3))
    run = RunFolder.create(tmp_path / "run", changed, clothing)
    text = " ".join(Page(write_run_page(run.path, None).read_text()).text.split())
    assert "The claim of recipe quick is about CIFAR-10. This run was trained on clothing" in text
    assert "Test error, one view" not in text and "This run changed the recipe: schedule.epochs" in text


@pytest.mark.parametrize("recipe", [*RECIPES.values(), *BASELINES.values()], ids=lambda one: one.name)
def test_every_claim_names_its_data(recipe):
    assert data_of_claim(recipe.claim)


@pytest.mark.usefixtures("blank_figures")
def test_a_failed_run_says_why_and_what_to_do(run, data, capsys):
    run.log("failed", reason="the network's scores are <b>not</b> finite: train again with a lower learning rate")
    run.update_metadata(state="failed")
    said = "finite: train again with a lower learning rate. A failed run cannot be resumed: remove its folder, or train"
    html = write_run_page(run.path, None).read_text()
    assert said in " ".join(Page(html).text.split()) and "<b>not" not in html
    assert main(["report", str(run.path)]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("classes", [5, pytest.param(6, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("blank_figures")
def test_a_top5_error_of_five_classes_is_not_shown(tmp_path, classes, capsys):
    data = write_data(tmp_path / "data", 12, [f"class {number}" for number in range(classes)])
    path = make_run(tmp_path / "run", data, views=(1,)).path
    assert main(["report", str(path)]) == 0
    printed = capsys.readouterr().out
    text = " ".join(Page((path / "report.html").read_text()).text.split())
    for shown in (text, printed):
        assert ("with 5 classes or fewer it is 0 by definition" in shown) == (classes == 5)
    assert ("Top-5 error, val, 1 view" in text) == (classes == 6)
    error = RunFolder.open(path).evaluations()["val-1views"]["top5_error"]
    assert (f"{100 * error:.2f} [" in printed.split("top-5")[1].splitlines()[2].split("]", 1)[1]) == (classes == 6)
    assert "run " not in printed.splitlines()[2], "one run needs no column"


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_what_is_missing_is_named_with_its_command(tmp_path):
    data = write_data(tmp_path / "data", 12)
    run = make_run(tmp_path / "run", data, views=(), num_filters=4)

    def text(found=None):
        return " ".join(Page(write_run_page(run.path, found).read_text()).text.split())

    assert f"Run alexnet evaluate {run.path}, then alexnet report {run.path}." in text()
    facts = run.metadata()["data"]
    run.update_metadata(data={**facts, "splits": {"train": 6}})
    assert f"only training images. Name another one with the same classes: alexnet evaluate {run.path} --data" in text()
    run.update_metadata(data={**facts, "folders": ["/gone/away"]})
    assert f"data set /gone/away was not found. Name its folder: alexnet evaluate {run.path} --data DATA" in text()
    evaluated = make_run(tmp_path / "evaluated", data, views=(1,))
    evaluated.update_metadata(data={**facts, "folders": ["/gone/away"]})
    page = " ".join(Page(write_run_page(evaluated.path, None).read_text()).text.split())
    assert "data set /gone/away was not found, so there are no images to show. Name its folder: alexnet report" in page
