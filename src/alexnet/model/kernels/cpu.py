"""The fused passes on a processor, compiled by Numba: images are read row by row, what stands between is float32.

Axes: B images, C maps (channels), H W places; in channels-last memory a row of an image is W * C numbers in succession.
Several threads take an equal share of the images each, so that the result does not depend on their number.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from alexnet.model.kernels.norm_pool import NormPool
from alexnet.system import numba_jit
from alexnet.system.thread_split import parallel_for

if not numba_jit.why_not:
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

# Products and sums may join in one instruction; nothing that would lose a NaN or an infinity.
_compiled = numba_jit.jit(error_model="numpy", fastmath={"contract", "nsz"})

_CHUNK = 512
"""About how many activations of a row are worked on at a time: few enough that they stay in the first cache."""


def norm_pool(
    x: torch.Tensor, bias: torch.Tensor | None, op: NormPool, result: torch.Tensor, winners: torch.Tensor
) -> None:
    """What `op` says of x (B, C, H, W), into `result` and `winners` (B, C, H', W'), all channels-last.

    Args:
        x: float32 or bfloat16.
        bias: (C), added in a pass of its own: a processor's library adds it in the convolution, at no cost.
        op: what is computed.
        result: of the dtype of `x`, overwritten.
        winners: overwritten; for ties "one" uint8, the first of the largest places of each window, row * pool + column;
            for "every" int16, bit row * pool + column for each of the largest. Empty where nothing is pooled.
    """
    x = _biased(x, bias)
    parallel_for_arrays(_forward, (_rows(x), _rows(result), _winner_rows(winners, op)), *_numbers(x, op))


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
    x = _biased(x, bias)
    arrays = (_rows(gradient), _rows(x), _rows(result), _winner_rows(winners, op), _rows(of_x))
    parallel_for_arrays(_backward, arrays, *_numbers(x, op))


def channel_sums(x: torch.Tensor, sums: torch.Tensor) -> None:
    """Fill `sums` (C) from x (B, C, H, W)."""
    sums.copy_(x.sum((0, 2, 3), dtype=torch.float32))


def _biased(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x if bias is None else x + bias.to(x.dtype)[:, None, None]


def same_map_norm(x: torch.Tensor, size: int, alpha: float, beta: float, result: torch.Tensor) -> None:
    """x / (1 + alpha / size^2 * sum of x^2 over size x size places)^beta; all float32 or all bfloat16 (B, C, H, W)."""
    numbers = (x.shape[1], size, np.float32(alpha / size**2), np.float32(beta))
    parallel_for_arrays(_same_map_forward, (_rows(x), _rows(result)), *numbers)


def same_map_norm_backward(
    gradient: torch.Tensor, x: torch.Tensor, size: int, alpha: float, beta: float, of_x: torch.Tensor
) -> None:
    """The gradient of x from that of the result, into `of_x`, all (B, C, H, W) of one dtype."""
    numbers = (x.shape[1], size, np.float32(alpha / size**2), np.float32(beta))
    parallel_for_arrays(_same_map_backward, (_rows(gradient), _rows(x), _rows(of_x)), *numbers)


def space_to_depth(x: torch.Tensor, stride: int, result: torch.Tensor) -> None:
    """Fill `result` (B, s s C, rows, columns) from x (B, C, H, W); both channels-last, each of its own dtype."""
    parallel_for_arrays(_blocks, (_rows(x), _rows(result)), x.shape[1], stride)


@functools.cache
def unavailable_reason() -> str | None:
    """Why the fused passes cannot run on this machine, in a sentence; None where they can."""
    if numba_jit.why_not:
        return f"Numba, which compiles the fused passes for this processor, cannot be imported: {numba_jit.why_not}"
    try:
        _halved(np.float32(1.0))
    except Exception as error:  # whatever the compiler stumbles over, torch's own operations still serve
        return f"Numba compiles nothing on this machine: {type(error).__name__}: {error}"
    return None


def _rows(x: torch.Tensor) -> np.ndarray:
    # (B, C, H, W) channels-last -> (B, H, W * C) of the same memory, float32 or the bits of bfloat16 as uint16
    x = x.detach()
    x = x.view(torch.uint16) if x.dtype == torch.bfloat16 else x
    images, maps, height, width = x.shape
    # A view, or an error: what is written to a copy would be lost.
    return x.permute(0, 2, 3, 1).view(images, height, width * maps).numpy()


def _winner_rows(winners: torch.Tensor, op: NormPool) -> np.ndarray:
    # (B, H', W' * C) uint8 or int16
    return _rows(winners) if op.pools else np.empty((0, 0, 0), np.uint8)


def _numbers(x: torch.Tensor, op: NormPool) -> tuple[Any, ...]:
    # The length of a tuple belongs to its type: so the side of the windows, and whether one or every winner is noted,
    # are known when their loops are compiled.
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


def parallel_for_arrays(kernel: Callable[..., None], arrays: tuple[np.ndarray, ...], *numbers: Any) -> None:
    """Run a kernel over all entries of (N, ...) arrays, images for example, a range of them in each of torch's threads.

    Args:
        kernel: called with the arrays, the first and behind the last entry of its range, and the numbers.
        arrays: of the same length, 1 or more.
        numbers: whatever else the kernel takes.
    """
    parallel_for(len(arrays[0]), lambda first, last: kernel(*arrays, first, last, *numbers))


def wide(value: Any) -> Any:
    """float32 of a float32 or of the bits of a bfloat16."""
    raise NotImplementedError


def narrow(value: Any, like: Any) -> Any:
    """A float32 as `like` is: itself, or the bits of the nearest bfloat16, of two as near the even one."""
    raise NotImplementedError


if not numba_jit.why_not:
    # What NumPy's language has no cheap words for, written as the compiler's own instructions.
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
            # The additions could carry a NaN into the sign or make it an infinity.
            unordered = builder.fcmp_unordered("uno", number, number)
            return builder.trunc(builder.select(unordered, _bits(0x7FC0), nearest), _half_bits)

        return like(types.float32, like), same if isinstance(like, types.Float) else rounded


@_compiled
def _halved(value: Any) -> Any:
    return value * np.float32(0.5)


# Numba takes an index without a sign as it is; one with a sign it counts from the end where it is below 0, which costs
# more than the loops over few maps, and so does a slice for each of them.


@_compiled
def _read(
    row: Any, begin: Any, rectify: Any, per_column: Any, pitch: Any, blocks: Any, values: Any, reach: Any
) -> None:
    """Blocks of `per_column` activations of a row, widened and rectified, into values from `reach` on, `pitch`
    apart."""
    for block in range(blocks):
        source, target = begin + block * per_column, reach + block * pitch
        if rectify:
            for i in range(per_column):
                value = wide(row[np.uintp(source + i)])
                # Not greater, so that a NaN stays.
                values[np.uintp(target + i)] = np.float32(0) if value <= np.float32(0) else value
        else:
            for i in range(per_column):
                values[np.uintp(target + i)] = wide(row[np.uintp(source + i)])


@_compiled
def _write(
    values: Any,
    activations: Any,
    reach: Any,
    rectify: Any,
    per_column: Any,
    pitch: Any,
    blocks: Any,
    row: Any,
    begin: Any,
) -> None:
    """The way back of `_read`, with 0 for all whose activation is not above 0 if they are rectified."""
    for block in range(blocks):
        source, target = block * pitch, begin + block * per_column
        if rectify:
            for i in range(per_column):
                above = activations[np.uintp(source + reach + i)] > np.float32(0)
                value = values[np.uintp(source + i)] if above else np.float32(0)
                row[np.uintp(target + i)] = narrow(value, row[0])
        else:
            for i in range(per_column):
                row[np.uintp(target + i)] = narrow(values[np.uintp(source + i)], row[0])


@_compiled
def _to_parts(
    values: Any,
    columns: Any,
    per_column: Any,
    pitch: Any,
    blocks: Any,
    parts: Any,
    base: Any,
    length: Any,
    stride: Any,
    place: Any,
) -> None:
    """Blocks `pitch` apart to their places in a row of parts, `base` its beginning; see `_forward`."""
    for block in range(0, blocks, columns):
        target = base + place % stride * length + place // stride * (columns * per_column)
        for column in range(columns):
            source = (block + column) * pitch
            for i in range(per_column):
                parts[np.uintp(target + i)] = values[np.uintp(source + i)]
            target += per_column
        place += 1


@_compiled
def _from_parts(
    parts: Any,
    length: Any,
    stride: Any,
    place: Any,
    columns: Any,
    per_column: Any,
    pitch: Any,
    blocks: Any,
    values: Any,
) -> None:
    """The places of a row of parts into blocks `pitch` apart."""
    for block in range(0, blocks, columns):
        source = place % stride * length + place // stride * (columns * per_column)
        for column in range(columns):
            target = (block + column) * pitch
            for i in range(per_column):
                values[np.uintp(target + i)] = parts[np.uintp(source + i)]
            source += per_column
        place += 1


@_compiled
def _squares_of_five(values: Any, i: Any) -> Any:
    # The sum of values[i : i + 5] ^ 2.
    return (
        (values[i] * values[i] + values[i + 1] * values[i + 1])
        + (values[i + 3] * values[i + 3] + values[i + 4] * values[i + 4])
        + values[i + 2] * values[i + 2]
    )


@_compiled
def _squares(values: Any, size: Any, total: Any, count: Any) -> None:
    # total[i]: the sum of values[i : i + size] ^ 2.
    for i in range(count):
        total[i] = values[i] * values[i]
    for near in range(1, size):
        shifted = values[near:]
        for i in range(count):
            total[i] += shifted[i] * shifted[i]


@_compiled
def _normalize(values: Any, size: Any, alpha: Any, beta: Any, k: Any, normalized: Any, count: Any) -> None:
    """`count` activations, values[size // 2] the first, times their d^-beta; what lies between blocks of maps is 0."""
    middle = values[size // 2 :]
    if size == 5 and beta == np.float32(0.75):
        # The paper's, in one loop: its additions take place while the roots are waited for.
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
def _normalize_backward(
    values: Any,
    size: Any,
    alpha: Any,
    beta: Any,
    k: Any,
    per_column: Any,
    pitch: Any,
    blocks: Any,
    inner: Any,
    gradient: Any,
) -> None:
    """The gradient of the normalized activations, blocks `pitch` apart, becomes that of the activations, in place.

    d being the denominator of a activation a: gradient * d^-beta - 2 alpha beta a * the sum, over the windows that a is
    in, of inner = gradient * a * d^(-beta - 1).
    """
    count = blocks * pitch
    # The windows that a map is in are those of the maps around it, seen from the other side.
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
    # What lies between the blocks is 0 already, unless a NaN is near.
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
def _pool_row(
    ring: Any,
    length: Any,
    top: Any,
    maps: Any,
    window: Any,
    stride: Any,
    every: Any,
    rectify: Any,
    result: Any,
    winners: Any,
) -> None:
    """One row of windows; ring (pool, stride, length) as in `_forward`, result and winners (W' * C)."""
    side = len(window)
    for i in range(len(result)):
        best = ring[np.uintp((top % side) * stride * length + i)]
        place = np.int32(0)
        for row in range(side):
            for column in range(side):
                start = (((top + row) % side) * stride + column % stride) * length + column // stride * maps
                value = ring[np.uintp(start + i)]
                # The first of equals; a NaN is above all.
                better = (value > best) | (value != value)
                best = value if better else best
                place = np.int32(row * side + column) if better else place
        if len(every) > 0:
            place = np.int32(0)
            for row in range(side):
                for column in range(side):
                    start = (((top + row) % side) * stride + column % stride) * length + column // stride * maps
                    equal = ring[np.uintp(start + i)] == best
                    place |= np.int32(1 << (row * side + column)) if equal else np.int32(0)
        if side > 1:
            winners[i] = place
        best = np.float32(0) if rectify and best <= np.float32(0) else best
        result[i] = narrow(best, result[i])


@_compiled
def _forward(
    x: Any,
    result: Any,
    winners: Any,
    first: Any,
    last: Any,
    maps: Any,
    window: Any,
    stride: Any,
    every: Any,
    rectify_before: Any,
    rectify_after: Any,
    size: Any,
    columns: Any,
    alpha: Any,
    beta: Any,
    k: Any,
) -> None:
    """Images first .. last - 1 of x (B, H, W * C) -> result and winners (B, H', W' * C); size 0 does not normalize."""
    side = len(window)
    width, windows = x.shape[2] // maps, result.shape[2] // maps
    # The latest `side` rows: place p of a row is in its part p % stride, so that the activations which the windows of
    # one row have at the same place of theirs are neighbors. Beyond the edges lies what loses in every window.
    length = (((windows - 1) * stride + side - 1) // stride + 1) * maps
    ring = np.empty(side * stride * length, np.float32)
    ring[:] = -np.inf
    reach, per_column, row_blocks = size // 2, maps // columns, width * columns
    pitch, blocks = per_column + reach, max(1, _CHUNK // maps) * columns
    # Blocks of one column and place each, zeros between them: so every window is with_epilogues as if it were whole.
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
                    _read(source_row, begin * per_column, rectify_before, per_column, pitch, here, values, reach)
                    if size > 0:
                        _normalize(values, size, alpha, beta, k, normalized, here * pitch)
                    # Nothing lies between the blocks where nothing is normalized.
                    activations = normalized if size > 0 else values
                    place = begin // columns
                    _to_parts(activations, columns, per_column, pitch, here, ring, base, length, stride, place)
            top = row + 1 - side
            if top >= 0 and top % stride == 0:
                pooled = top // stride
                _pool_row(
                    ring,
                    length,
                    top,
                    maps,
                    window,
                    stride,
                    every,
                    rectify_after,
                    result[image, pooled],
                    winners[image, pooled],
                )


@_compiled
def _backward(
    gradient: Any,
    x: Any,
    result: Any,
    winners: Any,
    of_x: Any,
    first: Any,
    last: Any,
    maps: Any,
    window: Any,
    stride: Any,
    every: Any,
    rectify_before: Any,
    rectify_after: Any,
    size: Any,
    columns: Any,
    alpha: Any,
    beta: Any,
    k: Any,
) -> None:
    """Images first .. last - 1: gradient, result and winners (B, H', W' * C), x (B, H, W * C) -> of_x (B, H, W * C)."""
    side = len(window)
    width, windows = x.shape[2] // maps, result.shape[2] // maps
    # The gradient of the normalized activations of a row, in parts as in `_forward`.
    length = ((max(width, (windows - 1) * stride + side) - 1) // stride + 1) * maps
    of_row = np.empty(stride * length, np.float32)
    of_windows = np.empty(windows * maps, np.float32)
    before, per_column, row_blocks = size // 2, maps // columns, width * columns
    pitch, blocks = per_column + before, max(1, _CHUNK // maps) * columns
    values = np.zeros(blocks * pitch + size, np.float32)
    inner = np.zeros(blocks * pitch + size, np.float32)
    scaled = np.zeros(blocks * pitch, np.float32)
    for image in range(first, last):
        for row in range(x.shape[1]):
            if side > 1:
                for i in range(len(of_row)):
                    of_row[i] = np.float32(0)
                for pooled in range(max(0, (row - side) // stride + 1), min(result.shape[1] - 1, row // stride) + 1):
                    _read_gradient(gradient[image, pooled], result[image, pooled], rectify_after, of_windows)
                    for column in range(side):
                        number = (row - pooled * stride) * side + column
                        target = of_row[column % stride * length + column // stride * maps :]
                        _give_to_winners(of_windows, winners[image, pooled], number, every, target)
            else:
                _read_gradient(gradient[image, row], result[image, row], rectify_after, of_row)
            source_row, end_row = x[image, row], of_x[image, row]
            for begin in range(0, row_blocks, blocks):
                here = min(blocks, row_blocks - begin)
                _read(source_row, begin * per_column, rectify_before, per_column, pitch, here, values, before)
                _from_parts(of_row, length, stride, begin // columns, columns, per_column, pitch, here, scaled)
                if size > 0:
                    _normalize_backward(values, size, alpha, beta, k, per_column, pitch, here, inner, scaled)
                _write(scaled, values, before, rectify_before, per_column, pitch, here, end_row, begin * per_column)


@_compiled
def _read_gradient(row: Any, result: Any, rectify: Any, values: Any) -> None:
    if rectify:
        for i in range(len(row)):
            values[i] = wide(row[i]) if wide(result[i]) > np.float32(0) else np.float32(0)
    else:
        for i in range(len(row)):
            values[i] = wide(row[i])


@_compiled
def _give_to_winners(gradient: Any, winners: Any, place: Any, every: Any, target: Any) -> None:
    if len(every) > 0:
        bit = np.int32(1 << place)
        for i in range(len(gradient)):
            target[i] += gradient[i] if np.int32(winners[i]) & bit != 0 else np.float32(0)
    else:
        number = np.int32(place)
        for i in range(len(gradient)):
            target[i] += gradient[i] if np.int32(winners[i]) == number else np.float32(0)


@_compiled
def _box_sums(plane: Any, row: Any, maps: Any, size: Any, column: Any, total: Any) -> None:
    """Sums over size x size places around those of a row; plane (H + size - 1, W * C), `column` bordered by zeros."""
    reach = size // 2
    middle = column[reach * maps :]
    for i in range(len(total)):
        middle[i] = np.float32(0)
    for near in range(size):
        source = plane[row + near]
        for i in range(len(total)):
            middle[i] += source[i]
    for i in range(len(total)):
        total[i] = np.float32(0)
    for near in range(size):
        source = column[near * maps :]
        for i in range(len(total)):
            total[i] += source[i]


@_compiled
def _box_powers(
    squares: Any, row: Any, maps: Any, size: Any, alpha: Any, beta: Any, column: Any, inverse: Any, power: Any
) -> None:
    """Of the denominators d of a row: inverse = 1 / d, power = d ^ -beta; the rest as in `_box_sums`."""
    _box_sums(squares, row, maps, size, column, inverse)
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
def _same_map_forward(x: Any, result: Any, first: Any, last: Any, maps: Any, size: Any, alpha: Any, beta: Any) -> None:
    """Images first .. last - 1 of x (B, H, W * C) -> result (B, H, W * C); alpha is the factor on each square."""
    height, length = x.shape[1:]
    reach = size // 2
    squares = np.zeros((height + 2 * reach, length), np.float32)  # with a border of zeros
    column = np.zeros(length + 2 * reach * maps, np.float32)
    total, power = np.empty(length, np.float32), np.empty(length, np.float32)
    for image in range(first, last):
        for row in range(height):
            source, target = x[image, row], squares[row + reach]
            for i in range(length):
                value = wide(source[i])
                target[i] = value * value
        for row in range(height):
            _box_powers(squares, row, maps, size, alpha, beta, column, total, power)
            source, end = x[image, row], result[image, row]
            for i in range(length):
                end[i] = narrow(wide(source[i]) * power[i], end[i])


@_compiled
def _same_map_backward(
    gradient: Any, x: Any, of_x: Any, first: Any, last: Any, maps: Any, size: Any, alpha: Any, beta: Any
) -> None:
    """Images first .. last - 1: gradient and x (B, H, W * C) -> of_x (B, H, W * C)."""
    height, length = x.shape[1:]
    reach = size // 2
    squares = np.zeros((height + 2 * reach, length), np.float32)  # with a border of zeros
    inner = np.zeros((height + 2 * reach, length), np.float32)  # so too
    scaled = np.empty((height, length), np.float32)
    column = np.zeros(length + 2 * reach * maps, np.float32)
    total, power = np.empty(length, np.float32), np.empty(length, np.float32)
    factor = np.float32(-2) * alpha * beta
    for image in range(first, last):
        for row in range(height):
            source, target = x[image, row], squares[row + reach]
            for i in range(length):
                value = wide(source[i])
                target[i] = value * value
        for row in range(height):
            _box_powers(squares, row, maps, size, alpha, beta, column, total, power)
            source, above = x[image, row], gradient[image, row]
            part_row, products = scaled[row], inner[row + reach]
            for i in range(length):
                part = wide(above[i]) * power[i]
                part_row[i] = part
                products[i] = part * wide(source[i]) * total[i]
        for row in range(height):
            _box_sums(inner, row, maps, size, column, total)
            source, end, part_row = x[image, row], of_x[image, row], scaled[row]
            for i in range(length):
                end[i] = narrow(part_row[i] + factor * wide(source[i]) * total[i], end[i])


@_compiled
def _blocks(x: Any, result: Any, first: Any, last: Any, maps: Any, stride: Any) -> None:
    """Images first .. last - 1 of x (B, H, W * C) -> result (B, rows, columns * stride * stride * C), 0 beyond."""
    height, length = x.shape[1:]
    rows, end = result.shape[1:]
    run = stride * maps  # numbers that lie side by side in both
    zero = narrow(np.float32(0), result[0, 0, 0])
    for image in range(first, last):
        for row in range(rows):
            target = result[image, row]
            for i in range(stride):
                line = row * stride + i
                source = x[image, min(line, height - 1)]
                for column in range(end // (stride * run)):
                    begin, place = column * run, (column * stride + i) * run
                    there = min(run, max(0, length - begin)) if line < height else 0
                    for k in range(there):
                        target[np.uintp(place + k)] = narrow(wide(source[np.uintp(begin + k)]), target[0])
                    for k in range(there, run):
                        target[np.uintp(place + k)] = zero
