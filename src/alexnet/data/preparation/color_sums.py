"""Exact sums over images that several threads add to at once, for the mean image and the color covariance.

Integer sums do not depend on their order, so the result depends neither on the number of threads nor on their timing.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.preparation.statistics import ColorSums
from alexnet.system.numba_jit import jit, unavailable_reason

ADDED_IMAGES = 257
"""The sum of this many bytes stays below 2^16."""
PERIOD = 48
"""Products are summed separately for each of this many consecutive bytes: whole pixels, and whole SIMD registers."""
STEP_BYTES = 4 * PERIOD
"""Bytes of an image that one iteration adds."""
ADDED_STEPS = 2**14
"""The sum of this many times four products of two bytes stays below 2^32."""


class ColorAccumulator:
    """Sums over images of one size, to which several threads may add.

    Args:
        side: of the images, pixels.
    """

    def __init__(self, side: int) -> None:
        self._side = side
        self._partial_sums: list[_PartialSums] = []
        self._idle: list[_PartialSums] = []

    def add(self, image: NDArray[np.uint8]) -> None:
        """Count one image, uint8 (S, S, 3)."""
        try:
            partial = self._idle.pop()  # in one step, whatever other threads do
        except IndexError:
            partial = _PartialSums(self._side)
            self._partial_sums.append(partial)
        partial.add(np.ascontiguousarray(image).reshape(-1))
        self._idle.append(partial)

    def sums(self) -> ColorSums:
        """The sums over all images so far. Must not be called while a thread adds."""
        total = ColorSums.none(self._side)
        for partial in self._partial_sums:
            total = total + partial.sums()
        return total


class _PartialSums:
    """Sums that one thread at a time adds to."""

    def __init__(self, side: int) -> None:
        self._side = side
        self._num_images = 0
        self._byte_sums = np.zeros(side * side * 3, np.int64)
        # Of the latest images: uint16 takes half the cache that int32 would.
        self._num_latest = 0
        self._latest = np.zeros(side * side * 3, np.uint16)
        # Each byte times itself, and times the next color of its pixel (of blue: red), by its position in a period.
        self._products = np.zeros((2, PERIOD), np.int64)

    def add(self, image: NDArray[np.uint8]) -> None:
        if self._num_latest == ADDED_IMAGES:
            self._flush()
        self._num_images += 1
        self._num_latest += 1
        if unavailable_reason:
            self._latest += image
            self._products[:, :3] += _products(image.reshape(-1, 3))
        else:
            _add(image, self._latest, self._products)

    def sums(self) -> ColorSums:
        self._flush()
        squares, next_ones = self._products.reshape(2, -1, 3).sum(axis=1).tolist()  # (2, 16, 3) -> by color
        red_green, green_blue, blue_red = next_ones
        return ColorSums(
            self._num_images,
            self._byte_sums.reshape(self._side, self._side, 3),
            np.array(
                [
                    [squares[0], red_green, blue_red],
                    [red_green, squares[1], green_blue],
                    [blue_red, green_blue, squares[2]],
                ],
                object,
            ),
        )

    def _flush(self) -> None:
        self._byte_sums += self._latest
        self._latest[:] = 0
        self._num_latest = 0


@jit(error_model="numpy")
def _product(one: Any, other: Any) -> Any:  # pragma: no cover (compiled)
    # Of two bytes; it fits in 16 bits, which processors multiply faster than 32.
    return np.uint32(np.uint16(np.uint16(one) * np.uint16(other)))


@jit(error_model="numpy")
def _add_rest(pixels: Any, products: Any) -> None:  # pragma: no cover (compiled)
    for first in range(0, len(pixels), 3):
        red, green, blue = np.int64(pixels[first]), np.int64(pixels[first + 1]), np.int64(pixels[first + 2])
        products[0, 0] += red * red
        products[0, 1] += green * green
        products[0, 2] += blue * blue
        products[1, 0] += red * green
        products[1, 1] += green * blue
        products[1, 2] += blue * red


@jit(error_model="numpy")
def _add(image: Any, byte_sums: Any, products: Any) -> None:  # pragma: no cover (compiled)
    """Add the bytes of an image, uint8 (n,), to uint16 (n,), and their products to int64 (2, PERIOD)."""
    size = len(image)
    is_blue = np.empty(STEP_BYTES, np.uint8)  # 255 or 0
    for position in range(STEP_BYTES):
        is_blue[position] = 255 if position % 3 == 2 else 0
    after = np.empty(STEP_BYTES, np.uint8)
    squares = np.zeros(PERIOD, np.uint32)
    next_ones = np.zeros(PERIOD, np.uint32)
    # Whole steps begin at the second pixel and end before the last one, since a step looks two bytes back, one ahead.
    steps = max(0, (size - 4) // STEP_BYTES)
    for start in range(0, steps, ADDED_STEPS):
        for step in range(start, min(start + ADDED_STEPS, steps)):
            begin = 3 + step * STEP_BYTES
            for position in range(STEP_BYTES):
                at = begin + position
                after[position] = (image[at - 2] & is_blue[position]) | (image[at + 1] & ~is_blue[position])
            for position in range(PERIOD):
                at = begin + position
                first, second = image[at], image[at + PERIOD]
                third, fourth = image[at + 2 * PERIOD], image[at + 3 * PERIOD]
                squares[position] += _product(first, first) + _product(second, second)
                squares[position] += _product(third, third) + _product(fourth, fourth)
                next_ones[position] += _product(first, after[position]) + _product(second, after[position + PERIOD])
                next_ones[position] += _product(third, after[position + 2 * PERIOD])
                next_ones[position] += _product(fourth, after[position + 3 * PERIOD])
        for position in range(PERIOD):
            products[0, position] += squares[position]
            products[1, position] += next_ones[position]
            squares[position] = 0
            next_ones[position] = 0
    _add_rest(image[: min(3, size)], products)
    _add_rest(image[3 + steps * STEP_BYTES :], products)
    for position in range(size):
        byte_sums[position] += image[position]


def _products(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The products that `_add` sums, for pixels (N, 3), without Numba; int64 (2, 3)."""
    numbers = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).double()
    own = (numbers.T @ numbers).numpy().astype(np.int64)  # exact: the sums of an image stay below 2^53
    return np.array([[own[0, 0], own[1, 1], own[2, 2]], [own[0, 1], own[1, 2], own[2, 0]]])
