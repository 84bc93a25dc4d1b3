"""Signs of life of the processes that work together: who ended and why, who holds the others up.

Each process tells the store where they met, every second, that it lives and what it is at. The store is torchrun's own
where torchrun started them, and outlives each of them; else it ends with the first process.
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

BEAT_EVERY_S = 1.0
# So many seconds without a beat, looked at by one that could not go on, are the end of a process.
SILENT_S = 4.0
_logger = logging.getLogger(__name__)
_ENDS: tuple[type[AlexNetError], ...] = (WorkError, RequestError, Interrupted)


@dataclass(frozen=True)
class Heartbeat:
    """What a process last told."""

    who: str
    """Its rank, process id and machine, in words."""
    beat: int
    """Counts up while it lives."""
    step: int
    phase: int
    """How far within the step; a process with a smaller number is behind."""
    doing: str


class HeartbeatMonitor:
    """This process's signs of life, and what those of the others say. A context manager.

    Args:
        rank: of this process.
        num: of all processes.
        store: where the signs are left; of these processes alone (`rendezvous_store`).
        stall_warning: seconds after which one that holds the others up is named.

    Attributes:
        on_stall: called in the main process with a message that names a stalled process.
    """

    def __init__(self, rank: int, num: int, store: dist.Store, stall_warning: float) -> None:
        self.rank, self.num = rank, num
        self.who = f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"
        self.on_stall: Callable[[str], None] = _logger.warning
        self._stalls_after = stall_warning
        # A client of its own: another's calls must not wait for it, nor it for them.
        self._store = store.clone()
        self._step, self._phase, self._doing = 0, 0, "starting"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="alexnet-monitor", daemon=True)

    def __enter__(self) -> "HeartbeatMonitor":
        self._tell(0)
        dist.barrier()  # from here on there is a sign of each
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def enter(self, step: int, phase: int, doing: str) -> None:
        """Say what this process is at: `phase` counts up within a step, in which all go through the same ones."""
        self._step, self._phase, self._doing = step, phase, doing

    def ended_by(self, error: BaseException) -> BaseException:
        """What this process is to raise instead of `error`: the end of another one, if it only suffers from that.

        Its own end is told to the others.
        """
        if not isinstance(error, AlexNetError | KeyboardInterrupt | SystemExit):
            found = self._found_ended()
            if found is not None:
                return found
        code = 3 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        text = str(error) or type(error).__name__
        with suppress(Exception):  # the store may have ended with the machine that held it
            self._store.set(f"end/{self.rank}", json.dumps({"who": self.who, "code": code, "text": text}))
            if isinstance(error, AlexNetError) and self.rank:
                error.said = self._said_by_first(text)
        return error

    def _said_by_first(self, text: str) -> bool:
        """Whether the first process ends with the same words, now or in a moment."""
        deadline = time.monotonic() + BEAT_EVERY_S
        while not self._store.check(["end/0"]):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return bool(json.loads(self._store.get("end/0"))["text"] == text)

    def _found_ended(self) -> AlexNetError | None:
        """The first process found that has ended, or stays silent, with its reason."""
        others = [rank for rank in range(self.num) if rank != self.rank]
        try:
            deadline = time.monotonic() + SILENT_S
            before = self._signs(others)
            while True:
                for rank in others:
                    if self._store.check([f"end/{rank}"]):
                        end = json.loads(self._store.get(f"end/{rank}"))
                        kind = next((one for one in _ENDS if one.exit_code == end["code"]), WorkError)
                        return kind(f"{end['who']} stopped: {end['text']}")
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
            after = self._signs(others)
        except Exception as error:  # whatever the store's client raises: it is gone, and with it the first process
            return WorkError(f"the first process, or torchrun on its machine, has ended ({error})")
        silent = [one for one, now in zip(before, after, strict=True) if one.beat == now.beat]
        if not silent:
            return None
        return WorkError(
            f"{silent[0].who} has ended or stands still: no sign of life for {SILENT_S:g} s, the last one in step "
            f"{silent[0].step} ({silent[0].doing}); its own output, or its machine's log, says more"
        )

    def _signs(self, ranks: Sequence[int]) -> list[Heartbeat]:
        return [Heartbeat(**json.loads(one)) for one in self._store.multi_get([f"life/{rank}" for rank in ranks])]

    def _tell(self, beat: int) -> None:
        sign = Heartbeat(self.who, beat, self._step, self._phase, self._doing)
        self._store.set(f"life/{self.rank}", json.dumps(asdict(sign)))

    def _beat(self) -> None:
        stalls = StallDetector(self._stalls_after)
        beat = 0
        while not self._over.wait(BEAT_EVERY_S):
            beat += 1
            try:
                self._tell(beat)
                if self.rank == 0:
                    for text in stalls.seen(self._signs(range(self.num)), time.monotonic()):
                        self.on_stall(text)
            except Exception:  # the store is gone: whoever waits for another process learns it there
                return


class StallDetector:
    """Who holds the others up, from the signs that come in.

    Args:
        after_s: seconds without a change after which a process is named; again after twice as long, and so on.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._beats: dict[str, tuple[int, float]] = {}
        self._behind: dict[str, tuple[tuple[int, int], float]] = {}
        """Where one stands behind another, and since when."""
        self._named: dict[str, float] = {}

    def seen(self, signs: Sequence[Heartbeat], now_s: float) -> list[str]:
        """What is to be said after these signs, one of each process."""
        said = []
        ahead = max((sign.step, sign.phase) for sign in signs)
        for sign in signs:
            place = (sign.step, sign.phase)
            if self._beats.get(sign.who, (-1, 0.0))[0] != sign.beat:
                self._beats[sign.who] = (sign.beat, now_s)
            if place == ahead:
                self._behind.pop(sign.who, None)
            elif self._behind.get(sign.who, (None, 0.0))[0] != place:
                self._behind[sign.who] = (place, now_s)
            silent_s = now_s - self._beats[sign.who][1]
            held_up_s = max(silent_s, now_s - self._behind.get(sign.who, (place, now_s))[1])
            wait_s = self._named.get(sign.who, self._after_s)
            if held_up_s >= wait_s:
                how = "has given no sign of life" if silent_s >= wait_s else f"has stood at {sign.doing}"
                said.append(f"{sign.who}, in step {sign.step}, {how} for {held_up_s:.0f} s; the others wait for it")
                self._named[sign.who] = 2 * wait_s
            elif held_up_s < self._after_s and sign.who in self._named:
                del self._named[sign.who]
                said.append(f"{sign.who} goes on")
        return said
