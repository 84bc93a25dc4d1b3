"""The processes that `torchrun`, or a scheduler that sets the same variables, started, and how they fail together.

A shared evaluation gives each process whole batches, the same ones that a single process would form, so that the
probabilities are equal to the last bit on equal machines with equal numbers of threads.
"""

import datetime
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from alexnet.errors import RequestError
from alexnet.parallel.heartbeat import HeartbeatMonitor
from alexnet.parallel.layout import Layout
from alexnet.parallel.orphans import stop_with_torchrun
from alexnet.parallel.rendezvous import rendezvous_store
from alexnet.system.machine import num_cores

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessGroup:
    """Processes that share some work, and the rank of this one among them."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    """Their group in torch; None is the group of all processes."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def owns_batch(self, number: int) -> bool:
        """Whether this process evaluates the batch with this number, 0 or more."""
        return number % self.size == self.rank

    def sum_rows(self, own: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """All rows, from arrays in which each process has filled its own rows and left the others 0."""
        if self.size > 1:
            # A sum with zeros is exact.
            dist.all_reduce(torch.from_numpy(own), group=self.group)
        return own


SINGLE_GROUP = ProcessGroup()


def world_size() -> int:
    """Number of processes that were started together; 1 for a process started alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Number of processes that were started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def init_process_group(layout: Layout | None = None) -> Iterator[tuple[ProcessGroup, HeartbeatMonitor | None]]:
    """Join the processes that this one was started with; a process started alone is the only member.

    When one of them fails, all do: those that wait for it raise an error with its name and its reason. Only the main
    process logs, apart from errors.

    Args:
        layout: how long processes wait for each other.

    Raises:
        RequestError: the variables that name the processes are incomplete, or the request of another process was wrong.
        WorkError: another process has ended or does not respond.
    """
    if world_size() == 1:
        yield SINGLE_GROUP, None
        return
    if missing := [name for name in VARIABLES if name not in os.environ]:
        raise RequestError(
            f"WORLD_SIZE is {world_size()}, and {', '.join(missing)} is not set; start the processes with torchrun, "
            f"or set {', '.join(VARIABLES)} for each"
        )
    with stop_with_torchrun():
        yield from _joined(layout or Layout())


def _joined(layout: Layout) -> Iterator[tuple[ProcessGroup, HeartbeatMonitor]]:
    """Join the processes; for `init_process_group`."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    rank, num = int(os.environ["RANK"]), world_size()
    store = rendezvous_store(rank, num, layout.timeout)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=dist.PrefixStore("group", store),
        rank=rank,
        world_size=num,
        timeout=datetime.timedelta(seconds=layout.timeout),
    )
    watched = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.getsignal(number) for number in watched}
    logger = logging.getLogger("alexnet")
    level = logger.level
    if rank:
        logger.setLevel(logging.ERROR)
    with HeartbeatMonitor(rank, num, dist.PrefixStore("monitor", store), layout.stall_warning) as monitor:
        try:
            yield ProcessGroup(rank, num), monitor
        except BaseException as error:
            # torchrun terminates the others; first they report why they failed.
            for number in watched:
                signal.signal(number, signal.SIG_IGN)
            raise monitor.cause_of(error) from error
        finally:
            dist.destroy_process_group()
            for number in watched:
                signal.signal(number, previous[number])
            logger.setLevel(level)


def cores_per_process() -> int:
    """Cores of this machine for each process on it, 1 or more."""
    return max(1, num_cores() // local_world_size())


def idle_cores_message() -> str | None:
    """Advice if the processes leave most of this machine's cores idle (torchrun gives each one thread), else None."""
    here = local_world_size()
    used = torch.get_num_threads() * here
    if 2 * used > num_cores():
        return None
    return (
        f"{used} of {num_cores()} cores are used, {torch.get_num_threads()} by each process; "
        f"set OMP_NUM_THREADS={num_cores() // here} before torchrun to use all"
    )
