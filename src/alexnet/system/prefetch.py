"""Work done ahead of whoever waits for it, by threads, handed on in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_READERS = 8
"""Threads that read images unless more are asked for: eight cut more crops than any GPU takes, and each holds some."""


def prefetch(
    make: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int, name: str
) -> Generator[R, None, None]:
    """What `make` makes of each item, in the items' order.

    Args:
        make: called in the threads; what it raises is raised here, where its result would have stood.
        items: as many as there may be; taken one by one, `ahead` of the results.
        workers: threads, 1 or more.
        ahead: results under way or ready, 1 or more: what lies in memory meanwhile.
        name: of the threads.

    Closing the generator, or an error, ends the threads: nothing is being made any more when this returns.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    waiting: deque[Future[R]] = deque()
    left = iter(items)
    try:
        while True:
            while len(waiting) < ahead:
                try:
                    item = next(left)
                except StopIteration:
                    break
                waiting.append(pool.submit(make, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
