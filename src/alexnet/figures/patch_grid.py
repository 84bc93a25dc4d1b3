"""Image patches of many channels as a picture: nine of each, three by three."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import PIL.Image
from matplotlib.figure import Figure

from alexnet.figures.figure_style import figure_style, shortened

_WIDTH_IN, _MARGIN_IN = 12.0, 0.25
_PER_ROW, _FEW, _PER_SIDE = 6, 3, 3
_HEADING_IN, _NOTE_IN, _GAP_IN = 0.3, 0.42, 0.12
_TITLE_IN, _FOOTER_IN = 1.05, 0.3
_CELL_PX, _GAP_PX = 96, 4
_STRIPE_PX = 6
_STRIPES = (205, 235)
"""Grays of the stripes where there is no image."""
_MOST_CHARACTERS = 26


@dataclass(frozen=True)
class ChannelPatches:
    """The patches of a channel, the most important first."""

    heading: str
    """Above the patches."""
    notes: Sequence[str]
    """Lines below the patches, in a small font; they and the heading are cut if they are long."""
    patches: npt.NDArray[np.uint8]
    """(P, S, S, 3), RGB, P up to 9."""
    is_inside: npt.NDArray[np.bool_]
    """(P, S, S): whether a pixel is one of the image; others are drawn as stripes."""


def patch_grid_figure(channels: Sequence[ChannelPatches], *, title: str, subtitle: str = "") -> Figure:
    """Draw each channel's patches three by three, in rows of six channels, or larger in one row of up to three.

    Patches read like text, the first one first.

    Args:
        title: a line above all.
        subtitle: smaller lines below the title.

    Raises:
        ValueError: no channels, or more than nine patches.
    """
    if not channels or any(len(one.patches) > _PER_SIDE**2 for one in channels):
        raise ValueError("a grid needs one channel or more, and has room for nine patches of each")
    per_row = _FEW if len(channels) <= _FEW else _PER_ROW
    cell_px = _CELL_PX * _PER_ROW // per_row
    num_rows = -(-len(channels) // per_row)
    block_in = (_WIDTH_IN - 2 * _MARGIN_IN - (per_row - 1) * 2 * _GAP_IN) / per_row
    row_in = _HEADING_IN + block_in + _NOTE_IN + _GAP_IN
    has_padding = any(not one.is_inside.all() for one in channels)
    height_in = _TITLE_IN + num_rows * row_in + (_FOOTER_IN if has_padding else 0.05)
    with figure_style():
        figure = Figure(figsize=(_WIDTH_IN, height_in))
        for number, one in enumerate(channels):
            row, column = divmod(number, per_row)
            top_in = height_in - _TITLE_IN - row * row_in - _HEADING_IN
            left_in = _MARGIN_IN + column * (block_in + 2 * _GAP_IN)
            axes = figure.add_axes(
                (left_in / _WIDTH_IN, (top_in - block_in) / height_in, block_in / _WIDTH_IN, block_in / height_in)
            )
            axes.imshow(_three_by_three(one, cell_px), interpolation="none")
            axes.set_axis_off()
            axes.set_title(shortened(one.heading, _MOST_CHARACTERS), loc="left", fontsize=11, pad=4)
            text = "\n".join(shortened(line, _MOST_CHARACTERS) for line in one.notes)
            axes.text(0, -0.06 / block_in, text, transform=axes.transAxes, fontsize=9, va="top", linespacing=1.3)
        left = _MARGIN_IN / _WIDTH_IN
        figure.text(left, 1 - 0.12 / height_in, title, fontsize=14, weight="bold", va="top")
        figure.text(left, 1 - 0.42 / height_in, subtitle, fontsize=11, va="top", linespacing=1.35)
        if has_padding:
            figure.text(
                left,
                0.1 / height_in,
                "striped: padding, beyond the edge of what the network sees of the image",
                fontsize=10,
                va="bottom",
            )
    return figure


def _three_by_three(channel: ChannelPatches, cell_px: int) -> npt.NDArray[np.uint8]:
    """RGBA; transparent between the patches, and where there is none."""
    step = cell_px + _GAP_PX
    picture = np.zeros((_PER_SIDE * step - _GAP_PX, _PER_SIDE * step - _GAP_PX, 4), np.uint8)
    for number, (patch, inside) in enumerate(zip(channel.patches, channel.is_inside, strict=True)):
        top, left = (step * one for one in divmod(number, _PER_SIDE))
        picture[top : top + cell_px, left : left + cell_px] = _cell(patch, inside, cell_px)
    return picture


def _cell(patch: npt.NDArray[np.uint8], inside: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.uint8]:
    """A patch at the size of a cell: small ones with sharp pixels, large ones smoothed; stripes where no image is."""
    method = PIL.Image.Resampling.NEAREST if len(patch) <= side else PIL.Image.Resampling.BOX
    pixels = PIL.Image.fromarray(np.ascontiguousarray(patch)).resize((side, side), method)
    shown = PIL.Image.fromarray(inside.astype(np.uint8) * 255).resize((side, side), method)
    rows, columns = np.mgrid[:side, :side]
    stripes = np.where((rows + columns) // _STRIPE_PX % 2 == 0, *_STRIPES)
    # Of a pixel at the edge, which lies partly outside, only the image's part.
    weight = np.asarray(shown, np.float64)[..., None] / 255
    mixed = np.asarray(pixels, np.float64) + (1 - weight) * stripes[..., None]
    opaque = np.full((side, side, 1), 255, np.uint8)
    return np.concatenate([np.rint(mixed).clip(0, 255).astype(np.uint8), opaque], axis=-1)
