"""The commands that count errors, from their words to what they print and write."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.training.small_trainings import small_recipe

from alexnet.cli.main import main
from alexnet.data.preparation.prepare import prepare
from alexnet.runs.recipe_file import recipe_to_dict

SMALL = small_recipe(epochs=1)


@pytest.fixture
def runs(make_tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two trained networks, in the current folder."""
    monkeypatch.chdir(tmp_path)
    prepare(make_tree("photographs"), tmp_path / "data", side=32)
    config = {name: group for name, group in recipe_to_dict(SMALL).items() if name not in ("name", "claim")}
    (tmp_path / "small.yaml").write_text(json.dumps(config))  # JSON is YAML
    assert main(["train", "data", "--recipe", "quick", "--config", "small.yaml", "--run", "net", "--seeds", "2"]) == 0
    return ["net-0", "net-1"]


def test_from_networks_to_the_table(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    # What is trained is left alone, and the next commands are named again.
    assert main(["train", "data", "--recipe", "quick", "--config", "small.yaml", "--run", "net", "--seeds", "2"]) == 0
    said = capsys.readouterr()
    assert "net-0: already trained" in said.err
    assert "next: alexnet evaluate net-0 net-1, then: alexnet ensemble net-0 net-1" in said.out
    assert main(["ensemble", *runs]) == 2
    assert "run `alexnet evaluate net-0 --split val --views 10`" in capsys.readouterr().err
    assert main(["evaluate", *runs, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["evaluations"]
    assert [(one["run"], one["num_views"]) for one in measured] == [(run, views) for run in runs for views in (1, 10)]
    assert main(["ensemble", *runs, "--json"]) == 0
    averaged = json.loads(capsys.readouterr().out)
    assert [one["top1_error"] for one in averaged["runs"]] == [one["top1_error"] for one in measured[1::2]]
    assert main(["ensemble", *runs, "--weights", "greedy"]) == 0
    assert "greedy weights were tuned for the top-1 error on" in capsys.readouterr().out.replace("\n", " ")
    assert main(["compare", *runs, "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["top1"]["first"]["error"] == measured[1]["top1_error"]
    assert not list(Path().glob("net-0/*.html"))
    assert main(["compare", *runs]) == 0
    page = Path("net-0/compared-net-1.html")
    assert f"page: {page}" in capsys.readouterr().err and "net-1" in page.read_text()
    assert main(["table", *runs, "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert "| 1 CNN (mean of 2) |" in text and "| 2 CNNs (paper: 5) |" in text
    assert main(["table", *runs, "--json"]) == 0
    rows = {row["label"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    mean = sum(one["top1_error"] for one in measured[1::2]) / 2
    assert rows["1 CNN (mean of 2)"]["top1"]["error"] == pytest.approx(mean)
    assert main(["table", *runs, "--format", "latex"]) == 0
    assert r"\begin{tabular}" in capsys.readouterr().out


def test_dense_views_by_the_command(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", runs[0], "--views", "dense"]) == 0
    assert main(["evaluate", runs[0], "--views", "1"]) == 0
    assert main(["report", runs[0]]) == 0  # numbers of views and the word in one table
    capsys.readouterr()
    assert main(["evaluate", runs[0], "--views", "3"]) == 2
    assert "'3' is not allowed; allowed are 1, 9, 10, dense" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ensemble", "net-0"], "two"),
        (["ensemble", "net-0", "net-0"], "twice"),
        (["compare", "net-0", "net-1", "--json", "--html", "x.html"], "--json writes no page"),
        (["table", "net-0", "net-0"], "twice"),
        (["compare", "net-0", "none"], "none is not a run folder"),
    ],
)
def test_wrong_requests(words: list[str], message: str, runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err
