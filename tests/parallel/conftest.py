"""Processes as torchrun starts them, and photographs large enough for the paper's network."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.data.preparation.prepare import prepare

# Two narrow steps a second; what is compared needs no more.
RECIPE = (
    *("--recipe", "paper", "--network.width", "0.0625", "--optimizer.batch_size", "8", "--training.device", "cpu"),
    *("--optimizer.learning_rate", "0.003", "--schedule.kind", "steps", "--schedule.milestones", "[0.5]"),
    *("--training.precision", "float32", "--training.checkpoint_every", "0"),
    *("--training.ema_decay", "0.5"),
)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of 3 classes, 21 images to learn (two batches of 8 and one of 5) and 7 to measure."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(4)
    for split, count in (("train", 21), ("val", 7)):
        for number in range(count):
            pixels = random.integers(0, 120, (256, 256, 3))
            pixels[..., number % 3] += 100
            path = folder / "tree" / split / f"color{number % 3}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    prepare(folder / "tree", folder / "data")
    return folder / "data"


@pytest.fixture(scope="session")
def recipe() -> tuple[str, ...]:
    """Words of a training on `photographs`: 3 steps an epoch."""
    return RECIPE


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """A function that starts a program in several processes of one thread each, and does not wait for it."""

    def run(num: int, *words: str, options: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)]
        return subprocess.Popen(
            [*starter, *options, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ALEXNET_ALLOCATOR": "default"},
        )

    return run
