"""Work on images by all cores: pieces of a few images, a thread each, results in order."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

from alexnet.system.prefetch import prefetch

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
    stops = [*range((first // size + 1) * size, num, size), num] if first < num else []
    starts = [first, *stops[:-1]]
    results = prefetch(
        lambda piece: work(*piece),
        zip(starts, stops, strict=False),
        workers=workers,
        ahead=2 * workers + 1,
        name="alexnet-baselines",
        initializer=partial(torch.set_num_threads, 1),
    )
    with one_thread_each(), closing(results):
        yield from zip(stops, results, strict=True)
