"""CPU work split over threads, in each of which torch uses one thread."""

import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def parallel_for(entries: int, work: Callable[[int, int], None], min_entries: int = 1) -> None:
    """Call `work(first, past the last)` for ranges that cover all entries, in as many threads as torch uses.

    A thread that also multiplies matrices by torch finds its operands in its own cache. Split over torch's threads,
    each product would wait for all of them and for data in other caches (docs/log.md).

    Args:
        entries: 1 or more, for example images.
        work: releases the interpreter's lock most of the time.
        min_entries: smallest size of a range, unless there are fewer entries.

    Raises:
        What `work` raised, after all threads have ended, so that none of them writes any more.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        work(0, entries)
        return
    num_ranges = max(1, min(threads, entries // min_entries))
    edges = [entries * number // num_ranges for number in range(num_ranges + 1)]
    futures = [_pool(threads).submit(work, *ends) for ends in itertools.pairwise(edges)]
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


def _pool(threads: int) -> ThreadPoolExecutor:
    with _pool_lock:
        return _started_pool(threads, os.getpid())


_pool_lock = threading.Lock()


@functools.lru_cache(maxsize=4)
def _started_pool(threads: int, process: int) -> ThreadPoolExecutor:
    # Keyed by process, because a forked one has none of its parent's threads. `set_num_threads(1)` in a worker is also
    # the default of threads started later, so all workers are started first and the caller's number is then restored.
    pool = ThreadPoolExecutor(threads, "alexnet-kernels", initializer=_use_one_thread)
    all_started = threading.Barrier(threads)
    for future in [pool.submit(all_started.wait) for _ in range(threads)]:
        future.result()
    torch.set_num_threads(threads)
    return pool


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    # A thread takes over the number that was set last when it first asks for it: so it has to ask now, not after the
    # caller's number is restored.
    torch.get_num_threads()
