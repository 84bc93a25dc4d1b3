"""The update rule as one pass over memory, with all that changes from step to step on the device.

A captured graph can hold it: the host only changes the numbers in `factors`. Paper: section 5;
`training/optimizer.py` says how the buffer b = -v / learning_rate represents the paper's velocity v.
"""

import torch

from alexnet.model import kernels


def update(
    parameter: torch.Tensor,
    buffer: torch.Tensor,
    gradient: torch.Tensor,
    factors: torch.Tensor,
    weight_decay: float,
    stopped: torch.Tensor,
    rounded: torch.Tensor | None = None,
) -> None:
    """Update one parameter in place: b <- m b + g + weight_decay w, then w <- w - learning_rate b.

    Nothing changes where the learning rate is 0 or `stopped` is set. The fastest implementation for the device runs;
    on a CPU without `rounded` only checks come here, since torch's fused SGD is the single pass there.

    Args:
        parameter: float32, w.
        buffer: b, with the strides of `parameter`.
        gradient: g, float32 or bfloat16, with any strides.
        factors: float32 (2,) on the device: learning rate and m, the momentum rescaled for a changed learning rate.
        weight_decay: decay of this parameter.
        stopped: one number on the device; anything but 0 stops all updates.
        rounded: receives the new w in bfloat16, with the strides of `parameter`.
    """
    # The kernels walk all tensors in memory order.
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    fused = kernels.supports_fused(parameter)
    if fused and parameter.is_cuda:
        from alexnet.training.update_gpu import update_gpu

        update_gpu(parameter, buffer, gradient, factors, weight_decay, stopped, rounded)
    elif fused and parameter.device.type == "cpu" and rounded is not None:
        from alexnet.training.update_cpu import update_cpu

        update_cpu(parameter, buffer, gradient, factors, weight_decay, stopped, rounded)
    else:
        moves = (factors[0] != 0) & (stopped == 0)
        moved = buffer * factors[1] + gradient + weight_decay * parameter
        buffer.copy_(torch.where(moves, moved, buffer))
        parameter.copy_(torch.where(moves, parameter - factors[0] * buffer, parameter))
        if rounded is not None:
            rounded.copy_(parameter)
