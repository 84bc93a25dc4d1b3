"""Heartbeats of the processes of a training: which one failed and why, and which one stalls the others.

Every second each process writes to the store through which they met that it is alive and what it is doing. Under
torchrun the store is torchrun's own and outlives every process; otherwise it ends with the main process.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType

import torch.distributed as dist

from alexnet.errors import AlexNetError, Interrupted, RequestError, WorkError

HEARTBEAT_INTERVAL_S = 1.0
# A process that cannot continue takes another one for dead after so long without a heartbeat.
DEAD_AFTER_S = 4.0
_ERRORS_BY_EXIT_CODE: tuple[type[AlexNetError], ...] = (WorkError, RequestError, Interrupted)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heartbeat:
    """What a process last reported."""

    who: str
    """Its rank, process id and machine, as text."""
    count: int
    """Increases while it is alive."""
    step: int
    phase: int
    """Position within the step; a process with a smaller number is behind."""
    activity: str


class HeartbeatMonitor:
    """Sends this process's heartbeats and reads those of the others. A context manager.

    Args:
        rank: of this process.
        num: number of processes.
        store: where heartbeats are written; these processes' own (`rendezvous_store`).
        stall_warning: seconds after which a process that stalls the others is named.

    Attributes:
        on_stall: called in the main process with a message that names a stalled process.
    """

    def __init__(self, rank: int, num: int, store: dist.Store, stall_warning: float) -> None:
        self.rank, self.num = rank, num
        self.who = f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"
        self.on_stall: Callable[[str], None] = _logger.warning
        self._stall_warning = stall_warning
        # A separate client, so that neither waits for the other's calls.
        self._store = store.clone()
        self._step, self._phase, self._activity = 0, 0, "starting"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alexnet-monitor", daemon=True)

    def __enter__(self) -> "HeartbeatMonitor":
        self._send(0)
        dist.barrier()  # from here on every process has a heartbeat
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def enter(self, step: int, phase: int, activity: str) -> None:
        """Set what the next heartbeats report. All processes go through the same phases, which count up in a step."""
        self._step, self._phase, self._activity = step, phase, activity

    def cause_of(self, error: BaseException) -> BaseException:
        """The error to raise instead of `error`: the failure of another process, if `error` only follows from that.

        This process's own failure is reported to the others.
        """
        if not isinstance(error, AlexNetError | KeyboardInterrupt | SystemExit):
            failure = self._find_failure()
            if failure is not None:
                return failure
        code = 3 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        message = str(error) or type(error).__name__
        with suppress(Exception):  # the store may have ended with the machine that held it
            self._store.set(f"end/{self.rank}", json.dumps({"who": self.who, "code": code, "message": message}))
            if isinstance(error, AlexNetError) and self.rank:
                error.is_reported = self._is_main_error(message)
        return error

    def _is_main_error(self, message: str) -> bool:
        """Whether the main process fails with the same message, within a second."""
        deadline = time.monotonic() + HEARTBEAT_INTERVAL_S
        while not self._store.check(["end/0"]):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return bool(json.loads(self._store.get("end/0"))["message"] == message)

    def _find_failure(self) -> AlexNetError | None:
        """The first other process that has failed or stopped sending heartbeats, as an error with its reason."""
        others = [rank for rank in range(self.num) if rank != self.rank]
        try:
            deadline = time.monotonic() + DEAD_AFTER_S
            before = self._heartbeats(others)
            while True:
                for rank in others:
                    if self._store.check([f"end/{rank}"]):
                        end = json.loads(self._store.get(f"end/{rank}"))
                        kind = next((one for one in _ERRORS_BY_EXIT_CODE if one.exit_code == end["code"]), WorkError)
                        return kind(f"{end['who']} stopped: {end['message']}")
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
            after = self._heartbeats(others)
        except Exception as error:  # whatever the store's client raises: it is gone, and with it the main process
            return WorkError(f"the main process, or torchrun on its machine, has ended ({error})")
        dead = [one for one, now in zip(before, after, strict=True) if one.count == now.count]
        if not dead:
            return None
        return WorkError(
            f"{dead[0].who} has ended or hangs: no heartbeat for {DEAD_AFTER_S:g} s, the last one in step "
            f"{dead[0].step} ({dead[0].activity}); see its own output, or the log of its machine"
        )

    def _heartbeats(self, ranks: Sequence[int]) -> list[Heartbeat]:
        return [Heartbeat(**json.loads(one)) for one in self._store.multi_get([f"life/{rank}" for rank in ranks])]

    def _send(self, count: int) -> None:
        heartbeat = Heartbeat(self.who, count, self._step, self._phase, self._activity)
        self._store.set(f"life/{self.rank}", json.dumps(asdict(heartbeat)))

    def _run(self) -> None:
        detector = StallDetector(self._stall_warning)
        count = 0
        while not self._stop.wait(HEARTBEAT_INTERVAL_S):
            count += 1
            try:
                self._send(count)
                if self.rank == 0:
                    for message in detector.update(self._heartbeats(range(self.num)), time.monotonic()):
                        self.on_stall(message)
            except Exception:  # the store is gone: a process that waits for another one finds out there
                return


class StallDetector:
    """Finds processes that stall the others, from successive heartbeats.

    Args:
        after_s: seconds without progress after which a process is named; again after twice as long, and so on.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._counts: dict[str, tuple[int, float]] = {}
        """The last count of each process, and since when it has not changed."""
        self._behind: dict[str, tuple[tuple[int, int], float]] = {}
        """Step and phase of processes that are behind others, and since when."""
        self._next_warning_s: dict[str, float] = {}

    def update(self, heartbeats: Sequence[Heartbeat], now_s: float) -> list[str]:
        """Messages that follow from the latest heartbeat of every process."""
        messages = []
        furthest = max((one.step, one.phase) for one in heartbeats)
        for one in heartbeats:
            position = (one.step, one.phase)
            if self._counts.get(one.who, (-1, 0.0))[0] != one.count:
                self._counts[one.who] = (one.count, now_s)
            if position == furthest:
                self._behind.pop(one.who, None)
            elif self._behind.get(one.who, (None, 0.0))[0] != position:
                self._behind[one.who] = (position, now_s)
            silent_s = now_s - self._counts[one.who][1]
            stalled_s = max(silent_s, now_s - self._behind.get(one.who, (position, now_s))[1])
            warning_s = self._next_warning_s.get(one.who, self._after_s)
            if stalled_s >= warning_s:
                how = "has sent no heartbeat" if silent_s >= warning_s else f"has been at {one.activity}"
                messages.append(f"{one.who}, in step {one.step}, {how} for {stalled_s:.0f} s; the others wait for it")
                self._next_warning_s[one.who] = 2 * warning_s
            elif stalled_s < self._after_s and one.who in self._next_warning_s:
                del self._next_warning_s[one.who]
                messages.append(f"{one.who} continues")
        return messages
