"""NumPy arrays as torch tensors, without the warning that torch gives for read-only arrays."""

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray


def as_tensor(array: NDArray[Any], dtype: DTypeLike | None = None) -> torch.Tensor:
    """The array as a tensor of type `dtype`, copied only if its type or layout requires it or it is read-only."""
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))
