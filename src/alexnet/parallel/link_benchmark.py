"""Measure communication between processes: one pair at a time, then an all-reduce."""

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
MAX_ROUNDS = {SMALL_BYTES: 200}
ROUNDS = 10
MAX_SIZE_S = 1.0
"""Limit for one message size on one link."""


@dataclass(frozen=True)
class LinkTime:
    """One direction between two processes while all others are idle."""

    sender: int
    receiver: int
    latency_s: float
    """Half of the round-trip time of a small message."""
    seconds: dict[int, float]
    """By bytes sent: until the sender has the receiver's answer."""

    @property
    def bytes_per_s(self) -> float:
        """With the largest message sent."""
        largest = max(self.seconds)
        return largest / self.seconds[largest]


class LinkBenchmark:
    """Measures all links of one backend, which follows from the device of the messages: gloo for CPU, NCCL for GPU."""

    def __init__(self, processes: ProcessGroup, monitor: HeartbeatMonitor | None, device: torch.device) -> None:
        self._rank, self._num, self._device = processes.rank, processes.size, device
        self._mesh, self._monitor = ProcessMesh(all=processes), monitor

    def run(self, total_s: float) -> tuple[list[LinkTime], dict[int, float]]:
        """Measure every pair in turn, then an all-reduce. All processes call it and get the same result.

        Args:
            total_s: target duration for all pairs.

        Returns:
            Every link, and seconds of an all-reduce by bytes.
        """
        ordered = list(itertools.permutations(range(self._num), 2))
        limit_s = min(MAX_SIZE_S, total_s / (len(ordered) * len(SIZES)))
        own = []
        for number, (sender, receiver) in enumerate(ordered):
            busy = self._rank in (sender, receiver)
            self._synchronize(number, busy, f"measuring from rank {sender} to rank {receiver}")
            if self._rank == sender:
                own.append(self._send(receiver, limit_s))
            elif self._rank == receiver:
                self._answer(sender)
        self._synchronize(len(ordered), True, "measuring all together")
        sums = self._all_reduces(MAX_SIZE_S)
        times = [link for links in self._mesh.all_gather_object(own) for link in links]
        return times, sums

    def _synchronize(self, number: int, busy: bool, activity: str) -> None:
        # Processes that only wait count as ahead: if a pair hangs, the monitor names that pair.
        if self._monitor is not None:
            self._monitor.enter(number, 0 if busy else 1, activity)
        dist.all_reduce(torch.zeros(1))

    def _tensor(self, num_bytes: int) -> torch.Tensor:
        return torch.zeros(num_bytes // 4, device=self._device)

    def _wait_for_device(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _send(self, receiver: int, limit_s: float) -> LinkTime:
        answer = self._tensor(SMALL_BYTES)
        seconds: dict[int, float] = {}

        def one_round() -> float:
            start_s = time.perf_counter()
            dist.send(message, receiver)
            dist.recv(answer, receiver)
            self._wait_for_device()
            return time.perf_counter() - start_s

        for num_bytes in SIZES:
            is_sent = fits_limit(num_bytes, seconds, limit_s)
            dist.send(torch.tensor([int(is_sent)]), receiver)
            if not is_sent:
                break
            message = self._tensor(num_bytes)
            one_round()  # the first round opens connections
            rounds = rounds_within(num_bytes, one_round(), limit_s)
            dist.send(torch.tensor([rounds]), receiver)
            seconds[num_bytes] = statistics.median(one_round() for _ in range(rounds))
        latency_s = seconds.pop(SMALL_BYTES) / 2
        return LinkTime(self._rank, receiver, latency_s, seconds)

    def _answer(self, sender: int) -> None:
        answer, number = self._tensor(SMALL_BYTES), torch.tensor([0])

        def one_round() -> None:
            dist.recv(message, sender)
            dist.send(answer, sender)
            self._wait_for_device()

        for num_bytes in SIZES:
            dist.recv(number, sender)
            if not number.item():
                break
            message = self._tensor(num_bytes)
            one_round()
            one_round()
            dist.recv(number, sender)
            for _ in range(int(number.item())):
                one_round()

    def _all_reduces(self, limit_s: float) -> dict[int, float]:
        """By bytes: seconds of the slowest process, medians over the rounds."""
        seconds: dict[int, float] = {}

        def one_round() -> float:
            dist.all_reduce(torch.zeros(1))  # all start together
            start_s = time.perf_counter()
            dist.all_reduce(values)
            self._wait_for_device()
            return time.perf_counter() - start_s

        for num_bytes in SIZES:
            if not self._mesh.broadcast(fits_limit(num_bytes, seconds, limit_s)):
                break
            values = self._tensor(num_bytes)
            one_round()
            rounds = self._mesh.broadcast(rounds_within(num_bytes, one_round(), limit_s))
            own = torch.tensor([one_round() for _ in range(rounds)], dtype=torch.float64)
            dist.all_reduce(own, dist.ReduceOp.MAX)
            seconds[num_bytes] = statistics.median(own.tolist())
        return seconds


def fits_limit(num_bytes: int, seconds: Mapping[int, float], limit_s: float) -> bool:
    """Whether a message of this size should take no longer than the limit, judged by the size before it."""
    last = max(seconds, default=SMALL_BYTES)
    return last == SMALL_BYTES or seconds[last] * num_bytes / last <= limit_s


def rounds_within(num_bytes: int, round_s: float, limit_s: float) -> int:
    """How often to repeat a round of this duration: as often as the limit allows, at least once."""
    return max(1, min(MAX_ROUNDS.get(num_bytes, ROUNDS), int(limit_s / round_s)))
