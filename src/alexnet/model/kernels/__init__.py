"""Fused operations (ReLU, normalization and pooling in one pass over memory) and float32 Winograd convolutions.

Numba compiles them for CPUs, Triton for NVIDIA GPUs. On other devices and in float64, the layers' modules compute
the same by torch's own operations.
"""

import contextlib
import threading
from collections.abc import Iterator

import torch

from alexnet.model.derivatives import needs_reference_ops
from alexnet.system.triton_probe import reference_ops_requested, triton_unavailable_reason

_forced = {"convolutions": 0, "all": 0}
"""Blocks of `reference_ops` that are open, in any thread, by the operations that they leave to torch."""
_forced_lock = threading.Lock()
_reasons: dict[str, str | None] = {}


def supports_fused(x: torch.Tensor) -> bool:
    """Whether the fused operations take this tensor: its device and dtype have kernels, and `reference_ops` is off.

    Transforms of `torch.func` and forward-mode derivatives are left to torch's own operations.
    """
    if _forced["all"] or x.dtype not in (torch.float32, torch.bfloat16) or torch.onnx.is_in_onnx_export():
        return False
    if torch.compiler.is_compiling() and x.device.type not in _reasons:
        return False
    return fallback_reason(x.device.type) is None and not needs_reference_ops(x)


def supports_winograd(x: torch.Tensor) -> bool:
    """Whether convolutions of this tensor may use Winograd filtering: float32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not _forced["convolutions"] and supports_fused(x)


def epilogue_adds_bias(x: torch.Tensor, computed: torch.dtype) -> bool:
    """Whether a convolution of x, computed in dtype `computed`, leaves its biases to the fused operation after it.

    On GPUs the library adds biases in a separate pass over memory, and sums their gradient in another; on CPUs they are
    free. In float32 the fused operation would read them again for every neighbor.
    """
    return x.is_cuda and computed == torch.bfloat16 and supports_fused(x)


def load() -> None:
    """Check which kernels run here, before anything is compiled or captured; does nothing within `reference_ops`."""
    if not _forced["all"]:
        for device_type in ("cpu", "cuda"):
            fallback_reason(device_type)


def fallback_reason(device_type: str) -> str | None:
    """Why the fused operations do not run on such a device here, as a message; None if they do.

    The first call loads Numba or Triton.
    """
    if device_type not in _reasons:
        _reasons[device_type] = _unavailable_reason(device_type)
    return _reasons[device_type]


def slow_path_message(device_type: str) -> str | None:
    """A warning that a network will be slow on such a device; None if the fused operations run."""
    reason = fallback_reason(device_type)
    return reason and f"all layers run by torch's own operations, which are slower: {reason}"


def _unavailable_reason(device_type: str) -> str | None:
    if device_type == "cuda":
        return triton_unavailable_reason()
    if requested := reference_ops_requested():
        return requested
    if device_type == "cpu":
        from alexnet.model.kernels import cpu

        return cpu.unavailable_reason()
    return f"there are no fused operations for {device_type} devices"


@contextlib.contextmanager
def reference_ops(*, convolutions_only: bool = False) -> Iterator[None]:
    """Within the block, run torch's own operations: for comparison, for export, and for second derivatives.

    Args:
        convolutions_only: keep the fused operations.
    """
    # Counted, not set and restored: blocks of several threads overlap in any order.
    kind = "convolutions" if convolutions_only else "all"
    with _forced_lock:
        _forced[kind] += 1
    try:
        yield
    finally:
        with _forced_lock:
            _forced[kind] -= 1
