"""The processes of a torchrun that was killed save what they have and end; nothing holds the run folder then."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.training.small_trainings import small_recipe

from alexnet.cli.main import main
from alexnet.data.preparation.prepare import prepare
from alexnet.model.weights import load_trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe_file import recipe_to_dict
from alexnet.storage.lock import is_held

EPOCHS = 100_000


def children_of(process: int) -> set[int]:
    """The processes that a process has started."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process and fields[0] != "Z":
            found.add(int(folder.name))
    return found


def alive(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true: Callable[[], Any], seconds: float, why: str) -> float:
    began_s = time.monotonic()
    while not true():
        assert time.monotonic() - began_s < seconds, why
        time.sleep(0.05)
    return time.monotonic() - began_s


def started(run: Path) -> int:
    """The step that a run has logged last."""
    if not (run / "run.json").is_file():
        return -1
    return max((event.get("step", 0) for event in RunFolder(run).events()), default=-1)


TORCHRUN = (
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "--",
    "alexnet",
)
ITSELF = (sys.executable, "-m", "alexnet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "layout"),
    [
        (TORCHRUN, ("--replicas", "2")),
        (ITSELF, ("--columns", "2", "--column-layers", "dense")),
        (ITSELF, ("--replicas", "2")),
    ],
)
def test_a_killed_torchrun_leaves_no_process_and_a_run_that_resumes(
    program: tuple[str, ...], layout: tuple[str, ...], make_tree: Any, tmp_path: Path
) -> None:
    prepare(make_tree("photographs", train=10), tmp_path / "data", side=32)
    recipe, run = small_recipe(EPOCHS, evaluate_every=EPOCHS), tmp_path / "run"
    config = tmp_path / "small.yaml"

    config.write_text(yaml.safe_dump(recipe_to_dict(recipe)))
    words = ("train", str(tmp_path / "data"), "--config", str(config), "--run", str(run), *layout)
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [*program, *words],
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ALEXNET_ALLOCATOR": "default", "ALEXNET_REFERENCE_OPS": "1"},
        )
    try:
        wait_until(lambda: started(run) >= 10 or process.poll() is not None, 200, "it does not begin")
        assert process.poll() is None, (tmp_path / "output").read_text()
        workers = children_of(process.pid)
        assert len(workers) >= 2 and is_held(run / ".lock")
    finally:
        process.kill()
        process.wait()
    try:
        wait_until(lambda: not any(map(alive, workers)), 30, "the processes go on without torchrun")
    finally:
        for worker in filter(alive, workers):
            os.kill(worker, signal.SIGKILL)
    assert "has ended: process" in (tmp_path / "output").read_text()
    assert not is_held(run / ".lock")
    folder = RunFolder.open(run)
    assert folder.state == "interrupted" and (stopped := started(run)) >= 10
    load_trained(run)
    # It goes on from the last step, in one process.
    assert main(["resume", str(run), "--schedule.epochs", str(stopped // 3 + 2)]) == 0
    starts = [event["step"] for event in folder.events() if event["event"] == "start"]
    assert starts[0] == 0 and starts[1] == stopped and folder.state == "finished"


# A process that starts another one and is killed.
PARENT = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
CHILD = """
import signal, sys, time
from pathlib import Path
from alexnet.parallel import orphans
orphans.CHECK_EVERY_S, orphans.STOPS_WITHIN_S = 0.05, 0.5
file, stops = Path(sys.argv[1]), sys.argv[2] == "stops"
def stop(number, frame):
    file.write_text("asked to stop")
    if stops:
        sys.exit(3)
signal.signal(signal.SIGTERM, stop)
with orphans.stop_with_torchrun():
    file.write_text("works")
    for _ in range(600):
        time.sleep(0.05)
"""


@pytest.mark.parametrize("kind", ["stops", "hangs"])
def test_a_process_stops_with_its_torchrun_and_with_no_other_parent(kind: str, tmp_path: Path) -> None:
    for under_torchrun in (True, False):
        file = tmp_path / f"{under_torchrun}"
        environment = {**os.environ, **({"TORCHELASTIC_RUN_ID": "none"} if under_torchrun else {})}
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, CHILD, str(file), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert parent.stdin is not None and parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            wait_until(file.is_file, 60, "the child does not begin")
            time.sleep(0.3)
            assert alive(child)
            parent.communicate("\n")
            if under_torchrun:
                wait_until(lambda child=child: not alive(child), 20, "the orphan goes on")  # type: ignore[misc]
                assert file.read_text() == "asked to stop"
            else:
                time.sleep(1)
                assert alive(child) and file.read_text() == "works"
        finally:
            if alive(child):
                os.kill(child, signal.SIGKILL)
