"""A benchmark is measured with each memory allocator, in a new process each."""

import json
import os
import signal
import sys
import time

import pytest

from alexnet.bench import allocators
from alexnet.bench.allocators import measure_by_allocator
from alexnet.cli.main import main
from alexnet.errors import RequestError, WorkError


def test_each_allocator_is_measured_in_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], str]] = []

    def run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
        tuned = "GLIBC_TUNABLES" in environment
        asked.append((command, "tuned" if tuned else "default"))
        speeds = {"plain": 40.0 if tuned else 20.0, "alexnet": 300.0 if tuned else 200.0}
        methods = {name: {"images_per_second": speed} for name, speed in speeds.items()}
        return failing, json.dumps({"methods": methods})

    failing = 0
    monkeypatch.setattr(allocators, "_run", run)
    found = measure_by_allocator(("tuned", "default"), ["bench", "step"], "alexnet")
    assert (
        found["tuned"]["speedups_over_default_allocator"] == {"plain": 15.0}
        and "speedups_over_default_allocator" not in found["default"]
    )
    assert asked == [(["bench", "step", "--allocator", "current", "--json"], name) for name in found]
    failing = 3
    with pytest.raises(WorkError, match="with the default allocator ended with exit code 3"):
        measure_by_allocator(("default",), ["bench", "step"], "alexnet")
    failing = 2
    with pytest.raises(RequestError) as wrong:
        measure_by_allocator(("default",), ["bench", "step"], "alexnet")
    assert wrong.value.is_reported  # by the other process


def test_a_preloaded_allocator_is_measured_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so")
    monkeypatch.setattr("alexnet.bench.step_benchmark.measure_step", lambda *_: {"measured": "here"})
    assert main(["bench", "step", "--device", "cpu", "--json"]) == 0
    printed = capsys.readouterr()
    assert "measuring with one memory allocator: LD_PRELOAD chooses it" in printed.err and "here" in printed.out
    assert main(["bench", "step", "--device", "cpu", "--allocator", "tuned"]) == 2


def test_the_process_of_an_allocator_ends_with_this_one() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    start_s = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            allocators._run([sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start_s < 30
    assert allocators._run([sys.executable, "-c", "print(3); raise SystemExit(4)"], os.environ) == (4, "3\n")
