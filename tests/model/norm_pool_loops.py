"""Normalizing and pooling as float64 loops, written from the formulas: what the kernels are held against."""

import numpy as np

from alexnet.model.kernels.norm_pool import NormPool
from alexnet.model.layer_specs import pooled_side


def window(form: NormPool, maps: int, i: int) -> range:
    """The maps in the window of map i."""
    per_column = maps // form.columns
    first = i // per_column * per_column
    return range(max(first, i - form.size // 2), min(first + per_column - 1, i + (form.size - 1) // 2) + 1)


def denominators(x: np.ndarray, form: NormPool) -> np.ndarray:
    total = [sum(x[:, j] ** 2 for j in window(form, x.shape[1], i)) for i in range(x.shape[1])]
    return form.k + form.alpha * np.stack(total, axis=1)


def normalized(x: np.ndarray, form: NormPool) -> np.ndarray:
    """What stands before the pooling, (B, C, H, W)."""
    x = np.where(x <= 0, 0, x) if form.relu_before else x
    return x * denominators(x, form) ** -form.beta if form.normalizes else x


def windows(x: np.ndarray, form: NormPool) -> list[tuple[int, int, np.ndarray]]:
    """Row, column and activations (B, C, up to pool, up to pool) of each window over x (B, C, H, W)."""
    rows, columns = (pooled_side(side, form.pool, form.stride) for side in x.shape[2:])
    return [
        (r, c, x[:, :, r * form.stride :, c * form.stride :][:, :, : form.pool, : form.pool])
        for r in range(rows)
        for c in range(columns)
    ]


def forward(x: np.ndarray, form: NormPool) -> np.ndarray:
    activations = normalized(x, form)
    if form.pools:
        result = np.empty((*x.shape[:2], *(pooled_side(side, form.pool, form.stride) for side in x.shape[2:])))
        for r, c, places in windows(activations, form):
            result[:, :, r, c] = places.max((2, 3))
    else:
        result = activations
    return np.where(result <= 0, 0, result) if form.relu_after else result


def backward(
    gradient: np.ndarray, x: np.ndarray, result: np.ndarray, winners: np.ndarray, form: NormPool
) -> tuple[np.ndarray, float]:
    """The gradient of x, and the norm of the terms whose difference it is."""
    gradient = gradient * (result > 0) if form.relu_after else gradient
    g = gradient
    if form.pools:
        g = np.zeros_like(x)
        for r, c, places in windows(g, form):  # which are views into g
            for row in range(places.shape[2]):
                for column in range(places.shape[3]):
                    place, won = row * form.pool + column, winners[:, :, r, c].astype(int)
                    chosen = won >> place & 1 if form.all_ties else won == place
                    places[:, :, row, column] += chosen * gradient[:, :, r, c]
    a = np.where(x <= 0, 0, x) if form.relu_before else x
    if form.normalizes:
        d = denominators(a, form)
        crossed = np.zeros_like(a)
        for i in range(x.shape[1]):
            for j in window(form, x.shape[1], i):
                crossed[:, j] += g[:, i] * a[:, i] * d[:, i] ** (-form.beta - 1)
        direct, crossed = g * d**-form.beta, 2 * form.alpha * form.beta * a * crossed
        terms = float(np.linalg.norm(np.stack([direct, crossed])))
        g = direct - crossed
    else:
        terms = float(np.linalg.norm(g))
    return g * (x > 0) if form.relu_before else g, terms


def winners_of(x: np.ndarray, form: NormPool) -> np.ndarray:
    """The winners of each window, noted as the kernels do."""
    activations = normalized(x, form)
    noted = np.zeros(forward(x, form).shape, np.int64)
    for r, c, places in windows(activations, form):
        for b, m in np.ndindex(*x.shape[:2]):
            rows, columns = np.nonzero(places[b, m] == places[b, m].max())
            marks = rows * form.pool + columns
            noted[b, m, r, c] = sum(1 << mark for mark in marks) if form.all_ties else marks[0]
    return noted


def require_largest(winners: np.ndarray, x: np.ndarray, form: NormPool, within: float) -> None:
    """See that the winners that a kernel noted are as large as the largest, to so much of its size."""
    if not form.pools:
        return
    exact = winners_of(x, form)
    for r, c, places in windows(normalized(x, form), form):
        for b, m in np.argwhere(winners[:, :, r, c] != exact[:, :, r, c]):
            mark, largest = int(winners[b, m, r, c]), places[b, m].max()
            chosen = [p for p in range(form.pool**2) if mark >> p & 1] if form.all_ties else [mark]
            assert chosen
            for place in chosen:
                assert abs(places[b, m][divmod(place, form.pool)] - largest) <= within * abs(largest)
