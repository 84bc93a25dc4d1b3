"""A function over chunks of images in threads, results in order."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

from alexnet.system.prefetch import prefetch

Result = TypeVar("Result")


@contextmanager
def single_threaded_libraries() -> Iterator[None]:
    """Restrict torch and BLAS to one thread per call: our own threads already use all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def map_chunks(
    work: Callable[[int, int], Result], num: int, chunk_size: int, *, workers: int, start: int = 0
) -> Iterator[tuple[int, Result]]:
    """Yield (stop, `work(start, stop)`) for each chunk of `start` .. `num` - 1, in order.

    A bounded number of chunks is in flight, so memory does not grow with `num`. Chunks end at multiples of
    `chunk_size`: results do not depend on the number of threads.
    """
    edges = sorted({start, *range((start // chunk_size + 1) * chunk_size, num, chunk_size), num})

    def run(chunk: tuple[int, int]) -> tuple[int, Result]:
        return chunk[1], work(*chunk)

    with single_threaded_libraries():
        yield from prefetch(
            run, itertools.pairwise(edges), workers=workers, ahead=2 * workers + 1, name="alexnet-baselines"
        )
