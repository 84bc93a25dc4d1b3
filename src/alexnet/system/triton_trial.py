"""A small Triton kernel that shows whether Triton works here."""

import torch
import triton
import triton.language as tl


@triton.jit
def _count_kernel(result, BLOCK: tl.constexpr):
    position = tl.arange(0, BLOCK)
    tl.store(result + position, position)


def run_trial_kernel() -> None:
    """Compile and run a kernel on 16 numbers on the current GPU.

    Raises:
        Exception: it does not run, or its result is wrong.
    """
    counted = torch.full((16,), -1, dtype=torch.int32, device="cuda")
    _count_kernel[(1,)](counted, BLOCK=16)
    if counted.tolist() != list(range(16)):
        raise RuntimeError(f"it wrote {counted.tolist()} instead of 0 to 15")
