"""A first interrupt asks the training to stop after the step it is in; a second one stops at once."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from alexnet.parallel.process_group import world_size

ONE_REQUEST_S = 2.0


class StopRequest:
    """Whether somebody asked to stop, and how."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Yield a `StopRequest` that the first SIGINT or SIGTERM sets; the second has its usual effect.

    Of several processes each may be told twice at once, by a scheduler and by torchrun, which it tells too: there, what
    comes within `ONE_REQUEST_S` is one request. And when one of them has failed, torchrun tells the others to end while
    they find out which one it was: from an error on they hear no signal until `init_process_group` is over.

    Outside the main thread no signal arrives, and the request stays unset.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    usual = {number: signal.getsignal(number) for number in watched}

    asked_s = 0.0
    repeated = world_size() > 1

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked_s
        if request and time.monotonic() - asked_s < ONE_REQUEST_S:
            return
        if request:
            for each in watched:
                signal.signal(each, usual[each])
            signal.raise_signal(number)
            return
        request.signal_name, asked_s = signal.Signals(number).name, time.monotonic()
        if not repeated:
            for each in watched:
                signal.signal(each, usual[each])
        # Straight to the descriptor: a handler may run in the middle of somebody's print.
        os.write(2, b"\nstopping after this step or measurement; a second signal stops at once\n")

    for number in watched:
        signal.signal(number, ask)
    failed = True
    try:
        yield request
        failed = False
    finally:
        for number in watched:
            signal.signal(number, signal.SIG_IGN if failed and repeated else usual[number])
