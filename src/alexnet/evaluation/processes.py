"""Several processes that measure one split together, as `torchrun` starts them.

Each takes whole batches, the same ones that one process would make, so that the probabilities are those of one process
to the last bit on equal machines and with as many threads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Processes:
    """How many processes there are, and which one this is."""

    rank: int = 0
    num: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one writes and prints."""
        return self.rank == 0

    def takes(self, number: int) -> bool:
        """Whether the batch of this number, 0 or more, is this process's."""
        return number % self.num == self.rank

    def together(self, own: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """All rows, from arrays in which each process has filled its own and left the others 0; the same in each."""
        if self.num > 1:
            # A sum with zeros is exact.
            dist.all_reduce(torch.from_numpy(own))
        return own


ALONE = Processes()


@contextmanager
def started_processes() -> Iterator[Processes]:
    """The processes among which `torchrun` has started this one; without it, this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
