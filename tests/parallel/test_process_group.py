"""One process and two measure the same split alike, whatever its size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.training.small_trainings import small_recipe

from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.evaluation.predictions import load_predictions
from alexnet.parallel.process_group import ProcessGroup
from alexnet.training.loop import train


@pytest.mark.parametrize("num_images", [1, 5, 8, 13])
@pytest.mark.parametrize("num", [1, 2, 3])
def test_every_batch_is_one_processs(num_images: int, num: int) -> None:
    batches = range(-(-num_images // 4))
    takers = [
        [process.owns_batch(number) for process in (ProcessGroup(rank, num) for rank in range(num))]
        for number in batches
    ]
    assert all(sum(one) == 1 for one in takers)


@pytest.mark.slow
def test_two_processes_count_as_one(tmp_path: Path) -> None:
    # 301 images in batches of 128 are three batches, two for one process and one, cut short, for the other.
    random = np.random.default_rng(1)
    for number in range(301):
        path = tmp_path / "tree" / "train" / f"kind{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    (tmp_path / "tree" / "val" / "kind0").mkdir(parents=True)
    Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "tree/val/kind0/a.png")
    prepare(tmp_path / "tree", tmp_path / "data", side=32)
    run = train(tmp_path / "data", tmp_path / "run", small_recipe(epochs=1))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ALEXNET_ALLOCATOR": "default"}
    words = [
        "-m",
        "alexnet",
        "evaluate",
        str(run.path),
        "--views",
        "10",
        "--split",
        "train",
        "--device",
        "cpu",
        "--json",
    ]
    found = []
    for starter in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        made = subprocess.run(
            [sys.executable, *starter, *words], capture_output=True, text=True, env=environment, timeout=120
        )
        assert made.returncode == 0, made.stderr
        measured = json.loads(made.stdout)
        data = PreparedData.open(tmp_path / "data")
        kept = load_predictions(run.path / "predictions", "train", 10, data).probabilities
        found.append(({key: measured[key] for key in ("num_images", "top1_error", "top5_error", "loss")}, kept))
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])
