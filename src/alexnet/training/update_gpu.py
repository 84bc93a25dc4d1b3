"""`update` as one pass over memory, in Triton."""

import torch
import triton
import triton.language as tl

_BLOCK = 1024


@triton.jit
def _update_kernel(
    parameter, buffer, gradient, rounded, rates, stopped, decay, num, ROUNDS: tl.constexpr, BLOCK: tl.constexpr
):
    rate = tl.load(rates)
    momentum = tl.load(rates + 1)
    if (rate != 0) & (tl.load(stopped) == 0):
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = place < num
        weight = tl.load(parameter + place, mask=mask)
        given = tl.load(gradient + place, mask=mask).to(tl.float32)
        moved = momentum * tl.load(buffer + place, mask=mask) + given + decay * weight
        weight -= rate * moved
        tl.store(buffer + place, moved, mask=mask)
        tl.store(parameter + place, weight, mask=mask)
        if ROUNDS:
            tl.store(rounded + place, weight.to(tl.bfloat16), mask=mask)


def update(
    parameter: torch.Tensor,
    buffer: torch.Tensor,
    gradient: torch.Tensor,
    rates: torch.Tensor,
    decay: float,
    stopped: torch.Tensor,
    rounded: torch.Tensor | None = None,
) -> None:
    """See `alexnet.training.update.update`; all tensors dense and laid out alike."""
    num = parameter.numel()
    with torch.cuda.device_of(parameter):
        _update_kernel[(triton.cdiv(num, _BLOCK),)](
            parameter,
            buffer,
            gradient,
            parameter if rounded is None else rounded,
            rates,
            stopped,
            float(decay),
            num,
            ROUNDS=rounded is not None,
            BLOCK=_BLOCK,
        )
