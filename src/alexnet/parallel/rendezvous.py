"""Where the processes of one start meet: a part of the store that no earlier start has written to.

torchrun keeps one store through its restarts. A process that comes early would find there where the process before its
neighbor was to be reached, and call in vain. So the first process makes up a name for each meeting, and tells it to
those that ask now: each asks with a word of its own, which no earlier process can have been answered.
"""

import datetime
import os
import time
import uuid

import torch.distributed as dist

from alexnet.errors import WorkError

_LOOK_EVERY_S = 0.02


def rendezvous_store(rank: int, num: int, wait_s: float) -> dist.Store:
    """The store of this start's processes; all of them call it at once.

    Args:
        rank: of this process.
        num: of all processes.
        wait_s: how long to wait for the others.

    Raises:
        WorkError: one of them does not come in time; the first process names them.
    """
    served_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    shared = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank == 0 and not served_by_torchrun,
        timeout=datetime.timedelta(seconds=wait_s),
        wait_for_workers=False,
        multi_tenant=True,
    )
    store = dist.PrefixStore("alexnet", shared)
    name = _told_to_all(store, num, wait_s) if rank == 0 else _asked(store, rank, wait_s)
    return dist.PrefixStore(name, store)


def _told_to_all(store: dist.Store, num: int, wait_s: float) -> str:
    name = uuid.uuid4().hex
    missing = set(range(1, num))
    deadline = time.monotonic() + wait_s
    while missing:
        for rank in sorted(missing):
            if store.check([f"asks/{rank}"]):
                # It may be the word of a process that is gone: whoever takes its place asks with another one.
                store.set(f"answer/{store.get(f'asks/{rank}').decode()}", name)
            if store.check([f"{name}/came/{rank}"]):
                missing.discard(rank)
        if missing and time.monotonic() > deadline:
            raise WorkError(
                f"rank {', '.join(map(str, sorted(missing)))} of {num} processes did not come within {wait_s:g} s; see "
                "that all are started, and that their machines reach each other"
            )
        time.sleep(_LOOK_EVERY_S)
    return name


def _asked(store: dist.Store, rank: int, wait_s: float) -> str:
    word = uuid.uuid4().hex
    store.set(f"asks/{rank}", word)
    try:
        store.wait([f"answer/{word}"], datetime.timedelta(seconds=wait_s))
    except dist.DistStoreError as error:
        raise WorkError(f"the first process did not come within {wait_s:g} s; see that all are started") from error
    name: str = store.get(f"answer/{word}").decode()
    store.set(f"{name}/came/{rank}", "")
    return name
