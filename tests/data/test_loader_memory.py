"""The memory of loading grows neither over epochs nor with the number of images."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from alexnet.data.dataset import PreparedData
from alexnet.data.loader import Loader
from alexnet.data.preparation.prepare import prepare
from alexnet.runs.recipe import DataSettings
from alexnet.system.process_usage import anonymous_bytes

EPOCHS = 20
ALLOWED_GROWTH_BYTES = 8 * 2**20


def load_and_watch(data_folder: Path, num_images: int, queue: Any) -> None:
    """Load epochs in a process of its own; report the memory held at the end of each."""
    data = PreparedData.open(data_folder)
    loader = Loader(
        data.splits["train"],
        data.statistics,
        DataSettings(crop=56),
        64,
        0,
        sample_ids=np.arange(num_images, dtype=np.int64),
        workers=2,
    )
    held = []
    for epoch in range(EPOCHS):
        for _ in loader.batches(epoch * loader.steps_per_epoch, (epoch + 1) * loader.steps_per_epoch):
            pass
        held.append(anonymous_bytes())
    queue.put(held)


@pytest.mark.slow
@pytest.mark.skipif(anonymous_bytes() is None, reason="memory is read from /proc, which Linux has")
def test_memory_is_flat_over_epochs_and_images(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(1_400):
        path = tmp_path / "source" / f"class{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        path.write_bytes(simplejpeg.encode_jpeg(pixels, 80, "RGB", "420"))
    prepare(tmp_path / "source", tmp_path / "data", side=64, store="jpeg", hold_out=0.1)
    processes = multiprocessing.get_context("spawn")
    held = {}
    for num_images in (200, 1_200):
        queue = processes.Queue()
        worker = processes.Process(target=load_and_watch, args=(tmp_path / "data", num_images, queue))
        worker.start()
        held[num_images] = queue.get(timeout=120)
        worker.join()
    for memory in held.values():
        # The first epochs bring the threads' own memory; from then on it stays.
        assert max(memory[EPOCHS // 2 :]) - max(memory[: EPOCHS // 2]) <= ALLOWED_GROWTH_BYTES
    # A thousand decoded images more would be 12 MiB.
    assert max(held[1_200]) - max(held[200]) <= ALLOWED_GROWTH_BYTES
