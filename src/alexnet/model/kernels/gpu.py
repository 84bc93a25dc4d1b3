"""The fused passes for CUDA, in Triton.

Axes: B images, C maps (channels), H W places, H' W' windows. A program takes one image and a block of its numbers in
channels-last order. Neighboring maps and overlapping windows are read again rather than exchanged between programs:
they come from the cache, and a pass then moves each number through memory once.

`TRITON_INTERPRET=1`, set before the start, runs all of it on a processor, slowly: so the checks reach it without
a GPU.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from alexnet.model.kernels.norm_pool import NormPool
from alexnet.model.response_norm import window_matrix

_BLOCK = 1024
# A product's factor of 256 x 256 would fill more shared memory than most cards have.
_MOST_MAPS = 128
# Rows that a program sums at a time, and programs that share a sum: a few for each unit of a large card.
_SUMMED, _MOST_PARTS = 32, 512
# Places and warps of a tile of normalizing and pooling, by (few maps, backward): see docs/log.md.
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
def _load(x, offset, added, mask, BIASED: tl.constexpr, RECTIFY: tl.constexpr):
    """float32 activations, each with its bias added and rectified where asked; NaN stays NaN.

    Where the mask is not, that is no activation either: what stands there must not be used.
    """
    value = tl.load(x + offset, mask=mask, other=0.0).to(tl.float32)
    if BIASED:
        value += added
    if RECTIFY:
        value = tl.where(value < 0, 0.0, value)
    return value


@triton.jit
def _bias_of(bias, c, mask, BIASED: tl.constexpr):
    """float32 biases of maps c; 0 where there are none."""
    added = tl.load(bias + c, mask=mask, other=0.0).to(tl.float32) if BIASED else 0.0
    return added


@triton.jit
def _across_maps(
    x, offset, c, mask, PER_COLUMN: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, K: tl.constexpr,
    RECTIFY: tl.constexpr,
):  # fmt: skip
    """k + alpha * sum of the squares of the maps around map c of its column."""
    within = c % PER_COLUMN
    total = tl.zeros_like(within).to(tl.float32)
    for step in tl.static_range(SIZE):
        shift = step - SIZE // 2
        there = mask & (within + shift >= 0) & (within + shift < PER_COLUMN)
        near = _load(x, offset + shift, 0.0, there, False, RECTIFY)
        total += near * near
    return K + ALPHA * total


@triton.jit
def _normalized(
    x, bias, offset, c, mask, PER_COLUMN: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    K: tl.constexpr, NORMALIZE: tl.constexpr, BIASED: tl.constexpr, RECTIFY: tl.constexpr,
):  # fmt: skip
    value = _load(x, offset, _bias_of(bias, c, mask, BIASED), mask, BIASED, RECTIFY)
    if NORMALIZE:
        base = _across_maps(x, offset, c, mask, PER_COLUMN, SIZE, ALPHA, K, RECTIFY)
        value = value * _to_minus(base, BETA)
    return value


@triton.jit
def _norm_pool_kernel(
    x, bias, result, winners, H, W, ROWS, COLUMNS,
    C: tl.constexpr, PER_COLUMN: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    K: tl.constexpr, NORMALIZE: tl.constexpr, BIASED: tl.constexpr,
    RECTIFY_BEFORE: tl.constexpr, RECTIFY_AFTER: tl.constexpr,
    POOL: tl.constexpr, STRIDE: tl.constexpr, EVERY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # among the H' * W' * C results of the image
    mask = place < ROWS * COLUMNS * C
    c = place % C
    column = place // C % COLUMNS
    row = place // C // COLUMNS
    x += image * H * W * C
    if POOL == 1:
        best = _normalized(
            x, bias, place, c, mask, PER_COLUMN, SIZE, ALPHA, BETA, K, NORMALIZE, BIASED, RECTIFY_BEFORE
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
                    x, bias, offset, c, there, PER_COLUMN, SIZE, ALPHA, BETA, K, NORMALIZE, BIASED, RECTIFY_BEFORE
                )  # fmt: skip
                larger = there & ((value > best) | (value != value))  # what is no number wins, so that it is seen
                if EVERY:
                    bit = 1 << (i * POOL + j)
                    code = tl.where(larger, bit, tl.where(there & (value == best), code | bit, code))
                else:
                    code = tl.where(larger, i * POOL + j, code)
                best = tl.where(larger, value, best)
        tl.store(winners + image * ROWS * COLUMNS * C + place, code.to(winners.dtype.element_ty), mask=mask)
    if RECTIFY_AFTER:
        best = tl.where(best < 0, 0.0, best)
    tl.store(result + image * ROWS * COLUMNS * C + place, best.to(result.dtype.element_ty), mask=mask)


@triton.jit
def _of_windows(
    gradient, result, winners, h, w, c, mask, ROWS, COLUMNS,
    C: tl.constexpr, POOL: tl.constexpr, STRIDE: tl.constexpr, EVERY: tl.constexpr, RECTIFY_AFTER: tl.constexpr,
):  # fmt: skip
    """The gradient that the windows over place (h, w) give it, float32."""
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
                won = ((code >> (i * POOL + j)) & 1) == 1 if EVERY else code == i * POOL + j
            # Read whether won or not: a mask that depends on what was read would break wide reads into narrow ones.
            given = tl.load(gradient + offset, mask=there, other=0.0).to(tl.float32)
            if RECTIFY_AFTER:
                given = tl.where(tl.load(result + offset, mask=there, other=0.0).to(tl.float32) > 0, given, 0.0)
            total += tl.where(won, given, 0.0) if POOL > 1 else given
    return total


@triton.jit
def _norm_pool_backward_kernel(
    gradient, x, bias, result, winners, crossed, of_x, H, W, ROWS, COLUMNS,
    C: tl.constexpr, PER_COLUMN: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    K: tl.constexpr, NORMALIZE: tl.constexpr, BIASED: tl.constexpr,
    RECTIFY_BEFORE: tl.constexpr, RECTIFY_AFTER: tl.constexpr,
    POOL: tl.constexpr, STRIDE: tl.constexpr, EVERY: tl.constexpr, CROSSED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """With CROSSED, what each activation gives to its neighbors, g a d^(-beta - 1); without, the gradient of x."""
    image = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # among the H * W * C numbers of the image
    mask = place < H * W * C
    c = place % C
    w = place // C % W
    h = place // C // W
    x += image * H * W * C
    crossed += image * H * W * C
    windows = image * ROWS * COLUMNS * C
    total = _of_windows(
        gradient + windows, result + windows, winners + windows, h, w, c, mask, ROWS, COLUMNS, C, POOL, STRIDE, EVERY,
        RECTIFY_AFTER,
    )  # fmt: skip
    value = _load(x, place, _bias_of(bias, c, mask, BIASED), mask, BIASED, RECTIFY_BEFORE)
    if NORMALIZE:
        base = _across_maps(x, place, c, mask, PER_COLUMN, SIZE, ALPHA, K, RECTIFY_BEFORE)
        total = total * _to_minus(base, BETA)
        if CROSSED:
            tl.store(crossed + place, (total * value / base).to(crossed.dtype.element_ty), mask=mask)
        else:
            within = c % PER_COLUMN
            near = tl.zeros_like(c).to(tl.float32)
            for step in tl.static_range(SIZE):
                # Map i reads the maps from i - SIZE // 2 on, so map j is read by those from j - (SIZE - 1) // 2 on.
                shift = step - (SIZE - 1) // 2
                there = mask & (within + shift >= 0) & (within + shift < PER_COLUMN)
                near += tl.load(crossed + place + shift, mask=there, other=0.0).to(tl.float32)
            total -= 2 * ALPHA * BETA * value * near
    if not CROSSED:
        if RECTIFY_BEFORE:
            total = tl.where(value > 0, total, 0.0)
        tl.store(of_x + image * H * W * C + place, total.to(of_x.dtype.element_ty), mask=mask)


@triton.jit
def _norm_pool_tile_kernel(
    x, bias, band, result, winners, H, W, ROWS, COLUMNS,
    C: tl.constexpr, PER_COLUMN: tl.constexpr, PADDED: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    K: tl.constexpr, BIASED: tl.constexpr, RECTIFY_BEFORE: tl.constexpr, RECTIFY_AFTER: tl.constexpr,
    POOL: tl.constexpr, STRIDE: tl.constexpr, EVERY: tl.constexpr, PLACES: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """`_norm_pool_kernel` for bfloat16: some places times one column's maps, whose window sums are a matrix product."""
    image = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * PLACES + tl.arange(0, PLACES)  # among the H' * W' windows
    inside = place < ROWS * COLUMNS
    row = place // COLUMNS
    column = place % COLUMNS
    c = tl.arange(0, PADDED)
    of_column = c < PER_COLUMN
    c_first = tl.program_id(2) * PER_COLUMN
    x += image * H * W * C + c_first
    added = tl.zeros((1, PADDED), tl.float32) + _bias_of(bias, c_first + c, of_column, BIASED)
    weights = tl.load(band + c[:, None] * PADDED + c[None, :]).to(FACTORS)  # (map read, map normalized)
    best = tl.full((PLACES, PADDED), float("-inf"), tl.float32)
    code = tl.zeros((PLACES, PADDED), tl.int32)
    for n in range(POOL * POOL):
        h = row * STRIDE + n // POOL
        w = column * STRIDE + n % POOL
        there = (inside & (h < H) & (w < W))[:, None] & of_column[None, :]
        value = _load(x, ((h * W + w) * C)[:, None] + c[None, :], added, there, BIASED, RECTIFY_BEFORE)
        base = K + ALPHA * tl.dot((value * value).to(tl.bfloat16).to(FACTORS), weights)
        value = value * _to_minus(base, BETA)
        larger = there & ((value > best) | (value != value))
        if EVERY:
            bit = 1 << n
            code = tl.where(larger, bit, tl.where(there & (value == best), code | bit, code))
        else:
            code = tl.where(larger, n, code)
        best = tl.where(larger, value, best)
    written = inside[:, None] & of_column[None, :]
    offset = image * ROWS * COLUMNS * C + c_first + (place * C)[:, None] + c[None, :]
    if POOL > 1:
        tl.store(winners + offset, code.to(winners.dtype.element_ty), mask=written)
    if RECTIFY_AFTER:
        best = tl.where(best < 0, 0.0, best)
    tl.store(result + offset, best.to(result.dtype.element_ty), mask=written)


@triton.jit
def _norm_pool_backward_tile_kernel(
    gradient, x, bias, result, winners, band, of_x, H, W, ROWS, COLUMNS,
    C: tl.constexpr, PER_COLUMN: tl.constexpr, PADDED: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr,
    K: tl.constexpr, BIASED: tl.constexpr, RECTIFY_BEFORE: tl.constexpr, RECTIFY_AFTER: tl.constexpr,
    POOL: tl.constexpr, STRIDE: tl.constexpr, EVERY: tl.constexpr, PLACES: tl.constexpr, FACTORS: tl.constexpr,
    SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """The gradient of x for bfloat16, as `_norm_pool_tile_kernel` has it: two matrix products, nothing kept between."""
    image = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * PLACES + tl.arange(0, PLACES)  # among the H * W places
    c = tl.arange(0, PADDED)
    mask = (place < H * W)[:, None] & (c < PER_COLUMN)[None, :]
    c_first = tl.program_id(2) * PER_COLUMN
    x += image * H * W * C + c_first
    windows = image * ROWS * COLUMNS * C + c_first
    total = _of_windows(
        gradient + windows, result + windows, winners + windows,
        (place // W)[:, None], (place % W)[:, None], c[None, :], mask, ROWS, COLUMNS, C, POOL, STRIDE, EVERY,
        RECTIFY_AFTER,
    )  # fmt: skip
    offset = (place * C)[:, None] + c[None, :]
    added = tl.zeros((1, PADDED), tl.float32) + _bias_of(bias, c_first + c, c < PER_COLUMN, BIASED)
    value = _load(x, offset, added, mask, BIASED, RECTIFY_BEFORE)
    weights = tl.load(band + c[:, None] * PADDED + c[None, :]).to(FACTORS)  # (map read, map normalized)
    base = K + ALPHA * tl.dot((value * value).to(tl.bfloat16).to(FACTORS), weights)
    scaled = total * _to_minus(base, BETA)
    if not SYMMETRIC:
        weights = tl.load(band + c[None, :] * PADDED + c[:, None]).to(FACTORS)
    near = tl.dot((scaled * value / base).to(tl.bfloat16).to(FACTORS), weights)  # (map normalized, map read)
    total = scaled - 2 * ALPHA * BETA * value * near
    if RECTIFY_BEFORE:
        total = tl.where(value > 0, total, 0.0)
    tl.store(of_x + image * H * W * C + c_first + offset, total.to(of_x.dtype.element_ty), mask=mask)


@triton.jit
def _in_blocks_kernel(x, result, H, W, ROWS, COLUMNS, C: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    """(H, W, C) of each image -> (ROWS, COLUMNS, STRIDE * STRIDE * C), zeros beyond the edge."""
    image = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    maps: tl.constexpr = STRIDE * STRIDE * C
    mask = place < ROWS * COLUMNS * maps
    within = place % maps
    row = place // maps // COLUMNS * STRIDE + within // (STRIDE * C)
    column = place // maps % COLUMNS * STRIDE + within // C % STRIDE
    there = mask & (row < H) & (column < W)
    value = tl.load(x + image * H * W * C + (row * W + column) * C + within % C, mask=there, other=0.0)
    tl.store(result + image * ROWS * COLUMNS * maps + place, value.to(result.dtype.element_ty), mask=mask)


@triton.jit
def _around(x, h, w, c, mask, H, W, C: tl.constexpr, SIZE: tl.constexpr, SQUARED: tl.constexpr):
    """Sum over the SIZE x SIZE places around (h, w) in map c, of squares or as they are."""
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
    """PART 0: the normalized activations. 1: what each gives to its neighbors' gradients. 2: the gradient of x."""
    image = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = place < H * W * C
    c = place % C
    w = place // C % W
    h = place // C // W
    start = image * H * W * C
    value = tl.load(x + start + place, mask=mask, other=0.0).to(tl.float32)
    base = 1 + ALPHA / (SIZE * SIZE) * _around(x + start, h, w, c, mask, H, W, C, SIZE, True)
    power = _to_minus(base, BETA)
    if PART == 0:
        value = value * power
    else:
        scaled = tl.load(gradient + start + place, mask=mask, other=0.0).to(tl.float32) * power
        if PART == 1:
            value = scaled * value / base
        else:
            near = _around(crossed + start, h, w, c, mask, H, W, C, SIZE, False)
            value = scaled - 2 * ALPHA / (SIZE * SIZE) * BETA * value * near
    tl.store(result + start + place, value.to(result.dtype.element_ty), mask=mask)


@triton.jit
def _sums_kernel(x, sums, NUM, EACH, C: tl.constexpr, ROWS: tl.constexpr, MAPS: tl.constexpr):
    """Of NUM rows of C numbers, the sums over the EACH rows of every program."""
    c = tl.program_id(1) * MAPS + tl.arange(0, MAPS)
    first = tl.program_id(0).to(tl.int64) * EACH
    total = tl.zeros((ROWS, MAPS), tl.float32)
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
    x, bias = _biased(x, bias, op)
    added = x if bias is None else bias
    with _device_of(x):
        if _as_product(x, op):
            tile = _tile(x, op, backward=False)
            tiles = (len(x), triton.cdiv(result.shape[2] * result.shape[3], tile["PLACES"]), op.columns)
            _norm_pool_tile_kernel[tiles](
                x, added, _band(x, op), result, winners, *sizes, **tile, **_shared(x, bias, op)
            )
        else:
            grid = _grid(x, result[0].numel())
            _norm_pool_kernel[grid](x, added, result, winners, *sizes, **_by_number(op), **_shared(x, bias, op))


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
    x, bias = _biased(x, bias, op)
    added = x if bias is None else bias
    with _device_of(x):
        if _as_product(x, op):
            tile = _tile(x, op, backward=True)
            tile["SYMMETRIC"] = op.size % 2 == 1
            tiles = (len(x), triton.cdiv(x.shape[2] * x.shape[3], tile["PLACES"]), op.columns)
            _norm_pool_backward_tile_kernel[tiles](
                gradient,
                x,
                added,
                result,
                winners,
                _band(x, op),
                of_x,
                *sizes,
                **tile,
                **_shared(x, bias, op),
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
                **_by_number(op),
                **_shared(x, bias, op),
            )


def channel_sums(x: torch.Tensor, sums: torch.Tensor) -> None:
    """Fill `sums` (C) from x (B, C, H, W), channels-last; the same however often it is asked."""
    maps = x.shape[1]
    rows = x.numel() // maps
    each = _SUMMED * max(1, triton.cdiv(rows, _SUMMED * _MOST_PARTS))
    parts = triton.cdiv(rows, each)
    part_sums = torch.empty(parts, maps, dtype=torch.float32, device=x.device)
    wide = min(_MOST_MAPS, triton.next_power_of_2(maps))
    narrow = min(32, wide)
    with _device_of(x):
        _sums_kernel[(parts, triton.cdiv(maps, wide))](x, part_sums, rows, each, maps, ROWS=_SUMMED, MAPS=wide)
        whole = (1, triton.cdiv(maps, narrow))
        _sums_kernel[whole](part_sums, sums, parts, parts, maps, ROWS=4 * _SUMMED, MAPS=narrow)


def space_to_depth(x: torch.Tensor, stride: int, result: torch.Tensor) -> None:
    """Fill `result` (B, s s C, rows, columns) from x (B, C, H, W); both channels-last, each of its own dtype."""
    with _device_of(x):
        _in_blocks_kernel[_grid(x, result[0].numel())](
            x, result, *x.shape[2:], *result.shape[2:], x.shape[1], stride, BLOCK=_BLOCK
        )


def same_map_norm(x: torch.Tensor, size: int, alpha: float, beta: float, result: torch.Tensor) -> None:
    """Fill `result` from x, both (B, C, H, W), channels-last."""
    with _device_of(x):
        _same_map_kernel[_grid(x, x[0].numel())](
            x, x, x, result, *x.shape[2:], x.shape[1], size, alpha, beta, PART=0, BLOCK=_BLOCK
        )


def same_map_norm_backward(
    gradient: torch.Tensor, x: torch.Tensor, size: int, alpha: float, beta: float, of_x: torch.Tensor
) -> None:
    """Fill `of_x`, the gradient of x, from that of the result; all (B, C, H, W), channels-last."""
    crossed = torch.empty_like(x)
    with _device_of(x):
        for part, filled in ((1, crossed), (2, of_x)):
            _same_map_kernel[_grid(x, x[0].numel())](
                x, gradient, crossed, filled, *x.shape[2:], x.shape[1], size, alpha, beta, PART=part, BLOCK=_BLOCK
            )


def _grid(x: torch.Tensor, numbers: int) -> tuple[int, int]:
    return x.shape[0], triton.cdiv(numbers, _BLOCK)


def _shared(x: torch.Tensor, bias: torch.Tensor | None, op: NormPool) -> dict[str, Any]:
    """Constants of all `norm_pool` kernels."""
    return {
        "BIASED": bias is not None,
        "C": x.shape[1],
        "PER_COLUMN": x.shape[1] // op.columns,
        "ALPHA": op.alpha,
        "BETA": op.beta,
        "K": op.k,
        "RECTIFY_BEFORE": op.relu_before,
        "RECTIFY_AFTER": op.relu_after,
        "POOL": op.pool,
        "STRIDE": op.stride,
        "EVERY": op.all_ties,
    }


def _biased(x: torch.Tensor, bias: torch.Tensor | None, op: NormPool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """x with its biases, where the kernel would read them again for every neighbor; else both as they are."""
    if bias is None or not op.normalizes or _as_product(x, op):
        return x, bias
    return x + bias.to(x.dtype)[:, None, None], None


def _by_number(op: NormPool) -> dict[str, Any]:
    """Constants of the kernels that add up neighbors one by one."""
    return {"SIZE": op.size, "NORMALIZE": op.normalizes, "BLOCK": _BLOCK}


def _as_product(x: torch.Tensor, op: NormPool) -> bool:
    """Whether matrix units, which take bfloat16, add up the neighbors."""
    return x.dtype == torch.bfloat16 and op.normalizes and x.shape[1] // op.columns <= _MOST_MAPS


def _padded(x: torch.Tensor, op: NormPool) -> int:
    """Maps of a tile: those of a column, up to a size that matrix units take."""
    return max(16, int(triton.next_power_of_2(x.shape[1] // op.columns)))


def _tile(x: torch.Tensor, op: NormPool, backward: bool) -> dict[str, Any]:
    """Maps and places of a tile, warps that share it, and in what its products take their factors."""
    padded = _padded(x, op)
    places, warps = _TILES[padded <= 64, backward]
    # The interpreter does not multiply bfloat16; the factors are rounded to it first, and so the products are the same.
    factors = tl.bfloat16 if x.is_cuda else tl.float32
    return {"PADDED": padded, "PLACES": places, "FACTORS": factors, "num_warps": warps}


_bands: dict[tuple[torch.device, int, int, int], torch.Tensor] = {}


def _band(x: torch.Tensor, op: NormPool) -> torch.Tensor:
    """Which maps of a column stand in whose window: bfloat16 (padded, padded), 1 at (j, i) where j is in that of i."""
    maps, padded = x.shape[1] // op.columns, _padded(x, op)
    key = (x.device, maps, padded, op.size)
    if key not in _bands:
        band = torch.zeros(padded, padded)
        band[:maps, :maps] = window_matrix(maps, op.size, 1).t()
        _bands[key] = band.to(x.device, torch.bfloat16)
    return _bands[key]


def _device_of(x: torch.Tensor) -> Any:
    """Kernels start on the current device, which need not be the tensor's."""
    return torch.cuda.device_of(x)
