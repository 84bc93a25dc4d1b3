"""Float32 convolutions on CPUs by Winograd's minimal filtering, which needs fewer multiplications; compiled by Numba.

Four adjacent outputs of a convolution read s = 4 + k - 1 positions. Inputs and weights are treated as polynomials and
evaluated at s points. There a convolution is one product per point, and another transform gives the outputs (Lavin and
Gray, "Fast algorithms for convolutional neural networks", 2015, arXiv:1509.09308). Over all tiles and channels, the
products at a point are a matrix product, which torch computes. The weight gradient uses the transposed transforms.

- 5 x 5: along rows, 8 products for 4 outputs instead of 20; the five kernel rows are added at the points.
- The weight gradient of 3 x 3: along both axes, 36 products for 16 outputs instead of 144.

5 x 5 along both axes would save more (64 products instead of 400), but each transform adds rounding error: at the sizes
of the network's second layer it was off by 3e-6 to 5e-6 of the norm. Here the error for two images is below 1e-6
(tests/model/test_winograd.py), and for 64 no more than the library's (docs/log.md).

Axes: B images, C input channels, D output channels, H x W positions, k the side of the kernel, G columns, P points;
tiles are 4 outputs, or 4 x 4 along both axes. All tensors are float32 in channels-last memory.
"""

import numpy as np
import torch

from alexnet.system import numba_jit
from alexnet.system.thread_split import parallel_for

TILE = 4
"""Outputs of a tile along an axis."""
# 3 x 3 tiles that a thread transforms before it multiplies them: enough rows for a matrix product, few enough to stay
# in the last-level cache (docs/log.md).
_MAX_TILES = 128
# Fewest images per thread of a weight gradient: each thread has its own sum, many times as large as the weights.
_MIN_IMAGES_PER_SUM = 8
# Channels that are transformed at a time: a tile of them stays in the L2 cache.
_CHUNK = 64

_compiled = numba_jit.jit(error_model="numpy", fastmath={"contract", "nsz"})


def _weight_transform(scaled: tuple[tuple[float, float], ...], kernel: int) -> torch.Tensor:
    # (s, k): values of the weights' polynomial at the finite points, and last its leading coefficient, for infinity.
    # The scales are the divisors that the sums below omit.
    finite = [[scale * point**power for power in range(kernel)] for point, scale in scaled]
    return torch.tensor([*finite, [0.0] * (kernel - 1) + [1.0]], dtype=torch.float64)


# Of all sets of such small points, those with the smallest float32 error.
_SIX = _weight_transform(((0, 1), (1, 1 / 3), (-1, -1 / 3), (-2, 1 / 15), (1 / 2, -16 / 15)), 3)
_SIX_SQUARED = torch.kron(_SIX, _SIX).float()  # (36, 9)
_EIGHT = _weight_transform(
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
    _convolve(x, _weights_at_eight(weight, columns).transpose(2, 3), bias, columns, padding, result)


def input_gradient(gradient: torch.Tensor, weight: torch.Tensor, padding: int, of_x: torch.Tensor) -> None:
    """The gradient of a 5 x 5 convolution's input (B, C, H, W), into `of_x`, from that of its output (B, D, H', W').

    It is a convolution too, by the rotated and transposed weights.
    """
    columns = of_x.shape[1] // weight.shape[1]
    _convolve(gradient, _weights_at_eight(weight.flip(2, 3), columns), None, columns, 4 - padding, of_x)


def weight_gradient(x: torch.Tensor, gradient: torch.Tensor, padding: int, of_weight: torch.Tensor) -> None:
    """The gradient of the weights (D, C / G, k, k), into `of_weight`, from x (B, C, H, W) and that of the output."""
    if of_weight.shape[2] == 3:
        _weight_gradient_of_three(x, gradient, padding, of_weight)
    else:
        _weight_gradient_of_five(x, gradient, padding, of_weight)


def _weight_gradient_of_three(x: torch.Tensor, gradient: torch.Tensor, padding: int, of_weight: torch.Tensor) -> None:
    outputs, channels, columns = _sizes(x, of_weight)
    down, across = (-(-side // TILE) for side in gradient.shape[2:])
    sums: dict[int, torch.Tensor] = {}  # by a thread's first image, (G * P, D / G, C / G)

    def add(first: int, last: int) -> None:
        total = sums[first] = torch.zeros(36 * columns, outputs, channels, dtype=torch.float32)
        group = max(1, min(last - first, _MAX_TILES // (down * across)))
        of_x, of_gradient = (
            torch.empty(group * down * across * 36 * read.shape[1], dtype=torch.float32) for read in (x, gradient)
        )
        for start in range(first, last, group):
            images, steps = (_rows(tensor[start : min(last, start + group)]) for tensor in (x, gradient))
            tiles = len(images) * down * across
            _tiles_to_points(images, of_x.numpy(), 6, columns, padding, down, across)
            _tiles_to_points(steps, of_gradient.numpy(), TILE, columns, 0, down, across)
            left, right = _matrices(of_gradient, total, tiles, outputs), _matrices(of_x, total, tiles, channels)
            torch.baddbmm(total, left.transpose(1, 2), right, out=total)

    parallel_for(len(x), add, _MIN_IMAGES_PER_SUM)
    total = _sum(sums)
    by_point = total.view(columns, 36, -1).transpose(0, 1).reshape(36, -1)  # (P, G * D / G * C / G)
    by_position = (_SIX_SQUARED.t() @ by_point).view(3, 3, columns * outputs, channels)
    of_weight.copy_(by_position.permute(2, 3, 0, 1))


def _weight_gradient_of_five(x: torch.Tensor, gradient: torch.Tensor, padding: int, of_weight: torch.Tensor) -> None:
    outputs, channels, columns = _sizes(x, of_weight)
    images, steps = _rows(x), _rows(gradient)
    rows, across = gradient.shape[2], -(-gradient.shape[3] // TILE)
    sums: dict[int, torch.Tensor] = {}  # by a thread's first image, (k, G * P, D / G, C / G)

    def add(first: int, last: int) -> None:
        total = sums[first] = torch.zeros(5, 8 * columns, outputs, channels, dtype=torch.float32)
        of_x = torch.empty(8 * columns, (rows + 4) * across, channels, dtype=torch.float32)
        of_gradient = torch.empty(8 * columns, rows * across, outputs, dtype=torch.float32)
        for image in range(first, last):
            _rows_to_points(images, image, of_x.numpy(), 8, columns, padding, across)
            _rows_to_points(steps, image, of_gradient.numpy(), TILE, columns, 0, across)
            for row in range(5):
                read = of_x[:, row * across : (row + rows) * across]
                torch.baddbmm(total[row], of_gradient.transpose(1, 2), read, out=total[row])

    parallel_for(len(x), add, _MIN_IMAGES_PER_SUM)
    by_point = _sum(sums).view(5, columns, 8, -1)
    by_position = torch.einsum("pj,igpn->gnij", _EIGHT, by_point)  # (G, D / G * C / G, k, k)
    of_weight.copy_(by_position.reshape(of_weight.shape))


def _convolve(
    x: torch.Tensor,
    at_points: torch.Tensor,
    bias: torch.Tensor | None,
    columns: int,
    padding: int,
    result: torch.Tensor,
) -> None:
    # at_points: (k, G * P, C / G, D / G)
    _, points, channels, outputs = at_points.shape
    images, results = _rows(x), _rows(result)
    rows, across = result.shape[2], -(-result.shape[3] // TILE)
    added = np.zeros(columns * outputs, np.float32) if bias is None else bias.detach().numpy()

    def fill(first: int, last: int) -> None:
        # One image at a time, so results depend neither on the other images nor on the number of threads.
        read = torch.empty(points, (rows + 4) * across, channels, dtype=torch.float32)
        written = torch.empty(points, rows * across, outputs, dtype=torch.float32)
        for image in range(first, last):
            _rows_to_points(images, image, read.numpy(), 8, columns, padding, across)
            torch.bmm(read[:, : rows * across], at_points[0], out=written)
            for row in range(1, 5):
                torch.baddbmm(written, read[:, row * across : (row + rows) * across], at_points[row], out=written)
            _rows_from_points(written.numpy(), results, image, columns, across, added)

    parallel_for(len(x), fill)


def _weights_at_eight(weight: torch.Tensor, columns: int) -> torch.Tensor:
    # (D, C / G, k, k) -> (k, G * P, D / G, C / G)
    by_column = weight.detach().reshape(columns, -1, *weight.shape[1:])
    results = []

    def transform(first: int, last: int) -> None:
        results.append(torch.einsum("pj,gdcij->igpdc", _EIGHT, by_column))

    parallel_for(1, transform)  # in one thread: split over threads, a product is rounded differently
    return results[0].reshape(5, 8 * columns, *by_column.shape[1:3])


def _sizes(x: torch.Tensor, of_weight: torch.Tensor) -> tuple[int, int, int]:
    # Output and input channels of a column, and the number of columns.
    columns = x.shape[1] // of_weight.shape[1]
    return len(of_weight) // columns, of_weight.shape[1], columns


def _sum(sums: dict[int, torch.Tensor]) -> torch.Tensor:
    first, *others = (sums[start] for start in sorted(sums))
    for other in others:
        first += other
    return first


def _matrices(buffer: torch.Tensor, total: torch.Tensor, tiles: int, channels: int) -> torch.Tensor:
    # (G * P, tiles, channels)
    return buffer[: len(total) * tiles * channels].view(len(total), tiles, channels)


def _rows(x: torch.Tensor) -> np.ndarray:
    # (B, C, H, W) channels-last -> (B, H, W, C) of the same memory
    rows: np.ndarray = x.detach().permute(0, 2, 3, 1).numpy()
    return rows


# Transforms of `_CHUNK` channels at a time: inputs are `stride` apart, outputs `target_stride`. The sums are unrolled,
# so the loops over channels vectorize.


@_compiled
def _to_six(values, begin, stride, points, target, target_stride):
    """Six positions to their values at the points 0, 1, -1, -2, 1/2 and infinity."""
    half, more, most, two = np.float32(1 / 2), np.float32(3 / 2), np.float32(5 / 2), np.float32(2)
    for i in range(_CHUNK):
        source, to = np.uintp(begin + i), np.uintp(target + i)
        x0, x1, x2 = values[source], values[source + np.uintp(stride)], values[source + np.uintp(2 * stride)]
        x3, x4 = values[source + np.uintp(3 * stride)], values[source + np.uintp(4 * stride)]
        x5 = values[source + np.uintp(5 * stride)]
        points[to] = x0 + x4 + more * (x3 - x1) - two * x2
        points[to + np.uintp(target_stride)] = x4 - x1 + most * x3 + half * x2
        points[to + np.uintp(2 * target_stride)] = x4 + x1 + half * x3 - most * x2
        points[to + np.uintp(3 * target_stride)] = x4 - x2 + half * (x1 - x3)
        points[to + np.uintp(4 * target_stride)] = x4 - x2 + two * (x3 - x1)
        points[to + np.uintp(5 * target_stride)] = x5 + x1 + more * (x4 - x2) - two * x3


@_compiled
def _gradient_to_six(values, begin, stride, points, target, target_stride):
    """Gradients of four outputs to gradients at the points: times 1, p, p^2 and p^3; infinity has the last."""
    half, quarter, eighth = np.float32(1 / 2), np.float32(1 / 4), np.float32(1 / 8)
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    for i in range(_CHUNK):
        source, to = np.uintp(begin + i), np.uintp(target + i)
        x0, x1 = values[source], values[source + np.uintp(stride)]
        x2, x3 = values[source + np.uintp(2 * stride)], values[source + np.uintp(3 * stride)]
        even, odd = x0 + x2, x1 + x3
        points[to] = x0
        points[to + np.uintp(target_stride)] = even + odd
        points[to + np.uintp(2 * target_stride)] = even - odd
        points[to + np.uintp(3 * target_stride)] = x0 - two * x1 + four * x2 - eight * x3
        points[to + np.uintp(4 * target_stride)] = x0 + half * x1 + quarter * x2 + eighth * x3
        points[to + np.uintp(5 * target_stride)] = x3


@_compiled
def _to_eight(values, begin, stride, points, target, target_stride):
    """Eight positions to their values at the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity."""
    quarter, half, two, four, five = np.float32(1 / 4), np.float32(1 / 2), np.float32(2), np.float32(4), np.float32(5)
    a, b, c, d = np.float32(21 / 4), np.float32(17 / 4), np.float32(5 / 4), np.float32(5 / 2)
    for i in range(_CHUNK):
        source, to = np.uintp(begin + i), np.uintp(target + i)
        x0, x1, x2 = values[source], values[source + np.uintp(stride)], values[source + np.uintp(2 * stride)]
        x3, x4 = values[source + np.uintp(3 * stride)], values[source + np.uintp(4 * stride)]
        x5, x6 = values[source + np.uintp(5 * stride)], values[source + np.uintp(6 * stride)]
        x7 = values[source + np.uintp(7 * stride)]
        points[to] = x0 - x6 + a * (x4 - x2)
        even, odd = x2 + x6 - b * x4, x1 + x5 - b * x3
        points[to + np.uintp(target_stride)] = even + odd
        points[to + np.uintp(2 * target_stride)] = even - odd
        even, odd = quarter * x2 - c * x4 + x6, half * x1 - d * x3 + two * x5
        points[to + np.uintp(3 * target_stride)] = even + odd
        points[to + np.uintp(4 * target_stride)] = even - odd
        even, odd = four * x2 - five * x4 + x6, two * x1 - d * x3 + half * x5
        points[to + np.uintp(5 * target_stride)] = even + odd
        points[to + np.uintp(6 * target_stride)] = even - odd
        points[to + np.uintp(7 * target_stride)] = x7 - x1 + a * (x3 - x5)


# The values at 1/2 and -1/2 are stored divided by 8, so that the powers of all points are integers.


@_compiled
def _from_eight(points, begin, stride, results, target, target_stride):
    """Values at the points to four outputs: sums over points p of 1, p, p^2 and p^3 times the value."""
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    for i in range(_CHUNK):
        source, to = np.uintp(begin + i), np.uintp(target + i)
        x0, x1, x2 = points[source], points[source + np.uintp(stride)], points[source + np.uintp(2 * stride)]
        x3, x4 = points[source + np.uintp(3 * stride)], points[source + np.uintp(4 * stride)]
        x5, x6 = points[source + np.uintp(5 * stride)], points[source + np.uintp(6 * stride)]
        x7 = points[source + np.uintp(7 * stride)]
        even, odd, even_of_2, odd_of_2, even_of_half, odd_of_half = x1 + x2, x1 - x2, x3 + x4, x3 - x4, x5 + x6, x5 - x6
        results[to] = x0 + even + even_of_2 + eight * even_of_half
        results[to + np.uintp(target_stride)] = odd + two * odd_of_2 + four * odd_of_half
        results[to + np.uintp(2 * target_stride)] = even + four * even_of_2 + two * even_of_half
        results[to + np.uintp(3 * target_stride)] = odd + eight * odd_of_2 + odd_of_half + x7


@_compiled
def _gradient_to_eight(values, begin, stride, points, target, target_stride):
    """Gradients of four outputs to gradients at the points: the transpose of `_from_eight`."""
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    for i in range(_CHUNK):
        source, to = np.uintp(begin + i), np.uintp(target + i)
        x0, x1 = values[source], values[source + np.uintp(stride)]
        x2, x3 = values[source + np.uintp(2 * stride)], values[source + np.uintp(3 * stride)]
        even, odd = x0 + x2, x1 + x3
        points[to] = x0
        points[to + np.uintp(target_stride)] = even + odd
        points[to + np.uintp(2 * target_stride)] = even - odd
        even, odd = x0 + four * x2, two * x1 + eight * x3
        points[to + np.uintp(3 * target_stride)] = even + odd
        points[to + np.uintp(4 * target_stride)] = even - odd
        even, odd = eight * x0 + two * x2, four * x1 + x3
        points[to + np.uintp(5 * target_stride)] = even + odd
        points[to + np.uintp(6 * target_stride)] = even - odd
        points[to + np.uintp(7 * target_stride)] = x3


@_compiled
def _read_position(x, image, row, position, first, count, values, target):
    """Copy `count` channels of a position of x (B, H, W, C) from channel `first` on; zeros beyond."""
    kept = 0
    if 0 <= row < x.shape[1] and 0 <= position < x.shape[2]:
        kept = count
        channels = x[image, row, position]
        for c in range(count):
            values[np.uintp(target + c)] = channels[np.uintp(first + c)]
    for c in range(kept, _CHUNK):
        values[np.uintp(target + c)] = np.float32(0)


@_compiled
def _tiles_to_points(x, points, reach, columns, padding, down, across):
    """x (B, H, W, C) to points (G, 36, B * down * across, C / G), contiguous.

    `reach` positions per axis: 6, the inputs of a tile, or 4, the gradients of its outputs.
    """
    channels = x.shape[3] // columns
    length, tiles = 6 * _CHUNK, x.shape[0] * down * across
    values, transformed = np.zeros(6 * length, np.float32), np.empty(6 * length, np.float32)
    for tile in range(tiles):
        image, top, left = (
            tile // (down * across),
            tile // across % down * TILE - padding,
            tile % across * TILE - padding,
        )
        for column in range(columns):
            for begin in range(0, channels, _CHUNK):
                count = min(_CHUNK, channels - begin)
                first = column * channels + begin
                for i in range(reach):
                    for j in range(reach):
                        _read_position(x, image, top + i, left + j, first, count, values, i * length + j * _CHUNK)
                for j in range(reach):
                    if reach == 6:
                        _to_six(values, j * _CHUNK, length, transformed, j * _CHUNK, length)
                    else:
                        _gradient_to_six(values, j * _CHUNK, length, transformed, j * _CHUNK, length)
                for i in range(6):
                    if reach == 6:
                        _to_six(transformed, i * length, _CHUNK, values, i * length, _CHUNK)
                    else:
                        _gradient_to_six(transformed, i * length, _CHUNK, values, i * length, _CHUNK)
                for point in range(36):
                    target = ((column * 36 + point) * tiles + tile) * channels + begin
                    for c in range(count):
                        points[np.uintp(target + c)] = values[np.uintp(point * _CHUNK + c)]


@_compiled
def _rows_to_points(x, image, points, reach, columns, padding, across):
    """An image of x (B, H, W, C) to points (G * 8, (H + 2 * padding) * across, C / G).

    `reach` positions: 8, the inputs of a tile, or 4, the gradients of its outputs.
    """
    channels = x.shape[3] // columns
    values, at_points = np.zeros(8 * _CHUNK, np.float32), np.empty(8 * _CHUNK, np.float32)
    for tile in range((x.shape[1] + 2 * padding) * across):
        row, left = tile // across - padding, tile % across * TILE - padding
        for column in range(columns):
            for begin in range(0, channels, _CHUNK):
                count = min(_CHUNK, channels - begin)
                for j in range(reach):
                    _read_position(x, image, row, left + j, column * channels + begin, count, values, j * _CHUNK)
                if reach == 8:
                    _to_eight(values, 0, _CHUNK, at_points, 0, _CHUNK)
                else:
                    _gradient_to_eight(values, 0, _CHUNK, at_points, 0, _CHUNK)
                for point in range(8):
                    target = points[column * 8 + point, tile]
                    for c in range(count):
                        target[np.uintp(begin + c)] = at_points[np.uintp(point * _CHUNK + c)]


@_compiled
def _rows_from_points(points, results, image, columns, across, bias):
    """Points (G * 8, H * across, D / G) to an image of the output (B, H, W, D), plus biases (D)."""
    channels = results.shape[3] // columns
    values, four = np.zeros(8 * _CHUNK, np.float32), np.empty(TILE * _CHUNK, np.float32)
    for tile in range(results.shape[1] * across):
        row, left = tile // across, tile % across * TILE
        for column in range(columns):
            for begin in range(0, channels, _CHUNK):
                count = min(_CHUNK, channels - begin)
                for point in range(8):
                    source = points[column * 8 + point, tile]
                    for c in range(count):
                        values[np.uintp(point * _CHUNK + c)] = source[np.uintp(begin + c)]
                _from_eight(values, 0, _CHUNK, four, 0, _CHUNK)
                first = column * channels + begin
                for j in range(min(TILE, results.shape[2] - left)):
                    position = results[image, row, left + j]
                    for c in range(count):
                        to = np.uintp(first + c)
                        position[to] = four[np.uintp(j * _CHUNK + c)] + bias[to]
