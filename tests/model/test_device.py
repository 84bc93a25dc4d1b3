"""Where a network runs: how many images it is asked about at a time."""

import pytest
import torch

from alexnet.model.device import IMAGES_AT_A_TIME, images_at_a_time


def with_memory(monkeypatch: pytest.MonkeyPatch, free: int, reserved: int, allocated: int) -> None:
    """A GPU with so many bytes free, and so many kept by torch, in use or not."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)


def test_a_gpu_is_asked_about_as_many_images_as_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    with_memory(monkeypatch, 40 << 30, 0, 0)
    assert images_at_a_time(gpu, 256) == 256
    with_memory(monkeypatch, 2 << 30, 0, 0)
    few = images_at_a_time(gpu, 256)
    assert 1 < few < 256 and images_at_a_time(gpu, 512) == few // 4 and images_at_a_time(gpu, 32) == 256
    # What torch keeps and does not use is as good as free.
    with_memory(monkeypatch, 1 << 30, 3 << 30, 2 << 30)
    assert images_at_a_time(gpu, 256) == few
    with_memory(monkeypatch, 1000, 0, 0)
    assert images_at_a_time(gpu, 256) == 1


def test_a_processor_is_asked_about_as_many_whatever_their_size() -> None:
    assert images_at_a_time(torch.device("cpu"), 32) == IMAGES_AT_A_TIME
    assert images_at_a_time(torch.device("cpu"), 512) == IMAGES_AT_A_TIME
