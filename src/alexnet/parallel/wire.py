"""Measuring how fast processes reach each other: one pair at a time, then all together."""

import itertools
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from alexnet.parallel.heartbeat import HeartbeatMonitor
from alexnet.parallel.process_group import ProcessGroup
from alexnet.parallel.process_mesh import ProcessMesh

SMALL_BYTES = 4
SIZES = (SMALL_BYTES, 2**20, 16 * 2**20, 64 * 2**20)
MOST_ROUNDS = {SMALL_BYTES: 200}
ROUNDS = 10
ONE_SIZE_S = 1.0
"""At most for one size on one link."""


@dataclass(frozen=True)
class LinkTime:
    """One direction between two processes while all others are silent."""

    sender: int
    receiver: int
    latency_s: float
    """Half of the time that a small message and its answer take."""
    seconds: dict[int, float]
    """By bytes sent: until they are there and the sender knows it."""

    @property
    def bytes_per_s(self) -> float:
        """With the largest message that was sent."""
        largest = max(self.seconds)
        return largest / self.seconds[largest]


class Wire:
    """All links of one backend, which the device of what is sent decides: gloo for the CPU, NCCL for a GPU."""

    def __init__(self, processes: ProcessGroup, monitor: HeartbeatMonitor | None, device: torch.device) -> None:
        self._rank, self._num, self._device = processes.rank, processes.size, device
        self._processes, self._watch = processes, monitor

    def measured(self, total_s: float) -> tuple[list[LinkTime], dict[int, float]]:
        """Measure every pair, one after the other, then all together. All processes call it and get the same.

        Args:
            total_s: aim for how long all pairs take.

        Returns:
            Every link, and seconds of an all-reduce by its bytes.
        """
        ordered = list(itertools.permutations(range(self._num), 2))
        limit_s = min(ONE_SIZE_S, total_s / (len(ordered) * len(SIZES)))
        own = []
        for number, (sender, receiver) in enumerate(ordered):
            busy = self._rank in (sender, receiver)
            self._all_are_here(number, busy, f"measuring from rank {sender} to rank {receiver}")
            if self._rank == sender:
                own.append(self._send(receiver, limit_s))
            elif self._rank == receiver:
                self._answer(sender)
        self._all_are_here(len(ordered), True, "measuring all together")
        sums = self._all_reduces(ONE_SIZE_S)
        times = [link for links in ProcessMesh(all=self._processes).all_gather_object(own) for link in links]
        return times, sums

    def _all_are_here(self, number: int, busy: bool, doing: str) -> None:
        # Those that only wait are ahead: a pair that hangs is then named, not they.
        if self._watch is not None:
            self._watch.enter(number, 0 if busy else 1, doing)
        dist.all_reduce(torch.zeros(1))

    def _tensor(self, num_bytes: int) -> torch.Tensor:
        return torch.zeros(num_bytes // 4, device=self._device)

    def _done(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _send(self, receiver: int, limit_s: float) -> LinkTime:
        answer = self._tensor(SMALL_BYTES)
        seconds: dict[int, float] = {}

        def one_round() -> float:
            start_s = time.perf_counter()
            dist.send(message, receiver)
            dist.recv(answer, receiver)
            self._done()
            return time.perf_counter() - start_s

        for num_bytes in SIZES:
            going = goes(num_bytes, seconds, limit_s)
            dist.send(torch.tensor([int(going)]), receiver)
            if not going:
                break
            message = self._tensor(num_bytes)
            one_round()  # the first one opens connections
            rounds = rounds_within(num_bytes, one_round(), limit_s)
            dist.send(torch.tensor([rounds]), receiver)
            seconds[num_bytes] = statistics.median(one_round() for _ in range(rounds))
        latency_s = seconds.pop(SMALL_BYTES) / 2
        return LinkTime(self._rank, receiver, latency_s, seconds)

    def _answer(self, sender: int) -> None:
        answer, told = self._tensor(SMALL_BYTES), torch.tensor([0])

        def one_round() -> None:
            dist.recv(message, sender)
            dist.send(answer, sender)
            self._done()

        for num_bytes in SIZES:
            dist.recv(told, sender)
            if not told.item():
                break
            message = self._tensor(num_bytes)
            one_round()
            one_round()
            dist.recv(told, sender)
            for _ in range(int(told.item())):
                one_round()

    def _all_reduces(self, limit_s: float) -> dict[int, float]:
        """By bytes: seconds that the last process takes, medians of some rounds."""
        seconds: dict[int, float] = {}

        def one_round() -> float:
            dist.all_reduce(torch.zeros(1))  # all start together
            start_s = time.perf_counter()
            dist.all_reduce(values)
            self._done()
            return time.perf_counter() - start_s

        for num_bytes in SIZES:
            if not self._told(int(goes(num_bytes, seconds, limit_s))):
                break
            values = self._tensor(num_bytes)
            one_round()
            rounds = self._told(rounds_within(num_bytes, one_round(), limit_s))
            own = torch.tensor([one_round() for _ in range(rounds)], dtype=torch.float64)
            dist.all_reduce(own, dist.ReduceOp.MAX)
            seconds[num_bytes] = statistics.median(own.tolist())
        return seconds

    def _told(self, number: int) -> int:
        """The first process's number."""
        told = torch.tensor([number])
        dist.broadcast(told, src=0)
        return int(told.item())


def goes(num_bytes: int, seconds: Mapping[int, float], limit_s: float) -> bool:
    """Whether a message of this size is sent: not where the one before it says that it takes too long."""
    last = max(seconds, default=SMALL_BYTES)
    return last == SMALL_BYTES or seconds[last] * num_bytes / last <= limit_s


def rounds_within(num_bytes: int, round_s: float, limit_s: float) -> int:
    """How often to repeat what takes so long: as often as the limit allows, at least once."""
    return max(1, min(MOST_ROUNDS.get(num_bytes, ROUNDS), int(limit_s / round_s)))
