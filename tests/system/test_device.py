"""Devices: how many images an evaluation passes at a time."""

from types import SimpleNamespace

import pytest
import torch

from alexnet.errors import RequestError
from alexnet.system.device import EVALUATION_BATCH_SIZE, choose_device, evaluation_batch_size


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


def test_a_device_of_torch_is_taken_like_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device(torch.device("cpu")) == choose_device("cpu") == torch.device("cpu")
    assert choose_device(torch.device("cpu", 0)) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(torch.device("cuda", 0)) == choose_device(torch.device("cuda")) == torch.device("cuda")
    with pytest.raises(RequestError, match=r"the device is 'cuda:1'; .* CUDA_VISIBLE_DEVICES=1"):
        choose_device(torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RequestError, match="device 'cuda' is not available"):
        choose_device(torch.device("cuda"))
    with pytest.raises(RequestError, match="unknown device 'meta'"):
        choose_device(torch.device("meta"))
    for wrong in (3, ["cpu"], None):
        with pytest.raises(RequestError, match=r"unknown device .*; known are auto, cpu, cuda, mps"):
            choose_device(wrong)  # type: ignore[arg-type]
