"""Predictions, evaluations and features that version 0.1.0 wrote are read, and reports are written from its runs."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.html_page import Page

from alexnet.cli.main import command_parser, main
from alexnet.data.concatenated import open_data
from alexnet.errors import RequestError
from alexnet.evaluation.compare import compare_runs
from alexnet.evaluation.evaluate import evaluate_probabilities
from alexnet.evaluation.predictions import load_predictions
from alexnet.evaluation.run_evaluation import evaluate
from alexnet.explore.features import open_features, write_features
from alexnet.report.page import write_run_page
from alexnet.report.paper_table import paper_table
from alexnet.runs.folder import RunFolder

RUNS = {"finished": (1, 10), "baseline": (1,), "baseline-sparse": (1,)}


@pytest.mark.parametrize("name", RUNS)
def test_stored_evaluations_are_those_of_the_stored_probabilities(golden: Path, name: str) -> None:
    run, data = RunFolder.open(golden / name), open_data(golden / "pixels")
    evaluations = run.evaluations()
    assert sorted(evaluations) == sorted(f"val-{num_views}views" for num_views in RUNS[name])
    for num_views in RUNS[name]:
        predictions = load_predictions(run.path / "predictions", "val", num_views, data)
        assert predictions.class_ids == tuple(one.id for one in data.classes)
        evaluation = evaluate_probabilities(predictions.probabilities, data, "val", num_views).to_dict()
        stored = evaluations[f"val-{num_views}views"]
        measured_here = ("run", "images_per_second")
        for key in stored.keys() - set(measured_here):  # a metric of today may be missing in the file
            assert evaluation[key] == stored[key], key


def test_the_stored_weights_give_the_stored_probabilities(golden: Path) -> None:
    run, data = golden / "finished", open_data(golden / "pixels")
    before = load_predictions(run / "predictions", "val", 10, data).probabilities
    evaluate(run, views=10, device="cpu", precision="float32")
    after = load_predictions(run / "predictions", "val", 10, data).probabilities
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_a_report_is_written(golden: Path, name: str) -> None:
    path = write_run_page(golden / name, open_data(golden / "pixels"))
    page = Page(path.read_text())
    for evaluation in RunFolder.open(golden / name).evaluations().values():
        assert f"{100 * evaluation['top1_error']:.2f} %" in page.text
    assert "no images to show" not in page.text
    if name == "finished":
        assert "The log has no steps" not in page.text and "conv1" in page.text


def test_runs_are_compared_and_tabulated(golden: Path) -> None:
    comparison = compare_runs(golden / "baseline", golden / "baseline-sparse", num_views=1)
    assert comparison.first_counts.num_images == 6
    table = paper_table([golden / name for name in RUNS], num_views=1)
    assert [row.name for row in table.rows if row.runs] == ["SIFT + FVs", "Sparse coding", "1 CNN"]


def test_features_are_opened_and_computed_alike(golden: Path, tmp_path: Path) -> None:
    old = open_features(golden / "features")
    assert list(old.activations) == ["conv2"] == old.description["layers"] and len(old.paths) == 6
    new = write_features(
        golden / "finished", tmp_path / "features", layers=["norm2"], split="val", device="cpu", precision="float32"
    )
    np.testing.assert_allclose(new.activations["norm2"], old.activations["conv2"], rtol=1e-5, atol=1e-5)
    assert old.labels is not None and new.labels is not None
    np.testing.assert_array_equal(new.labels, old.labels)
    assert new.paths == old.paths and new.classes == old.classes


def test_unfinished_features_of_the_earlier_format_are_refused_clearly(golden: Path) -> None:
    (golden / "features").rename(golden / ".new.preparing")
    with pytest.raises(RequestError, match=r"format_version was 1 and is 3.*add --restart to discard"):
        write_features(golden / "finished", golden / "new", layers=["norm2"], split="val", device="cpu")


def advised(page: Page, printed: str) -> set[tuple[str, ...]]:
    """The commands that a report's page and the command's last line advise."""
    lines = [line.removeprefix("next: ") for line in printed.splitlines() if line.startswith("next: ")]
    return {tuple(shlex.split(one)) for one in [*page.code, *lines] if one.startswith("alexnet ")}


def prepare_case(case: str, golden: Path) -> Path:
    """A run in one of the states in which a report may be asked for."""
    name = "interrupted" if case in ("interrupted", "killed", "failed") else "finished"
    run = RunFolder.open(golden / ("baseline" if "baseline" in case else name))
    if case == "killed":  # before its first weights
        run.weights.unlink(missing_ok=True)
        run.update_metadata(state="running")
    if case == "failed":
        run.weights.unlink(missing_ok=True)
        run.update_metadata(state="failed")
    if case == "unfinished baseline":
        (run.path / "baseline.safetensors").unlink()
        run.update_metadata(state="interrupted")
    if "not evaluated" in case or case == "unfinished baseline":
        run.forget_evaluations()
    if case == "data gone":
        for folder in run.data_folders():
            shutil.rmtree(folder)
    if case == "training alone":
        metadata = run.metadata()
        splits = {"train": metadata["data"]["splits"]["train"]}
        run.update_metadata(data={**metadata["data"], "splits": splits})
        run.forget_evaluations()
    return run.path


@pytest.mark.parametrize(
    ("case", "commands"),
    [
        ("finished", {"predict", "evaluate"}),
        ("not evaluated", {"predict", "evaluate", "report"}),
        ("interrupted", {"resume", "predict", "evaluate", "report"}),
        ("killed", {"resume"}),
        ("failed", set()),
        ("data gone", {"predict", "report"}),
        ("training alone", {"predict", "prepare", "evaluate"}),
        ("baseline", {"evaluate"}),
        ("baseline not evaluated", {"evaluate", "report"}),
        ("unfinished baseline", set()),
    ],
)
def test_a_reports_advice_works(
    golden: Path, case: str, commands: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare_case(case, golden)
    assert main(["report", str(run)]) == 0
    page = Page((run / "report.html").read_text())
    advice = advised(page, capsys.readouterr().out)
    assert {words[1] for words in advice} == commands
    assert ("First-layer filters" in page.text) == ("baseline" not in case)
    monkeypatch.chdir(golden)
    Image.new("RGB", (40, 40), "red").save(golden / "photo.jpg")
    for words in sorted(advice, key=lambda one: one[1] == "resume"):
        command_parser(words[1]).parse(list(words[2:]))
        if not any(word.isupper() for word in words):  # such as DATA, which the reader fills in
            assert main(list(words[1:])) == 0, words
