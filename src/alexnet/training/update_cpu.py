"""`update` as one pass over memory on a processor, compiled by Numba."""

from typing import Any

import numpy as np
import torch

from alexnet.model.kernels.cpu import narrow, parallel_for_arrays, wide
from alexnet.system.numba_jit import jit


def update(
    parameter: torch.Tensor,
    buffer: torch.Tensor,
    gradient: torch.Tensor,
    rates: torch.Tensor,
    decay: float,
    stopped: torch.Tensor,
    rounded: torch.Tensor,
) -> None:
    """See `alexnet.training.update.update`; all tensors dense and laid out alike."""
    rate, momentum = rates.tolist()
    if rate == 0 or int(stopped) or not parameter.numel():
        return
    arrays = tuple(_run(tensor) for tensor in (parameter, buffer, gradient, rounded))
    parallel_for_arrays(_update, arrays, np.float32(rate), np.float32(momentum), np.float32(decay))


def _run(x: torch.Tensor) -> np.ndarray:
    """The numbers in the order of memory, (N,), float32 or the bits of bfloat16 as uint16."""
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
    rate: Any,
    momentum: Any,
    decay: Any,
) -> None:
    for i in range(first, last):
        moved = momentum * buffer[i] + wide(gradient[i]) + decay * parameter[i]
        buffer[i] = moved
        weight = parameter[i] - rate * moved
        parameter[i] = weight
        rounded[i] = narrow(weight, rounded[i])
