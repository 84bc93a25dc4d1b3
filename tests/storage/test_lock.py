"""A lock is held by one process, and by none after that process ended, however it ended."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from alexnet.errors import RequestError
from alexnet.storage.lock import is_held, only_writer


def hold(path: Path, held: "multiprocessing.synchronize.Event") -> None:  # type: ignore[name-defined]
    with only_writer(path, "the run"):
        held.set()
        time.sleep(600)


def test_another_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert not is_held(path)
    spawn = multiprocessing.get_context("spawn")
    held = spawn.Event()
    other = spawn.Process(target=hold, args=(path, held), daemon=True)
    other.start()
    assert held.wait(120)
    try:
        assert is_held(path)
        with (
            pytest.raises(
                RequestError, match=rf"the run is being written by process {other.pid} on {os.uname().nodename}"
            ),
            only_writer(path, "the run"),
        ):
            pass
    finally:
        other.kill()
        other.join()
    # Killed: the lock is free, and its file says who did not let go.
    assert not is_held(path)
    with only_writer(path, "the run") as before:
        assert before == f"process {other.pid} on {os.uname().nodename}"
        assert is_held(path)
    with only_writer(path, "the run") as before:
        assert before is None  # let go in order


def test_an_unreadable_lock_file_is_only_a_file(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("[1, 2")
    with only_writer(path, "the run") as before:
        assert before is None
