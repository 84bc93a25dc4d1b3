"""Processor time and memory of this process and of the processes it has started, as Linux tells them."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from alexnet.errors import RequestError
from alexnet.system.machine import num_cores


def cpu_seconds() -> float:
    """Processor time so far of this process and of its living children; elsewhere than on Linux of this one alone."""
    return time.process_time() + sum(map(_child_cpu_seconds, _children()))


def anonymous_bytes() -> int | None:
    """Memory that no file stands behind, of this process and its living children; None elsewhere than on Linux."""
    own = _anonymous_bytes("self")
    return None if own is None else own + sum(_anonymous_bytes(str(child)) or 0 for child in _children())


@contextmanager
def watched_memory(every_s: float) -> Iterator[list[tuple[float, int]]]:
    """Yield a list that grows by (seconds since the start, anonymous bytes) until the block ends."""
    seen: list[tuple[float, int]] = []
    ended = threading.Event()
    start_s = time.monotonic()

    def watch() -> None:
        while True:
            if (held := anonymous_bytes()) is not None:
                seen.append((time.monotonic() - start_s, held))
            if ended.wait(every_s):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def num_workers(asked: int | None) -> int:
    """Threads to measure with, 1 or more; None is one for each core."""
    if asked is not None and asked < 1:
        raise RequestError(f"--workers is {asked}; allowed is 1 or more")
    return asked or num_cores()


def in_fresh_process(work: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """What `work` returns in a process of its own, which holds nothing of this one's memory.

    Args:
        threads: with which torch computes there.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():  # the pool would wait for it
                child.terminate()
            raise


def _children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def _child_cpu_seconds(pid: int) -> float:
    try:
        # Behind the name in brackets, which may hold spaces: the 12th and 13th word are its time in ticks.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _anonymous_bytes(pid: str) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)
