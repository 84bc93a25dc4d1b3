"""Where the processes of one start meet: a part of the store that no earlier start has written to.

torchrun keeps one store across its restarts. A process that arrives early would find an address of the start before
there, and connect in vain. So the main process generates a name for each start and sends it to the processes that ask:
each asks with a random token, so that it cannot receive an answer to an earlier process.
"""

import datetime
import os
import time
import uuid

import torch.distributed as dist

from alexnet.errors import WorkError

_POLL_INTERVAL_S = 0.02


def rendezvous_store(rank: int, num: int, timeout_s: float) -> dist.Store:
    """The store of this start's processes; all of them call it together.

    Args:
        rank: of this process.
        num: number of processes.
        timeout_s: how long to wait for the others.

    Raises:
        WorkError: one of them does not arrive in time; the main process names them.
    """
    served_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    shared = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank == 0 and not served_by_torchrun,
        timeout=datetime.timedelta(seconds=timeout_s),
        wait_for_workers=False,
        multi_tenant=True,
    )
    store = dist.PrefixStore("alexnet", shared)
    name = _answer_all(store, num, timeout_s) if rank == 0 else _ask(store, rank, timeout_s)
    return dist.PrefixStore(name, store)


def _answer_all(store: dist.Store, num: int, timeout_s: float) -> str:
    name = uuid.uuid4().hex
    missing = set(range(1, num))
    deadline = time.monotonic() + timeout_s
    while missing:
        for rank in sorted(missing):
            if store.check([f"asks/{rank}"]):
                # It may be the token of a process that is gone: its successor asks with another one.
                store.set(f"answer/{store.get(f'asks/{rank}').decode()}", name)
            if store.check([f"{name}/came/{rank}"]):
                missing.discard(rank)
        if missing and time.monotonic() > deadline:
            raise WorkError(
                f"rank {', '.join(map(str, sorted(missing)))} of {num} processes did not connect within {timeout_s:g} "
                "s; check that all are started, and that their machines can reach each other"
            )
        time.sleep(_POLL_INTERVAL_S)
    return name


def _ask(store: dist.Store, rank: int, timeout_s: float) -> str:
    token = uuid.uuid4().hex
    store.set(f"asks/{rank}", token)
    try:
        store.wait([f"answer/{token}"], datetime.timedelta(seconds=timeout_s))
    except dist.DistStoreError as error:
        raise WorkError(
            f"the main process did not connect within {timeout_s:g} s; check that all are started"
        ) from error
    name: str = store.get(f"answer/{token}").decode()
    store.set(f"{name}/came/{rank}", "")
    return name
