"""Work on images by all cores: pieces of a few images, a thread each, results in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Result = TypeVar("Result")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """While it lasts no library uses threads of its own: the pieces have all cores already."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def in_pieces(
    work: Callable[[int, int], Result], first: int, num: int, size: int, workers: int
) -> Iterator[tuple[int, Result]]:
    """`work(start, stop)` for each piece of `first` .. `num`, in order, each with its stop.

    Not more than a few pieces are ahead of the one that is given out, so memory does not grow with `num`. Pieces are
    cut at multiples of `size`, whoever works on them: the results do not depend on the number of threads.
    """
    with one_thread_each(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: deque[tuple[int, Future[Result]]] = deque()
        start = first
        try:
            while start < num or waiting:
                while start < num and len(waiting) < 2 * workers + 1:
                    stop = min(num, (start // size + 1) * size)
                    waiting.append((stop, pool.submit(work, start, stop)))
                    start = stop
                stop, future = waiting.popleft()
                yield stop, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
