"""The first layer's filters as a picture: a block for each column, as in figure 3 of the paper, with their colors."""

import math

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from alexnet.figures.figure_style import COLORS, figure_style

_WIDTH_IN, _LEFT_IN, _RIGHT_IN = 10.0, 0.5, 0.25
_COUNTS_IN, _COUNTS_GAP_IN = 2.6, 0.75
_LEAST_BLOCK_IN, _MOST_FILTER_IN = 1.4, 1.0
_TITLE_IN, _HEADING_IN, _AXIS_IN, _LINE_IN = 0.4, 0.38, 0.75, 0.23
_ASPECT, _MOST_PER_ROW = 5.0, 16
"""Filters per row, about this many times the rows."""
_FILTER_PX = 88
"""Side of a drawn filter, about: programs that show SVG and PDF blur small pictures."""
_NUM_BINS = 10
_TRACK = "#80808055"
_BARS = "bar below a filter: how much color it has, from 0 to 1"


def filter_columns_figure(
    filters: npt.NDArray[np.floating],
    columns: int,
    *,
    colors: npt.NDArray[np.float64] | None = None,
    random_color: float | None = None,
    title: str = "",
    note: str = "",
) -> Figure:
    """Draw the filters of each column as a block, one above the other, in the order of the network's channels.

    All filters share one scale, so that strong filters look stronger than weak ones: a weight of 0 is drawn as middle
    gray, the largest weight of all, positive or negative, as the most or the least light of its color.

    Args:
        filters: (F, 3, h, w), RGB, finite; those of the first column come first.
        columns: blocks, of equally many filters.
        colors: (F,), 0..1 or NaN: how much color each filter has, drawn as a bar below it and counted beside its block.
        random_color: mean of `colors` for random filters, marked beside the blocks.
        title: a line above the blocks.
        note: lines below them, such as the result of a test.

    Raises:
        ValueError: another shape, no filters, values that are not finite, or filters that do not divide into columns.
    """
    if filters.ndim != 4 or filters.shape[1] != 3 or filters.size == 0 or columns < 1 or len(filters) % columns:
        raise ValueError(f"filters have shape {filters.shape}; allowed is (F, 3, h, w) with F a multiple of {columns}")
    if not np.isfinite(filters).all():
        raise ValueError("filters hold values that are not finite and cannot be drawn")
    values = filters.astype(np.float64)
    pixels = np.rint(127.5 + 127.5 * values / (np.abs(values).max() or 1)).astype(np.uint8).transpose(0, 2, 3, 1)
    size = len(filters) // columns
    grids = [_Grid(one, has_bars=colors is not None) for one in np.split(pixels, columns)]
    grid_in = _WIDTH_IN - _LEFT_IN - _RIGHT_IN - (_COUNTS_GAP_IN + _COUNTS_IN if colors is not None else 0)
    drawn_in = min(grid_in, _MOST_FILTER_IN * grids[0].per_row)
    block_in = max(_LEAST_BLOCK_IN, drawn_in * grids[0].height / grids[0].width)
    lines = [] if not note else note.split("\n")
    above_in = _TITLE_IN if title else 0.0
    below_in = (_AXIS_IN if colors is not None else 0.1) + (len(lines) * _LINE_IN + 0.1 if lines else 0)
    height_in = above_in + columns * (_HEADING_IN + block_in) + below_in
    with figure_style():
        figure = Figure(figsize=(_WIDTH_IN, height_in))

        def place(left_in: float, width_in: float, column: int) -> Axes:
            bottom_in = height_in - above_in - (column + 1) * (_HEADING_IN + block_in)
            return figure.add_axes(
                (left_in / _WIDTH_IN, bottom_in / height_in, width_in / _WIDTH_IN, block_in / height_in)
            )

        counts = []
        for column, grid in enumerate(grids):
            first, color = column * size, COLORS[column % len(COLORS)]
            axes = place(_LEFT_IN, grid_in, column)
            grid.draw(axes, first)
            heading = f"filter {first}" if size == 1 else f"filters {first} to {first + size - 1}"
            axes.set_title(heading if columns == 1 else f"column {column + 1}: {heading}", loc="left", fontsize=11)
            if colors is not None:
                of_column = colors[first : first + size]
                grid.draw_bars(axes, of_column, color)
                counts.append(place(_WIDTH_IN - _RIGHT_IN - _COUNTS_IN, _COUNTS_IN, column))
                _draw_counts(counts[-1], of_column, random_color, color)
        if counts:
            highest = max(axes.get_ylim()[1] for axes in counts)
            for axes in counts:
                axes.set_ylim(0, highest)
                axes.tick_params(labelbottom=axes is counts[-1])
            dotted = "" if random_color is None else f"\ndotted: random weights, {random_color:.2f}"
            counts[-1].set_xlabel(f"color: 0 is gray, 1 has no gray{dotted}", fontsize=10)
            text_in = below_in - 0.12
            figure.text(_LEFT_IN / _WIDTH_IN, text_in / height_in, _BARS, fontsize=10, va="top")
        left = _LEFT_IN / _WIDTH_IN
        figure.text(left, 1 - 0.12 / height_in, title, fontsize=13, weight="bold", va="top")
        figure.text(left, 0.1 / height_in, "\n".join(lines), fontsize=10, va="bottom")
    return figure


class _Grid:
    """The filters of a block as one picture, with room below each for a bar; lengths are pixels of the picture."""

    def __init__(self, filters: npt.NDArray[np.uint8], *, has_bars: bool) -> None:
        num, rows, columns = filters.shape[:3]
        self._num, self.per_row = num, _filters_per_row(num)
        scale = max(1, round(_FILTER_PX / max(rows, columns)))
        self._side = (rows * scale, columns * scale)
        gap = _FILTER_PX // 11
        self._step = (self._side[0] + (3 * gap if has_bars else gap), self._side[1] + gap)
        num_rows = -(-num // self.per_row)
        # Transparent where there are no filters: pages are light or dark.
        self._picture = np.zeros((num_rows * self._step[0], self.per_row * self._step[1], 4), np.uint8)
        for number, one in enumerate(filters):
            top, left = self._corner(number)
            cell = self._picture[top : top + self._side[0], left : left + self._side[1]]
            cell[..., :3] = one.repeat(scale, axis=0).repeat(scale, axis=1)
            cell[..., 3] = 255
        self.height, self.width = self._picture.shape[:2]

    def _corner(self, number: int) -> tuple[int, int]:
        return number // self.per_row * self._step[0], number % self.per_row * self._step[1]

    def draw(self, axes: Axes, first: int) -> None:
        """Draw the picture, and beside each row the number of its first filter; `first` is that of the block."""
        axes.imshow(self._picture, interpolation="none", extent=(0, self.width, self.height, 0), aspect="equal")
        axes.set_anchor("NW")
        axes.set_xticks([])
        starts = range(0, self._num, self.per_row)
        axes.set_yticks(
            [self._corner(one)[0] + self._side[0] / 2 for one in starts], [str(first + one) for one in starts]
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    def draw_bars(self, axes: Axes, fractions: npt.NDArray[np.float64], color: str) -> None:
        """A bar below each filter, as long as its fraction of the filter's side; none for NaN."""
        height = self._step[0] - self._side[0]
        for number, fraction in enumerate(fractions):
            top, left = self._corner(number)
            for length, paint in ((1.0, _TRACK), (fraction, color)):
                if not math.isnan(length):
                    corner = (left, top + self._side[0] + 0.22 * height)
                    axes.add_patch(Rectangle(corner, length * self._side[1], 0.28 * height, color=paint, linewidth=0))


def _filters_per_row(num: int) -> int:
    """For a block that is wide and has few empty places: 16 for the 48 filters of a column of the paper."""

    def cost(per_row: int) -> float:
        rows = -(-num // per_row)
        return abs(math.log(per_row / rows / _ASPECT)) + 6 * (rows * per_row - num) / num

    return min(range(1, min(num, _MOST_PER_ROW) + 1), key=cost)


def _draw_counts(axes: Axes, colors: npt.NDArray[np.float64], random_color: float | None, color: str) -> None:
    """A histogram of the colors of a column's filters, with their mean."""
    known = colors[~np.isnan(colors)]
    axes.hist(known, bins=_NUM_BINS, range=(0, 1), color=color, alpha=0.75, rwidth=0.9)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(1, axes.get_ylim()[1]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.set_ylabel("filters")
    if len(known):
        axes.set_title(f"mean {known.mean():.2f}", loc="right", fontsize=11)
        axes.axvline(known.mean(), color=color, linewidth=2)
    if random_color is not None:
        axes.axvline(random_color, color="gray", linewidth=1.2, linestyle=":")
