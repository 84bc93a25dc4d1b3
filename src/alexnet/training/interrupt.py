"""A first interrupt asks the training to stop after the current step; a second one stops it immediately."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from alexnet.parallel.process_group import world_size

ONE_REQUEST_S = 2.0


class StopRequest:
    """Whether a signal asked the training to stop, and which."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Yield a `StopRequest` that the first SIGINT or SIGTERM sets; the second has its usual effect.

    With several processes, each may get a signal twice: from the scheduler, and from torchrun, which got it too.
    Signals within `ONE_REQUEST_S` then count as one request. And when a process fails, torchrun terminates the others
    while they find out which one failed: after an error they ignore signals until `init_process_group` exits.

    Outside the main thread no signal arrives, and the request remains unset.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in watched}

    request_s = 0.0
    distributed = world_size() > 1

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal request_s
        if request and time.monotonic() - request_s < ONE_REQUEST_S:
            return
        if request:
            for each in watched:
                signal.signal(each, previous[each])
            signal.raise_signal(number)
            return
        request.signal_name, request_s = signal.Signals(number).name, time.monotonic()
        if not distributed:
            for each in watched:
                signal.signal(each, previous[each])
        # Directly to the descriptor: a handler may interrupt a print.
        with suppress(OSError):  # its reader may be gone
            os.write(2, b"\nstopping after this step or validation; press Ctrl-C again to stop immediately\n")

    for number in watched:
        signal.signal(number, handle)
    failed = True
    try:
        yield request
        failed = False
    finally:
        for number in watched:
            signal.signal(number, signal.SIG_IGN if failed and distributed else previous[number])
