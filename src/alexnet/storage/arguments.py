"""Numbers as Python callers give them, who may give anything."""

import math

import numpy as np


def is_whole(value: object, low: int, high: float = math.inf) -> bool:
    """Whether a caller gave a whole number in the range, ends included; numbers of NumPy are numbers."""
    return isinstance(value, int | np.integer) and is_number(value, low, high)


def is_number(value: object, low: float, high: float = math.inf) -> bool:
    """Whether a caller gave a number in the range, ends included; numbers of NumPy are numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return bool(low <= value <= high)
