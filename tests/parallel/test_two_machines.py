"""Two torchruns that meet as two machines do: the weights of one machine, one run folder, and on after a SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[2] / "launch" / "several-machines.sh"
EPOCHS = ("--schedule.epochs", "12")
# In the order of their names: the first process is on the first, the other one is where they meet.
MACHINES = ("127.0.0.1", "localhost")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def start_machines(folder: Path, words: tuple[str, ...]) -> "list[subprocess.Popen[str]]":
    """Each in its own folder, with a file system that the other does not see."""
    head = f"localhost:{free_port()}"
    started = []
    for name in MACHINES:
        (folder / name).mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HEAD": head,
            "ADDRESS": name,
            "MACHINES": "2",
            "PROCESSES": "1",
            "RESTARTS": "0",
            "OMP_NUM_THREADS": "1",
            "ALEXNET_ALLOCATOR": "default",
        }
        started.append(
            subprocess.Popen(
                ["bash", str(SCRIPT), *words],
                env=environment,
                cwd=folder / name,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def events(run: Path) -> list[dict[str, object]]:
    path = run / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_two_machines_train_what_one_trains(photographs: Path, recipe: tuple[str, ...], tmp_path: Path) -> None:
    words = (str(photographs), "--run", "run", *recipe, *EPOCHS, "--columns", "2")
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    one = subprocess.run(
        [*starter, "alexnet", "train", *words],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ALEXNET_ALLOCATOR": "default"},
    )
    assert one.returncode == 0, one.stderr

    run = tmp_path / MACHINES[0] / "run"
    machines = start_machines(tmp_path, words)
    deadline = time.monotonic() + 240
    while not any(event["event"] == "validation" for event in events(run)) and time.monotonic() < deadline:
        assert all(machine.poll() is None for machine in machines), [machine.communicate()[0] for machine in machines]
        time.sleep(0.1)
    machines[1].send_signal(signal.SIGTERM)  # to one of the two; not to the one that writes
    printed = [machine.communicate(timeout=120)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [1, 1]  # torchrun's own code
    assert "interrupted by a signal to another process" in printed[0], printed[0]
    assert "stopping after this step" in printed[1], printed[1]
    metadata = json.loads((run / "run.json").read_text())
    assert metadata["state"] == "interrupted" and metadata["columns"] == 2
    stopped = events(run)[-1]
    assert stopped["event"] == "interrupted" and 0 < int(str(stopped["step"])) < 36
    assert not (tmp_path / MACHINES[1] / "run").exists()

    machines = start_machines(tmp_path, words)
    printed = [machine.communicate(timeout=300)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], printed
    metadata = json.loads((run / "run.json").read_text())
    assert metadata["state"] == "finished"
    starts = [event["step"] for event in events(run) if event["event"] == "start"]
    assert starts == [0, stopped["step"]]
    assert not (tmp_path / MACHINES[1] / "run").exists()
    found, expected = (load_file(path / "weights.safetensors") for path in (run, tmp_path / "run"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    measured, wanted = (
        [event["loss"] for event in events(path) if event["event"] == "validation"] for path in (run, tmp_path / "run")
    )
    assert measured == wanted and len(measured) == 12
