"""Processes that only compute, as company for a measurement."""

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

_logger = logging.getLogger(__name__)

# It ends by itself if the benchmark is killed: its parent is another process then.
_COMPUTE = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` other processes computing meanwhile; they are ended afterwards."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen([sys.executable, "-S", "-E", "-c", _COMPUTE, str(os.getpid())]))
        if count:
            _logger.info("%d other processes compute meanwhile", count)
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
