"""The run folder: what is written is what is read, after a crash too."""

import json
from pathlib import Path
from typing import Any

import pytest

from alexnet.errors import RequestError, WorkError
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK
from alexnet.storage.typed_files import DamagedFile
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
        run.log("step", step=step, epoch=step / 10, loss=1.0, elapsed_s=step)
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 4')
    assert [event["step"] for event in run.events()] == [10, 20, 30]
    run.drop_events_after(20)
    run.log("step", step=25, epoch=2.5, loss=1.0, elapsed_s=25)
    assert [event["step"] for event in run.events()] == [10, 20, 25]


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is not a run folder \(it has no run.json\); give the folder"):
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
    stored = evaluation_of([[2, 0], [1, 1]])
    run.save_evaluation("val-1views", stored)
    assert run.evaluations() == {"val-1views": stored}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"top1_error": 0.5}, "top1_error: it is 0.5, and that of per_class is 0.25"),
        ({"num_images": 5}, "per_class"),
        ({"confused_pairs": [{"true": "b", "predicted": "c", "num_images": 1}]}, "confused_pairs"),
        ({"confused_pairs": [{"true": "b", "predicted": "a", "num_images": 3}]}, "confused_pairs"),
        ({"num_images": 0}, "num_images: expected int >= 1"),
        ({"top1_interval": [0.1]}, "top1_interval: expected array of length >= 2"),
        ({"loss": float("nan")}, "loss: expected float"),
        ({"per_class": [{"id": "a", "name": "a", "num_images": 4, "top1_error": None}], "num_classes": 1}, "per_class"),
    ],
)
def test_an_evaluation_without_checksum_is_checked_too(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    """As earlier versions wrote them."""
    run = RunFolder.create(tmp_path / "run", QUICK, {})
    run.save_evaluation("val-1views", {})
    path = run.path / "evaluations" / "val-1views.json"
    path.write_text(json.dumps(evaluation_of([[2, 0], [1, 1]])))
    assert run.evaluations()["val-1views"]["top1_error"] == 0.25
    path.write_text(json.dumps({**evaluation_of([[2, 0], [1, 1]]), **change}))
    with pytest.raises(DamagedFile, match=rf"val-1views.json is damaged \({reason}.*`alexnet evaluate .*run` to write"):
        run.evaluations()


def evaluation_of(confusion: list[list[int]]) -> dict[str, Any]:
    """The evaluation of two classes with these images by true and predicted class."""
    (right_a, a_as_b), (b_as_a, right_b) = confusion
    num_a, num_b = right_a + a_as_b, b_as_a + right_b
    pairs = [
        {"true": "a", "predicted": "b", "num_images": a_as_b},
        {"true": "b", "predicted": "a", "num_images": b_as_a},
    ]
    return {
        "split": "val",
        "num_views": 1,
        "num_images": num_a + num_b,
        "num_classes": 2,
        "top1_error": (a_as_b + b_as_a) / (num_a + num_b),
        "top1_interval": [0.1, 0.5],
        "top5_error": 0.0,
        "top5_interval": [0.0, 0.3],
        "loss": 0.5,
        "data_checksum": "c" * 64,
        "per_class": [
            {"id": "a", "name": "a", "num_images": num_a, "top1_error": a_as_b / num_a},
            {"id": "b", "name": "b", "num_images": num_b, "top1_error": b_as_a / num_b},
        ],
        "confused_pairs": [pair for pair in pairs if pair["num_images"]],
    }


def test_a_damaged_line_in_the_middle_of_the_log_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder.create(tmp_path / "run", QUICK, {})
    for number in range(5):
        run.log("left_chance", step=number, loss=0.5)
    path = run.path / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"step": 1', b'"step": 7')
    lines[3] = lines[3].replace(b"left", b"l\xe6ft")
    path.write_bytes(b"".join(lines))
    assert [event["step"] for event in run.events()] == [0, 2, 4]
    assert [event["step"] for event in run.events()] == [0, 2, 4]
    assert [one.message for one in caplog.records] == [
        f"{path}: 2 of 5 lines are damaged and left out, the first is line 2: it was changed after it was written: "
        "crc32 does not match; if the change is intended, delete this key"
    ]


def test_the_machine_summary_is_json_and_true() -> None:
    summary = json.loads(json.dumps(machine.machine_summary()))
    assert summary["cores"] >= 1 and summary["processor"]
    assert machine.versions()["torch"].startswith("2.")


def test_restart_keeps_an_environment_that_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(machine.os, "execve", lambda *call: calls.append(call))
    machine.restart_with_tuned_allocator()  # the test environment says ALEXNET_ALLOCATOR=default
    monkeypatch.delenv("ALEXNET_ALLOCATOR")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    machine.restart_with_tuned_allocator()
    assert calls == []
    monkeypatch.delenv("GLIBC_TUNABLES")
    for name in ("LD_PRELOAD", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    machine.restart_with_tuned_allocator()
    if machine.platform.libc_ver()[0] == "glibc":
        ((program, words, environment),) = calls
        assert words[:4] == [program, "-P", "-m", "alexnet"] and "hugetlb=1" in environment["GLIBC_TUNABLES"]
        assert environment["GOMP_SPINCOUNT"] == "1000"
        monkeypatch.setenv("OMP_WAIT_POLICY", "active")  # whoever chose how threads wait is respected
        machine.restart_with_tuned_allocator()
        assert "GOMP_SPINCOUNT" not in calls[1][2] and "hugetlb=1" in calls[1][2]["GLIBC_TUNABLES"]


def test_a_process_with_the_default_allocator_waits_as_a_shell_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert machine.allocator_environment(True)["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")  # of the restart
    assert "GOMP_SPINCOUNT" not in machine.allocator_environment(False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert machine.allocator_environment(False)["GOMP_SPINCOUNT"] == "7"
