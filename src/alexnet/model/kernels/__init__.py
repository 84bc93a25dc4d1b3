"""Fast forms: rectifying, normalizing and pooling in one pass over memory; float32 convolutions with fewer products.

`serves` says where they run: Numba on processors, Triton on NVIDIA GPUs. Everywhere else, and in float64, the plain
form of `form.py` computes the same.
"""

import contextlib
import os
from collections.abc import Iterator

import torch

from alexnet.model.derivatives import needs_reference_ops
from alexnet.system.triton_probe import PLAIN_VARIABLE, triton_unavailable_reason

_switched_off = False
_convolutions_switched_off = False
_reasons: dict[str, str | None] = {}


def supports_fused(x: torch.Tensor) -> bool:
    """Whether the fused forms take this tensor: its device, its dtype, and nobody asked for the plain ones.

    Transforms of `torch.func` and derivatives going forward are left to the plain ones.
    """
    if _switched_off or x.dtype not in (torch.float32, torch.bfloat16) or torch.onnx.is_in_onnx_export():
        return False
    if torch.compiler.is_compiling() and x.device.type not in _reasons:
        return False
    return fallback_reason(x.device.type) is None and not needs_reference_ops(x)


def supports_winograd(x: torch.Tensor) -> bool:
    """Whether convolutions of this tensor may take fewer products: a processor's, in float32."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not _convolutions_switched_off and supports_fused(x)


def epilogue_adds_bias(x: torch.Tensor, computed: torch.dtype) -> bool:
    """Whether a convolution of x, in dtype `computed`, leaves its biases to the fused pass behind it.

    A GPU's library adds them in a pass over memory of its own, and sums their gradient in another; a processor's adds
    them as it goes. In float32 the fused pass would read them again for every neighbor.
    """
    return x.is_cuda and computed == torch.bfloat16 and supports_fused(x)


def load() -> None:
    """Find out what serves here, before anything is compiled or captured; within `reference_ops` nothing does."""
    if not _switched_off:
        for device_type in ("cpu", "cuda"):
            fallback_reason(device_type)


def fallback_reason(device_type: str) -> str | None:
    """Why the fused forms do not run on such a device here, in a sentence; None where they do.

    The first question takes the time that the answer needs: Numba is loaded.
    """
    if device_type not in _reasons:
        _reasons[device_type] = _reason(device_type)
    return _reasons[device_type]


def slow_path_message(device_type: str) -> str | None:
    """What to tell whoever waits for a network there; None where the fused forms run."""
    reason = fallback_reason(device_type)
    return reason and f"all layers by torch's own operations, which are slower: {reason}"


def _reason(device_type: str) -> str | None:
    if device_type == "cuda":
        return triton_unavailable_reason()
    if os.environ.get(PLAIN_VARIABLE):
        return f"the environment variable {PLAIN_VARIABLE} asks for torch's own operations"
    if device_type == "cpu":
        from alexnet.model.kernels import cpu

        return cpu.why_not()
    return f"there is no fused form for {device_type} devices"


@contextlib.contextmanager
def reference_convolutions() -> Iterator[None]:
    """torch's own convolutions, the fused passes beside them, for as long as the block lasts: to compare."""
    global _convolutions_switched_off
    before, _convolutions_switched_off = _convolutions_switched_off, True
    try:
        yield
    finally:
        _convolutions_switched_off = before


@contextlib.contextmanager
def reference_ops() -> Iterator[None]:
    """torch's own operations only, for as long as the block lasts: to compare, and to export."""
    global _switched_off
    before, _switched_off = _switched_off, True
    try:
        yield
    finally:
        _switched_off = before
