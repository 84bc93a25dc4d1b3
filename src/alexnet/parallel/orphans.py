"""Stop a process whose torchrun was killed; otherwise it would continue to train and keep its run folder locked."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from alexnet.errors import WorkError

CHECK_EVERY_S = 1.0
STOPS_WITHIN_S = 60.0
"""How long an orphan may take to stop in order: a step, and the state of a large network, take a few seconds."""

_logger = logging.getLogger(__name__)


@contextmanager
def stop_with_torchrun() -> Iterator[None]:
    """During the block, stop this process as SIGTERM does when the torchrun that started it has ended.

    A training then saves its state. A process that has not stopped after a minute, for example in a transfer that
    hangs, is ended. A process that was not started by torchrun may outlive its parent.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    left = threading.Event()
    # The parent's id changes when it ends, on every Unix. Linux could send a signal instead, but does so when the
    # parent's thread ends, and not if the parent ended before it was asked to.
    threading.Thread(target=_watch, args=(os.getppid(), left), name="alexnet-orphan", daemon=True).start()
    try:
        yield
    finally:
        left.set()


def _watch(torchrun: int, left: threading.Event) -> None:
    while os.getppid() == torchrun:
        if left.wait(CHECK_EVERY_S):
            return
    _logger.error(f"torchrun (process {torchrun}) has ended: process {os.getpid()} stops too")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOPS_WITHIN_S)
    os._exit(WorkError.exit_code)
