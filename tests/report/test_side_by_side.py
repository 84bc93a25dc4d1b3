"""The page on several runs: errors of the same images only, and paired tests of them."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from tests.html_page import Page
from tests.report.made_up_runs import RECIPE, make_run, write_data

import alexnet
from alexnet.cli.main import main
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.evaluation.compare import compare_runs
from alexnet.report.contents import headline_evaluation, sort_evaluations
from alexnet.report.side_by_side import ComparedRun, shared_evaluations
from alexnet.runs.folder import RunFolder

NUM = 60


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedData:
    monkeypatch.chdir(tmp_path)
    return write_data(tmp_path / "data", NUM)


def make_runs(data: PreparedData, *shares: float, **settings: Any) -> list[RunFolder]:
    return [make_run(Path(f"run<{number}>"), data, seed=number, share_right=one) for number, one in enumerate(shares)]


def page_of(runs: list[RunFolder], **settings: Any) -> Page:
    return Page(alexnet.write_report([run.path for run in runs], **settings).read_text())


def test_each_run_has_a_column_and_each_pair_a_test(data: PreparedData) -> None:
    runs = make_runs(data, 0.2, 0.9, 0.9)
    page = page_of(runs)
    words = " ".join(page.text.split())
    for run in runs:
        found = run.evaluations()["val-10views"]
        low, high = found["top1_interval"]
        assert f"{100 * found['top1_error']:.2f} % [{100 * low:.2f} %, {100 * high:.2f} %]" in words
    for first, second in itertools.combinations(runs, 2):
        test = compare_runs(first.path, second.path).tests["top1"]
        ends = ", ".join(f"{100 * end:+.2f}" for end in test.difference.interval)
        assert (
            f"{first.path}, {second.path} top-1 {100 * test.difference.difference:+.2f} [{ends}] "
            f"{test.mcnemar.only_first} {test.mcnemar.only_second} {test.mcnemar.p_value:.3g}"
        ).replace(" ", "") in words.replace(" ", "")
    assert "These are 3 comparisons" in words and "Generated images." in words
    assert page.tags.count("h1") == 1 and all(one is None or one.startswith(("data:", "#")) for one in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    curves = [one for one in page.html.split("<svg") if "validations over epochs" in one]
    assert len(curves) == 2 and all(one.count("run&lt;") == 3 for one in curves)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.2, 0.9), "run<1> misclassifies the fewest:"),
        ((0.2, 0.9), "It is better than run<0> by"),
        ((0.5, 0.5), "These images do not show that it is better than"),
    ],
)
@pytest.mark.usefixtures("blank_figures")
def test_the_opening_says_which_is_better_and_how_sure_that_is(
    data: PreparedData, shares: tuple[float, float], expected: str
) -> None:
    text = " ".join(page_of(make_runs(data, *shares)).text.split())
    assert expected in text and "Of 2 runs measured on the same 60 validation images of Made up" in text
    assert "guessing would misclassify 66.7 %" in text


@pytest.mark.usefixtures("blank_figures")
def test_runs_that_only_guess_and_runs_that_are_equal_are_called_so(tmp_path: Path, data: PreparedData) -> None:
    text = page_of(make_runs(data, 0.0, 0.05)).text
    assert "these images do not show that any of them has learned anything" in text
    runs = [make_run(tmp_path / name, data, share_right=0.9) for name in ("one", "two")]
    assert "one and two misclassify the fewest:" in page_of(runs, out=tmp_path / "page.html").text


@pytest.mark.usefixtures("blank_figures")
def test_runs_on_other_images_are_not_compared(tmp_path: Path, data: PreparedData) -> None:
    other = write_data(tmp_path / "other", NUM - 6)
    runs = [make_run(tmp_path / "one", data), make_run(tmp_path / "two", other)]
    page = page_of(runs, out=tmp_path / "page.html")
    assert "have not been measured on the same images" in page.text and "McNemar" not in page.text
    for run in runs:
        error = run.evaluations()["val-10views"]["top1_error"]
        assert f"{100 * error:.2f} %" not in page.text
        assert run.evaluations()["val-10views"]["data_checksum"][:12] in page.text
    assert "their curves cannot be compared" in page.text


@pytest.mark.usefixtures("blank_figures")
def test_runs_on_the_same_images_are_compared_and_others_left_out(
    tmp_path: Path, data: PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_run(tmp_path / "other-run", write_data(tmp_path / "other", NUM - 6))
    first, second = make_runs(data, 0.2, 0.9)
    runs = [first, other, second]
    page = page_of(runs, out=tmp_path / "page.html")
    words = " ".join(page.text.split())
    assert "Of 2 runs measured on the same 60 validation images of Made up, run<1> misclassifies the fewest" in words
    assert "Left out of the comparison." in words and "1 view of split val of Made up (" in words
    left_out = other.evaluations()["val-10views"]
    assert f"{100 * left_out['top1_error']:.2f} %" not in page.text and left_out["data_checksum"][:12] in page.text
    errors = [f"{100 * one.evaluations()['val-10views']['top1_error']:.2f} %" for one in (first, second)]
    cells = page.html.split(">top-1 error</th>")[1].split("</tr>")[0].split("<td>")[1:]
    assert [one.split(" <")[0] for one in cells] == [errors[0], "–", errors[1]]
    assert "run<0>, run<1>" in words and "Top-5 errors are not compared with fewer than 20 classes" in words
    assert main(["report", *(str(one.path) for one in runs), "--out", "three.html"]) == 0
    assert "other-run " in (printed := capsys.readouterr().out) and str(tmp_path) not in printed


@pytest.mark.usefixtures("blank_figures")
def test_a_run_that_was_not_evaluated_has_the_command(tmp_path: Path, data: PreparedData) -> None:
    runs = [make_run(tmp_path / "one", data), make_run(tmp_path / "two", data, views=(), num_filters=4)]
    text = page_of(runs, out=tmp_path / "page.html").text
    assert f"two: not evaluated. Evaluate it with: alexnet evaluate {tmp_path / 'two'}" in " ".join(text.split())


@pytest.mark.usefixtures("blank_figures")
def test_an_unfinished_run_is_named(tmp_path: Path, data: PreparedData) -> None:
    runs = [make_run(tmp_path / "one", data), make_run(tmp_path / "two", data)]
    runs[1].update_metadata(state="interrupted", duration_s=None)
    text = " ".join(page_of(runs, out=tmp_path / "page.html").text.split())
    assert "The training of two is not finished" in text and "The training of one" not in text
    assert "training time1 min 1 s40.0 s so far" in text


@pytest.mark.usefixtures("blank_figures")
def test_the_views_that_all_have_are_used(tmp_path: Path, data: PreparedData) -> None:
    runs = [make_run(tmp_path / "one", data, views=(1, 10)), make_run(tmp_path / "two", data, seed=2, views=(1,))]
    text = " ".join(page_of(runs, out=tmp_path / "page.html").text.split())
    assert "60 images of split val, 1 view, with 95 % intervals" in text and "McNemar" in text


def test_the_evaluation_is_that_of_the_pages_of_single_runs() -> None:
    stored = [
        {"data_checksum": checksum, "split": split, "num_views": views}
        for checksum in ("named", "other")
        for split, views in (("val", 10), ("test", 1), ("test", 10), ("train", 10))
    ]
    own = cast(PreparedData, SimpleNamespace(checksum="named"))
    runs = [ComparedRun(name, cast(RunFolder, None), RECIPE, [], stored, own) for name in "ab"]
    on_page = headline_evaluation(sort_evaluations({str(number): one for number, one in enumerate(stored[:4])}))
    assert on_page == {"data_checksum": "named", "split": "test", "num_views": 10}
    assert shared_evaluations(runs) == {0: on_page, 1: on_page}


@pytest.mark.usefixtures("blank_figures")
def test_settings_that_differ_are_listed(tmp_path: Path, data: PreparedData) -> None:
    changed = replace(RECIPE, optimizer=replace(RECIPE.optimizer, weight_decay=0.123))
    runs = [make_run(tmp_path / "one", data), make_run(tmp_path / "two", data, recipe=changed)]
    page = page_of(runs, out=tmp_path / "page.html")
    usual = f"{RECIPE.optimizer.weight_decay:.6g}"
    assert f'<th scope="row">optimizer.weight_decay</th><td>{usual}</td><td>0.123</td>' in page.html
    assert "optimizer.momentum" not in page.text
    same = page_of([runs[0], make_run(tmp_path / "three", data)], out=tmp_path / "page.html")
    assert "The runs have the same settings." in same.text


@pytest.mark.usefixtures("blank_figures")
def test_filters_stand_beside_each_other_on_their_own_scales(tmp_path: Path, data: PreparedData) -> None:
    columns = replace(RECIPE, network=replace(RECIPE.network, variant="caffe"))
    runs = [
        make_run(tmp_path / "one", data, num_filters=4),
        make_run(tmp_path / "two", data, num_filters=8, recipe=columns),
    ]
    text = page_of(runs, out=tmp_path / "page.html").text
    assert "The 4 filters of conv1, 5 by 5" in text and "the network has no columns to compare" in text
    assert "The 8 filters of conv1, in 2 columns" in text and "permutation test" in text


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_more_than_five_runs_are_compared_with_the_first(data: PreparedData) -> None:
    page = page_of(make_runs(data, *np.linspace(0.2, 0.9, 6)))
    assert "The first run with each other one" in page.text and "These are 5 comparisons" in page.text
    assert len(list(data.folder.parent.glob("report-run<0>-run<1>-run<2>-and-3-more-??????.html"))) == 1


@pytest.mark.usefixtures("blank_figures")
def test_without_the_data_set_the_tests_are_missing(data: PreparedData, caplog: pytest.LogCaptureFixture) -> None:
    runs = make_runs(data, 0.2, 0.9)
    data.folder.rename("moved")
    assert "The data set was not found, so the paired tests are missing" in page_of(runs).text
    assert "cannot find the data set" in caplog.text
    assert "McNemar" in page_of(runs, data="moved").text


@pytest.mark.usefixtures("blank_figures")
def test_the_command_prints_the_page(data: PreparedData, capsys: pytest.CaptureFixture[str]) -> None:
    make_runs(data, 0.2, 0.9)
    assert main(["report", "run<0>", "run<1>", "--out", "both.html"]) == 0
    shown = capsys.readouterr().out
    assert (
        "report: both.html" in shown and Path("both.html").is_file() and shown.index("run<0>") < shown.index("run<1>")
    )
    assert not Path("run<0>/report.html").exists()


@pytest.mark.usefixtures("blank_figures")
def test_requests_that_cannot_be_met_are_refused(tmp_path: Path, data: PreparedData) -> None:
    run = make_runs(data, 0.5)[0].path
    (tmp_path / "notes.html").write_text("my notes")
    (tmp_path / "folder.html").mkdir()
    for out, words in (
        ("notes.html", "notes.html exists and is not a picture or page that alexnet made"),
        ("folder.html", "folder.html is a folder"),
        ("page.pdf", "does not end in .html"),
        ("notes.html/page.html", "cannot write notes.html/page.html"),
    ):
        with pytest.raises(RequestError, match=words):
            alexnet.write_report(run, out=out)
    assert (tmp_path / "notes.html").read_text() == "my notes"
    with pytest.raises(RequestError, match="named twice"):
        alexnet.write_report([run, run])
    other = write_data(tmp_path / "other", NUM - 6)
    second = make_run(tmp_path / "second", data).path
    with pytest.raises(RequestError, match=r"was not evaluated on .*other"):
        alexnet.write_report([run, second], data=other.folder)
    with pytest.raises(RequestError, match="no run is named"):
        alexnet.write_report([])
    page = Path("new/folder/page.html")
    assert alexnet.write_report(run, out=page) == page
    first = page.read_bytes()
    assert alexnet.write_report(run, out=page).read_bytes() == first
    assert alexnet.write_report(str(run)) == run / "report.html"
    (run / "report.html").write_text("my notes")
    with pytest.raises(RequestError, match=r"report\.html exists and is not a picture or page"):
        alexnet.write_report(run)
