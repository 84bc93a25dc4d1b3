"""Ways of doing the same work, in turns: a machine that is disturbed disturbs them all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from alexnet.errors import RequestError
from alexnet.system.machine import num_cores


@dataclass(frozen=True)
class Timed:
    """What the rounds of one way took."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    """Processor time of the whole process, all threads, and where the clock counts them its children."""


def alternate(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    after: Callable[[str, int], None] | None = None,
    cpu_clock: Callable[[], float] = time.process_time,
) -> dict[str, Timed]:
    """Run each way once a round, in an order that turns from round to round.

    Args:
        ways: by name.
        rounds: 1 or more.
        cpu_clock: processor time so far, seconds.
        after: called after each run, untimed, with the way's name and the number of the round.
    """
    wall_s: dict[str, list[float]] = {name: [] for name in ways}
    cpu_s: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            wall, cpu = time.perf_counter(), cpu_clock()
            ways[name]()
            wall_s[name].append(time.perf_counter() - wall)
            cpu_s[name].append(cpu_clock() - cpu)
            if after is not None:
                after(name, number)
    return {name: Timed(tuple(wall_s[name]), tuple(cpu_s[name])) for name in names}


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median over the rounds of one time divided by the other of the same round."""
    return statistics.median(one / other for one, other in zip(numerators, denominators, strict=True))


def require_counts(batch_size: int, steps: int, rounds: int) -> None:
    """Refuse to measure nothing."""
    if min(batch_size, steps, rounds) < 1:
        raise RequestError(
            f"--batch-size is {batch_size}, --steps {steps} and --rounds {rounds}; allowed are 1 or more"
        )


def workers_or_cores(workers: int | None) -> int:
    """Check the number of worker threads; None is one per core."""
    if workers is not None and workers < 1:
        raise RequestError(f"--workers is {workers}; allowed is 1 or more")
    return workers or num_cores()


def wait_for(device: torch.device) -> None:
    """Until what a GPU was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
