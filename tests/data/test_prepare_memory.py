"""The memory of a preparation does not grow with the number of images, but for the few bytes that name each."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from alexnet.data.preparation.prepare import prepare
from alexnet.system.process_usage import sampled_memory

ALLOWED_GROWTH_BYTES = 200 * 2**20


def prepare_and_watch(source: Path, destination: Path, queue: Any) -> None:
    """Prepare in a process of its own and report the most memory it held."""
    with sampled_memory(0.02) as samples:
        data = prepare(source, destination, side=16, store="jpeg", hold_out=0.1, workers=2)
    queue.put((sum(len(split) for split in data.splits.values()), max(held for _, held in samples)))


def write_many(folder: Path, num_files: int) -> Path:
    """So many different small JPEG files of 100 classes."""
    generator = np.random.default_rng(0)
    for label in range(100):
        (folder / f"n{label:08d}").mkdir(parents=True)
    for number in range(num_files):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        path = folder / f"n{number % 100:08d}" / f"n{number % 100:08d}_{number}.JPEG"
        path.write_bytes(simplejpeg.encode_jpeg(pixels, 90, "RGB", "444"))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc, which Linux has")
def test_memory_for_many_images_is_that_for_few(tmp_path: Path) -> None:
    many = 4_000 if os.environ.get("CI") else 100_000
    processes = multiprocessing.get_context("spawn")
    held = {}
    for num_files in (1_000, many):
        source = write_many(tmp_path / f"source{num_files}", num_files)
        queue = processes.Queue()
        worker = processes.Process(target=prepare_and_watch, args=(source, tmp_path / f"out{num_files}", queue))
        worker.start()
        prepared, held[num_files] = queue.get(timeout=3000)
        worker.join()
        assert prepared == num_files
    few_mib, many_mib = held[1_000] / 2**20, held[many] / 2**20
    print(f"anonymous memory: {few_mib:.0f} MiB for 1,000 and {many_mib:.0f} MiB for {many:,} images")
    assert held[many] - held[1_000] <= ALLOWED_GROWTH_BYTES
