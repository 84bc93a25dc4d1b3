"""Whether derivatives other than one gradient of a loss are needed: only torch's own operations have those."""

import torch
from torch.autograd import forward_ad


def needs_reference_ops(*tensors: torch.Tensor | None) -> bool:
    """Whether a transform of `torch.func` (`grad`, `vmap`, `jvp`) is active, or a tensor has a forward-mode derivative.

    The fused operations have one backward pass. Without a rule for a transform they would raise, and without one for
    forward mode they would be treated as constants.
    """
    # torch checks the same before it calls a `torch.autograd.Function`.
    if torch._C._are_functorch_transforms_active():
        return True
    return not torch.compiler.is_compiling() and any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
        for tensor in tensors
    )
