"""Trainings by several real processes: the weights of one process, whatever fails on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alexnet.cli.main import main
from alexnet.runs.folder import RunFolder
from alexnet.training.checkpoint import checkpoint_folder

Start = Callable[..., "subprocess.Popen[str]"]
ALEXNET = ("-m", "--", "alexnet")

STEPS = '''
"""20 steps of the paper's network in two processes and in one: what differs, as JSON."""
import json, sys, torch, torch.distributed as dist, torch.nn.functional as F
from alexnet.model.columns import ColumnNetwork
from alexnet.model.network import AlexNet
from alexnet.parallel.layout import Layout
from alexnet.parallel.process_group import init_process_group
from alexnet.parallel.process_mesh import mesh_of
from alexnet.training.optimizer import VelocitySGD
from alexnet.training.schedule import LearningRates
from alexnet.training.distributed import DistributedForward

NUM = 3

def whole(dtype):
    return AlexNet(7, "paper", 0.0625, generator=torch.Generator().manual_seed(0)).to(dtype)

def train(network, forward, dtype, rows):
    random, dropout, optimizer = torch.Generator().manual_seed(7), torch.Generator(), VelocitySGD(network, 0.9, 5e-4)
    network.seed_dropout(dropout)
    network.train()
    for step in range(20):
        images = (50 * torch.randn(NUM, 3, 224, 224, generator=random, dtype=torch.float64)).to(dtype)[rows]
        labels = torch.randint(0, 7, (NUM,), generator=random)[rows]
        dropout.manual_seed(step)
        network.set_microbatch(rows, NUM)
        network.zero_grad()
        (F.cross_entropy(forward(images), labels, reduction="sum") / NUM).backward()
        optimizer.step(LearningRates(weights=0.002, biases=0.002))
        network.set_microbatch(None)
    return dict(network.state_dict()), {name: one.grad for name, one in network.named_parameters()}

def difference(found, expected):
    # A layer's weights and biases together: biases that begin at 0 are still nearly nothing.
    layers = {name.rpartition(".")[0] for name in expected}
    def norm(layer, of):
        return sum(of(name).double().square().sum() for name in expected if name.startswith(layer + ".")).sqrt()
    return max(
        (norm(one, lambda name: found[name] - expected[name]) / norm(one, lambda name: expected[name])).item()
        for one in layers
    )

found = {}
layouts = {
    "columns": Layout(columns=2),
    "dense": Layout(columns=2, column_layers="dense"),
    "replicas": Layout(replicas=2),
    "rounded": Layout(replicas=2, grad_dtype="bfloat16"),
}
with init_process_group() as (processes, monitor):
    for dtype in (torch.float64, torch.float32):
        expected = None
        for name, layout in layouts.items():
            mesh = mesh_of(layout, processes, monitor)
            network = whole(dtype)
            if mesh.pair is not None:
                network = ColumnNetwork(network, mesh.pair, layout.column_layers)
            rank, num = mesh.replica.rank, mesh.replica.size
            rows = slice(NUM * rank // num, NUM * (rank + 1) // num)
            weights, gradients = train(network, DistributedForward(network, mesh), dtype, rows)
            if mesh.pair is not None:
                weights, gradients = network.gather(weights), network.gather(gradients)
            if mesh.is_main:
                if expected is None:
                    alone = whole(dtype)
                    expected = train(alone, alone, dtype, slice(0, NUM))
                found[f"{name} {dtype}"] = [difference(weights, expected[0]), difference(gradients, expected[1])]
    if processes.is_main:
        open(sys.argv[1], "w").write(json.dumps(found))
'''


@pytest.mark.slow
def test_twenty_steps_of_two_processes_are_those_of_one(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "steps.py"
    program.write_text(STEPS)
    ended(start(2, str(program), str(tmp_path / "found.json")))
    found = json.loads((tmp_path / "found.json").read_text())
    for layout in ("columns", "dense", "replicas"):
        assert max(found[f"{layout} torch.float64"]) < 1e-9
        assert found[f"{layout} torch.float32"][0] < 1e-5
        assert found[f"{layout} torch.float32"][1] < 1e-4
    # bfloat16 keeps 8 bits of what replicas add up.
    assert 1e-5 < found["rounded torch.float32"][1] < 2e-2


def ended(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """What it printed, when it is over."""
    text, _ = process.communicate(timeout=240)
    assert process.returncode == code, text
    return text


def assert_same_training(found: Path, expected: Path) -> None:
    """Weights within rounding of float32, and the same measurements of every validation image once."""
    weights, wanted = (load_file(run / "weights.safetensors") for run in (found, expected))
    assert weights.keys() == wanted.keys()
    for name, tensor in wanted.items():
        if name.endswith("weight") or name == "mean_image":
            assert (weights[name] - tensor).norm() <= 1e-5 * tensor.norm(), name
    measured, wanted_ones = (
        [event for event in RunFolder(run).events() if event["event"] == "validation"] for run in (found, expected)
    )
    for one, other in zip(measured, wanted_ones, strict=True):
        assert (one["step"], one["num_images"]) == (other["step"], other["num_images"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.fixture(scope="module")
def alone(photographs: Path, recipe: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training of 4 epochs by one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main(["train", str(photographs), *recipe, "--schedule.epochs", "4", "--run", str(run)]) == 0
    torch.set_num_threads(threads)
    return run


def step_of(run: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.stem[5:]) for path in checkpoint_folder(run).glob("step-*.json")), default=-1)


def wait_for(what: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_moves_from_four_processes_to_two_to_one(
    start: Start, photographs: Path, recipe: tuple[str, ...], alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("train", str(photographs), *recipe, "--schedule.epochs", "4", "--run", str(run))
    four = start(4, *ALEXNET, *words, "--columns", "2", "--replicas", "2")
    wait_for(lambda: step_of(run) >= 2, four)
    four.send_signal(signal.SIGTERM)  # a scheduler's: torchrun passes it on
    text = four.communicate(timeout=120)[0]
    assert f"resume with `alexnet resume {run}`" in text
    metadata = RunFolder.open(run).metadata()
    assert (metadata["state"], metadata["processes"], metadata["columns"], metadata["replicas"]) == (
        "interrupted",
        4,
        2,
        2,
    )
    reached = step_of(run)
    assert 2 <= reached < 12
    # Started by the command itself, without torchrun.
    resumed = [sys.executable, "-m", "alexnet", "resume", str(run), "--columns", "2", "--column-layers", "dense"]
    two = subprocess.Popen(
        resumed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ALEXNET_ALLOCATOR": "default"},
    )
    wait_for(lambda: step_of(run) > reached, two)
    two.send_signal(signal.SIGTERM)
    two.communicate(timeout=120)
    assert two.returncode == 3
    assert main(["resume", str(run)]) == 0
    assert [event["processes"] for event in RunFolder(run).events() if event["event"] == "start"] == [4, 2, 1]
    assert_same_training(run, alone)


@pytest.mark.slow
def test_a_stalled_process_is_named_a_killed_one_is_named_and_the_run_starts_again(
    start: Start, photographs: Path, recipe: tuple[str, ...], alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("train", str(photographs), *recipe, "--schedule.epochs", "4", "--run", str(run))
    process = start(2, *ALEXNET, *words, "--replicas", "2", "--stall-warning", "2", options=("--max-restarts", "1"))
    wait_for(lambda: step_of(run) >= 1, process)
    first, second = workers_of(process)
    os.kill(second, signal.SIGSTOP)
    wait_for(lambda: any("heartbeat" in event.get("by", "") for event in RunFolder(run).events()), process)
    os.kill(second, signal.SIGCONT)
    reached = step_of(run)
    wait_for(lambda: step_of(run) > reached, process)
    os.kill(second, signal.SIGKILL)
    killed_s = time.monotonic()
    wait_for(lambda: not alive(first), process)
    assert time.monotonic() - killed_s < 30
    text = ended(process)
    who = rf"rank 1 \(process {second} on [^)]+\)"
    assert re.search(rf"{who}, in step \d+, has sent no heartbeat for \d+ s; the others wait for it", text)
    assert re.search(rf"rank 0: error: {who} has ended or hangs", text)
    starts = [event["step"] for event in RunFolder(run).events() if event["event"] == "start"]
    assert len(starts) == 2 and starts[1] >= reached
    assert_same_training(run, alone)


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    """Process ids of the ranks, in order."""
    ranks = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) != process.pid:
                continue
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks |= {int(one[5:]): int(folder.name) for one in variables if one.startswith(b"RANK=")}
    return [ranks[rank] for rank in sorted(ranks)]


def alive(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_other_data_or_settings_on_one_process_are_named_before_any_work(
    start: Start, photographs: Path, recipe: tuple[str, ...], make_tree: Callable[..., Path], tmp_path: Path
) -> None:
    script = tmp_path / "rank.sh"
    words = " ".join(["train", str(photographs), *(f"'{word}'" for word in recipe), "--replicas", "2"])
    script.write_text(f'exec "{sys.executable}" -m alexnet {words} --run run --schedule.epochs $((RANK + 3))\n')
    text = start(2, "bash", str(script), options=("--no-python",)).communicate(timeout=120)[0]
    found = re.search(r"error: rank 1 \(process \d+ on \S+\) has another schedule.epochs than rank 0 .*", text)
    assert found and ": 4 instead of 3" in found[0], text
    assert text.count("has another schedule.epochs") == 1  # said once
    assert re.search(r"exitcode\s*: 2", text)
    assert not (tmp_path / "run").exists()
