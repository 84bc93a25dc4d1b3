"""Time methods that do the same work in alternation, so that a disturbance of the machine affects all of them alike."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from alexnet.errors import RequestError
from alexnet.system.machine import num_cores

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timings:
    """Seconds of each round of one method."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    """By the clock given to `alternate`; by default of all threads of this process."""


def warm_up(methods: Mapping[str, Callable[[], object]]) -> None:
    """Run each method once, so that code is compiled and memory allocated before `alternate` times it."""
    for name, method in methods.items():
        method()
        _logger.info("%s: warmed up", name)


def alternate(
    methods: Mapping[str, Callable[[], object]], rounds: int, cpu_clock: Callable[[], float] = time.process_time
) -> dict[str, Timings]:
    """Run each method once per round; each round starts with the next method. Logs each run.

    Args:
        methods: by name.
        rounds: 1 or more.
        cpu_clock: returns the processor time so far, in seconds.
    """
    wall_s: dict[str, list[float]] = {name: [] for name in methods}
    cpu_s: dict[str, list[float]] = {name: [] for name in methods}
    names = list(methods)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            wall, cpu = time.perf_counter(), cpu_clock()
            methods[name]()
            wall_s[name].append(time.perf_counter() - wall)
            cpu_s[name].append(cpu_clock() - cpu)
            _logger.info("round %d: %s", number + 1, name)
    return {name: Timings(tuple(wall_s[name]), tuple(cpu_s[name])) for name in names}


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median over the rounds of numerator / denominator of the same round."""
    return statistics.median(one / other for one, other in zip(numerators, denominators, strict=True))


def require_counts(batch_size: int, steps: int, rounds: int) -> None:
    """Check that there is something to measure.

    Raises:
        RequestError: a number is below 1.
    """
    if min(batch_size, steps, rounds) < 1:
        raise RequestError(
            f"--batch-size is {batch_size}, --steps {steps} and --rounds {rounds}; allowed are 1 or more"
        )


def workers_or_cores(workers: int | None) -> int:
    """The number of worker threads; None is one per core.

    Raises:
        RequestError: the number is below 1.
    """
    if workers is not None and workers < 1:
        raise RequestError(f"--workers is {workers}; allowed is 1 or more")
    return workers or num_cores()


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
