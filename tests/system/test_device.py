"""Devices: how many images an evaluation passes at a time."""

from types import SimpleNamespace

import pytest
import torch

from alexnet.system.device import EVALUATION_BATCH_SIZE, evaluation_batch_size


def test_a_gpu_evaluates_as_many_images_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")

    def with_memory(num_bytes: int) -> None:
        properties = SimpleNamespace(total_memory=num_bytes)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    with_memory(80 << 30)
    assert evaluation_batch_size(gpu, 256) == 256
    with_memory(8 << 30)
    few = evaluation_batch_size(gpu, 256)
    assert 1 < few < 256 and evaluation_batch_size(gpu, 512) == few // 4 and evaluation_batch_size(gpu, 32) == 256
    with_memory(1000)
    assert evaluation_batch_size(gpu, 256) == 1


def test_a_cpu_evaluates_the_same_number_at_any_size() -> None:
    assert evaluation_batch_size(torch.device("cpu"), 32) == EVALUATION_BATCH_SIZE
    assert evaluation_batch_size(torch.device("cpu"), 512) == EVALUATION_BATCH_SIZE
