"""The run folder: what is written is what is read, after a crash too."""

import json
from pathlib import Path

import pytest

from alexnet.errors import RequestError, WorkError
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK
from alexnet.system import machine


def test_create_then_open(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "deep" / "run", QUICK, {"seed": 3})
    run = RunFolder.open(tmp_path / "deep" / "run")
    assert run.recipe() == QUICK
    assert (run.metadata()["seed"], run.metadata()["name"], run.state) == (3, "run", "running")
    run.update_metadata(state="finished", duration_s=1.5)
    assert (run.state, run.metadata()["seed"], run.metadata()["duration_s"]) == ("finished", 3, 1.5)
    with pytest.raises(RequestError, match="exists already"):
        RunFolder.create(run.path, QUICK, {})


def test_events_survive_a_line_cut_short(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", QUICK, {})
    assert run.events() == []
    for step in (10, 20, 30):
        run.log("step", step=step, loss=1.0)
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 4')
    assert [event["step"] for event in run.events()] == [10, 20, 30]
    run.drop_events_after(20)
    run.log("step", step=25)
    assert [event["step"] for event in run.events()] == [10, 20, 25]


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is not a run folder \(it has no run.json\)"):
        RunFolder.open(tmp_path)
    run = RunFolder.create(tmp_path / "run", QUICK, {})
    run.update_metadata(format_version=7)
    with pytest.raises(RequestError, match="has run format 7, this version reads 1"):
        RunFolder.open(run.path)
    (run.path / "run.json").write_text("{")
    with pytest.raises(WorkError, match="is damaged"):
        RunFolder.open(run.path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"cannot write .*file/run"):
        RunFolder.create(tmp_path / "file" / "run", QUICK, {})


def test_evaluations_are_kept_by_name(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", QUICK, {})
    assert run.evaluations() == {}
    run.save_evaluation("val-1views", {"top1_error": 0.25})
    assert run.evaluations() == {"val-1views": {"top1_error": 0.25}}


def test_the_machine_summary_is_json_and_true() -> None:
    summary = json.loads(json.dumps(machine.machine_summary()))
    assert summary["cores"] >= 1 and summary["processor"]
    assert machine.versions()["torch"].startswith("2.")
    assert machine.has_bfloat16(frozenset({"amx_bf16"})) and not machine.has_bfloat16(frozenset({"avx2"}))


def test_restart_keeps_an_environment_that_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(machine.os, "execve", lambda *call: calls.append(call))
    machine.restart_with_tuned_allocator()  # the test environment says ALEXNET_ALLOCATOR=default
    monkeypatch.delenv("ALEXNET_ALLOCATOR")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    machine.restart_with_tuned_allocator()
    assert calls == []
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    machine.restart_with_tuned_allocator()
    if machine.platform.libc_ver()[0] == "glibc":
        ((program, words, environment),) = calls
        assert words[:4] == [program, "-P", "-m", "alexnet"] and "hugetlb=1" in environment["GLIBC_TUNABLES"]
