"""What every test gets: one thread, a plain environment, no network but the loopback."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

if not torch.cuda.is_available():
    # Triton reads it when it is first imported, whoever does that: its kernels then run on the processor, interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Background jobs of a shell ignore SIGINT, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines that stand still for a second now and then say nothing about a test; CI's own profile is left alone.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if not os.environ.get("CI"):
    settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One torch thread, no settings from the caller's shell, no connection to other machines."""
    for name in ("ALEXNET_CIFAR10", "ALEXNET_MIRROR", "ALEXNET_ALLOCATOR"):
        monkeypatch.delenv(name, raising=False)
    # The command would otherwise replace the test's own process by a new one.
    monkeypatch.setenv("ALEXNET_ALLOCATOR", "default")
    connect = socket.socket.connect

    def only_loopback(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests do not connect to {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)
    torch.set_num_threads(1)
    yield


@pytest.fixture
def make_tree(tmp_path: Path) -> Any:
    """A function that draws a class-per-folder tree whose classes are colors, so that a small net learns them."""

    def draw(name: str, *, classes: int = 3, train: int = 8, val: int = 4, side: int = 40) -> Path:
        root = tmp_path / name
        random = np.random.default_rng(5)
        for split, count in (("train", train), ("val", val)):
            for index in range(classes):
                folder = root / split / f"color{index}"
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = random.integers(0, 80, (side, side, 3))
                    pixels[..., index % 3] += 150
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        return root

    return draw


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Escape what was logged and is not UTF-8, such as a file's name: worker processes could not send it."""
    report: Any = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


def pytest_report_header() -> str:
    return f"torch {torch.__version__}, {os.cpu_count()} cores"
