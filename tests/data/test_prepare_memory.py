"""The memory of a preparation does not grow with the number of images, but for the few bytes that name each."""

import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from alexnet.data.prepare import prepare

ALLOWED_GROWTH_BYTES = 200 * 2**20


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not say")


def prepare_and_watch(source: Path, destination: Path, queue: Any) -> None:
    """Prepare in a process of its own and report the most memory it held."""
    most = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            most[0] = max(most[0], anonymous_bytes())
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    data = prepare(source, destination, side=16, store="jpeg", hold_out=0.1, workers=2)
    ended.set()
    watcher.join()
    queue.put((sum(len(split) for split in data.splits.values()), most[0]))


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
