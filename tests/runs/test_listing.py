"""Runs at a glance, damaged and killed ones too."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet.cli.main import main
from alexnet.errors import RequestError
from alexnet.runs.folder import RunFolder
from alexnet.runs.overview import list_runs
from alexnet.runs.recipes import QUICK
from alexnet.storage.lock import only_writer


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    changed = replace(QUICK, optimizer=replace(QUICK.optimizer, learning_rate=0.125))
    for name, recipe, state in (("a", QUICK, "finished"), ("b", changed, "running"), ("c", QUICK, "running")):
        run = RunFolder.create(folder / name, recipe, {"state": state, "num_steps": 20})
        for step, error in ((10, 0.25), (20, 0.5)):
            run.log("step", step=step, elapsed_s=1.5 * step)
            run.log("validation", step=step, top1_error=error)
    (folder / "d").mkdir()
    (folder / "d" / "run.json").write_text("{")
    (folder / "not a run").mkdir()
    return folder


def test_every_run_is_listed_with_its_true_state(runs: Path) -> None:
    with only_writer(runs / "b" / ".lock", "b"):
        listed = {Path(run["run"]).name: run for run in list_runs(runs)}
    assert list(listed) == ["a", "b", "c", "d"]
    assert [listed[name]["state"] for name in "abc"] == ["finished", "running", "killed"]
    assert "is damaged" in listed["d"]["unreadable"]
    a = listed["a"]
    assert a["processes"] == 1
    assert (a["step"], a["num_steps"], a["top1_error"], a["lowest_error"], a["seconds"]) == (20, 20, 0.5, 0.25, 30.0)
    assert listed["a"]["changes"] == [] and listed["b"]["changes"] == ["optimizer.learning_rate: 0.05 -> 0.125"]
    assert [run["run"] for run in list_runs(runs / "a")] == [str(runs / "a")]


def test_the_command_prints_a_table_or_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs)]) == 0
    text = capsys.readouterr().out
    assert (
        "killed" in text
        and "unreadable" in text
        and "25.00" in text
        and "optimizer.learning_rate: 0.05 -> 0.125" in text
    )
    assert main(["runs", str(runs), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 4


def test_folders_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no folder"):
        list_runs(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="holds no run; `alexnet train DATA --run"):
        list_runs(tmp_path)
