"""Response normalization, max-pooling and ReLU on CPUs, compiled by Numba: one pass over the rows of an image.

Axes: B images, C channels, H x W positions, H' x W' windows; a row of an image is W * C consecutive numbers. Values are
float32 in between. `alexnet.model.kernels.cpu` prepares the arguments, which are the same for all kernels:

    first, last: the kernel's images; the others belong to other threads.
    channels: C.
    window: a tuple as long as a window is wide: so its loops are unrolled when they are compiled.
    overlap: a tuple as long as the number of windows that contain a position, along an axis.
    all_ties: an empty tuple, or one entry if each of several equal maxima gets its gradient.
    size, columns, alpha, beta, k: of the normalization.
"""

import numpy as np

from alexnet.model.kernels.vector_memory import load, narrow, store, wide
from alexnet.system import numba_jit

# Multiply-add in one instruction is allowed, and nothing that would lose a NaN or an infinity.
_compiled = numba_jit.jit(error_model="numpy", fastmath={"contract", "nsz"})

_CHUNK = 512
"""About how many activations of a row are normalized at a time, so that they stay in the L1 cache."""


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
def _squares_of_five(values, i):
    # The sum of values[i : i + 5] ^ 2.
    return (
        (values[i] * values[i] + values[i + 1] * values[i + 1])
        + (values[i + 3] * values[i + 3] + values[i + 4] * values[i + 4])
        + values[i + 2] * values[i + 2]
    )


@_compiled
def _squares_of_nine(values, i):
    # The sum of values[i : i + 9] ^ 2, rounded as by `_squares`.
    total = values[i + 1] * values[i + 1] + values[i] * values[i]
    for near in range(2, 9):
        total += values[i + near] * values[i + near]
    return total


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
    # With the paper's exponent and a usual size, in one loop: the additions overlap the latency of the roots.
    if size == 5 and beta == np.float32(0.75):
        for i in range(count):
            root = np.float32(1) / np.sqrt(k + alpha * _squares_of_five(values, i))
            normalized[i] = middle[i] * (root * np.sqrt(root))
        return
    if size == 9 and beta == np.float32(0.75):
        for i in range(count):
            root = np.float32(1) / np.sqrt(k + alpha * _squares_of_nine(values, i))
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
    elif size == 9 and beta == np.float32(0.75):
        for i in range(count):
            root = np.float32(1) / np.sqrt(k + alpha * _squares_of_nine(values, i))
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
    elif size == 9:
        for i in range(count):
            scale, total = factor * middle[i], gradient[i]
            for near in range(9):
                total += scale * inner[i + near]
            gradient[i] = total
    else:
        for near in range(size):
            shifted = inner[near:]
            for i in range(count):
                gradient[i] += factor * middle[i] * shifted[i]


@_compiled
def _buffers(channels, size, columns):
    """Memory for `_normalize_row` and its inverse: three rows of blocks, one per column and position.

    Between the blocks are zeros, so every window of channels can be summed in full.
    """
    blocks = max(1, _CHUNK // channels) * columns
    return np.zeros((3, blocks * (channels // columns + size // 2) + size), np.float32)


@_compiled
def _normalize_row(row, relu_before, relu_after, channels, size, columns, alpha, beta, k, buffers, result):
    """ReLU, normalization, ReLU of a row of W * C activations."""
    per_column, reach = channels // columns, size // 2
    pitch, blocks, all_blocks = per_column + reach, max(1, _CHUNK // channels) * columns, len(row) // per_column
    values, normalized = buffers[0], buffers[1]
    for begin in range(0, all_blocks, blocks):
        here = min(blocks, all_blocks - begin)
        _read(row, begin * per_column, relu_before, per_column, pitch, here, values, reach)
        _normalize(values, size, alpha, beta, k, normalized, here * pitch)
        if relu_after:
            for i in range(here * pitch):
                normalized[i] = np.float32(0) if normalized[i] <= np.float32(0) else normalized[i]
        _write(normalized, values, reach, False, per_column, pitch, here, result, begin * per_column)


@_compiled
def _normalize_row_backward(gradient, row, relu_before, channels, size, columns, alpha, beta, k, buffers, of_row):
    """The gradient of a row of W * C activations from that of the normalized ones."""
    per_column, reach = channels // columns, size // 2
    pitch, blocks, all_blocks = per_column + reach, max(1, _CHUNK // channels) * columns, len(row) // per_column
    values, inner, scaled = buffers[0], buffers[1], buffers[2]
    for begin in range(0, all_blocks, blocks):
        here, start = min(blocks, all_blocks - begin), begin * per_column
        _read(row, start, relu_before, per_column, pitch, here, values, reach)
        _read(gradient, start, False, per_column, pitch, here, scaled, 0)
        _normalize_backward(values, size, alpha, beta, k, per_column, pitch, here, inner, scaled)
        _write(scaled, values, reach, relu_before, per_column, pitch, here, of_row, start)


@_compiled
def _mask(gradient, result, relu, of_result):
    """The gradient of a row before ReLU from that after it, as float32."""
    for i in range(np.uintp(len(gradient))):
        value, passes = load(gradient, i), not relu or load(result, i) > np.float32(0)
        of_result[i] = value if passes else np.float32(0)


@_compiled
def _pool_row(
    rows,
    held,
    height,
    width,
    channels,
    top,
    window,
    stride,
    all_ties,
    relu_before,
    relu_after,
    offsets,
    result,
    winners,
):
    """Pool one row of windows.

    Args:
        rows: row r of the image (H, W * C) is row r % held of these, one after the other.
        top: first row of the windows.
        offsets: memory for 2 * len(window) entries.
        result: (W' * C).
        winners: (W' * C).
    """
    side = len(window)
    # Comparisons with a constant, because a condition would keep the loop from being vectorized. NaN stays.
    least_before = np.float32(0) if relu_before else np.float32(-np.inf)
    least_after = np.float32(0) if relu_after else np.float32(-np.inf)
    # Positions beyond the edge are replaced by the last ones before it, which come first: so they never win.
    for row in range(side):
        offsets[row] = min(top + row, height - 1) % held * (width * channels)
    for place in range(len(result) // channels):
        for column in range(side):
            offsets[side + column] = min(place * stride + column, width - 1) * channels
        # Those are no ties either.
        inside = np.int32(0)
        for row in range(min(side, height - top)):
            for column in range(min(side, width - place * stride)):
                inside |= np.int32(1 << (row * side + column))
        target = np.uintp(place * channels)
        for i in range(np.uintp(channels)):
            best = load(rows, load(offsets, np.uintp(0)) + load(offsets, np.uintp(side)) + i)
            best = least_before if best < least_before else best
            winner = np.int32(0)
            for row in range(side):
                for column in range(side):
                    start = load(offsets, np.uintp(row)) + load(offsets, np.uintp(side + column))
                    value = load(rows, start + i)
                    value = least_before if value < least_before else value
                    # The first of equal maxima; NaN counts as the largest.
                    better = (value > best) | ((value != value) & (best == best))
                    best = value if better else best
                    winner = np.int32(row * side + column) if better else winner
            if len(all_ties) > 0:
                winner = np.int32(0)
                for row in range(side):
                    for column in range(side):
                        start = load(offsets, np.uintp(row)) + load(offsets, np.uintp(side + column))
                        value = load(rows, start + i)
                        value = least_before if value < least_before else value
                        winner |= np.int32(1 << (row * side + column)) if value == best else np.int32(0)
                winner &= inside
            store(result, target + i, least_after if best < least_after else best)
            store(winners, target + i, winner)


@_compiled
def _unpool_row(gradients, winners, row, windows, channels, window, overlap, stride, all_ties, memory, of_row):
    """The gradient of one row of W * C activations before pooling.

    Args:
        gradients: of the windows, float32: row r (W' * C) is row r % len(overlap) of these, one after the other.
        winners: (H', W' * C) of the image.
        row: number.
        windows: W'.
        memory: (3, len(overlap)^2).
        of_row: overwritten.
    """
    side, reach, length = len(window), len(overlap), windows * channels
    of_winners, of_gradients, wanted = memory[0], memory[1], memory[2]
    flat, last_down = winners.reshape(-1), row // stride
    right, phase = 0, 0  # of the last window that begins at or before the position; the position in it
    for position in range(len(of_row) // channels):
        # The windows that contain the position, and the winner for which each gives it a gradient: none where there is
        # no such window.
        for near in range(reach):
            down = last_down - (reach - 1) + near
            line = row - down * stride
            has_row = 0 <= down < len(winners) and line < side
            for beside in range(reach):
                place, across = right - beside, phase + beside * stride
                there = has_row and 0 <= place < windows and across < side
                number, mark = near * reach + beside, line * side + across
                of_winners[number] = down * length + place * channels if there else 0
                of_gradients[number] = down % reach * length + place * channels if there else 0
                if len(all_ties) > 0:
                    wanted[number] = 1 << mark if there else 0
                else:
                    wanted[number] = mark if there else -1
        phase += 1
        if phase == stride:
            right, phase = right + 1, 0
        target = np.uintp(position * channels)
        for i in range(np.uintp(channels)):
            total = np.float32(0)
            for number in range(reach * reach):
                n = np.uintp(number)
                winner = np.int32(load(flat, np.uintp(load(of_winners, n)) + i))
                gradient = load(gradients, np.uintp(load(of_gradients, n)) + i)
                mark = np.int32(load(wanted, n))
                won = winner & mark != 0 if len(all_ties) > 0 else winner == mark
                total += gradient if won else np.float32(0)
            store(of_row, target + i, total)


@_compiled
def rectify(x, result, first, last, relu):
    """ReLU, or nothing without `relu`: x -> result, both (B, H, W * C)."""
    for image in range(first, last):
        for row in range(x.shape[1]):
            before, after = x[image, row], result[image, row]
            for i in range(np.uintp(len(before))):
                value = load(before, i)
                store(after, i, np.float32(0) if relu and value <= np.float32(0) else value)


@_compiled
def rectify_backward(gradient, result, of_x, first, last, relu):
    """All (B, H, W * C)."""
    for image in range(first, last):
        for row in range(result.shape[1]):
            above, after, end = gradient[image, row], result[image, row], of_x[image, row]
            for i in range(np.uintp(len(above))):
                value, passes = load(above, i), not relu or load(after, i) > np.float32(0)
                store(end, i, value if passes else np.float32(0))


@_compiled
def normalize(x, result, first, last, channels, relu_before, relu_after, size, columns, alpha, beta, k):
    """ReLU, normalization, ReLU: x -> result, both (B, H, W * C)."""
    buffers = _buffers(channels, size, columns)
    for image in range(first, last):
        for row in range(x.shape[1]):
            _normalize_row(
                x[image, row],
                relu_before,
                relu_after,
                channels,
                size,
                columns,
                alpha,
                beta,
                k,
                buffers,
                result[image, row],
            )


@_compiled
def normalize_backward(
    gradient, result, of_x, x, first, last, channels, relu_before, relu_after, size, columns, alpha, beta, k
):
    """All (B, H, W * C)."""
    buffers, masked = _buffers(channels, size, columns), np.empty(x.shape[2], np.float32)
    for image in range(first, last):
        for row in range(x.shape[1]):
            _mask(gradient[image, row], result[image, row], relu_after, masked)
            _normalize_row_backward(
                masked, x[image, row], relu_before, channels, size, columns, alpha, beta, k, buffers, of_x[image, row]
            )


@_compiled
def pool(x, result, winners, first, last, channels, window, stride, all_ties, relu_before, relu_after):
    """ReLU, max-pooling, ReLU: x (B, H, W * C) -> result and winners (B, H', W' * C)."""
    height, width = x.shape[1], x.shape[2] // channels
    offsets = np.empty(2 * len(window), np.uintp)
    for image in range(first, last):
        rows = x[image].reshape(-1)
        for pooled in range(result.shape[1]):
            _pool_row(
                rows,
                height,
                height,
                width,
                channels,
                pooled * stride,
                window,
                stride,
                all_ties,
                relu_before,
                relu_after,
                offsets,
                result[image, pooled],
                winners[image, pooled],
            )


@_compiled
def pool_backward(gradient, result, of_x, winners, first, last, channels, window, overlap, stride, all_ties, relu):
    """gradient, result and winners (B, H', W' * C) -> of_x (B, H, W * C); `relu` before or after pooling."""
    length = result.shape[2]
    of_windows = np.empty((len(overlap), length), np.float32)
    memory = np.empty((3, len(overlap) * len(overlap)), np.int64)
    for image in range(first, last):
        pooled = 0
        for row in range(of_x.shape[1]):
            while pooled < result.shape[1] and pooled * stride <= row:
                _mask(gradient[image, pooled], result[image, pooled], relu, of_windows[pooled % len(overlap)])
                pooled += 1
            _unpool_row(
                of_windows.reshape(-1),
                winners[image],
                row,
                length // channels,
                channels,
                window,
                overlap,
                stride,
                all_ties,
                memory,
                of_x[image, row],
            )


@_compiled
def normalize_pool(
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
    """ReLU, normalization, max-pooling, ReLU: x (B, H, W * C) -> result and winners (B, H', W' * C)."""
    side, height, length = len(window), x.shape[1], x.shape[2]
    latest = np.empty((side, length), np.float32)  # normalized rows
    offsets, buffers = np.empty(2 * side, np.uintp), _buffers(channels, size, columns)
    for image in range(first, last):
        row = 0
        for pooled in range(result.shape[1]):
            while row < min(pooled * stride + side, height):
                _normalize_row(
                    x[image, row],
                    relu_before,
                    False,
                    channels,
                    size,
                    columns,
                    alpha,
                    beta,
                    k,
                    buffers,
                    latest[row % side],
                )
                row += 1
            _pool_row(
                latest.reshape(-1),
                side,
                height,
                length // channels,
                channels,
                pooled * stride,
                window,
                stride,
                all_ties,
                False,
                relu_after,
                offsets,
                result[image, pooled],
                winners[image, pooled],
            )


@_compiled
def normalize_pool_backward(
    gradient,
    result,
    of_x,
    x,
    winners,
    first,
    last,
    channels,
    window,
    overlap,
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
    """gradient, result and winners (B, H', W' * C), x (B, H, W * C) -> of_x (B, H, W * C)."""
    length = result.shape[2]
    of_windows, of_row = np.empty((len(overlap), length), np.float32), np.empty(x.shape[2], np.float32)
    memory, buffers = np.empty((3, len(overlap) * len(overlap)), np.int64), _buffers(channels, size, columns)
    for image in range(first, last):
        pooled = 0
        for row in range(x.shape[1]):
            while pooled < result.shape[1] and pooled * stride <= row:
                _mask(gradient[image, pooled], result[image, pooled], relu_after, of_windows[pooled % len(overlap)])
                pooled += 1
            _unpool_row(
                of_windows.reshape(-1),
                winners[image],
                row,
                length // channels,
                channels,
                window,
                overlap,
                stride,
                all_ties,
                memory,
                of_row,
            )
            _normalize_row_backward(
                of_row, x[image, row], relu_before, channels, size, columns, alpha, beta, k, buffers, of_x[image, row]
            )


@_compiled
def pool_normalize(
    x,
    result,
    winners,
    pooled,
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
    """ReLU, max-pooling, ReLU into `pooled` and its winners, normalization of it: all (B, H', W' * C) but x."""
    height, width = x.shape[1], x.shape[2] // channels
    offsets, buffers = np.empty(2 * len(window), np.uintp), _buffers(channels, size, columns)
    for image in range(first, last):
        rows = x[image].reshape(-1)
        for row in range(result.shape[1]):
            _pool_row(
                rows,
                height,
                height,
                width,
                channels,
                row * stride,
                window,
                stride,
                all_ties,
                relu_before,
                relu_after,
                offsets,
                pooled[image, row],
                winners[image, row],
            )
            _normalize_row(
                pooled[image, row],
                False,
                False,
                channels,
                size,
                columns,
                alpha,
                beta,
                k,
                buffers,
                result[image, row],
            )


@_compiled
def pool_normalize_backward(
    gradient,
    pooled,
    winners,
    of_x,
    first,
    last,
    channels,
    window,
    overlap,
    stride,
    all_ties,
    relu,
    size,
    columns,
    alpha,
    beta,
    k,
):
    """gradient, pooled and winners (B, H', W' * C) -> of_x (B, H, W * C); `relu` before or after pooling."""
    length = pooled.shape[2]
    of_windows = np.empty((len(overlap), length), np.float32)
    memory, buffers = np.empty((3, len(overlap) * len(overlap)), np.int64), _buffers(channels, size, columns)
    for image in range(first, last):
        done = 0
        for row in range(of_x.shape[1]):
            while done < pooled.shape[1] and done * stride <= row:
                _normalize_row_backward(
                    gradient[image, done],
                    pooled[image, done],
                    relu,
                    channels,
                    size,
                    columns,
                    alpha,
                    beta,
                    k,
                    buffers,
                    of_windows[done % len(overlap)],
                )
                done += 1
            _unpool_row(
                of_windows.reshape(-1),
                winners[image],
                row,
                length // channels,
                channels,
                window,
                overlap,
                stride,
                all_ties,
                memory,
                of_x[image, row],
            )
