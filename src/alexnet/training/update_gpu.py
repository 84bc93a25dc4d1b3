"""The update rule as one pass over memory on a GPU, in Triton."""

import torch
import triton
import triton.language as tl

_BLOCK = 1024


@triton.jit
def _update_kernel(
    parameter, buffer, gradient, rounded, factors, stopped, weight_decay, num, ROUNDS: tl.constexpr, BLOCK: tl.constexpr
):
    learning_rate = tl.load(factors)
    momentum = tl.load(factors + 1)
    if (learning_rate != 0) & (tl.load(stopped) == 0):
        offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = offsets < num
        weight = tl.load(parameter + offsets, mask=mask)
        given = tl.load(gradient + offsets, mask=mask).to(tl.float32)
        moved = momentum * tl.load(buffer + offsets, mask=mask) + given + weight_decay * weight
        weight -= learning_rate * moved
        tl.store(buffer + offsets, moved, mask=mask)
        tl.store(parameter + offsets, weight, mask=mask)
        if ROUNDS:
            tl.store(rounded + offsets, weight.to(tl.bfloat16), mask=mask)


def update_gpu(
    parameter: torch.Tensor,
    buffer: torch.Tensor,
    gradient: torch.Tensor,
    factors: torch.Tensor,
    weight_decay: float,
    stopped: torch.Tensor,
    rounded: torch.Tensor | None = None,
) -> None:
    """See `alexnet.training.update.update`; all tensors are dense and have the same strides."""
    num = parameter.numel()
    with torch.cuda.device_of(parameter):
        _update_kernel[(triton.cdiv(num, _BLOCK),)](
            parameter,
            buffer,
            gradient,
            parameter if rounded is None else rounded,
            factors,
            stopped,
            float(weight_decay),
            num,
            ROUNDS=rounded is not None,
            BLOCK=_BLOCK,
        )
