"""Results computed ahead of their consumer by threads, in order."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_READERS = 8
"""Default limit of threads that read images: eight cut more crops than any GPU takes, and each needs memory."""
_this_thread = threading.local()


def prefetch(
    work: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int, name: str
) -> Generator[R, None, None]:
    """Yield `work(item)` for each item, in order, computed ahead by threads.

    Args:
        work: called in the threads; its errors are raised here, in place of its result.
        items: of any number; they are taken one by one, `ahead` of the results.
        workers: threads, 1 or more.
        ahead: results in progress or ready, 1 or more, which bounds the memory they take.
        name: of the threads.

    Closing the generator, or an error, ends the threads: no work is in progress when this returns. Work that may wait
    without end asks `is_unwanted`.
    """
    ending = threading.Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name, initializer=_remember, initargs=(ending,))
    pending: deque[Future[R]] = deque()
    remaining = iter(items)
    try:
        while True:
            pending.extend(pool.submit(work, item) for item in islice(remaining, ahead - len(pending)))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        ending.set()
        pool.shutdown(wait=True, cancel_futures=True)


def is_unwanted() -> bool:
    """Whether this thread works for a `prefetch` that waits for it to end."""
    ending: threading.Event | None = getattr(_this_thread, "ending", None)
    return ending is not None and ending.is_set()


def _remember(ending: threading.Event) -> None:
    _this_thread.ending = ending
