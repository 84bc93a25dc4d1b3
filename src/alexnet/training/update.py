"""The update rule as one pass over memory, with all that changes from step to step on the device.

A captured graph can hold it: the host only changes the numbers in `factors`. Paper: section 5;
`training/optimizer.py` says how the buffer b = -v / learning_rate represents the paper's velocity v.
"""

from typing import Protocol

import torch

from alexnet.model import kernels


class Updater(Protocol):
    """One implementation of the update rule: b <- m b + g + decay w, then w <- w - learning_rate b, in place.

    Nothing changes where the learning rate is 0 or `stopped` is set.
    """

    def __call__(
        self,
        parameter: torch.Tensor,
        buffer: torch.Tensor,
        gradient: torch.Tensor,
        factors: torch.Tensor,
        weight_decay: float,
        stopped: torch.Tensor,
        rounded: torch.Tensor | None = None,
    ) -> None:
        """Update one parameter.

        Args:
            parameter: float32, w.
            buffer: b, with the strides of `parameter`.
            gradient: g, float32 or bfloat16.
            factors: float32 (2,) on the device: learning rate and m, the momentum rescaled for a changed learning rate.
            weight_decay: decay of this parameter.
            stopped: one number on the device; anything but 0 stops all updates.
            rounded: receives the new w in bfloat16, with the strides of `parameter`.
        """


def update_reference(
    parameter: torch.Tensor,
    buffer: torch.Tensor,
    gradient: torch.Tensor,
    factors: torch.Tensor,
    weight_decay: float,
    stopped: torch.Tensor,
    rounded: torch.Tensor | None = None,
) -> None:
    """The rule in torch operations, for any device; see `Updater`."""
    moves = (factors[0] != 0) & (stopped == 0)
    moved = buffer * factors[1] + gradient + weight_decay * parameter
    buffer.copy_(torch.where(moves, moved, buffer))
    parameter.copy_(torch.where(moves, parameter - factors[0] * buffer, parameter))
    if rounded is not None:
        rounded.copy_(parameter)


def choose_updater(parameter: torch.Tensor, rounds: bool) -> Updater:
    """The fastest implementation for a parameter's device.

    Args:
        rounds: whether a bfloat16 copy is written. On a CPU without one, torch's fused SGD is the single pass, and
            only checks come here.
    """
    if kernels.supports_fused(parameter):
        if parameter.is_cuda:
            from alexnet.training.update_gpu import update_gpu

            return update_gpu
        if rounds and parameter.device.type == "cpu":
            from alexnet.training.update_cpu import update_cpu

            return update_cpu
    return update_reference


def update(
    parameter: torch.Tensor,
    buffer: torch.Tensor,
    gradient: torch.Tensor,
    factors: torch.Tensor,
    weight_decay: float,
    stopped: torch.Tensor,
    rounded: torch.Tensor | None = None,
) -> None:
    """Update one parameter with the fastest implementation; see `Updater`. The gradient may have any strides."""
    # The kernels walk all tensors in memory order.
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    choose_updater(parameter, rounded is not None)(parameter, buffer, gradient, factors, weight_decay, stopped, rounded)
