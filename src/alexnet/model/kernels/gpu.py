"""The fused operations for CUDA, in Triton.

Axes: B images, C channels, H x W positions, H' x W' windows. A program takes one image and a block of its numbers in
channels-last order. Programs read neighboring channels and overlapping windows again rather than exchange them: they
come from the cache, so each number moves through memory once.

`TRITON_INTERPRET=1`, set before the start, runs all of it slowly on a CPU, so that it can be tested without a GPU.
"""

from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl

from alexnet.model.kernels.norm_pool import NormPool, PoolNorm

_BLOCK = 1024
# A 256 x 256 factor of a matrix product would need more shared memory than most cards have.
_MAX_TILE_CHANNELS = 128
# Rows that a program sums at a time, and the most programs that share a sum: a few per multiprocessor of a large card.
_SUM_ROWS, _MAX_PARTIAL_SUMS = 32, 512
# Positions and warps of a tile of normalization and pooling, by (few channels, backward): see docs/log.md.
_TILES = {(True, False): (64, 4), (True, True): (64, 4), (False, False): (64, 8), (False, True): (32, 4)}


@triton.jit
def _to_minus(base, BETA: tl.constexpr):
    """base ^ -BETA; the paper's exponent from two roots."""
    if BETA == 0.75:
        root = tl.rsqrt(base)
        power = root * tl.sqrt(root)
    else:
        power = tl.exp2(-BETA * tl.log2(base))
    return power


@triton.jit
def _load(x, offset, added, mask, BIASED: tl.constexpr, RELU: tl.constexpr):
    """float32 activations, with BIASED plus its bias, with RELU after ReLU; NaN stays NaN.

    Values outside the mask are not activations and must not be used.
    """
    value = tl.load(x + offset, mask=mask, other=0.0).to(tl.float32)
    if BIASED:
        value += added
    if RELU:
        value = tl.where(value < 0, 0.0, value)
    return value


@triton.jit
def _bias_of(bias, c, mask, BIASED: tl.constexpr):
    """float32 biases of channels c; 0 without biases."""
    added = tl.load(bias + c, mask=mask, other=0.0).to(tl.float32) if BIASED else 0.0
    return added


@triton.jit
def _denominator(
    x, offset, c, mask, PER_COLUMN: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, K: tl.constexpr,
    RELU: tl.constexpr,
):  # fmt: skip
    """k + alpha * sum of the squares of the channels around channel c in its column."""
    within = c % PER_COLUMN
    total = tl.zeros_like(within).to(tl.float32)
    for step in tl.static_range(SIZE):
        shift = step - SIZE // 2
        there = mask & (within + shift >= 0) & (within + shift < PER_COLUMN)
        near = _load(x, offset + shift, 0.0, there, False, RELU)
        total += near * near
    return K + ALPHA * total


@triton.jit
def _normalized(
    x, bias, offset, c, mask, PER_COLUMN: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    K: tl.constexpr, NORMALIZE: tl.constexpr, BIASED: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    value = _load(x, offset, _bias_of(bias, c, mask, BIASED), mask, BIASED, RELU)
    if NORMALIZE:
        base = _denominator(x, offset, c, mask, PER_COLUMN, SIZE, ALPHA, K, RELU)
        value = value * _to_minus(base, BETA)
    return value


@triton.jit
def _norm_pool_kernel(
    x, bias, result, winners, H, W, ROWS, COLUMNS,
    C: tl.constexpr, PER_COLUMN: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    K: tl.constexpr, NORMALIZE: tl.constexpr, BIASED: tl.constexpr,
    RELU_BEFORE: tl.constexpr, RELU_AFTER: tl.constexpr,
    POOL: tl.constexpr, STRIDE: tl.constexpr, ALL_TIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    position = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # among the H' * W' * C results of the image
    mask = position < ROWS * COLUMNS * C
    c = position % C
    column = position // C % COLUMNS
    row = position // C // COLUMNS
    x += image * H * W * C
    if POOL == 1:
        best = _normalized(
            x, bias, position, c, mask, PER_COLUMN, SIZE, ALPHA, BETA, K, NORMALIZE, BIASED, RELU_BEFORE
        )  # fmt: skip
    else:
        best = tl.full((BLOCK,), float("-inf"), tl.float32)
        code = tl.zeros((BLOCK,), tl.int32)
        for i in tl.static_range(POOL):
            for j in tl.static_range(POOL):
                h = row * STRIDE + i
                w = column * STRIDE + j
                there = mask & (h < H) & (w < W)
                offset = (h * W + w) * C + c
                value = _normalized(
                    x, bias, offset, c, there, PER_COLUMN, SIZE, ALPHA, BETA, K, NORMALIZE, BIASED, RELU_BEFORE
                )  # fmt: skip
                larger = there & ((value > best) | (value != value))  # NaN wins, so that it is seen
                if ALL_TIES:
                    bit = 1 << (i * POOL + j)
                    code = tl.where(larger, bit, tl.where(there & (value == best), code | bit, code))
                else:
                    code = tl.where(larger, i * POOL + j, code)
                best = tl.where(larger, value, best)
        tl.store(winners + image * ROWS * COLUMNS * C + position, code.to(winners.dtype.element_ty), mask=mask)
    if RELU_AFTER:
        best = tl.where(best < 0, 0.0, best)
    tl.store(result + image * ROWS * COLUMNS * C + position, best.to(result.dtype.element_ty), mask=mask)


@triton.jit
def _gradient_from_windows(
    gradient, result, winners, h, w, c, mask, ROWS, COLUMNS,
    C: tl.constexpr, POOL: tl.constexpr, STRIDE: tl.constexpr, ALL_TIES: tl.constexpr, RELU_AFTER: tl.constexpr,
):  # fmt: skip
    """The gradient of position (h, w) from the windows over it, float32."""
    total = tl.zeros_like(mask).to(tl.float32)
    for up in tl.static_range((POOL + STRIDE - 1) // STRIDE):
        for left in tl.static_range((POOL + STRIDE - 1) // STRIDE):
            row = h // STRIDE - up
            column = w // STRIDE - left
            i = h - row * STRIDE
            j = w - column * STRIDE
            there = mask & (row >= 0) & (column >= 0) & (row < ROWS) & (column < COLUMNS) & (i < POOL) & (j < POOL)
            offset = (row * COLUMNS + column) * C + c
            if POOL > 1:
                code = tl.load(winners + offset, mask=there, other=0).to(tl.int32)
                won = ((code >> (i * POOL + j)) & 1) == 1 if ALL_TIES else code == i * POOL + j
            # Loaded for losers too: a mask that depends on loaded values would split wide loads into narrow ones.
            given = tl.load(gradient + offset, mask=there, other=0.0).to(tl.float32)
            if RELU_AFTER:
                given = tl.where(tl.load(result + offset, mask=there, other=0.0).to(tl.float32) > 0, given, 0.0)
            total += tl.where(won, given, 0.0) if POOL > 1 else given
    return total


@triton.jit
def _norm_pool_backward_kernel(
    gradient, x, bias, result, winners, crossed, of_x, H, W, ROWS, COLUMNS,
    C: tl.constexpr, PER_COLUMN: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    K: tl.constexpr, NORMALIZE: tl.constexpr, BIASED: tl.constexpr,
    RELU_BEFORE: tl.constexpr, RELU_AFTER: tl.constexpr,
    POOL: tl.constexpr, STRIDE: tl.constexpr, ALL_TIES: tl.constexpr, CROSSED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """With CROSSED, each activation's contribution to its neighbors, g a d^(-beta - 1); without, the gradient of x."""
    image = tl.program_id(0).to(tl.int64)
    position = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # among the H * W * C numbers of the image
    mask = position < H * W * C
    c = position % C
    w = position // C % W
    h = position // C // W
    x += image * H * W * C
    crossed += image * H * W * C
    windows = image * ROWS * COLUMNS * C
    total = _gradient_from_windows(
        gradient + windows, result + windows, winners + windows, h, w, c, mask, ROWS, COLUMNS, C, POOL, STRIDE,
        ALL_TIES, RELU_AFTER,
    )  # fmt: skip
    value = _load(x, position, _bias_of(bias, c, mask, BIASED), mask, BIASED, RELU_BEFORE)
    if NORMALIZE:
        base = _denominator(x, position, c, mask, PER_COLUMN, SIZE, ALPHA, K, RELU_BEFORE)
        total = total * _to_minus(base, BETA)
        if CROSSED:
            tl.store(crossed + position, (total * value / base).to(crossed.dtype.element_ty), mask=mask)
        else:
            within = c % PER_COLUMN
            near = tl.zeros_like(c).to(tl.float32)
            for step in tl.static_range(SIZE):
                # Channel i reads from i - SIZE // 2 on, so channel j is read by those from j - (SIZE - 1) // 2 on.
                shift = step - (SIZE - 1) // 2
                there = mask & (within + shift >= 0) & (within + shift < PER_COLUMN)
                near += tl.load(crossed + position + shift, mask=there, other=0.0).to(tl.float32)
            total -= 2 * ALPHA * BETA * value * near
    if not CROSSED:
        if RELU_BEFORE:
            total = tl.where(value > 0, total, 0.0)
        tl.store(of_x + image * H * W * C + position, total.to(of_x.dtype.element_ty), mask=mask)


@triton.jit
def _norm_pool_tile_kernel(
    x, bias, band, result, winners, H, W, ROWS, COLUMNS,
    C: tl.constexpr, PER_COLUMN: tl.constexpr, PADDED: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    K: tl.constexpr, BIASED: tl.constexpr, RELU_BEFORE: tl.constexpr, RELU_AFTER: tl.constexpr,
    POOL: tl.constexpr, STRIDE: tl.constexpr, ALL_TIES: tl.constexpr, POSITIONS: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """`_norm_pool_kernel` for bfloat16: a tile of positions x channels; window sums are a matrix product.

    So an infinity or NaN reaches all channels of its column at its position, not only its windows.
    """
    image = tl.program_id(0).to(tl.int64)
    position = tl.program_id(1) * POSITIONS + tl.arange(0, POSITIONS)  # among the H' * W' windows
    inside = position < ROWS * COLUMNS
    row = position // COLUMNS
    column = position % COLUMNS
    c = tl.arange(0, PADDED)
    of_column = c < PER_COLUMN
    c_first = tl.program_id(2) * PER_COLUMN
    x += image * H * W * C + c_first
    added = tl.zeros((1, PADDED), tl.float32) + _bias_of(bias, c_first + c, of_column, BIASED)
    weights = tl.load(band + c[:, None] * PADDED + c[None, :]).to(FACTORS)  # (channel read, channel normalized)
    best = tl.full((POSITIONS, PADDED), float("-inf"), tl.float32)
    code = tl.zeros((POSITIONS, PADDED), tl.int32)
    for n in range(POOL * POOL):
        h = row * STRIDE + n // POOL
        w = column * STRIDE + n % POOL
        there = (inside & (h < H) & (w < W))[:, None] & of_column[None, :]
        value = _load(x, ((h * W + w) * C)[:, None] + c[None, :], added, there, BIASED, RELU_BEFORE)
        base = K + ALPHA * tl.dot((value * value).to(tl.bfloat16).to(FACTORS), weights)
        value = value * _to_minus(base, BETA)
        larger = there & ((value > best) | (value != value))
        if ALL_TIES:
            bit = 1 << n
            code = tl.where(larger, bit, tl.where(there & (value == best), code | bit, code))
        else:
            code = tl.where(larger, n, code)
        best = tl.where(larger, value, best)
    written = inside[:, None] & of_column[None, :]
    offset = image * ROWS * COLUMNS * C + c_first + (position * C)[:, None] + c[None, :]
    if POOL > 1:
        tl.store(winners + offset, code.to(winners.dtype.element_ty), mask=written)
    if RELU_AFTER:
        best = tl.where(best < 0, 0.0, best)
    tl.store(result + offset, best.to(result.dtype.element_ty), mask=written)


@triton.jit
def _norm_pool_backward_tile_kernel(
    gradient, x, bias, result, winners, band, of_x, H, W, ROWS, COLUMNS,
    C: tl.constexpr, PER_COLUMN: tl.constexpr, PADDED: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    K: tl.constexpr, BIASED: tl.constexpr, RELU_BEFORE: tl.constexpr, RELU_AFTER: tl.constexpr,
    POOL: tl.constexpr, STRIDE: tl.constexpr, ALL_TIES: tl.constexpr, POSITIONS: tl.constexpr, FACTORS: tl.constexpr,
    SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """The gradient of x for bfloat16, in tiles as in `_norm_pool_tile_kernel`: two matrix products, nothing stored."""
    image = tl.program_id(0).to(tl.int64)
    position = tl.program_id(1) * POSITIONS + tl.arange(0, POSITIONS)  # among the H * W positions
    c = tl.arange(0, PADDED)
    mask = (position < H * W)[:, None] & (c < PER_COLUMN)[None, :]
    c_first = tl.program_id(2) * PER_COLUMN
    x += image * H * W * C + c_first
    windows = image * ROWS * COLUMNS * C + c_first
    total = _gradient_from_windows(
        gradient + windows, result + windows, winners + windows,
        (position // W)[:, None], (position % W)[:, None], c[None, :], mask, ROWS, COLUMNS, C, POOL, STRIDE, ALL_TIES,
        RELU_AFTER,
    )  # fmt: skip
    offset = (position * C)[:, None] + c[None, :]
    added = tl.zeros((1, PADDED), tl.float32) + _bias_of(bias, c_first + c, c < PER_COLUMN, BIASED)
    value = _load(x, offset, added, mask, BIASED, RELU_BEFORE)
    weights = tl.load(band + c[:, None] * PADDED + c[None, :]).to(FACTORS)  # (channel read, channel normalized)
    base = K + ALPHA * tl.dot((value * value).to(tl.bfloat16).to(FACTORS), weights)
    scaled = total * _to_minus(base, BETA)
    if not SYMMETRIC:
        weights = tl.load(band + c[None, :] * PADDED + c[:, None]).to(FACTORS)
    near = tl.dot((scaled * value / base).to(tl.bfloat16).to(FACTORS), weights)  # (channel normalized, channel read)
    total = scaled - 2 * ALPHA * BETA * value * near
    if RELU_BEFORE:
        total = tl.where(value > 0, total, 0.0)
    tl.store(of_x + image * H * W * C + c_first + offset, total.to(of_x.dtype.element_ty), mask=mask)


@triton.jit
def _space_to_depth_kernel(x, result, H, W, ROWS, COLUMNS, C: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    """(H, W, C) of each image -> (ROWS, COLUMNS, STRIDE * STRIDE * C), zero-padded."""
    image = tl.program_id(0).to(tl.int64)
    position = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    channels: tl.constexpr = STRIDE * STRIDE * C
    mask = position < ROWS * COLUMNS * channels
    within = position % channels
    row = position // channels // COLUMNS * STRIDE + within // (STRIDE * C)
    column = position // channels % COLUMNS * STRIDE + within // C % STRIDE
    there = mask & (row < H) & (column < W)
    value = tl.load(x + image * H * W * C + (row * W + column) * C + within % C, mask=there, other=0.0)
    tl.store(result + image * ROWS * COLUMNS * channels + position, value.to(result.dtype.element_ty), mask=mask)


@triton.jit
def _neighborhood_sum(x, h, w, c, mask, H, W, C: tl.constexpr, SIZE: tl.constexpr, SQUARED: tl.constexpr):
    """Sum over the SIZE x SIZE positions around (h, w) in channel c, of the values or of their squares."""
    total = tl.zeros_like(c).to(tl.float32)
    for i in tl.static_range(SIZE):
        for j in tl.static_range(SIZE):
            row = h + i - SIZE // 2
            column = w + j - SIZE // 2
            there = mask & (row >= 0) & (row < H) & (column >= 0) & (column < W)
            value = tl.load(x + (row * W + column) * C + c, mask=there, other=0.0).to(tl.float32)
            total += value * value if SQUARED else value
    return total


@triton.jit
def _same_map_kernel(
    x, gradient, crossed, result, H, W,
    C: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, PART: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """PART 0: the normalized activations; 1: their contributions to neighbors' gradients; 2: the gradient of x."""
    image = tl.program_id(0).to(tl.int64)
    position = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = position < H * W * C
    c = position % C
    w = position // C % W
    h = position // C // W
    start = image * H * W * C
    value = tl.load(x + start + position, mask=mask, other=0.0).to(tl.float32)
    base = 1 + ALPHA / (SIZE * SIZE) * _neighborhood_sum(x + start, h, w, c, mask, H, W, C, SIZE, True)
    power = _to_minus(base, BETA)
    if PART == 0:
        value = value * power
    else:
        scaled = tl.load(gradient + start + position, mask=mask, other=0.0).to(tl.float32) * power
        if PART == 1:
            value = scaled * value / base
        else:
            near = _neighborhood_sum(crossed + start, h, w, c, mask, H, W, C, SIZE, False)
            value = scaled - 2 * ALPHA / (SIZE * SIZE) * BETA * value * near
    tl.store(result + start + position, value.to(result.dtype.element_ty), mask=mask)


@triton.jit
def _sums_kernel(x, sums, NUM, EACH, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """For NUM rows of C numbers, each program's sums over its EACH rows."""
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    first = tl.program_id(0).to(tl.int64) * EACH
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, EACH, ROWS):
        row = first + start + tl.arange(0, ROWS)
        mask = (row < NUM)[:, None] & (c < C)[None, :]
        total += tl.load(x + row[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(sums + tl.program_id(0) * C + c, tl.sum(total, 0).to(sums.dtype.element_ty), mask=c < C)


def norm_pool(
    x: torch.Tensor, bias: torch.Tensor | None, op: NormPool, result: torch.Tensor, winners: torch.Tensor
) -> None:
    """Fill `result` and `winners` (B, C, H', W') from x (B, C, H, W); all channels-last; bias (C), of any dtype."""
    sizes = (*x.shape[2:], *result.shape[2:])
    x, bias = _with_bias(x, bias, op)
    added = x if bias is None else bias
    with _on_device_of(x):
        if _uses_tiles(x, op):
            tile = _tile(x, op, backward=False)
            tiles = (len(x), triton.cdiv(result.shape[2] * result.shape[3], tile["POSITIONS"]), op.columns)
            _norm_pool_tile_kernel[tiles](
                x, added, _band(x, op), result, winners, *sizes, **tile, **_constants(x, bias, op)
            )
        else:
            grid = _grid(x, result[0].numel())
            _norm_pool_kernel[grid](
                x, added, result, winners, *sizes, **_neighbor_constants(op), **_constants(x, bias, op)
            )


def norm_pool_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    result: torch.Tensor,
    winners: torch.Tensor,
    op: NormPool,
    of_x: torch.Tensor,
) -> None:
    """Fill `of_x` (B, C, H, W), the gradient of x, from that of the result; all channels-last."""
    sizes = (*x.shape[2:], *result.shape[2:])
    x, bias = _with_bias(x, bias, op)
    added = x if bias is None else bias
    with _on_device_of(x):
        if _uses_tiles(x, op):
            tile = _tile(x, op, backward=True)
            tile["SYMMETRIC"] = op.size % 2 == 1
            tiles = (len(x), triton.cdiv(x.shape[2] * x.shape[3], tile["POSITIONS"]), op.columns)
            _norm_pool_backward_tile_kernel[tiles](
                gradient, x, added, result, winners, _band(x, op), of_x, *sizes, **tile, **_constants(x, bias, op)
            )
            return
        crossed = torch.empty_like(x) if op.normalizes else x
        for part in (True, False) if op.normalizes else (False,):
            _norm_pool_backward_kernel[_grid(x, x[0].numel())](
                gradient,
                x,
                added,
                result,
                winners,
                crossed,
                of_x,
                *sizes,
                CROSSED=part,
                **_neighbor_constants(op),
                **_constants(x, bias, op),
            )


def pool_norm(x: torch.Tensor, op: PoolNorm, result: torch.Tensor, winners: torch.Tensor, pooled: torch.Tensor) -> None:
    """Compute `op` of x (B, C, H, W); the others (B, C, H', W') are overwritten, all channels-last."""
    norm_pool(x, None, op.pool, pooled, winners)
    norm_pool(pooled, None, op.norm, result, winners)


def pool_norm_backward(
    gradient: torch.Tensor, winners: torch.Tensor, pooled: torch.Tensor, op: PoolNorm, of_x: torch.Tensor
) -> None:
    """Fill `of_x` (B, C, H, W), the gradient of x, from that of the result; all channels-last."""
    of_pooled = torch.empty_like(pooled)
    norm_pool_backward(gradient, pooled, None, pooled, winners, op.norm, of_pooled)
    # Of ReLU on either side of the pooling, the gradient needs only the result; x gives the sizes.
    pool = replace(op.pool, relu_before=False, relu_after=op.pool.relu_before or op.pool.relu_after)
    norm_pool_backward(of_pooled, of_x, None, pooled, winners, pool, of_x)


def channel_sums(x: torch.Tensor, sums: torch.Tensor) -> None:
    """Fill `sums` (C) from x (B, C, H, W), channels-last; deterministic."""
    channels = x.shape[1]
    rows = x.numel() // channels
    each = _SUM_ROWS * max(1, triton.cdiv(rows, _SUM_ROWS * _MAX_PARTIAL_SUMS))
    parts = triton.cdiv(rows, each)
    part_sums = torch.empty(parts, channels, dtype=torch.float32, device=x.device)
    wide = min(_MAX_TILE_CHANNELS, triton.next_power_of_2(channels))
    narrow = min(32, wide)
    with _on_device_of(x):
        _sums_kernel[(parts, triton.cdiv(channels, wide))](
            x, part_sums, rows, each, channels, ROWS=_SUM_ROWS, CHANNELS=wide
        )
        whole = (1, triton.cdiv(channels, narrow))
        _sums_kernel[whole](part_sums, sums, parts, parts, channels, ROWS=4 * _SUM_ROWS, CHANNELS=narrow)


def space_to_depth(x: torch.Tensor, stride: int, result: torch.Tensor) -> None:
    """Fill `result` (B, s s C, rows, columns) from x (B, C, H, W); both channels-last, of any two dtypes."""
    with _on_device_of(x):
        _space_to_depth_kernel[_grid(x, result[0].numel())](
            x, result, *x.shape[2:], *result.shape[2:], x.shape[1], stride, BLOCK=_BLOCK
        )


def same_map_norm(x: torch.Tensor, size: int, alpha: float, beta: float, result: torch.Tensor) -> None:
    """Fill `result` from x, both (B, C, H, W), channels-last."""
    with _on_device_of(x):
        _same_map_kernel[_grid(x, x[0].numel())](
            x, x, x, result, *x.shape[2:], x.shape[1], size, alpha, beta, PART=0, BLOCK=_BLOCK
        )


def same_map_norm_backward(
    gradient: torch.Tensor, x: torch.Tensor, size: int, alpha: float, beta: float, of_x: torch.Tensor
) -> None:
    """Fill `of_x`, the gradient of x, from that of the result; all (B, C, H, W), channels-last."""
    crossed = torch.empty_like(x)
    with _on_device_of(x):
        for part, filled in ((1, crossed), (2, of_x)):
            _same_map_kernel[_grid(x, x[0].numel())](
                x, gradient, crossed, filled, *x.shape[2:], x.shape[1], size, alpha, beta, PART=part, BLOCK=_BLOCK
            )


def _grid(x: torch.Tensor, numbers: int) -> tuple[int, int]:
    return x.shape[0], triton.cdiv(numbers, _BLOCK)


def _constants(x: torch.Tensor, bias: torch.Tensor | None, op: NormPool) -> dict[str, Any]:
    """Constants of all `norm_pool` kernels."""
    return {
        "BIASED": bias is not None,
        "C": x.shape[1],
        "PER_COLUMN": x.shape[1] // op.columns,
        "ALPHA": op.alpha,
        "BETA": op.beta,
        "K": op.k,
        "RELU_BEFORE": op.relu_before,
        "RELU_AFTER": op.relu_after,
        "POOL": op.pool,
        "STRIDE": op.stride,
        "ALL_TIES": op.all_ties,
    }


def _with_bias(x: torch.Tensor, bias: torch.Tensor | None, op: NormPool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """x plus its biases if the kernel would read them again for every neighbor; else both unchanged."""
    if bias is None or not op.normalizes or _uses_tiles(x, op):
        return x, bias
    return x + bias.to(x.dtype)[:, None, None], None


def _neighbor_constants(op: NormPool) -> dict[str, Any]:
    """Constants of the kernels that add neighbors one by one."""
    return {"SIZE": op.size, "NORMALIZE": op.normalizes, "BLOCK": _BLOCK}


def _uses_tiles(x: torch.Tensor, op: NormPool) -> bool:
    """Whether matrix units, which take bfloat16, add the neighbors."""
    return x.dtype == torch.bfloat16 and op.normalizes and x.shape[1] // op.columns <= _MAX_TILE_CHANNELS


def _padded(x: torch.Tensor, op: NormPool) -> int:
    """Channels of a tile: those of a column, padded to a size that matrix units take."""
    return max(16, int(triton.next_power_of_2(x.shape[1] // op.columns)))


def _tile(x: torch.Tensor, op: NormPool, backward: bool) -> dict[str, Any]:
    """Channels and positions of a tile, its warps, and the dtype of its products' factors."""
    padded = _padded(x, op)
    positions, warps = _TILES[padded <= 64, backward]
    # The interpreter does not multiply bfloat16; the factors are already rounded to it, so the products are the same.
    factors = tl.bfloat16 if x.is_cuda else tl.float32
    return {"PADDED": padded, "POSITIONS": positions, "FACTORS": factors, "num_warps": warps}


_bands: dict[tuple[torch.device, int, int, int], torch.Tensor] = {}


def _band(x: torch.Tensor, op: NormPool) -> torch.Tensor:
    """The transposed window matrix of a column: bfloat16 (padded, padded), 1 at (j, i) if j is in the window of i."""
    channels, padded = x.shape[1] // op.columns, _padded(x, op)
    key = (x.device, channels, padded, op.size)
    if key not in _bands:
        c = torch.arange(padded)
        offset = c[:, None] - c[None, :]  # (padded, padded), j - i
        near = (offset >= -(op.size // 2)) & (offset <= (op.size - 1) // 2) & (c[:, None] < channels) & (c < channels)
        _bands[key] = near.to(x.device, torch.bfloat16)
    return _bands[key]


def _on_device_of(x: torch.Tensor) -> Any:
    """Make the tensor's device current: kernels start on the current device."""
    return torch.cuda.device_of(x)
