"""Convolutions on a processor in float32 with fewer products: Winograd's minimal filtering, compiled by Numba.

Four results in a row of a convolution read s = 4 + k - 1 places. The places and the weights are taken for polynomials
and turned into their values at s points; there a convolution is one product a point, and a way back gives the results
(Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015, arXiv:1509.09308). Over all tiles and maps
the products at a point are a matrix product, which is torch's. The gradient of the weights is had in the same way, the
way from the points to the results turned round.

- 5 x 5: along rows, 8 products for 4 results where the plain form has 20; the five rows are added at the points.
- The weight gradient of 3 x 3: along both sides, 36 products for 16 results where the plain form has 144.

More would be saved by 5 x 5 along both sides (64 for 400), but rounding grows with every way: at the sizes of the
network's second layer it was off by 3e-6 to 5e-6 of the norm, where two images are off by less than 1e-6 here
(tests/model/test_winograd.py), and 64 by no more than the library (docs/log.md).

Axes: B images, C maps read, D maps written, H W places, k the side of the kernel, G columns, P points, tiles of 4
results, 4 x 4 where they go along both sides. All tensors are float32 and lie in channels-last memory.
"""

from typing import Any

import numpy as np
import torch

from alexnet.system import numba_jit
from alexnet.system.thread_split import parallel_for

STEP = 4
"""Results of a tile along a side."""
# Tiles of 3 x 3 whose points a thread writes before it reads them again: rows enough for a matrix product, and few
# enough that they stay in the last cache (docs/log.md).
_TILES = 128
# Images of a share of a weight gradient: each share has a sum of its own, many times as large as the weights.
_IMAGES_OF_A_SUM = 8
# Maps that are worked on at a time: a tile of them stays in the first two caches.
_CHUNK = 64

_compiled = numba_jit.jit(error_model="numpy", fastmath={"contract", "nsz"})


def _ways(scaled: tuple[tuple[float, float], ...], kernel: int) -> torch.Tensor:
    # Weights to points, (s, k): the values of their polynomial, and behind them its last coefficient, for infinity. The
    # scales are those that the sums below would have to be divided by.
    finite = [[scale * point**power for power in range(kernel)] for point, scale in scaled]
    return torch.tensor([*finite, [0.0] * (kernel - 1) + [1.0]], dtype=torch.float64)


# Of all sets of such small points those that lose least in float32.
_SIX = _ways(((0, 1), (1, 1 / 3), (-1, -1 / 3), (-2, 1 / 15), (1 / 2, -16 / 15)), 3)
_SIX_SQUARED = torch.kron(_SIX, _SIX).float()  # (36, 9)
_EIGHT = _ways(
    ((0, 1), (1, -2 / 9), (-1, -2 / 9), (2, 1 / 90), (-2, 1 / 90), (1 / 2, 4 / 45), (-1 / 2, 4 / 45)), 5
).float()  # (8, 5)


def convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: int, result: torch.Tensor
) -> None:
    """A 5 x 5 convolution of stride 1, into `result`.

    Args:
        x: (B, C, H, W).
        weight: (D, C / G, 5, 5), of any layout.
        bias: (D), or none.
        padding: zeros around x, 0 to 4.
        result: (B, D, H', W'), H' = H + 2 * padding - 4, overwritten.
    """
    columns = x.shape[1] // weight.shape[1]
    _convolve(x, _at_eight(weight, columns).transpose(2, 3), bias, columns, padding, result)


def input_gradient(gradient: torch.Tensor, weight: torch.Tensor, padding: int, of_x: torch.Tensor) -> None:
    """The gradient of what a 5 x 5 convolution read (B, C, H, W), into `of_x`, from that of its results (B, D, H', W').

    It is a convolution too, by the turned weights of the maps that a map was read for.
    """
    columns = of_x.shape[1] // weight.shape[1]
    _convolve(gradient, _at_eight(weight.flip(2, 3), columns), None, columns, 4 - padding, of_x)


def weight_gradient(x: torch.Tensor, gradient: torch.Tensor, padding: int, of_weight: torch.Tensor) -> None:
    """The gradient of the weights (D, C / G, k, k), into `of_weight`: x (B, C, H, W), of the results (B, D, H', W')."""
    if of_weight.shape[2] == 3:
        _weight_gradient_of_three(x, gradient, padding, of_weight)
    else:
        _weight_gradient_of_five(x, gradient, padding, of_weight)


def _weight_gradient_of_three(x: torch.Tensor, gradient: torch.Tensor, padding: int, of_weight: torch.Tensor) -> None:
    outputs, maps, columns = _sizes(x, of_weight)
    down, across = (-(-side // STEP) for side in gradient.shape[2:])
    sums: dict[int, torch.Tensor] = {}  # by the first of a thread's images, (G * P, D / G, C / G)

    def add(first: int, last: int) -> None:
        total = sums[first] = torch.zeros(36 * columns, outputs, maps, dtype=torch.float32)
        group = max(1, min(last - first, _TILES // (down * across)))
        of_x, of_gradient = (
            torch.empty(group * down * across * 36 * read.shape[1], dtype=torch.float32) for read in (x, gradient)
        )
        for start in range(first, last, group):
            images, steps = (_rows(tensor[start : min(last, start + group)]) for tensor in (x, gradient))
            tiles = len(images) * down * across
            _tiles_to_points(images, of_x.numpy(), 6, columns, padding, down, across)
            _tiles_to_points(steps, of_gradient.numpy(), STEP, columns, 0, down, across)
            left, right = _matrices(of_gradient, total, tiles, outputs), _matrices(of_x, total, tiles, maps)
            torch.baddbmm(total, left.transpose(1, 2), right, out=total)

    parallel_for(len(x), add, _IMAGES_OF_A_SUM)
    total = _added(sums)
    by_point = total.view(columns, 36, -1).transpose(0, 1).reshape(36, -1)  # (P, G * D / G * C / G)
    by_place = (_SIX_SQUARED.t() @ by_point).view(3, 3, columns * outputs, maps)
    of_weight.copy_(by_place.permute(2, 3, 0, 1))


def _weight_gradient_of_five(x: torch.Tensor, gradient: torch.Tensor, padding: int, of_weight: torch.Tensor) -> None:
    outputs, maps, columns = _sizes(x, of_weight)
    images, steps = _rows(x), _rows(gradient)
    rows, across = gradient.shape[2], -(-gradient.shape[3] // STEP)
    sums: dict[int, torch.Tensor] = {}  # by the first of a thread's images, (k, G * P, D / G, C / G)

    def add(first: int, last: int) -> None:
        total = sums[first] = torch.zeros(5, 8 * columns, outputs, maps, dtype=torch.float32)
        of_x = torch.empty(8 * columns, (rows + 4) * across, maps, dtype=torch.float32)
        of_gradient = torch.empty(8 * columns, rows * across, outputs, dtype=torch.float32)
        for image in range(first, last):
            _rows_to_points(images, image, of_x.numpy(), 8, columns, padding, across)
            _rows_to_points(steps, image, of_gradient.numpy(), STEP, columns, 0, across)
            for row in range(5):
                read = of_x[:, row * across : (row + rows) * across]
                torch.baddbmm(total[row], of_gradient.transpose(1, 2), read, out=total[row])

    parallel_for(len(x), add, _IMAGES_OF_A_SUM)
    by_point = _added(sums).view(5, columns, 8, -1)
    by_place = torch.einsum("pj,igpn->gnij", _EIGHT, by_point)  # (G, D / G * C / G, k, k)
    of_weight.copy_(by_place.reshape(of_weight.shape))


def _convolve(
    x: torch.Tensor,
    at_points: torch.Tensor,
    bias: torch.Tensor | None,
    columns: int,
    padding: int,
    result: torch.Tensor,
) -> None:
    # at_points: (k, G * P, C / G, D / G)
    _, points, maps, outputs = at_points.shape
    images, results = _rows(x), _rows(result)
    rows, across = result.shape[2], -(-result.shape[3] // STEP)
    added = np.zeros(columns * outputs, np.float32) if bias is None else bias.detach().numpy()

    def fill(first: int, last: int) -> None:
        # One image at a time: so its results do not depend on those beside it, nor on the number of threads.
        read = torch.empty(points, (rows + 4) * across, maps, dtype=torch.float32)
        written = torch.empty(points, rows * across, outputs, dtype=torch.float32)
        for image in range(first, last):
            _rows_to_points(images, image, read.numpy(), 8, columns, padding, across)
            torch.bmm(read[:, : rows * across], at_points[0], out=written)
            for row in range(1, 5):
                torch.baddbmm(written, read[:, row * across : (row + rows) * across], at_points[row], out=written)
            _rows_from_points(written.numpy(), results, image, columns, across, added)

    parallel_for(len(x), fill)


def _at_eight(weight: torch.Tensor, columns: int) -> torch.Tensor:
    # (D, C / G, k, k) -> (k, G * P, D / G, C / G)
    by_column = weight.detach().reshape(columns, -1, *weight.shape[1:])
    found = []

    def values(first: int, last: int) -> None:
        found.append(torch.einsum("pj,gdcij->igpdc", _EIGHT, by_column))

    parallel_for(1, values)  # in one thread: shared out by the number of threads, a product is rounded otherwise
    return found[0].reshape(5, 8 * columns, *by_column.shape[1:3])


def _sizes(x: torch.Tensor, of_weight: torch.Tensor) -> tuple[int, int, int]:
    # Maps written and read, of a column, and columns.
    columns = x.shape[1] // of_weight.shape[1]
    return len(of_weight) // columns, of_weight.shape[1], columns


def _added(sums: dict[int, torch.Tensor]) -> torch.Tensor:
    first, *others = (sums[start] for start in sorted(sums))
    for other in others:
        first += other
    return first


def _matrices(room: torch.Tensor, total: torch.Tensor, tiles: int, maps: int) -> torch.Tensor:
    # (G * P, tiles, maps)
    return room[: len(total) * tiles * maps].view(len(total), tiles, maps)


def _rows(x: torch.Tensor) -> np.ndarray:
    # (B, C, H, W) channels-last -> (B, H, W, C) of the same memory
    rows: np.ndarray = x.detach().permute(0, 2, 3, 1).numpy()
    return rows


# Below: numbers in a row, each of `_CHUNK` maps and `apart` from the next, become others, `between` from each other.
# Written out, a loop over maps holds nothing but sums, and is done for many maps at once.


@_compiled
def _to_six(values: Any, begin: Any, apart: Any, points: Any, target: Any, between: Any) -> None:
    """Six places to the points 0, 1, -1, -2, 1/2 and infinity."""
    half, more, most, two = np.float32(1 / 2), np.float32(3 / 2), np.float32(5 / 2), np.float32(2)
    for i in range(_CHUNK):
        source, to = np.uintp(begin + i), np.uintp(target + i)
        x0, x1, x2 = values[source], values[source + np.uintp(apart)], values[source + np.uintp(2 * apart)]
        x3, x4 = values[source + np.uintp(3 * apart)], values[source + np.uintp(4 * apart)]
        x5 = values[source + np.uintp(5 * apart)]
        points[to] = x0 + x4 + more * (x3 - x1) - two * x2
        points[to + np.uintp(between)] = x4 - x1 + most * x3 + half * x2
        points[to + np.uintp(2 * between)] = x4 + x1 + half * x3 - most * x2
        points[to + np.uintp(3 * between)] = x4 - x2 + half * (x1 - x3)
        points[to + np.uintp(4 * between)] = x4 - x2 + two * (x3 - x1)
        points[to + np.uintp(5 * between)] = x5 + x1 + more * (x4 - x2) - two * x3


@_compiled
def _back_to_six(values: Any, begin: Any, apart: Any, points: Any, target: Any, between: Any) -> None:
    """Gradients of four results to those at the points: 1, p, p^2 and p^3 times them; infinity has the last."""
    half, quarter, eighth = np.float32(1 / 2), np.float32(1 / 4), np.float32(1 / 8)
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    for i in range(_CHUNK):
        source, to = np.uintp(begin + i), np.uintp(target + i)
        x0, x1 = values[source], values[source + np.uintp(apart)]
        x2, x3 = values[source + np.uintp(2 * apart)], values[source + np.uintp(3 * apart)]
        even, odd = x0 + x2, x1 + x3
        points[to] = x0
        points[to + np.uintp(between)] = even + odd
        points[to + np.uintp(2 * between)] = even - odd
        points[to + np.uintp(3 * between)] = x0 - two * x1 + four * x2 - eight * x3
        points[to + np.uintp(4 * between)] = x0 + half * x1 + quarter * x2 + eighth * x3
        points[to + np.uintp(5 * between)] = x3


@_compiled
def _to_eight(values: Any, begin: Any, apart: Any, points: Any, target: Any, between: Any) -> None:
    """Eight places to the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity."""
    quarter, half, two, four, five = np.float32(1 / 4), np.float32(1 / 2), np.float32(2), np.float32(4), np.float32(5)
    a, b, c, d = np.float32(21 / 4), np.float32(17 / 4), np.float32(5 / 4), np.float32(5 / 2)
    for i in range(_CHUNK):
        source, to = np.uintp(begin + i), np.uintp(target + i)
        x0, x1, x2 = values[source], values[source + np.uintp(apart)], values[source + np.uintp(2 * apart)]
        x3, x4 = values[source + np.uintp(3 * apart)], values[source + np.uintp(4 * apart)]
        x5, x6 = values[source + np.uintp(5 * apart)], values[source + np.uintp(6 * apart)]
        x7 = values[source + np.uintp(7 * apart)]
        points[to] = x0 - x6 + a * (x4 - x2)
        even, odd = x2 + x6 - b * x4, x1 + x5 - b * x3
        points[to + np.uintp(between)] = even + odd
        points[to + np.uintp(2 * between)] = even - odd
        even, odd = quarter * x2 - c * x4 + x6, half * x1 - d * x3 + two * x5
        points[to + np.uintp(3 * between)] = even + odd
        points[to + np.uintp(4 * between)] = even - odd
        even, odd = four * x2 - five * x4 + x6, two * x1 - d * x3 + half * x5
        points[to + np.uintp(5 * between)] = even + odd
        points[to + np.uintp(6 * between)] = even - odd
        points[to + np.uintp(7 * between)] = x7 - x1 + a * (x3 - x5)


# What stands at 1/2 and -1/2 is an eighth of the values there, so that the powers of all points are whole numbers.


@_compiled
def _from_eight(points: Any, begin: Any, apart: Any, results: Any, target: Any, between: Any) -> None:
    """The points to four results: 1, p, p^2 and p^3 of each point p times what stands there."""
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    for i in range(_CHUNK):
        source, to = np.uintp(begin + i), np.uintp(target + i)
        x0, x1, x2 = points[source], points[source + np.uintp(apart)], points[source + np.uintp(2 * apart)]
        x3, x4 = points[source + np.uintp(3 * apart)], points[source + np.uintp(4 * apart)]
        x5, x6 = points[source + np.uintp(5 * apart)], points[source + np.uintp(6 * apart)]
        x7 = points[source + np.uintp(7 * apart)]
        even, odd, even_of_2, odd_of_2, even_of_half, odd_of_half = x1 + x2, x1 - x2, x3 + x4, x3 - x4, x5 + x6, x5 - x6
        results[to] = x0 + even + even_of_2 + eight * even_of_half
        results[to + np.uintp(between)] = odd + two * odd_of_2 + four * odd_of_half
        results[to + np.uintp(2 * between)] = even + four * even_of_2 + two * even_of_half
        results[to + np.uintp(3 * between)] = odd + eight * odd_of_2 + odd_of_half + x7


@_compiled
def _back_to_eight(values: Any, begin: Any, apart: Any, points: Any, target: Any, between: Any) -> None:
    """Gradients of four results to those at the points: `_from_eight` turned round."""
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    for i in range(_CHUNK):
        source, to = np.uintp(begin + i), np.uintp(target + i)
        x0, x1 = values[source], values[source + np.uintp(apart)]
        x2, x3 = values[source + np.uintp(2 * apart)], values[source + np.uintp(3 * apart)]
        even, odd = x0 + x2, x1 + x3
        points[to] = x0
        points[to + np.uintp(between)] = even + odd
        points[to + np.uintp(2 * between)] = even - odd
        even, odd = x0 + four * x2, two * x1 + eight * x3
        points[to + np.uintp(3 * between)] = even + odd
        points[to + np.uintp(4 * between)] = even - odd
        even, odd = eight * x0 + two * x2, four * x1 + x3
        points[to + np.uintp(5 * between)] = even + odd
        points[to + np.uintp(6 * between)] = even - odd
        points[to + np.uintp(7 * between)] = x3


@_compiled
def _take(x: Any, image: Any, row: Any, place: Any, first: Any, count: Any, values: Any, target: Any) -> None:
    """`count` maps of a place of x (B, H, W, C) from map `first` on, zeros beyond the edge and up to `_CHUNK`."""
    kept = 0
    if 0 <= row < x.shape[1] and 0 <= place < x.shape[2]:
        kept = count
        maps = x[image, row, place]
        for c in range(count):
            values[np.uintp(target + c)] = maps[np.uintp(first + c)]
    for c in range(kept, _CHUNK):
        values[np.uintp(target + c)] = np.float32(0)


@_compiled
def _tiles_to_points(x: Any, points: Any, reach: Any, columns: Any, padding: Any, down: Any, across: Any) -> None:
    """x (B, H, W, C) to points (G, 36, B * down * across, C / G), lying one behind the other.

    `reach` places a side: 6, what a tile reads, or 4, the gradients of what it writes.
    """
    maps = x.shape[3] // columns
    length, tiles = 6 * _CHUNK, x.shape[0] * down * across
    values, between = np.zeros(6 * length, np.float32), np.empty(6 * length, np.float32)
    for tile in range(tiles):
        image, top, left = (
            tile // (down * across),
            tile // across % down * STEP - padding,
            tile % across * STEP - padding,
        )
        for column in range(columns):
            for begin in range(0, maps, _CHUNK):
                count = min(_CHUNK, maps - begin)
                first = column * maps + begin
                for i in range(reach):
                    for j in range(reach):
                        _take(x, image, top + i, left + j, first, count, values, i * length + j * _CHUNK)
                for j in range(reach):
                    if reach == 6:
                        _to_six(values, j * _CHUNK, length, between, j * _CHUNK, length)
                    else:
                        _back_to_six(values, j * _CHUNK, length, between, j * _CHUNK, length)
                for i in range(6):
                    if reach == 6:
                        _to_six(between, i * length, _CHUNK, values, i * length, _CHUNK)
                    else:
                        _back_to_six(between, i * length, _CHUNK, values, i * length, _CHUNK)
                for point in range(36):
                    target = ((column * 36 + point) * tiles + tile) * maps + begin
                    for c in range(count):
                        points[np.uintp(target + c)] = values[np.uintp(point * _CHUNK + c)]


@_compiled
def _rows_to_points(x: Any, image: Any, points: Any, reach: Any, columns: Any, padding: Any, across: Any) -> None:
    """An image of x (B, H, W, C) to points (G * 8, (H + 2 * padding) * across, C / G).

    `reach` places: 8, what a tile reads, or 4, the gradients of what it writes.
    """
    maps = x.shape[3] // columns
    values, at_points = np.zeros(8 * _CHUNK, np.float32), np.empty(8 * _CHUNK, np.float32)
    for tile in range((x.shape[1] + 2 * padding) * across):
        row, left = tile // across - padding, tile % across * STEP - padding
        for column in range(columns):
            for begin in range(0, maps, _CHUNK):
                count = min(_CHUNK, maps - begin)
                for j in range(reach):
                    _take(x, image, row, left + j, column * maps + begin, count, values, j * _CHUNK)
                if reach == 8:
                    _to_eight(values, 0, _CHUNK, at_points, 0, _CHUNK)
                else:
                    _back_to_eight(values, 0, _CHUNK, at_points, 0, _CHUNK)
                for point in range(8):
                    target = points[column * 8 + point, tile]
                    for c in range(count):
                        target[np.uintp(begin + c)] = at_points[np.uintp(point * _CHUNK + c)]


@_compiled
def _rows_from_points(points: Any, results: Any, image: Any, columns: Any, across: Any, bias: Any) -> None:
    """Points (G * 8, H * across, D / G) to an image of the results (B, H, W, D), biases (D) added."""
    maps = results.shape[3] // columns
    values, four = np.zeros(8 * _CHUNK, np.float32), np.empty(STEP * _CHUNK, np.float32)
    for tile in range(results.shape[1] * across):
        row, left = tile // across, tile % across * STEP
        for column in range(columns):
            for begin in range(0, maps, _CHUNK):
                count = min(_CHUNK, maps - begin)
                for point in range(8):
                    source = points[column * 8 + point, tile]
                    for c in range(count):
                        values[np.uintp(point * _CHUNK + c)] = source[np.uintp(begin + c)]
                _from_eight(values, 0, _CHUNK, four, 0, _CHUNK)
                first = column * maps + begin
                for j in range(min(STEP, results.shape[2] - left)):
                    place = results[image, row, left + j]
                    for c in range(count):
                        to = np.uintp(first + c)
                        place[to] = four[np.uintp(j * _CHUNK + c)] + bias[to]
