"""The fused operations on CPUs, compiled by Numba: images are read row by row, intermediate values are float32.

Axes: B images, C channels, H x W positions; in channels-last memory a row of an image is W * C consecutive numbers.
Each thread takes whole images, so the result does not depend on the number of threads.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from alexnet.model.kernels.norm_pool import NormPool
from alexnet.system import numba_jit
from alexnet.system.thread_split import parallel_for

if not numba_jit.unavailable_reason:
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

# Multiply-add in one instruction is allowed, and nothing that would lose a NaN or an infinity.
_compiled = numba_jit.jit(error_model="numpy", fastmath={"contract", "nsz"})

_CHUNK = 512
"""About how many activations of a row are processed at a time, so that they stay in the L1 cache."""


def norm_pool(
    x: torch.Tensor, bias: torch.Tensor | None, op: NormPool, result: torch.Tensor, winners: torch.Tensor
) -> None:
    """Compute `op` of x (B, C, H, W) into `result` and `winners` (B, C, H', W'), all channels-last.

    Args:
        x: float32 or bfloat16.
        bias: (C), added in a separate pass: on CPUs the library adds it in the convolution, at no cost.
        op: what is computed.
        result: of the dtype of `x`, overwritten.
        winners: overwritten. uint8: the index row * pool + column of each window's first maximum. With
            `all_ties`, int16: bit row * pool + column for each maximum. Empty without pooling.
    """
    x = _with_bias(x, bias)
    parallel_for_arrays(_forward, (_rows(x), _rows(result), _winner_rows(winners, op)), *_kernel_scalars(x, op))


def norm_pool_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    result: torch.Tensor,
    winners: torch.Tensor,
    op: NormPool,
    of_x: torch.Tensor,
) -> None:
    """The gradient of x (B, C, H, W) from that of the result (B, C, H', W'), into `of_x`; dtypes as in `norm_pool`."""
    x = _with_bias(x, bias)
    arrays = (_rows(gradient), _rows(x), _rows(result), _winner_rows(winners, op), _rows(of_x))
    parallel_for_arrays(_backward, arrays, *_kernel_scalars(x, op))


def channel_sums(x: torch.Tensor, sums: torch.Tensor) -> None:
    """Fill `sums` (C) from x (B, C, H, W)."""
    sums.copy_(x.sum((0, 2, 3), dtype=torch.float32))


def _with_bias(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x if bias is None else x + bias.to(x.dtype)[:, None, None]


def same_map_norm(x: torch.Tensor, size: int, alpha: float, beta: float, result: torch.Tensor) -> None:
    """x / (1 + alpha / size^2 * sum of x^2 over size x size positions)^beta; (B, C, H, W), of one dtype."""
    scalars = (x.shape[1], size, np.float32(alpha / size**2), np.float32(beta))
    parallel_for_arrays(_same_map_forward, (_rows(x), _rows(result)), *scalars)


def same_map_norm_backward(
    gradient: torch.Tensor, x: torch.Tensor, size: int, alpha: float, beta: float, of_x: torch.Tensor
) -> None:
    """The gradient of x from that of the result, into `of_x`, all (B, C, H, W) of one dtype."""
    scalars = (x.shape[1], size, np.float32(alpha / size**2), np.float32(beta))
    parallel_for_arrays(_same_map_backward, (_rows(gradient), _rows(x), _rows(of_x)), *scalars)


def space_to_depth(x: torch.Tensor, stride: int, result: torch.Tensor) -> None:
    """Fill `result` (B, s s C, rows, columns) from x (B, C, H, W); both channels-last, of any two dtypes."""
    parallel_for_arrays(_space_to_depth_rows, (_rows(x), _rows(result)), x.shape[1], stride)


@functools.cache
def unavailable_reason() -> str | None:
    """Why the fused operations cannot run on this machine, as a message; None if they can."""
    if numba_jit.unavailable_reason:
        return (
            f"Numba, which compiles the fused operations for CPUs, cannot be imported: {numba_jit.unavailable_reason}"
        )
    try:
        _trial_kernel(np.float32(1.0))
    except Exception as error:  # whatever the compiler's problem is, torch's own operations still run
        return f"Numba cannot compile on this machine: {type(error).__name__}: {error}"
    return None


def _rows(x: torch.Tensor) -> np.ndarray:
    # (B, C, H, W) channels-last -> (B, H, W * C) of the same memory, float32 or the bits of bfloat16 as uint16
    x = x.detach()
    x = x.view(torch.uint16) if x.dtype == torch.bfloat16 else x
    images, channels, height, width = x.shape
    # `view` raises rather than copy: what is written to a copy would be lost.
    return x.permute(0, 2, 3, 1).view(images, height, width * channels).numpy()


def _winner_rows(winners: torch.Tensor, op: NormPool) -> np.ndarray:
    # (B, H', W' * C) uint8 or int16
    return _rows(winners) if op.pools else np.empty((0, 0, 0), np.uint8)


def _kernel_scalars(x: torch.Tensor, op: NormPool) -> tuple[Any, ...]:
    # The length of a tuple is part of its type: so the side of the windows, and whether all ties are stored, are known
    # when their loops are compiled.
    window = (0,) * (op.pool if op.pools else 1)
    return (
        x.shape[1],
        window,
        op.stride if op.pools else 1,
        (0,) * (op.all_ties),
        op.relu_before,
        op.relu_after,
        op.size if op.normalizes else 0,
        op.columns if op.normalizes else 1,
        np.float32(op.alpha),
        np.float32(op.beta),
        np.float32(op.k),
    )


def parallel_for_arrays(kernel: Callable[..., None], arrays: tuple[np.ndarray, ...], *scalars: Any) -> None:
    """Run a kernel over all entries of (N, ...) arrays, for example images, a range of them in each of torch's threads.

    Args:
        kernel: called with the arrays, the first and the past-the-end entry of its range, and the scalars.
        arrays: of the same length, 1 or more.
        scalars: the kernel's other arguments.
    """
    parallel_for(len(arrays[0]), lambda first, last: kernel(*arrays, first, last, *scalars))


def wide(value: Any) -> Any:
    """float32 of a float32 or of the bits of a bfloat16."""
    raise NotImplementedError


def narrow(value: Any, like: Any) -> Any:
    """A float32 in the type of `like`: unchanged, or the bits of the nearest bfloat16 (ties to even)."""
    raise NotImplementedError


if not numba_jit.unavailable_reason:
    # NumPy has no cheap form of these, so they are written as LLVM instructions.
    _number, _bits, _half_bits = ir.FloatType(), ir.IntType(32), ir.IntType(16)

    @intrinsic
    def wide(_: Any, value: Any) -> Any:
        def same(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return arguments[0]

        def widened(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            bits = builder.shl(builder.zext(arguments[0], _bits), _bits(16))
            return builder.bitcast(bits, _number)

        return types.float32(value), same if isinstance(value, types.Float) else widened

    @intrinsic
    def narrow(_: Any, value: Any, like: Any) -> Any:
        def same(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return arguments[0]

        def rounded(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = arguments[0]
            bits = builder.bitcast(number, _bits)
            odd = builder.and_(builder.lshr(bits, _bits(16)), _bits(1))
            nearest = builder.lshr(builder.add(builder.add(bits, _bits(0x7FFF)), odd), _bits(16))
            # The addition could turn a NaN into an infinity or flip its sign.
            unordered = builder.fcmp_unordered("uno", number, number)
            return builder.trunc(builder.select(unordered, _bits(0x7FC0), nearest), _half_bits)

        return like(types.float32, like), same if isinstance(like, types.Float) else rounded


@_compiled
def _trial_kernel(value):
    return value * np.float32(0.5)


# Unsigned indices: signed ones cost a check for wraparound, and slices cost more still, in loops over few channels.


@_compiled
def _read(row, begin, relu, per_column, pitch, blocks, values, reach):
    """Read blocks of `per_column` activations of a row as float32, with `relu` after ReLU, into values from `reach` on,
    `pitch` apart."""
    for block in range(blocks):
        source, target = begin + block * per_column, reach + block * pitch
        if relu:
            for i in range(per_column):
                value = wide(row[np.uintp(source + i)])
                # This way round, NaN stays.
                values[np.uintp(target + i)] = np.float32(0) if value <= np.float32(0) else value
        else:
            for i in range(per_column):
                values[np.uintp(target + i)] = wide(row[np.uintp(source + i)])


@_compiled
def _write(values, activations, reach, relu, per_column, pitch, blocks, row, begin):
    """The inverse of `_read`; with `relu`, 0 where the activation is not above 0."""
    for block in range(blocks):
        source, target = block * pitch, begin + block * per_column
        if relu:
            for i in range(per_column):
                above = activations[np.uintp(source + reach + i)] > np.float32(0)
                value = values[np.uintp(source + i)] if above else np.float32(0)
                row[np.uintp(target + i)] = narrow(value, row[0])
        else:
            for i in range(per_column):
                row[np.uintp(target + i)] = narrow(values[np.uintp(source + i)], row[0])


@_compiled
def _scatter_by_phase(values, columns, per_column, pitch, blocks, phases, base, length, stride, position):
    """Copy blocks `pitch` apart to their positions in a row of phases that begins at `base`; see `_forward`."""
    for block in range(0, blocks, columns):
        target = base + position % stride * length + position // stride * (columns * per_column)
        for column in range(columns):
            source = (block + column) * pitch
            for i in range(per_column):
                phases[np.uintp(target + i)] = values[np.uintp(source + i)]
            target += per_column
        position += 1


@_compiled
def _gather_by_phase(phases, length, stride, position, columns, per_column, pitch, blocks, values):
    """Copy the positions of a row of phases into blocks `pitch` apart."""
    for block in range(0, blocks, columns):
        source = position % stride * length + position // stride * (columns * per_column)
        for column in range(columns):
            target = (block + column) * pitch
            for i in range(per_column):
                values[np.uintp(target + i)] = phases[np.uintp(source + i)]
            source += per_column
        position += 1


@_compiled
def _squares_of_five(values, i):
    # The sum of values[i : i + 5] ^ 2.
    return (
        (values[i] * values[i] + values[i + 1] * values[i + 1])
        + (values[i + 3] * values[i + 3] + values[i + 4] * values[i + 4])
        + values[i + 2] * values[i + 2]
    )


@_compiled
def _squares(values, size, total, count):
    # total[i] is the sum of values[i : i + size] ^ 2.
    for i in range(count):
        total[i] = values[i] * values[i]
    for near in range(1, size):
        shifted = values[near:]
        for i in range(count):
            total[i] += shifted[i] * shifted[i]


@_compiled
def _normalize(values, size, alpha, beta, k, normalized, count):
    """Multiply `count` activations, from values[size // 2] on, by d^-beta; between blocks there are zeros."""
    middle = values[size // 2 :]
    if size == 5 and beta == np.float32(0.75):
        # The paper's constants, in one loop: the additions overlap the latency of the roots.
        for i in range(count):
            root = np.float32(1) / np.sqrt(k + alpha * _squares_of_five(values, i))
            normalized[i] = middle[i] * (root * np.sqrt(root))
        return
    _squares(values, size, normalized, count)
    if beta == np.float32(0.75):
        for i in range(count):
            root = np.float32(1) / np.sqrt(k + alpha * normalized[i])
            normalized[i] = middle[i] * (root * np.sqrt(root))
    else:
        for i in range(count):
            normalized[i] = middle[i] * (k + alpha * normalized[i]) ** -beta


@_compiled
def _normalize_backward(values, size, alpha, beta, k, per_column, pitch, blocks, inner, gradient):
    """Turn the gradient of the normalized activations, blocks `pitch` apart, into that of the activations, in place.

    With denominator d of activation a it is gradient * d^-beta - 2 alpha beta a * S, where S sums
    gradient * a * d^(-beta - 1) over the windows that contain a.
    """
    count = blocks * pitch
    # The windows that contain a channel are those of the channels around it, mirrored.
    middle, summands = values[size // 2 :], inner[(size - 1) // 2 :]
    if size == 5 and beta == np.float32(0.75):
        for i in range(count):
            root = np.float32(1) / np.sqrt(k + alpha * _squares_of_five(values, i))
            part = gradient[i] * (root * np.sqrt(root))
            gradient[i] = part
            summands[i] = part * middle[i] * (root * root)
    else:
        _squares(values, size, summands, count)
        if beta == np.float32(0.75):
            for i in range(count):
                root = np.float32(1) / np.sqrt(k + alpha * summands[i])
                part = gradient[i] * (root * np.sqrt(root))
                gradient[i] = part
                summands[i] = part * middle[i] * (root * root)
        else:
            for i in range(count):
                base = k + alpha * summands[i]
                part = gradient[i] * base**-beta
                gradient[i] = part
                summands[i] = part * middle[i] / base
    # Between the blocks there are zeros already, unless a NaN is near.
    for block in range(blocks):
        for i in range(block * pitch + per_column, (block + 1) * pitch):
            summands[i] = np.float32(0)
    factor = np.float32(-2) * alpha * beta
    if size == 5:
        for i in range(count):
            total = (inner[i] + inner[i + 1]) + inner[i + 2] + (inner[i + 3] + inner[i + 4])
            gradient[i] += factor * middle[i] * total
    else:
        for near in range(size):
            shifted = inner[near:]
            for i in range(count):
                gradient[i] += factor * middle[i] * shifted[i]


@_compiled
def _pool_row(ring, length, top, channels, window, stride, all_ties, relu, result, winners):
    """Pool one row of windows; ring (pool, stride, length) as in `_forward`, result and winners (W' * C)."""
    side = len(window)
    for i in range(len(result)):
        best = ring[np.uintp((top % side) * stride * length + i)]
        position = np.int32(0)
        for row in range(side):
            for column in range(side):
                start = (((top + row) % side) * stride + column % stride) * length + column // stride * channels
                value = ring[np.uintp(start + i)]
                # The first of equal maxima; NaN counts as the largest.
                better = (value > best) | (value != value)
                best = value if better else best
                position = np.int32(row * side + column) if better else position
        if len(all_ties) > 0:
            position = np.int32(0)
            for row in range(side):
                for column in range(side):
                    start = (((top + row) % side) * stride + column % stride) * length + column // stride * channels
                    equal = ring[np.uintp(start + i)] == best
                    position |= np.int32(1 << (row * side + column)) if equal else np.int32(0)
        if side > 1:
            winners[i] = position
        best = np.float32(0) if relu and best <= np.float32(0) else best
        result[i] = narrow(best, result[i])


@_compiled
def _forward(
    x,
    result,
    winners,
    first,
    last,
    channels,
    window,
    stride,
    all_ties,
    relu_before,
    relu_after,
    size,
    columns,
    alpha,
    beta,
    k,
):
    """Images first .. last - 1 of x (B, H, W * C) -> result and winners (B, H', W' * C); size 0 does not normalize."""
    side = len(window)
    width, windows = x.shape[2] // channels, result.shape[2] // channels
    # The latest `side` rows. Position p of a row is in its phase p % stride, so the activations at the same position of
    # adjacent windows are adjacent. Beyond the edges there is -inf.
    length = (((windows - 1) * stride + side - 1) // stride + 1) * channels
    ring = np.empty(side * stride * length, np.float32)
    ring[:] = -np.inf
    reach, per_column, row_blocks = size // 2, channels // columns, width * columns
    pitch, blocks = per_column + reach, max(1, _CHUNK // channels) * columns
    # One block per column and position, zeros between them, so every window can be summed in full.
    values = np.zeros(blocks * pitch + size, np.float32)
    normalized = np.zeros(blocks * pitch, np.float32)
    for image in range(first, last):
        for row in range((result.shape[1] - 1) * stride + side):
            base = row % side * stride * length
            if row >= x.shape[1]:
                ring[base : base + stride * length] = -np.inf
            else:
                source_row = x[image, row]
                for begin in range(0, row_blocks, blocks):
                    here = min(blocks, row_blocks - begin)
                    _read(source_row, begin * per_column, relu_before, per_column, pitch, here, values, reach)
                    if size > 0:
                        _normalize(values, size, alpha, beta, k, normalized, here * pitch)
                    # Without normalization there is nothing between the blocks.
                    activations = normalized if size > 0 else values
                    position = begin // columns
                    _scatter_by_phase(
                        activations, columns, per_column, pitch, here, ring, base, length, stride, position
                    )
            top = row + 1 - side
            if top >= 0 and top % stride == 0:
                pooled = top // stride
                _pool_row(
                    ring,
                    length,
                    top,
                    channels,
                    window,
                    stride,
                    all_ties,
                    relu_after,
                    result[image, pooled],
                    winners[image, pooled],
                )


@_compiled
def _backward(
    gradient,
    x,
    result,
    winners,
    of_x,
    first,
    last,
    channels,
    window,
    stride,
    all_ties,
    relu_before,
    relu_after,
    size,
    columns,
    alpha,
    beta,
    k,
):
    """Images first .. last - 1: gradient, result and winners (B, H', W' * C), x (B, H, W * C) -> of_x (B, H, W * C)."""
    side = len(window)
    width, windows = x.shape[2] // channels, result.shape[2] // channels
    # The gradient of the normalized activations of a row, in phases as in `_forward`.
    length = ((max(width, (windows - 1) * stride + side) - 1) // stride + 1) * channels
    of_row = np.empty(stride * length, np.float32)
    of_windows = np.empty(windows * channels, np.float32)
    before, per_column, row_blocks = size // 2, channels // columns, width * columns
    pitch, blocks = per_column + before, max(1, _CHUNK // channels) * columns
    values = np.zeros(blocks * pitch + size, np.float32)
    inner = np.zeros(blocks * pitch + size, np.float32)
    scaled = np.zeros(blocks * pitch, np.float32)
    for image in range(first, last):
        for row in range(x.shape[1]):
            if side > 1:
                for i in range(len(of_row)):
                    of_row[i] = np.float32(0)
                for pooled in range(max(0, (row - side) // stride + 1), min(result.shape[1] - 1, row // stride) + 1):
                    _read_gradient(gradient[image, pooled], result[image, pooled], relu_after, of_windows)
                    for column in range(side):
                        number = (row - pooled * stride) * side + column
                        target = of_row[column % stride * length + column // stride * channels :]
                        _add_to_winners(of_windows, winners[image, pooled], number, all_ties, target)
            else:
                _read_gradient(gradient[image, row], result[image, row], relu_after, of_row)
            source_row, end_row = x[image, row], of_x[image, row]
            for begin in range(0, row_blocks, blocks):
                here = min(blocks, row_blocks - begin)
                _read(source_row, begin * per_column, relu_before, per_column, pitch, here, values, before)
                _gather_by_phase(of_row, length, stride, begin // columns, columns, per_column, pitch, here, scaled)
                if size > 0:
                    _normalize_backward(values, size, alpha, beta, k, per_column, pitch, here, inner, scaled)
                _write(scaled, values, before, relu_before, per_column, pitch, here, end_row, begin * per_column)


@_compiled
def _read_gradient(row, result, relu, values):
    if relu:
        for i in range(len(row)):
            values[i] = wide(row[i]) if wide(result[i]) > np.float32(0) else np.float32(0)
    else:
        for i in range(len(row)):
            values[i] = wide(row[i])


@_compiled
def _add_to_winners(gradient, winners, position, all_ties, target):
    if len(all_ties) > 0:
        bit = np.int32(1 << position)
        for i in range(len(gradient)):
            target[i] += gradient[i] if np.int32(winners[i]) & bit != 0 else np.float32(0)
    else:
        number = np.int32(position)
        for i in range(len(gradient)):
            target[i] += gradient[i] if np.int32(winners[i]) == number else np.float32(0)


@_compiled
def _box_sums(plane, row, channels, size, column, total):
    """Sums over size x size positions around those of a row; plane (H + size - 1, W * C), `column` zero-padded."""
    reach = size // 2
    middle = column[reach * channels :]
    for i in range(len(total)):
        middle[i] = np.float32(0)
    for near in range(size):
        source = plane[row + near]
        for i in range(len(total)):
            middle[i] += source[i]
    for i in range(len(total)):
        total[i] = np.float32(0)
    for near in range(size):
        source = column[near * channels :]
        for i in range(len(total)):
            total[i] += source[i]


@_compiled
def _box_powers(squares, row, channels, size, alpha, beta, column, inverse, power):
    """Powers of a row's denominators d: inverse = 1 / d, power = d ^ -beta; the rest as in `_box_sums`."""
    _box_sums(squares, row, channels, size, column, inverse)
    for i in range(len(power)):
        base = np.float32(1) + alpha * inverse[i]
        inverse[i] = np.float32(1) / base
        power[i] = base
    if beta == np.float32(0.75):
        for i in range(len(power)):
            root = np.sqrt(inverse[i])
            power[i] = root * np.sqrt(root)
    else:
        for i in range(len(power)):
            power[i] = power[i] ** -beta


@_compiled
def _same_map_forward(x, result, first, last, channels, size, alpha, beta):
    """Images first .. last - 1 of x (B, H, W * C) -> result (B, H, W * C); alpha is the factor on each square."""
    height, length = x.shape[1:]
    reach = size // 2
    squares = np.zeros((height + 2 * reach, length), np.float32)  # zero-padded
    column = np.zeros(length + 2 * reach * channels, np.float32)
    total, power = np.empty(length, np.float32), np.empty(length, np.float32)
    for image in range(first, last):
        for row in range(height):
            source, target = x[image, row], squares[row + reach]
            for i in range(length):
                value = wide(source[i])
                target[i] = value * value
        for row in range(height):
            _box_powers(squares, row, channels, size, alpha, beta, column, total, power)
            source, end = x[image, row], result[image, row]
            for i in range(length):
                end[i] = narrow(wide(source[i]) * power[i], end[i])


@_compiled
def _same_map_backward(gradient, x, of_x, first, last, channels, size, alpha, beta):
    """Images first .. last - 1: gradient and x (B, H, W * C) -> of_x (B, H, W * C)."""
    height, length = x.shape[1:]
    reach = size // 2
    squares = np.zeros((height + 2 * reach, length), np.float32)  # zero-padded
    inner = np.zeros((height + 2 * reach, length), np.float32)  # zero-padded
    scaled = np.empty((height, length), np.float32)
    column = np.zeros(length + 2 * reach * channels, np.float32)
    total, power = np.empty(length, np.float32), np.empty(length, np.float32)
    factor = np.float32(-2) * alpha * beta
    for image in range(first, last):
        for row in range(height):
            source, target = x[image, row], squares[row + reach]
            for i in range(length):
                value = wide(source[i])
                target[i] = value * value
        for row in range(height):
            _box_powers(squares, row, channels, size, alpha, beta, column, total, power)
            source, above = x[image, row], gradient[image, row]
            scaled_row, products = scaled[row], inner[row + reach]
            for i in range(length):
                part = wide(above[i]) * power[i]
                scaled_row[i] = part
                products[i] = part * wide(source[i]) * total[i]
        for row in range(height):
            _box_sums(inner, row, channels, size, column, total)
            source, end, scaled_row = x[image, row], of_x[image, row], scaled[row]
            for i in range(length):
                end[i] = narrow(scaled_row[i] + factor * wide(source[i]) * total[i], end[i])


@_compiled
def _space_to_depth_rows(x, result, first, last, channels, stride):
    """Images first .. last - 1 of x (B, H, W * C) -> result (B, rows, columns * stride * stride * C), zero-padded."""
    height, length = x.shape[1:]
    rows, end = result.shape[1:]
    run = stride * channels  # numbers that are contiguous in both
    zero = narrow(np.float32(0), result[0, 0, 0])
    for image in range(first, last):
        for row in range(rows):
            target = result[image, row]
            for i in range(stride):
                line = row * stride + i
                source = x[image, min(line, height - 1)]
                for column in range(end // (stride * run)):
                    begin, position = column * run, (column * stride + i) * run
                    there = min(run, max(0, length - begin)) if line < height else 0
                    for k in range(there):
                        target[np.uintp(position + k)] = narrow(wide(source[np.uintp(begin + k)]), target[0])
                    for k in range(there, run):
                        target[np.uintp(position + k)] = zero
