"""Commands started at the same moment on one destination: exactly one does the work, the others say who does."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.training.small_trainings import small_recipe

from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.explore.features import open_features
from alexnet.model.weights import load_trained
from alexnet.runs.folder import RunFolder
from alexnet.training.loop import train

MANY_ROUNDS = 20 if os.environ.get("CI") else 200

# Runs the command once, so that all is imported, then forks the processes of each round, which wait at a pipe.
RACE = """
import json, os, sys, traceback
import torch
import alexnet.data.shapes
from alexnet.cli.main import main
torch.set_num_threads(1)
alexnet.data.shapes.SHAPES_PER_CLASS = {"train": 4, "val": 2}
folder, num_rounds, num_processes, *words = sys.argv[1:]
printed, sys.stdout = sys.stdout, sys.stderr
assert main([word.replace("ROUND", "warm-up") for word in words]) == 0
sys.stdout = printed
for number in range(int(num_rounds)):
    gate, opened = os.pipe()
    processes = []
    for rank in range(int(num_processes)):
        process = os.fork()
        if process == 0:
            os.close(opened)
            output = os.open(f"{folder}/output-{number}-{rank}", os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1), os.dup2(output, 2)
            code = 99
            try:
                os.read(gate, 1)  # until the other end is closed
                code = main([word.replace("ROUND", str(number)) for word in words])
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        processes.append(process)
    os.close(gate), os.close(opened)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    print(json.dumps({"codes": codes, "processes": processes}), flush=True)
"""
REFUSED = r"error: .* (is being written by process (\d+) on \S+; wait for it, or stop it|exists already; .*|holds a finished run; .*|is finished; .*)$"  # noqa: E501


def race(folder: Path, rounds: int, words: list[str], processes: int = 2) -> None:
    """Run a command in several processes at once, repeatedly; exactly one of each round succeeds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ALEXNET_REFERENCE_OPS": "1"}
    command = [sys.executable, "-c", RACE, str(folder), str(rounds), str(processes), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == rounds
    for number, line in enumerate(done.stdout.splitlines()):
        found = re.fullmatch(r'{"codes": \[(.*)\], "processes": \[(.*)\]}', line)
        assert found
        codes, ids = found[1].split(", "), found[2].split(", ")
        outputs = [(folder / f"output-{number}-{rank}").read_text() for rank in range(processes)]
        assert sorted(codes) == ["0", *["2"] * (processes - 1)], (codes, outputs)
        winner = codes.index("0")
        for rank, output in enumerate(outputs):
            assert "Traceback" not in output and "No such file" not in output, output
            if rank != winner:
                reason = re.search(REFUSED, output.strip())
                assert reason, output
                # Mostly the winner; where it has finished, for a moment one that is about to be refused too.
                assert reason[2] in (None, *ids) and reason[2] != ids[rank]
    destination = Path(next(word for word in words if word.endswith("ROUND"))).parent
    assert not [path.name for path in destination.iterdir() if path.name.startswith(".")]


@pytest.fixture
def data(make_tree: Any, tmp_path: Path) -> Path:
    prepare(make_tree("photographs"), tmp_path / "data", side=32)
    return tmp_path / "data"


@pytest.mark.parametrize(("rounds", "processes"), [(3, 2), pytest.param(MANY_ROUNDS, 3, marks=pytest.mark.slow)])
def test_trainings_in_one_new_folder(data: Path, tmp_path: Path, rounds: int, processes: int) -> None:
    config = tmp_path / "small.yaml"
    config.write_text("network:\n  width: 0.125\noptimizer:\n  batch_size: 10\nschedule:\n  epochs: 2\n")
    words = ["train", str(data), "--recipe", "quick", "--config", str(config), "--training.device", "cpu"]
    race(tmp_path, rounds, [*words, "--run", str(tmp_path / "runs" / "ROUND")], processes)
    for number in range(rounds):
        run = RunFolder.open(tmp_path / "runs" / str(number))
        assert run.state == "finished" and len([one for one in run.events() if one["event"] == "start"]) == 1
        load_trained(run.path)
        assert not list(run.path.glob(".*.partial"))


@pytest.mark.parametrize(("rounds", "processes"), [(2, 3), pytest.param(MANY_ROUNDS // 2, 3, marks=pytest.mark.slow)])
def test_preparations_of_one_new_folder(make_tree: Any, tmp_path: Path, rounds: int, processes: int) -> None:
    words = ["prepare", str(make_tree("photographs")), str(tmp_path / "data" / "ROUND"), "--side", "16"]
    race(tmp_path, rounds, words, processes)
    made = {path.name for path in (tmp_path / "data").iterdir()}
    assert made == {"warm-up", *map(str, range(rounds))}
    sets = [PreparedData.open(tmp_path / "data" / str(number)) for number in range(rounds)]
    assert len({one.checksum for one in sets}) == 1
    assert len({tuple(sorted(path.name for path in one.folder.iterdir())) for one in sets}) == 1
    assert not [path for one in sets for path in one.folder.iterdir() if path.name in ("lock", "parts", "plan.json")]


@pytest.mark.parametrize("rounds", [2, pytest.param(MANY_ROUNDS // 2, marks=pytest.mark.slow)])
def test_generating_one_new_folder(tmp_path: Path, rounds: int) -> None:
    words = ["fetch", "shapes", str(tmp_path / "shapes" / "ROUND")]
    race(tmp_path, rounds, words, 3)
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        for folder in (tmp_path / "shapes").iterdir()
    ]
    assert len(names) == rounds + 1 and all(one == names[0] for one in names)


@pytest.mark.parametrize("rounds", [2, pytest.param(MANY_ROUNDS // 2, marks=pytest.mark.slow)])
def test_features_in_one_new_folder(data: Path, tmp_path: Path, rounds: int) -> None:
    run = train(data, tmp_path / "run", small_recipe(1)).path
    race(tmp_path, rounds, ["features", str(run), "--device", "cpu", "--out", str(tmp_path / "features" / "ROUND")], 3)
    for number in range(rounds):
        assert len(open_features(tmp_path / "features" / str(number)).paths) == 12
    assert len(list((tmp_path / "features").iterdir())) == rounds + 1


@pytest.mark.parametrize("rounds", [pytest.param(MANY_ROUNDS // 10, marks=pytest.mark.slow)])
def test_baselines_in_one_new_folder(data: Path, tmp_path: Path, rounds: int) -> None:
    settings = {
        "protocol.evaluate_on": "split",
        "descriptors.cell_px": 4,
        "descriptors.step_px": 4,
        "descriptors.scales": 1,
        "encoder.components": 16,
        "encoder.dimensions": 8,
        "encoder.sample_size": 2000,
        "classifier.c": 1,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    folders = ["--run", str(tmp_path / "runs" / "ROUND"), "--cache", str(tmp_path / "cache" / "ROUND")]
    race(tmp_path, rounds, ["baseline", "sift-fisher", str(data), "--workers", "1", *words, *folders])
    assert [RunFolder.open(tmp_path / "runs" / str(number)).state for number in range(rounds)] == ["finished"] * rounds
