"""Predictions, evaluations and features that version 0.1.0 wrote are read, and reports are written from its runs."""

from pathlib import Path

import pytest
from tests.html_page import Page

from alexnet.data.concatenated import open_data
from alexnet.evaluation.compare import compare_runs
from alexnet.evaluation.evaluate import evaluate_probabilities
from alexnet.evaluation.predictions import load_predictions
from alexnet.explore.features import open_features
from alexnet.report.page import write_report
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
        assert {key: value for key, value in evaluation.items() if key not in measured_here} == {
            key: value for key, value in stored.items() if key not in measured_here
        }


@pytest.mark.parametrize("name", RUNS)
def test_a_report_is_written(golden: Path, name: str) -> None:
    path = write_report(golden / name, open_data(golden / "pixels"))
    page = Page(path.read_text())
    for evaluation in RunFolder.open(golden / name).evaluations().values():
        assert f"{100 * evaluation['top1_error']:.2f} %" in page.text
    assert "no pictures" not in page.text
    if name == "finished":
        assert "The log contains no step" not in page.text and "conv1" in page.text


def test_runs_are_compared_and_tabulated(golden: Path) -> None:
    comparison = compare_runs(golden / "baseline", golden / "baseline-sparse", num_views=1)
    assert comparison.first_counts.num_images == 6
    table = paper_table([golden / name for name in RUNS], num_views=1)
    assert [row.name for row in table.rows if row.runs] == ["SIFT + FVs", "Sparse coding", "1 CNN"]


def test_features_are_opened(golden: Path) -> None:
    old = open_features(golden / "features")
    assert list(old.activations) == ["conv2"] == old.description["layers"] and len(old.paths) == 6
    assert old.labels is not None and old.labels.shape == (6,) and old.classes == ("circle", "n01440764", "square")
