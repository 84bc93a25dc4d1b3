"""Where the network runs and in which arithmetic."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from alexnet.errors import RequestError
from alexnet.system.machine import has_bfloat16, processor_flags

Precision = Literal["float32", "bfloat16"]

IMAGES_AT_A_TIME = 128
"""How many images a network is asked about at a time where all who ask must do so alike: processes that share a split,
and a training that goes on elsewhere, whose rates may follow from a rounding. On two cores 32 to 256 are as fast."""
_ON_A_GPU = 256
"""On a GPU that has room: what `docs/performance.md` has been measured with, where launching kernels is hidden."""
_BYTES_PER_PIXEL = 256
"""Room for an image's activations: one layer's of 64 maps as large as the image, in float32. Of the paper's network 2
MB are alive at once, an eighth of it."""


def choose_device(wanted: str) -> torch.device:
    """The device meant by `auto`, `cpu`, `cuda` or `mps`; `auto` takes a GPU where there is one.

    Raises:
        RequestError: the device is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if wanted not in available:
        raise RequestError(f"unknown device {wanted!r}; known are auto, cpu, cuda, mps")
    if not available[wanted]:
        usable = ", ".join(name for name, there in available.items() if there)
        raise RequestError(f"device {wanted!r} is not usable here; usable: {usable} (`alexnet doctor` says why)")
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """The arithmetic meant by `auto`, `float32` or `bfloat16`; `auto` is bfloat16 where the hardware multiplies it.

    Raises:
        RequestError: another word.
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
    """The context in which a network with float32 weights computes in `precision`."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def rounded_weights(network: torch.nn.Module, precision: Precision) -> Iterator[None]:
    """Within it, the weights are of `precision`, and afterwards what they were; for a network that is only asked.

    Others may ask it meanwhile if they do so in `arithmetic` of the same precision.

    `arithmetic` rounds them to bfloat16 in every forward pass where no gradients are kept: for AlexNet 366 MB of
    memory's traffic, a fifth of a pass on processors with matrix units. Rounded once they give the same scores.
    """
    # What is rounded already is somebody else's to give back. Looked at once: another thread may be at it.
    whole = {
        parameter: data
        for parameter in network.parameters()
        if precision == "bfloat16" and (data := parameter.data).dtype == torch.float32
    }
    try:
        for parameter, data in whole.items():
            parameter.data = data.bfloat16()
        yield
    finally:
        for parameter, data in whole.items():
            parameter.data = data


def images_at_a_time(device: torch.device, side: int) -> int:
    """How many images a network is asked about at a time: on a GPU more, if a quarter of its memory holds them.

    The same on the same machine, whatever is free at the moment: roundings follow from it.

    Args:
        side: of the images, pixels.
    """
    if device.type != "cuda":
        return IMAGES_AT_A_TIME
    room = torch.cuda.get_device_properties(device).total_memory // 4
    return max(1, min(_ON_A_GPU, room // (_BYTES_PER_PIXEL * side**2)))
