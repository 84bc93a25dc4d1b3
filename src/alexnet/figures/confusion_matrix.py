"""Confusion matrices: which classes are taken for which."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from alexnet.figures.figure_style import COLORS, figure_style, shortened
from alexnet.system.number_text import percent_text

MOST_WRITTEN = 20
"""With more classes, percentages do not fit into the cells."""
_RIGHT, _WRONG = COLORS[:2]
_MOST_CHARACTERS = 24
# From this share of blue on, white is easier to read than the page's text color, in both color schemes.
_FULL_FROM = 0.85
_FAINTEST = 0.06


def confusion_figure(
    counts: npt.NDArray[np.integer],
    names: Sequence[str],
    *,
    num_images: Sequence[int] | None = None,
    others: npt.NDArray[np.integer] | None = None,
) -> Figure:
    """Draw a confusion matrix: a row for each true class, a column for each predicted class.

    The shade of a cell is its share of the images of its row: blue on the diagonal, where the prediction is right, and
    orange elsewhere, where the strongest confusion of all has full color. With 20 classes or fewer, the share is
    written into the cell in percent.

    Args:
        counts: images, (K, K) with K at least 1.
        names: of the classes.
        num_images: of each class, which may be more than its row shows; None is the sum of its row.
        others: (K,), images predicted as classes that are not shown: a last column.

    Raises:
        ValueError: shapes that do not fit.
    """
    num = len(names)
    if num == 0 or counts.shape != (num, num) or (others is not None and others.shape != (num,)):
        raise ValueError(f"counts have shape {counts.shape} for {num} names; allowed is (K, K) for K names, 1 or more")
    cells = counts if others is None else np.column_stack([counts, others])
    totals = np.maximum(1, cells.sum(axis=1) if num_images is None else np.asarray(num_images))
    shares = cells / totals[:, None]
    is_right = np.eye(num, cells.shape[1], dtype=bool)
    most_wrong = max(float(np.where(is_right, 0, shares).max()), 1e-9)
    side = max(0.2, min(0.46, 9 / cells.shape[1]))
    with figure_style():
        longest = max(len(shortened(one, _MOST_CHARACTERS)) for one in names)
        figure = Figure(
            figsize=(side * cells.shape[1] + 0.085 * longest + 1.3, side * num + 0.085 * longest + 1.1),
            layout="constrained",
        )
        axes = figure.add_subplot()
        patches, colors = [], []
        for row, column in zip(*np.nonzero(cells), strict=True):
            right = bool(is_right[row, column])
            share = float(shares[row, column])
            strength = max(_FAINTEST, min(1.0, share if right else share / most_wrong))
            patches.append(Rectangle((column - 0.5, row - 0.5), 1, 1))
            colors.append((_RIGHT if right else _WRONG, strength))
            if num <= MOST_WRITTEN:
                text = "<1" if share < 0.01 else f"{100 * share:.0f}"
                written = axes.text(column, row, text, ha="center", va="center", fontsize=9)
                if strength >= _FULL_FROM:
                    written.set_color("white" if right else "black")  # on dark pages too
        axes.add_collection(PatchCollection(patches, facecolors=colors, edgecolors="none"))
        axes.set_xlim(-0.5, cells.shape[1] - 0.5)
        axes.set_ylim(num - 0.5, -0.5)
        axes.set_aspect("equal")
        size = 10 if side > 0.3 else 7
        shown = [shortened(one, _MOST_CHARACTERS) for one in names]
        columns = [*shown, *([] if others is None else ["other classes"])]
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
        rows = [f"{one} ({total:,})" for one, total in zip(shown, totals.tolist(), strict=True)]
        axes.set_yticks(range(num), rows, fontsize=size)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class (images)")
        for edge in range(cells.shape[1] + 1):
            axes.axvline(edge - 0.5, linewidth=0.4, alpha=0.25, color=axes.xaxis.label.get_color())
        for edge in range(num + 1):
            axes.axhline(edge - 0.5, linewidth=0.4, alpha=0.25, color=axes.xaxis.label.get_color())
        figure.legend(
            handles=[
                Patch(color=_RIGHT, label="right, % of the true class"),
                Patch(color=_WRONG, label=f"confused (full color: {percent_text(most_wrong, 2)})"),
            ],
            loc="outside upper center",
            ncols=2 if side * cells.shape[1] > 3 else 1,
            fontsize=10,
        )
    return figure
