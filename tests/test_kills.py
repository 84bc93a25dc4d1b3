"""Commands killed by SIGKILL at random moments: run again, each ends with the bytes of one that was left alone."""

import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("sklearn")

from alexnet.cli.main import main
from alexnet.runs.folder import RunFolder

TRAIN = ["--recipe", "quick", "--run", "run", "--schedule.epochs", "3", "--optimizer.batch_size", "8"]
BASELINE = ["baseline", "sift-fisher", "data", "--run", "out", "--encoder.components", "16"]


@dataclass(frozen=True)
class Victim:
    """A command, and where in its folder one sees how far it came."""

    words: list[str]
    copies: list[str]  # of the shared material, to work on
    begun: Callable[[Path], bool]
    finished: Callable[[Path], bool]
    results: list[str]
    again: list[str] | None = None  # how to continue once it has begun, if not by the same words


def has_state(folder: Path, state: str) -> bool:
    return (folder / "run.json").exists() and RunFolder.open(folder).state == state


VICTIMS = {
    "train": Victim(
        ["train", "../data", *TRAIN, "--training.checkpoint_every", "0"],
        [],
        lambda at: (at / "run").exists(),
        lambda at: has_state(at / "run", "finished"),
        ["run/weights.safetensors"],
        again=["resume", "run"],
    ),
    "prepare": Victim(
        ["prepare", "../photographs", "out", "--side", "32", "--shard-images", "16", "--store", "jpeg"],
        [],
        lambda at: any(at.glob("*out*")),
        lambda at: (at / "out").exists(),
        ["out"],
    ),
    "features": Victim(
        ["features", "../run", "--layer=conv2", "--layer=conv4", "--out=out", "--split=train", "--batch-size=2"],
        [],
        lambda at: any(at.glob("*out*")),
        lambda at: (at / "out").exists(),
        ["out"],
    ),
    "evaluate": Victim(
        ["evaluate", "run"],
        ["run"],
        lambda at: (at / "run" / "predictions").exists(),
        lambda at: len(list((at / "run").glob("[ep]*s/val-*views.*"))) == 4,
        ["run/evaluations", "run/predictions"],
    ),
    "baseline": Victim(
        BASELINE,
        ["data"],
        lambda at: (at / "out").exists() or (at / "baseline-features").exists(),
        lambda at: has_state(at / "out", "finished"),
        ["out/baseline.safetensors", "out/evaluations", "out/predictions", "baseline-features"],
    ),
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, a prepared data set and a trained network."""
    folder = tmp_path_factory.mktemp("material")
    chance = np.random.default_rng(3)
    for number in range(96):
        path = folder / "photographs" / ("val" if number % 4 == 0 else "train") / f"class{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (12, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)).save(path)
    for words in (["prepare", "photographs", "data", "--side", "32"], ["train", "data", *TRAIN]):
        assert finish(folder, words) == 0
    return folder


def execute(folder: str, words: list[str]) -> None:
    """In a process of its own: one command."""
    os.chdir(folder)
    os.environ["ALEXNET_ALLOCATOR"] = "default"
    torch.set_num_threads(1)
    with open("log", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os._exit(main(words))


def context() -> multiprocessing.context.ForkServerContext:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(
        [f"alexnet.cli.{name}_command" for name in VICTIMS]
        + ["alexnet.training.loop", "alexnet.baselines.baseline_run", "alexnet.explore.feature_writer"]
        + ["alexnet.evaluation.run_evaluation", "alexnet.data.preparation.prepare"]
    )
    return server


def started(folder: Path, words: list[str]) -> multiprocessing.context.ForkServerProcess:
    process = context().Process(target=execute, args=(str(folder), words))
    process.start()
    return process


def finish(folder: Path, words: list[str]) -> int | None:
    process = started(folder, words)
    process.join()
    return process.exitcode


def results(folder: Path, names: list[str]) -> dict[str, bytes | object]:
    """What a command left: bytes, and of JSON that holds a speed or a time everything else."""
    found: dict[str, bytes | object] = {}
    for name in names:
        for path in sorted((folder / name).rglob("*")) if (folder / name).is_dir() else [folder / name]:
            if path.is_dir():
                continue
            found[str(path.relative_to(folder))] = path.read_bytes()
            if path.parent.name == "evaluations":
                content = json.loads(path.read_bytes())
                found[str(path.relative_to(folder))] = {
                    key: value for key, value in content.items() if key not in ("images_per_second", "content_sha256")
                }
    return found


def listed(folder: Path) -> None:
    """`alexnet runs` says something about whatever a kill left."""
    here = os.getcwd()
    os.chdir(folder)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            assert main(["runs", "."]) in (0, 2)  # 2: there are no runs
    finally:
        os.chdir(here)


def kill_often(material: Path, name: str, num_kills: int, seed: int) -> Counter[str]:
    """Kill the command `num_kills` times; returns how many kills came before, during and after its writing."""
    victim, chance = VICTIMS[name], random.Random(seed)
    start(material, whole := material / f"{name}-whole", victim)
    process = started(whole, victim.words)
    began = time.monotonic()
    while process.is_alive() and not victim.begun(whole):
        time.sleep(0.001)
    before_s = time.monotonic() - began
    process.join()
    assert process.exitcode == 0, (whole / "log").read_text()
    wanted, duration_s = results(whole, victim.results), time.monotonic() - began
    moments: Counter[str] = Counter()
    attempt = 0
    while moments.total() < num_kills:
        start(material, folder := material / f"{name}-{attempt}", victim)
        attempt += 1
        for _ in range(min(chance.randint(1, 3), num_kills - moments.total())):  # kills in a row, without an end
            process = started(folder, continuing(folder, victim))
            if is_late := chance.random() < 0.8:
                while process.is_alive() and not victim.begun(folder):
                    time.sleep(0.001)
            process.join(chance.uniform(0, duration_s - before_s if is_late else duration_s))
            process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:
                moments[moment(folder, victim)] += 1
                listed(folder)
            else:
                assert process.exitcode == 0, (folder / "log").read_text()
                break
        if not victim.finished(folder):
            assert finish(folder, continuing(folder, victim)) == 0, (folder / "log").read_text()
        assert "Traceback" not in (folder / "log").read_text()
        assert results(folder, victim.results) == wanted
        assert not [path for path in folder.rglob("*") if "partial" in path.name]
        shutil.rmtree(folder)
    print(f"{name}: {dict(moments)} in {attempt} attempts, one takes {before_s:.2f} + {duration_s - before_s:.2f} s")
    return moments


def start(material: Path, folder: Path, victim: Victim) -> None:
    folder.mkdir()
    for copied in victim.copies:
        shutil.copytree(material / copied, folder / copied)


def continuing(folder: Path, victim: Victim) -> list[str]:
    return victim.again if victim.again and (folder / "run" / "run.json").exists() else victim.words


def moment(folder: Path, victim: Victim) -> str:
    if victim.finished(folder):
        return "after"
    return "during" if victim.begun(folder) else "before"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_kills"), [("train", 25), ("prepare", 15), ("features", 20), ("evaluate", 20), ("baseline", 20)]
)
def test_a_killed_command_ends_with_the_same_bytes(material: Path, name: str, num_kills: int) -> None:
    moments = kill_often(material, name, 4 if os.environ.get("CI") else num_kills, seed=num_kills)
    assert moments["during"] >= 1
