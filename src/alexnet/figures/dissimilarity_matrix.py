"""A matrix of dissimilarities as a picture, its images in the order of their classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet.figures.figure_style import figure_style, shortened
from alexnet.system.visible_text import visible

MOST_CELLS = 700
"""Rows of the picture; of more images, neighbors are averaged."""
MOST_NAMES = 30
_MOST_CHARACTERS = 24


def dissimilarity_matrix_figure(
    matrix: NDArray[np.floating[Any]],
    scale: str,
    labels: NDArray[np.integer[Any]] | None = None,
    classes: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """The matrix, dark where two images are alike; the diagonal, an image and itself, is left out.

    Args:
        matrix: (N, N), symmetric.
        scale: what its numbers are.
        labels: (N,), by which the images are ordered; None keeps their order.
        classes: names by label; up to 30 different ones are written along the matrix.
        title: above the picture.
    """
    num = len(matrix)
    order = np.arange(num) if labels is None else np.argsort(labels, kind="stable")
    shown = np.array(matrix, np.float64)
    np.fill_diagonal(shown, np.nan)
    shown = _averaged(shown[np.ix_(order, order)])
    with figure_style():
        figure = Figure(figsize=(7.2, 6.2), layout="constrained")
        axes = figure.add_subplot()
        low, high = np.nanpercentile(shown, [1, 99]) if num > 2 else (None, None)
        image = axes.imshow(
            shown, cmap="viridis", vmin=low, vmax=high, extent=(0, num, num, 0), interpolation="nearest"
        )
        bar = figure.colorbar(image, ax=axes, shrink=0.8, extend="neither" if num <= 2 else "both")
        bar.set_label(scale)
        bar.outline.set_visible(False)
        axes.set_title(visible(title) or "Dissimilarity of each pair of images")
        used = [] if labels is None else np.unique(labels).tolist()
        if labels is not None and 0 < len(used) <= MOST_NAMES and classes:
            ordered = labels[order]
            begins = [int(np.searchsorted(ordered, one)) for one in used]
            middles = [(a + b) / 2 for a, b in zip(begins, [*begins[1:], num], strict=True)]
            names = [shortened(classes[one], _MOST_CHARACTERS) if one >= 0 else "no class" for one in used]
            axes.set_yticks(middles, names)
            axes.set_xticks(middles, names, rotation=45, ha="right", rotation_mode="anchor")
            axes.tick_params(length=0, labelsize=9)
            for begin in begins[1:]:
                axes.axhline(begin, color="white", linewidth=0.6)
                axes.axvline(begin, color="white", linewidth=0.6)
        order_text = "in the order of their classes" if labels is not None else "in the order of the data"
        axes.set_xlabel(f"{num:,} images, {order_text}")
        axes.spines[:].set_visible(False)
    return figure


def _averaged(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The means of blocks of rows and columns, so that at most `MOST_CELLS` rows are left."""
    num = len(matrix)
    if num <= MOST_CELLS:
        return matrix
    edges = np.linspace(0, num, MOST_CELLS + 1).astype(int)[:-1]
    is_known = np.isfinite(matrix)
    sums, counts = np.where(is_known, matrix, 0), is_known.astype(np.float64)
    for axis in (0, 1):
        sums, counts = np.add.reduceat(sums, edges, axis=axis), np.add.reduceat(counts, edges, axis=axis)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
