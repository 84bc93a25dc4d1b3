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
            run.log("step", step=step, epoch=step, loss=0.5, elapsed_s=1.5 * step)
            run.log("validation", step=step, epoch=step, split="val", loss=0.5, top1_error=error, top5_error=0.0)
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


@pytest.mark.parametrize("name", ["run.json", "recipe.yaml", "events.jsonl"])
@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"[" * 200_000, b"{}", b'{"name": 3}'])
def test_one_damaged_run_leaves_the_others_listed(
    runs: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "b" / name).write_bytes(content)
    assert main(["runs", str(runs), "--json"]) == 0
    listed = {Path(run["run"]).name: run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert sorted(listed) == ["a", "b", "c", "d"] and listed["a"]["step"] == 20
    if name == "events.jsonl":
        assert listed["b"]["step"] == 0
    else:
        assert f"{name} is damaged" in listed["b"]["unreadable"]


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


def test_errors_on_different_data_are_in_different_tables(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, title, letter in (("a", "[pets]", "a"), ("b", "CIFAR-10", "b"), ("c", "CIFAR-10", "c")):
        RunFolder(runs / name).update_metadata(data={"title": title, "checksum": letter * 64})
        RunFolder(runs / name).log(
            "validation", step=20, epoch=20, split="rest", loss=0.5, top1_error=0.5, top5_error=0.0
        )
    assert [one.get("data_checksum", "")[:1] for one in list_runs(runs)] == ["a", "b", "c", ""]
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["runs", str(runs)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    titles = [
        "runs on [pets] (aaaaaaaaaaaa); top-1 errors of split rest in percent",
        "runs on CIFAR-10 (bbbbbbbbbbbb); top-1 errors of split rest in percent",
        "runs on CIFAR-10 (cccccccccccc); top-1 errors of split rest in percent",
        "runs that cannot be read",
    ]
    places = [lines.index(title) for title in titles]
    assert places == sorted(places)
    for name, place, end in zip("abcd", places, [*places[1:], len(lines)], strict=True):
        assert [line[0] for line in lines[place:end] if line[1:2] == " "] == [name]


def test_the_split_of_each_run_is_shown_where_they_differ(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, split in (("a", "val"), ("b", "rest")):
        RunFolder(runs / name).update_metadata(data={"title": "pets", "checksum": "a" * 64})
        RunFolder(runs / name).log(
            "validation", step=20, epoch=20, split=split, loss=0.5, top1_error=0.5, top5_error=0.0
        )
    assert main(["runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "runs on pets (aaaaaaaaaaaa); top-1 errors in percent" in lines
    cells = {line.split()[0]: line.split() for line in lines if line[1:2] in "abcd" and line[2:3] == " "}
    assert [cells[name][3] for name in "ab"] == ["val", "rest"]


def test_folders_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no folder"):
        list_runs(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="holds no run; `alexnet train DATA --run"):
        list_runs(tmp_path)
