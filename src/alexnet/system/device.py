"""The device on which the network runs, and its precision."""

import contextlib
from typing import Literal

import torch

from alexnet.errors import RequestError
from alexnet.system.machine import has_bfloat16, processor_flags

Precision = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda", "mps"] | torch.device
"""What `choose_device` takes."""
PrecisionChoice = Literal["auto", "float32", "bfloat16"]
"""What `choose_precision` takes."""

EVALUATION_BATCH_SIZE = 128
"""Batch size where rounding must not differ: between processes that share a split, and when a training is resumed on
another machine, because its learning rate may depend on a validation error. On two cores 32 to 256 are equally fast."""
_GPU_BATCH_SIZE = 256
"""On a GPU with enough memory: what `docs/performance.md` was measured with; large enough to hide kernel launches."""
_BYTES_PER_PIXEL = 256
"""Memory for an image's activations: one layer of 64 channels as large as the image, in float32. The paper's network
needs 2 MB at once, an eighth of that."""


def choose_device(wanted: str | torch.device) -> torch.device:
    """The device named `auto`, `cpu`, `cuda` or `mps`; `auto` is a GPU if there is one.

    Raises:
        RequestError: an unknown name, a device that is not available, or a GPU other than the first.
    """
    if isinstance(wanted, torch.device):
        if wanted.index:
            raise RequestError(
                f"the device is {str(wanted)!r}; allowed is the first: choose the GPU with the environment variable "
                f"CUDA_VISIBLE_DEVICES={wanted.index}"
            )
        wanted = wanted.type
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if wanted not in tuple(available):  # a caller may give anything
        raise RequestError(f"unknown device {wanted!r}; known are auto, cpu, cuda, mps")
    if not available[wanted]:
        usable = ", ".join(name for name, is_available in available.items() if is_available)
        raise RequestError(f"device {wanted!r} is not available; available: {usable} (`alexnet doctor` says why)")
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """The precision named `auto`, `float32` or `bfloat16`; `auto` is bfloat16 if the hardware multiplies it.

    Raises:
        RequestError: another name.
    """
    if wanted == "float32":
        return "float32"
    if wanted == "bfloat16":
        return "bfloat16"
    if wanted != "auto":
        raise RequestError(f"precision is {wanted!r}; allowed are auto, float32 and bfloat16")
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device.type == "cpu" and has_bfloat16(processor_flags()) else "float32"


def arithmetic(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context in which a network with float32 weights computes in `precision`, whatever the context around it."""
    if precision == "float32":
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=torch.bfloat16)


def evaluation_batch_size(device: torch.device, side: int) -> int:
    """Batch size for inference: larger on a GPU, if a quarter of its memory is enough for it.

    It depends on the machine but not on free memory, because rounding depends on it.

    Args:
        device: where the network runs.
        side: of the images, pixels.
    """
    if device.type != "cuda":
        return EVALUATION_BATCH_SIZE
    available = torch.cuda.get_device_properties(device).total_memory // 4
    return max(1, min(_GPU_BATCH_SIZE, available // (_BYTES_PER_PIXEL * side**2)))
