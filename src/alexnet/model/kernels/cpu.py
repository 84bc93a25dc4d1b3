"""The fused operations on CPUs, compiled by Numba: images are read row by row, intermediate values are float32.

Axes: B images, C channels, H x W positions; in channels-last memory a row of an image is W * C consecutive numbers.
Each thread takes whole images, so the result does not depend on the number of threads.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from alexnet.model.kernels import norm_pool_cpu
from alexnet.model.kernels.norm_pool import NormPool, PoolNorm
from alexnet.model.kernels.vector_memory import narrow, wide
from alexnet.system import numba_jit
from alexnet.system.thread_split import parallel_for

# Multiply-add in one instruction is allowed, and nothing that would lose a NaN or an infinity.
_compiled = numba_jit.jit(error_model="numpy", fastmath={"contract", "nsz"})


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
    rows, outputs = _rows(_with_bias(x, bias)), _rows(result)
    relus = op.relu_before, op.relu_after
    if op.is_relu:
        parallel_for_arrays(norm_pool_cpu.rectify, (rows, outputs), any(relus))
    elif not op.pools:
        parallel_for_arrays(norm_pool_cpu.normalize, (rows, outputs), x.shape[1], *relus, *_norm_scalars(op))
    else:
        arrays, scalars = (rows, outputs, _rows(winners)), (x.shape[1], *_pool_scalars(op), *relus)
        if op.normalizes:
            parallel_for_arrays(norm_pool_cpu.normalize_pool, arrays, *scalars, *_norm_scalars(op))
        else:
            parallel_for_arrays(norm_pool_cpu.pool, arrays, *scalars)


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
    ends = _rows(gradient), _rows(result), _rows(of_x)
    relus = op.relu_before, op.relu_after
    if op.is_relu:
        parallel_for_arrays(norm_pool_cpu.rectify_backward, ends, any(relus))
        return
    if not op.normalizes:
        scalars = x.shape[1], *_pool_scalars(op, backward=True), any(relus)
        parallel_for_arrays(norm_pool_cpu.pool_backward, (*ends, _rows(winners)), *scalars)
        return
    rows, norm = _rows(_with_bias(x, bias)), _norm_scalars(op)
    if not op.pools:
        parallel_for_arrays(norm_pool_cpu.normalize_backward, (*ends, rows), x.shape[1], *relus, *norm)
    else:
        arrays, scalars = (*ends, rows, _rows(winners)), (x.shape[1], *_pool_scalars(op, backward=True), *relus)
        parallel_for_arrays(norm_pool_cpu.normalize_pool_backward, arrays, *scalars, *norm)


def pool_norm(x: torch.Tensor, op: PoolNorm, result: torch.Tensor, winners: torch.Tensor, pooled: torch.Tensor) -> None:
    """Compute `op` of x (B, C, H, W), float32 or bfloat16; all channels-last.

    Args:
        x: float32 or bfloat16.
        op: what is computed.
        result: (B, C, H', W') of the dtype of `x`, overwritten.
        winners: as in `norm_pool`.
        pooled: what is normalized, like `result`; overwritten.
    """
    arrays = (_rows(x), _rows(result), _rows(winners), _rows(pooled))
    relus = op.pool.relu_before, op.pool.relu_after
    scalars = *_pool_scalars(op.pool), *relus, *_norm_scalars(op.norm)
    parallel_for_arrays(norm_pool_cpu.pool_normalize, arrays, x.shape[1], *scalars)


def pool_norm_backward(
    gradient: torch.Tensor, winners: torch.Tensor, pooled: torch.Tensor, op: PoolNorm, of_x: torch.Tensor
) -> None:
    """The gradient of x (B, C, H, W) from that of the result (B, C, H', W'), into `of_x`; as in `pool_norm`."""
    arrays = (_rows(gradient), _rows(pooled), _rows(winners), _rows(of_x))
    relu = op.pool.relu_before or op.pool.relu_after
    scalars = *_pool_scalars(op.pool, backward=True), relu, *_norm_scalars(op.norm)
    parallel_for_arrays(norm_pool_cpu.pool_normalize_backward, arrays, of_x.shape[1], *scalars)


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


def _pool_scalars(op: NormPool, backward: bool = False) -> tuple[Any, ...]:
    # The length of a tuple is part of its type: so it is known when the loops over it are compiled.
    overlap = -(-op.pool // op.stride)
    return (0,) * op.pool, *(((0,) * overlap,) if backward else ()), op.stride, (0,) * op.all_ties


def _norm_scalars(op: NormPool) -> tuple[Any, ...]:
    return op.size, op.columns, np.float32(op.alpha), np.float32(op.beta), np.float32(op.k)


def parallel_for_arrays(kernel: Callable[..., None], arrays: tuple[np.ndarray, ...], *scalars: Any) -> None:
    """Run a kernel over all entries of (N, ...) arrays, for example images, a range of them in each of torch's threads.

    Args:
        kernel: called with the arrays, the first and the past-the-end entry of its range, and the scalars.
        arrays: of the same length, 1 or more.
        scalars: the kernel's other arguments.
    """
    parallel_for(len(arrays[0]), lambda first, last: kernel(*arrays, first, last, *scalars))


@_compiled
def _trial_kernel(value):
    return value * np.float32(0.5)


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
