"""The update rule as one pass, with everything that changes from step to step on the device: a captured graph holds it.

Paper: section 5. `training/optimizer.py` says how the buffer b = -v / rate stands for the paper's velocity v.
"""

import torch

from alexnet.model import kernels


def update(
    parameter: torch.Tensor,
    buffer: torch.Tensor,
    gradient: torch.Tensor,
    rates: torch.Tensor,
    decay: float,
    stopped: torch.Tensor,
    rounded: torch.Tensor | None = None,
) -> None:
    """b <- m b + g + decay w, w <- w - rate b, in place; nothing where the rate is 0 or the training has stopped.

    Args:
        parameter: float32, w.
        buffer: like `parameter` and laid out like it, b.
        gradient: like `parameter`, or in bfloat16.
        rates: float32 (2,) on the device: rate, and m, the momentum with what a change of the rate makes of it.
        decay: of the weights.
        stopped: one number on the device, not 0 where nothing may change any more.
        rounded: bfloat16, laid out like `parameter`: is given the new w, rounded.
    """
    # One run of numbers each: the kernel walks them in the order of memory.
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    if parameter.is_cuda and kernels.supports_fused(parameter):
        from alexnet.training import update_gpu

        update_gpu.update(parameter, buffer, gradient, rates, decay, stopped, rounded)
        return
    # Without rounding, torch's fused optimizer is the processor's one pass, and nobody comes here but checks.
    if rounded is not None and parameter.device.type == "cpu" and kernels.supports_fused(parameter):
        from alexnet.training import update_cpu

        update_cpu.update(parameter, buffer, gradient, rates, decay, stopped, rounded)
        return
    moves = (rates[0] != 0) & (stopped == 0)
    moved = buffer * rates[1] + gradient + decay * parameter
    buffer.copy_(torch.where(moves, moved, buffer))
    parameter.copy_(torch.where(moves, parameter - rates[0] * buffer, parameter))
    if rounded is not None:
        rounded.copy_(parameter)


def rates_table(rows: list[tuple[float, float]], device: torch.device) -> torch.Tensor:
    """Rate and momentum of every parameter as float32 (P, 2), on its way to the device."""
    table = torch.tensor(rows, dtype=torch.float32)
    return table.pin_memory() if device.type == "cuda" else table
