"""The update rule as one pass over memory on a CPU, compiled by Numba."""

from typing import Any

import numpy as np
import torch

from alexnet.model.kernels.cpu import parallel_for_arrays
from alexnet.model.kernels.vector_memory import narrow, wide
from alexnet.system.numba_jit import jit


def update_cpu(
    parameter: torch.Tensor,
    buffer: torch.Tensor,
    gradient: torch.Tensor,
    factors: torch.Tensor,
    weight_decay: float,
    stopped: torch.Tensor,
    rounded: torch.Tensor,
) -> None:
    """See `alexnet.training.update.update`; all tensors are dense and have the same strides."""
    learning_rate, momentum = factors.tolist()
    if learning_rate == 0 or int(stopped) or not parameter.numel():
        return
    arrays = tuple(_flat_array(tensor) for tensor in (parameter, buffer, gradient, rounded))
    parallel_for_arrays(_update, arrays, np.float32(learning_rate), np.float32(momentum), np.float32(weight_decay))


def _flat_array(x: torch.Tensor) -> np.ndarray:
    """The numbers in memory order, (N,), float32 or the bits of bfloat16 as uint16."""
    flat = x.detach().as_strided((x.numel(),), (1,))
    return (flat.view(torch.uint16) if x.dtype == torch.bfloat16 else flat).numpy()


@jit(error_model="numpy", fastmath={"contract", "nsz"})
def _update(
    parameter: Any,
    buffer: Any,
    gradient: Any,
    rounded: Any,
    first: Any,
    last: Any,
    learning_rate: Any,
    momentum: Any,
    weight_decay: Any,
) -> None:
    for i in range(first, last):
        moved = momentum * buffer[i] + wide(gradient[i]) + weight_decay * parameter[i]
        buffer[i] = moved
        weight = parameter[i] - learning_rate * moved
        parameter[i] = weight
        rounded[i] = narrow(weight, rounded[i])
