"""Whether more is asked for than one gradient of a loss: then only torch's own operations can answer."""

import torch
from torch.autograd import forward_ad


def needs_reference_ops(*tensors: torch.Tensor | None) -> bool:
    """Whether a transform of `torch.func` is at work (`grad`, `vmap`, `jvp`), or a tensor has a forward derivative.

    The fast forms here know how to go backward, once. What has no rule for a transform raises, and what has none for
    going forward is taken for a constant; so neither is left to them.
    """
    # torch asks the same of itself before a function with a backward pass of its own.
    if torch._C._are_functorch_transforms_active():
        return True
    return not torch.compiler.is_compiling() and any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
        for tensor in tensors
    )
