"""Work on a processor shared out between threads of its own, each of which asks torch for one thread."""

import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def parallel_for(entries: int, work: Callable[[int, int], None], at_least: int = 1) -> None:
    """`work(first, behind the last)` for all entries, a range of them in each of as many threads as torch uses.

    A thread whose work is products of torch's multiplies what it wrote itself, out of the cache beside it: shared out
    between torch's threads, each product would wait for them all, and for what stands in the others' caches
    (docs/log.md).

    Args:
        entries: 1 or more, images for example.
        work: releases the interpreter's lock for most of its time.
        at_least: entries of a share.

    Raises:
        What `work` raised, after all shares have ended: nobody writes any more.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        work(0, entries)
        return
    shares = max(1, min(threads, entries // at_least))
    edges = [entries * share // shares for share in range(shares + 1)]
    running = [_workers(threads).submit(work, *share) for share in itertools.pairwise(edges)]
    errors = [share.exception() for share in running]
    for error in errors:
        if error is not None:
            raise error


def _workers(threads: int) -> ThreadPoolExecutor:
    with _birth:
        return _born(threads, os.getpid())


_birth = threading.Lock()


@functools.lru_cache(maxsize=4)
def _born(threads: int, process: int) -> ThreadPoolExecutor:
    # Of one process: a forked one has none of its parent's threads. In these torch's operations use one thread, for
    # good. What one of them says of it at its birth holds for threads that are born until the caller says otherwise: so
    # all of them are born at once.
    pool = ThreadPoolExecutor(threads, "alexnet-kernels", initializer=torch.set_num_threads, initargs=(1,))
    all_there = threading.Barrier(threads)
    for worker in [pool.submit(all_there.wait) for _ in range(threads)]:
        worker.result()
    torch.set_num_threads(threads)
    return pool
