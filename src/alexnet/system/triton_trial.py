"""A kernel of a few numbers in Triton: whether it runs says whether others do."""

import torch
import triton
import triton.language as tl


@triton.jit
def _count_kernel(result, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(result + place, place)


def try_out() -> None:
    """Compile and run a kernel of a few numbers on the current GPU.

    Raises:
        Exception: whatever keeps it from running, or from being right.
    """
    counted = torch.full((16,), -1, dtype=torch.int32, device="cuda")
    _count_kernel[(1,)](counted, BLOCK=16)
    if counted.tolist() != list(range(16)):
        raise RuntimeError(f"it wrote {counted.tolist()} where 0 to 15 belong")
