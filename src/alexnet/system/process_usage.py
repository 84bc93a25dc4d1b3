"""Processor time and memory of this process and its children, read from /proc; Linux only where marked.

This module imports neither torch nor NumPy.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None on other systems than Linux."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def anonymous_bytes() -> int | None:
    """Memory not backed by a file, of this process and its living children; None on other systems than Linux."""
    own = _anonymous_bytes("self")
    return None if own is None else own + sum(_anonymous_bytes(str(child)) or 0 for child in _children())


def cpu_seconds() -> float:
    """Processor time so far of this process and its living children (children on Linux only)."""
    return time.process_time() + sum(map(_child_cpu_seconds, _children()))


@contextmanager
def sampled_memory(interval_s: float) -> Iterator[list[tuple[float, int]]]:
    """Yield a list that a thread extends with (seconds since the start, anonymous bytes) until the block ends.

    It stays empty where `anonymous_bytes` is None.
    """
    samples: list[tuple[float, int]] = []
    ended = threading.Event()
    start_s = time.monotonic()

    def sample() -> None:
        while True:
            if (held := anonymous_bytes()) is not None:
                samples.append((time.monotonic() - start_s, held))
            if ended.wait(interval_s):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def _child_cpu_seconds(pid: int) -> float:
    try:
        # The command's name is in parentheses and may hold spaces; utime and stime are fields 12 and 13 after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _anonymous_bytes(pid: str) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)
