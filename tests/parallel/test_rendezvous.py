"""Processes meet those that were started with them, and none of an earlier start."""

import socket
import subprocess
import threading
import time
from collections.abc import Callable

import pytest
import torch.distributed as dist

from alexnet.errors import WorkError
from alexnet.parallel.rendezvous import rendezvous_store

Start = Callable[..., "subprocess.Popen[str]"]

# The first start fails when all have met; in the second one the first process comes two seconds late.
LATE = """
import os, sys, time, torch.distributed as dist
from alexnet.parallel.process_group import init_process_group
again = os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
time.sleep(2 if again and os.environ["RANK"] == "0" else 0)
with init_process_group():
    dist.barrier()
    sys.exit(0 if again else 1)
"""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dist.TCPStore:
    """A store that, as torchrun's, outlives the processes that meet there."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    return store


def met(num: int, delays_s: dict[int, float]) -> list[dist.Store]:
    """Where each of `num` processes (threads here) finds itself."""
    found: dict[int, dist.Store] = {}

    def come(rank: int) -> None:
        time.sleep(delays_s.get(rank, 0.0))
        found[rank] = rendezvous_store(rank, num, 20.0)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(num)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(num)]


@pytest.mark.parametrize("delays_s", [{}, {0: 0.3}, {1: 0.3}, {0: 0.2, 2: 0.4}])
def test_all_meet_in_one_place_and_the_next_start_in_another(served: dist.TCPStore, delays_s: dict[int, float]) -> None:
    before: list[dist.Store] = []
    for start in range(3):
        stores = met(3, delays_s)
        stores[0].set("who", str(start))
        assert [store.get("who") for store in stores] == [str(start).encode()] * 3
        # What was left there by an earlier start is not seen.
        assert not any(store.check([f"left by {start - 1}"]) for store in stores)
        stores[1].set(f"left by {start}", "x")
        before += stores
    assert before[0].get("who") == b"0"


def test_who_does_not_come_is_named(served: dist.TCPStore) -> None:
    with pytest.raises(WorkError, match=r"rank 1, 2 of 3 processes did not connect within 0\.2 s"):
        rendezvous_store(0, 3, 0.2)
    with pytest.raises(WorkError, match="the main process did not connect"):
        rendezvous_store(1, 3, 0.2)


def test_without_torchrun_the_first_process_keeps_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    first, second = met(2, {0: 0.3})
    first.set("a", "b")
    assert second.get("a") == b"b"


@pytest.mark.slow
def test_restarted_processes_do_not_find_those_before_them(start: Start, tmp_path: object) -> None:
    program = f"{tmp_path}/late.py"
    with open(program, "w") as file:
        file.write(LATE)
    process = start(2, program, options=("--max-restarts", "1"))
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 0, text
