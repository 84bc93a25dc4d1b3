"""Normalizing and pooling as float64 loops, written from the formulas: the kernels are compared with them."""

import numpy as np

from alexnet.model.kernels.norm_pool import NormPool, PoolNorm
from alexnet.model.layer_specs import pooled_side


def window(op: NormPool, channels: int, i: int) -> range:
    """The channels in the window of channel i."""
    per_column = channels // op.columns
    first = i // per_column * per_column
    return range(max(first, i - op.size // 2), min(first + per_column - 1, i + (op.size - 1) // 2) + 1)


def denominators(x: np.ndarray, op: NormPool) -> np.ndarray:
    total = [sum(x[:, j] ** 2 for j in window(op, x.shape[1], i)) for i in range(x.shape[1])]
    return op.k + op.alpha * np.stack(total, axis=1)


def normalized(x: np.ndarray, op: NormPool) -> np.ndarray:
    """The input of the pooling, (B, C, H, W)."""
    x = np.where(x <= 0, 0, x) if op.relu_before else x
    return x * denominators(x, op) ** -op.beta if op.normalizes else x


def windows(x: np.ndarray, op: NormPool) -> list[tuple[int, int, np.ndarray]]:
    """Row, column and activations (B, C, up to pool, up to pool) of each window over x (B, C, H, W)."""
    rows, columns = (pooled_side(side, op.pool, op.stride) for side in x.shape[2:])
    return [
        (r, c, x[:, :, r * op.stride :, c * op.stride :][:, :, : op.pool, : op.pool])
        for r in range(rows)
        for c in range(columns)
    ]


def forward(x: np.ndarray, op: NormPool) -> np.ndarray:
    activations = normalized(x, op)
    if op.pools:
        result = np.empty((*x.shape[:2], *(pooled_side(side, op.pool, op.stride) for side in x.shape[2:])))
        for r, c, positions in windows(activations, op):
            result[:, :, r, c] = positions.max((2, 3))
    else:
        result = activations
    return np.where(result <= 0, 0, result) if op.relu_after else result


def backward(
    gradient: np.ndarray, x: np.ndarray, result: np.ndarray, winners: np.ndarray, op: NormPool
) -> tuple[np.ndarray, float]:
    """The gradient of x, and the norm of the terms whose difference it is."""
    gradient = gradient * (result > 0) if op.relu_after else gradient
    g = gradient
    if op.pools:
        g = np.zeros_like(x)
        for r, c, positions in windows(g, op):  # which are views into g
            for row in range(positions.shape[2]):
                for column in range(positions.shape[3]):
                    position, won = row * op.pool + column, winners[:, :, r, c].astype(int)
                    chosen = won >> position & 1 if op.all_ties else won == position
                    positions[:, :, row, column] += chosen * gradient[:, :, r, c]
    a = np.where(x <= 0, 0, x) if op.relu_before else x
    if op.normalizes:
        d = denominators(a, op)
        crossed = np.zeros_like(a)
        for i in range(x.shape[1]):
            for j in window(op, x.shape[1], i):
                crossed[:, j] += g[:, i] * a[:, i] * d[:, i] ** (-op.beta - 1)
        direct, crossed = g * d**-op.beta, 2 * op.alpha * op.beta * a * crossed
        terms = float(np.linalg.norm(np.stack([direct, crossed])))
        g = direct - crossed
    else:
        terms = float(np.linalg.norm(g))
    return g * (x > 0) if op.relu_before else g, terms


def winners_of(x: np.ndarray, op: NormPool) -> np.ndarray:
    """The winners of each window, encoded as the kernels encode them."""
    activations = normalized(x, op)
    noted = np.zeros(forward(x, op).shape, np.int64)
    for r, c, positions in windows(activations, op):
        for b, m in np.ndindex(*x.shape[:2]):
            rows, columns = np.nonzero(positions[b, m] == positions[b, m].max())
            marks = rows * op.pool + columns
            noted[b, m, r, c] = sum(1 << mark for mark in marks) if op.all_ties else marks[0]
    return noted


def require_largest(winners: np.ndarray, x: np.ndarray, op: NormPool, within: float) -> None:
    """Check that the winners that a kernel stored are equal to the maximum, within this relative error."""
    if not op.pools:
        return
    exact = winners_of(x, op)
    for r, c, positions in windows(normalized(x, op), op):
        for b, m in np.argwhere(winners[:, :, r, c] != exact[:, :, r, c]):
            mark, largest = int(winners[b, m, r, c]), positions[b, m].max()
            chosen = [p for p in range(op.pool**2) if mark >> p & 1] if op.all_ties else [mark]
            assert chosen
            for position in chosen:
                assert abs(positions[b, m][divmod(position, op.pool)] - largest) <= within * abs(largest)


def pool_norm_forward(x: np.ndarray, op: PoolNorm) -> np.ndarray:
    return forward(forward(x, op.pool), op.norm)


def pool_norm_backward(
    gradient: np.ndarray, x: np.ndarray, winners: np.ndarray, op: PoolNorm
) -> tuple[np.ndarray, float]:
    """The gradient of x, and the norm of the terms whose difference it is."""
    pooled = forward(x, op.pool)
    of_pooled, terms = backward(gradient, pooled, forward(pooled, op.norm), winners, op.norm)
    of_x, _ = backward(of_pooled, x, pooled, winners, op.pool)
    return of_x, terms
