"""NumPy's arrays as torch's, without the warning that torch has for those that cannot be written to."""

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray


def as_tensor(array: NDArray[Any], dtype: DTypeLike | None = None) -> torch.Tensor:
    """The array as a tensor, of type `dtype`; copied only where its type, order or being read-only asks for it."""
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))
