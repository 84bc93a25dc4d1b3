"""Devices: how many images an evaluation passes at a time, and the precision that the processor's libraries reach."""

from types import SimpleNamespace

import pytest
import torch

from alexnet import doctor
from alexnet.errors import RequestError
from alexnet.system import device, machine
from alexnet.system.device import EVALUATION_BATCH_SIZE, choose_device, choose_precision, evaluation_batch_size

AMX = frozenset({"avx2", "avx512_bf16", "amx_bf16"})


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


@pytest.fixture
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_limit")
def test_bfloat16_is_what_the_processor_has_and_onednn_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.bfloat16_unit(AMX) == "amx_bf16" and machine.bfloat16_unit(AMX - {"amx_bf16"}) == "avx512_bf16"
    assert machine.bfloat16_unit(frozenset({"bf16"})) == "bf16"  # of ARM
    assert machine.bfloat16_unit(frozenset({"avx2"})) is None and not machine.has_bfloat16(frozenset({"avx2"}))
    # The names as in oneDNN's documentation; it ignores case, and names that it does not know.
    for limits, unit in (
        (("SSE41", "AVX", "AVX2", "avx2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"), None),
        (("AVX512_CORE_BF16", "avx512_core_bf16", "AVX512_CORE_FP16", "AVX10_1_512"), "avx512_bf16"),
        (("AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16", "AVX10_1_512_AMX", "DEFAULT", "", "AVX3"), "amx_bf16"),
    ):
        for limit in limits:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
            assert machine.bfloat16_unit(AMX) == unit, limit
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    assert machine.bfloat16_unit(AMX) is None and machine.bfloat16_unit(frozenset({"bf16"})) == "bf16"


@pytest.mark.usefixtures("no_limit")
def test_auto_is_float32_where_onednn_may_not_use_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for module in (device, doctor):
        monkeypatch.setattr(module, "processor_flags", lambda: AMX)

    def bfloat16_check() -> doctor.Check:
        return next(check for check in doctor.check_machine() if check.name == "bfloat16")

    assert choose_precision("auto", cpu) == "bfloat16" and bfloat16_check().result == "matrix units (AMX)"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert choose_precision("auto", cpu) == "float32" and choose_precision("bfloat16", cpu) == "bfloat16"
    check = bfloat16_check()
    assert check.status == "lacking" and check.result == "turned off by ONEDNN_MAX_CPU_ISA=AVX2"
    assert check.advice.endswith("; unset ONEDNN_MAX_CPU_ISA to use the processor's bfloat16 instructions")
