"""Images and their nearest neighbors as rows of pictures, as in figure 4 (right) of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from alexnet.figures.figure_style import COLORS, figure_style, fitted
from alexnet.system.visible_text import visible

SAME_CLASS_MARK, DUPLICATE_MARK = "✓", "="
_SAME_COLOR, _DUPLICATE_COLOR, _OTHER_COLOR = COLORS[2], COLORS[1], "#b8b8b8"
_CELL_IN, _GAP_IN, _CAPTION_IN, _LABEL_IN, _MARGIN_IN = 1.25, 0.12, 0.4, 0.42, 0.15
_TITLE_IN, _LEGEND_IN, _BLOCK_GAP_IN = 0.62, 0.4, 0.16


@dataclass(frozen=True)
class NeighborTile:
    """A picture with its caption."""

    image: npt.NDArray[np.uint8]
    """(H, W, 3), RGB."""
    name: str
    """Such as the class of the image; the first line of the caption."""
    note: str = ""
    """Such as its distance; the second line."""
    is_same_class: bool = False
    is_duplicate: bool = False


@dataclass(frozen=True)
class NeighborRows:
    """One query and its neighbors, by one or more measures."""

    query: NeighborTile
    rows: Sequence[tuple[str, str, Sequence[NeighborTile]]]
    """What each row is nearest by, such as `by features`, a detail of it, and its tiles, the nearest first."""


def neighbor_rows_figure(queries: Sequence[NeighborRows], *, title: str, note: str = "") -> Figure:
    """Draw each query at the left, and beside it a row of its nearest images for each measure.

    Images of the query's class and exact duplicates of it have a frame of their own color and line, and a mark in the
    caption, so that color alone carries no meaning.

    Args:
        queries: one or more; they may have any numbers of tiles.
        title: what is seen.
        note: smaller lines below the title, such as counts.
    """
    num_columns = max(len(tiles) for one in queries for _, _, tiles in one.rows)
    row_in = _CELL_IN + _CAPTION_IN
    num_rows = sum(len(one.rows) for one in queries)
    least = max(0.115 * len(title), *(0.075 * len(line) for line in note.split("\n")))  # of text in one line
    width = 2 * _MARGIN_IN + max(_CELL_IN + _LABEL_IN + num_columns * (_CELL_IN + _GAP_IN), least)
    title_in = _TITLE_IN + 0.16 * note.count("\n")
    height = title_in + num_rows * row_in + (len(queries) - 1) * _BLOCK_GAP_IN + _LEGEND_IN
    with figure_style():
        figure = Figure(figsize=(width, height))
        figure.text(_MARGIN_IN / width, 1 - 0.16 / height, visible(title), size=12, weight="bold", va="top")
        lines = [visible(one) for one in note.split("\n")]
        figure.text(_MARGIN_IN / width, 1 - 0.39 / height, "\n".join(lines), size=9, va="top")
        top = height - title_in
        for number, one in enumerate(queries):
            if number:
                top -= _BLOCK_GAP_IN
                line = top + _BLOCK_GAP_IN / 2 + 0.02
                ends = (_MARGIN_IN / width, 1 - _MARGIN_IN / width)
                figure.add_artist(_line(ends, line / height))
            _draw_tile(figure, one.query, _MARGIN_IN, top)
            for label, detail, tiles in one.rows:
                left = _MARGIN_IN + _CELL_IN + _LABEL_IN
                for text, x, size, color in ((label, left - 0.22, 9.5, None), (detail, left - 0.07, 7.5, "#555555")):
                    figure.text(
                        x / width, (top - _CELL_IN / 2) / height, visible(text),
                        size=size, color=color, rotation=90, ha="right", va="center",
                    )  # fmt: skip
                for column, tile in enumerate(tiles):
                    _draw_tile(figure, tile, left + column * (_CELL_IN + _GAP_IN), top)
                top -= row_in
        _draw_legend(figure, queries)
    return figure


def _line(x: tuple[float, float], y: float) -> Rectangle:
    return Rectangle((x[0], y), x[1] - x[0], 0, edgecolor="#d0d0d0", linewidth=0.8)


def _draw_tile(figure: Figure, tile: NeighborTile, left: float, top: float) -> None:
    """Draw a picture with its upper left corner at `left` and `top`, inches."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, (top - _CELL_IN) / height, _CELL_IN / width, _CELL_IN / height))
    axes.imshow(tile.image, interpolation="nearest" if len(tile.image) <= 64 else "antialiased", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    color, style, line = _frame(tile)
    for spine in axes.spines.values():
        spine.set(visible=True, color=color, linestyle=style, linewidth=line)
    mark = DUPLICATE_MARK if tile.is_duplicate else SAME_CLASS_MARK if tile.is_same_class else ""
    middle = (left + _CELL_IN / 2) / width
    weight = "bold" if mark else "normal"
    name = fitted(figure, f"{mark} {tile.name}".strip(), _CELL_IN, size=8, weight=weight)
    figure.text(middle, (top - _CELL_IN - 0.05) / height, name, size=8, ha="center", va="top", weight=weight)
    figure.text(
        middle, (top - _CELL_IN - 0.2) / height, visible(tile.note), size=7.5, ha="center", va="top", color="#555555"
    )


def _frame(tile: NeighborTile) -> tuple[str, str, float]:
    """Color, style and width of the line around a picture."""
    if tile.is_duplicate:
        return _DUPLICATE_COLOR, (0, (4, 2)), 2.6  # type: ignore[return-value]
    return (_SAME_COLOR, "-", 2.6) if tile.is_same_class else (_OTHER_COLOR, "-", 0.8)


def _draw_legend(figure: Figure, queries: Sequence[NeighborRows]) -> None:
    """Say what the frames that occur mean."""
    width, height = figure.get_size_inches()
    tiles = [tile for one in queries for _, _, row in one.rows for tile in row]
    x = _MARGIN_IN + _CELL_IN + _LABEL_IN
    for is_there, tile, text in (
        (any(one.is_same_class and not one.is_duplicate for one in tiles), _legend_tile(True, False),
         f"{SAME_CLASS_MARK} the query's class"),
        (any(one.is_duplicate for one in tiles), _legend_tile(False, True),
         f"{DUPLICATE_MARK} the same image as the query, byte for byte"),
    ):  # fmt: skip
        if is_there:
            color, style, line = _frame(tile)
            box = Rectangle(
                (x / width, 0.13 / height), 0.16 / width, 0.16 / height,
                fill=False, edgecolor=color, linestyle=style, linewidth=line * 0.8,
            )  # fmt: skip
            figure.add_artist(box)
            figure.text((x + 0.24) / width, 0.21 / height, text, size=8.5, va="center")
            x += 0.45 + 0.072 * len(text)


def _legend_tile(is_same_class: bool, is_duplicate: bool) -> NeighborTile:
    return NeighborTile(np.zeros((1, 1, 3), np.uint8), "", is_same_class=is_same_class, is_duplicate=is_duplicate)
