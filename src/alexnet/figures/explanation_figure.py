"""Why a network gives an image a class: probabilities as in figure 4 of the paper, occlusion and gradients."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib.patheffects
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from alexnet.figures.figure_style import figure_style, fitted
from alexnet.system.visible_text import visible

_DROP_COLOR, _RISE_COLOR = np.array([213, 94, 0]), np.array([0, 114, 178])
"""Vermilion and blue of Okabe and Ito's palette."""
_MOST_OPAQUE = 0.85
_LEAST_SCALE = 0.001
"""Of a map of drops, a tenth of a percentage point: smaller ones are rounding."""
_GRADIENT_QUANTILE = 0.995
"""Of a gradient's magnitudes; larger ones are as dark as this one."""
_BAR, _BAR_EXPLAINED, _SOFT = "#c3ced9", "#f2b671", "#57606a"
_SMALL_PX = 100
"""Images up to this side are drawn with sharp pixels."""

# Inches.
_WIDTH, _MARGIN, _PANEL, _THUMBNAIL, _THUMBNAIL_STEP = 13.33, 0.45, 2.65, 1.25, 1.56
_LEFT = (_MARGIN, 3.45, 7.1, 10.1)
"""Left edges of the four panels; the second has its scale to the right."""
_HEADER, _HEADING, _TITLE, _CAPTION, _SECOND, _GAP, _LINE = 0.75, 0.45, 0.3, 0.5, 2.05, 0.2, 0.19


@dataclass(frozen=True, eq=False, kw_only=True)
class NearImage:
    """A training image near to the explained one."""

    image: npt.NDArray[np.uint8]
    """(S, S, 3), RGB."""
    class_name: str
    note: str
    """Such as its distance."""
    is_explained_class: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class ExplainedImage:
    """What is drawn of one image; C is the side of the view that the network reads, S of the image."""

    name: str
    image: npt.NDArray[np.uint8]
    """(S, S, 3), RGB."""
    corner: tuple[int, int]
    """First row and column of the view in the image, pixels."""
    bars: Sequence[tuple[str, float, bool]]
    """Class name, probability 0..1, whether it is the explained class."""
    class_name: str
    standing: str
    """The class's probability and rank in words."""
    drops: npt.NDArray[np.floating]
    """(C, C): by how much hiding a pixel's surroundings lowers the class's probability."""
    patch: tuple[int, int, int]
    """First row, first column and side, pixels, of the patch that lowers it most, or raises it least."""
    patch_effect: str
    """What hiding that patch does, in words."""
    gradient: npt.NDArray[np.floating]
    """(3, C, C)."""
    guided_gradient: npt.NDArray[np.floating] | None
    """(3, C, C)."""
    unguided_reason: str = ""
    """Why there is no guided gradient."""
    near: Sequence[NearImage] = ()

    @property
    def view(self) -> npt.NDArray[np.uint8]:
        """(C, C, 3), RGB: the part of the image that the network reads."""
        (top, left), side = self.corner, len(self.drops)
        return self.image[top : top + side, left : left + side]


def drop_scale(drops: npt.NDArray[np.floating]) -> float:
    """The drop that is drawn in full color: the largest of a map, or rise, 0.001 or more."""
    return max(float(np.abs(drops).max()), _LEAST_SCALE)


def occlusion_picture(view: npt.NDArray[np.uint8], drops: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """A gray view under orange where hiding lowers the probability, and blue where it raises it.

    Args:
        view: uint8 (C, C, 3), RGB.
        drops: (C, C); the most opaque color is that of `drop_scale(drops)`.

    Returns:
        uint8 (C, C, 3).
    """
    gray = view.astype(np.float64) @ (0.299, 0.587, 0.114)
    return _over_gray(60 + 0.7 * gray, drops / drop_scale(drops))


def _over_gray(gray: npt.NDArray[np.floating], fractions: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Gray, 0..255, under color for fractions, -1..1, of the same shape; uint8 with a last axis of three."""
    opacity = _MOST_OPAQUE * np.abs(fractions)[..., None]
    color = np.where(fractions[..., None] > 0, _DROP_COLOR, _RISE_COLOR)
    levels: npt.NDArray[np.uint8] = np.rint((1 - opacity) * gray[..., None] + opacity * color).astype(np.uint8)
    return levels


def gradient_picture(gradient: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """The largest magnitude of a gradient over the colors, (3, C, C): white is 0; uint8 (C, C, 3).

    As Simonyan, Vedaldi and Zisserman, Deep inside convolutional networks, 2013, draw it.
    """
    magnitudes = np.abs(gradient).max(axis=0)
    darkness = np.minimum(magnitudes / (np.quantile(magnitudes, _GRADIENT_QUANTILE) or 1), 1)
    levels: npt.NDArray[np.uint8] = np.rint(255 * (1 - darkness)).astype(np.uint8)
    return levels[..., None].repeat(3, axis=2)


def guided_picture(gradient: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """A gradient (3, C, C) as colors: gray is 0, brighter is positive; uint8 (C, C, 3)."""
    scale = np.quantile(np.abs(gradient), _GRADIENT_QUANTILE) or 1
    levels: npt.NDArray[np.uint8] = np.rint(127.5 + 127.5 * np.clip(gradient / scale, -1, 1)).astype(np.uint8)
    return levels.transpose(1, 2, 0)


def explanation_figure(
    images: Sequence[ExplainedImage], *, title: str, subtitle: str, near_title: str, notes: Sequence[str]
) -> Figure:
    """One block per image: the image and its most probable classes, what occlusion and gradients show, near images.

    Args:
        images: one or more.
        near_title: of the row of near images; without such images, how to get them.
        notes: sentences below, which say how everything was computed.
    """
    lines = [line for note in notes for line in textwrap.wrap(visible(note), 175)]
    block = _HEADING + _TITLE + _PANEL + _CAPTION + _SECOND + _GAP
    height = _HEADER + len(images) * block + _LINE * len(lines) + 0.3
    with figure_style():
        page = _Page(height)
        page.text(_MARGIN, 0.35, title, 9.3, size=18, weight="bold")
        page.text(_MARGIN, 0.62, subtitle, _WIDTH - 2 * _MARGIN, size=11, color=_SOFT)
        for number, one in enumerate(images):
            _draw_block(page, one, _HEADER + number * block, near_title)
        for number, line in enumerate(lines):
            top = _HEADER + len(images) * block + _LINE * (number + 0.7)
            page.text(_MARGIN, top, line, _WIDTH, size=9.5, color=_SOFT)
    return page.figure


class _Page:
    """A figure on which positions are inches from its upper left corner."""

    def __init__(self, height: float) -> None:
        self.figure = Figure(figsize=(_WIDTH, height))
        self._height = height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes in a rectangle."""
        bottom = self._height - top - height
        return self.figure.add_axes((left / _WIDTH, bottom / self._height, width / _WIDTH, height / self._height))

    def text(self, left: float, baseline: float, text: str, width: float, *, size: float = 11, **style: object) -> None:
        """One line, shortened to `width`."""
        drawn = self.figure.text(left / _WIDTH, 1 - baseline / self._height, "", size=size, **style)  # type: ignore[arg-type]
        drawn.set_text(self.fitted(text, width, size, str(style.get("weight", "normal"))))

    def fitted(self, text: str, width: float, size: float, weight: str = "normal") -> str:
        """A text that is at most `width` wide; what is left out in the middle becomes an ellipsis."""
        return fitted(self.figure, text, width, size=size, weight=weight)


def _draw_block(page: _Page, one: ExplainedImage, top: float, near_title: str) -> None:
    page.figure.add_artist(_rule(page, top))
    page.text(_MARGIN, top + 0.36, f"Why “{one.class_name}”?  {one.standing}", 8.4, size=14, weight="bold")
    name = page.fitted(one.name, 3.8, 11)
    page.figure.text(
        1 - _MARGIN / _WIDTH, 1 - (top + 0.36) / page.figure.get_figheight(), name, size=11, color=_SOFT, ha="right"
    )
    top += _HEADING + _TITLE
    side = len(one.drops)
    sharp = len(one.image) <= _SMALL_PX

    def panel(column: int, title: str, picture: npt.NDArray[np.uint8], *captions: str) -> Axes:
        left = _LEFT[column]
        page.text(left, top - 0.09, title, _PANEL + 0.3, size=11.5, weight="bold")
        axes = page.axes(left, top, _PANEL, _PANEL)
        axes.imshow(picture, interpolation="nearest" if sharp else "antialiased")
        axes.set_axis_off()
        for number, caption in enumerate(captions):
            page.text(left, top + _PANEL + 0.19 + _LINE * number, caption, _PANEL, size=9.5, color=_SOFT)
        return axes

    is_all = side == len(one.image)
    shown = panel(0, "Image", one.image, f"{'' if is_all else 'outlined: '}the view, {side} × {side} pixels")
    if not is_all:
        _outline(shown, (*one.corner, side), "-")
    occluded = panel(1, "Occlusion", occlusion_picture(one.view, one.drops), f"patch hidden: {one.patch_effect}")
    _outline(occluded, one.patch, "--")
    _draw_scale(page, drop_scale(one.drops), _LEFT[1] + _PANEL + 0.08, top)
    panel(2, "Gradient of the score", gradient_picture(one.gradient), "dark: the score changes most here")
    if one.guided_gradient is None:
        page.text(_LEFT[3], top - 0.09, "Guided gradient", _PANEL, size=11.5, weight="bold")
        for number, line in enumerate(textwrap.wrap(visible(f"None: {one.unguided_reason}."), 36)):
            page.text(_LEFT[3], top + 0.3 + 0.2 * number, line, _PANEL, size=10, color=_SOFT)
    else:
        panel(3, "Guided gradient", guided_picture(one.guided_gradient), "gray: 0; bright: brighter adds to the score")
    _draw_bars(page, one, top + _PANEL + _CAPTION)
    _draw_near(page, one, top + _PANEL + _CAPTION, near_title)


def _rule(page: _Page, top: float) -> Rectangle:
    height = page.figure.get_figheight()
    return Rectangle(
        (_MARGIN / _WIDTH, 1 - (top + 0.06) / height),
        1 - 2 * _MARGIN / _WIDTH,
        0.01 / height,
        transform=page.figure.transFigure,
        color="#d5dae0",
    )


def _outline(axes: Axes, square: tuple[int, int, int], line: Literal["-", "--"]) -> None:
    """The outline of pixels: first row, first column, side. It is visible on any color."""
    top, left, side = square
    rectangle = Rectangle(
        (left - 0.5, top - 0.5), side, side, fill=False, edgecolor="white", linewidth=1.6, clip_on=False
    )
    rectangle.set_linestyle(line)
    rectangle.set_path_effects([matplotlib.patheffects.withStroke(linewidth=3.4, foreground="black")])
    axes.add_patch(rectangle)


def _draw_scale(page: _Page, scale: float, left: float, top: float) -> None:
    """The colors of drops of the probability, in percentage points."""
    colors = _over_gray(np.full(201, 150.0), np.linspace(-1, 1, 201)) / 255
    mappable = ScalarMappable(Normalize(-100 * scale, 100 * scale), ListedColormap(colors))
    axes = page.axes(left, top + 0.1, 0.13, _PANEL - 0.2)
    bar = page.figure.colorbar(mappable, cax=axes)
    round_ticks = MaxNLocator(6, steps=(1, 2, 5, 10)).tick_values(-100 * scale, 100 * scale)
    ticks = [one for one in round_ticks if abs(one) <= 100 * scale]
    bar.set_ticks(ticks, labels=[f"{tick:g}".replace("-", "\u2212") for tick in ticks])
    bar.ax.tick_params(labelsize=9, length=2)
    bar.outline.set_visible(False)
    bar.set_label("drop of the probability, points", size=9.5)


def _draw_bars(page: _Page, one: ExplainedImage, top: float) -> None:
    """The most probable classes; a bar as wide as its light background is 100 %."""
    page.text(_MARGIN, top + 0.05, "Most probable classes", _PANEL, size=11.5, weight="bold")
    height = 1.85 / max(len(one.bars), 5)
    axes = page.axes(_MARGIN, top + 0.16, _PANEL, height * len(one.bars))
    axes.set(xlim=(0, 1.36), ylim=(len(one.bars), 0))
    axes.set_axis_off()
    for number, (name, probability, is_explained) in enumerate(one.bars):
        color = _BAR_EXPLAINED if is_explained else _BAR
        axes.add_patch(Rectangle((0, number + 0.08), 1, 0.84, color="#f1f4f7", linewidth=0))
        axes.add_patch(Rectangle((0, number + 0.08), probability, 0.84, color=color, linewidth=0))
        weight = "bold" if is_explained else "normal"
        axes.text(0.02, number + 0.5, page.fitted(name, 1.85, 10.5, weight), size=10.5, va="center", weight=weight)
        axes.text(1.36, number + 0.5, f"{100 * probability:.1f} %", size=10.5, va="center", ha="right", weight=weight)


def _draw_near(page: _Page, one: ExplainedImage, top: float, title: str) -> None:
    left = _LEFT[1]
    if not one.near:
        for number, line in enumerate(textwrap.wrap(visible(title), 120)):
            page.text(left, top + 0.35 + 0.22 * number, line, _WIDTH - left - _MARGIN, size=10.5, color=_SOFT)
        return
    page.text(left, top + 0.05, title, _WIDTH - left - _MARGIN, size=11.5, weight="bold")
    for number, near in enumerate(one.near):
        at = left + number * _THUMBNAIL_STEP
        axes = page.axes(at, top + 0.16, _THUMBNAIL, _THUMBNAIL)
        axes.imshow(near.image, interpolation="nearest" if len(near.image) <= _SMALL_PX else "antialiased")
        axes.set_axis_off()
        mark, weight = ("✓ ", "bold") if near.is_explained_class else ("", "normal")
        page.text(at, top + 1.61, mark + near.class_name, _THUMBNAIL + 0.2, size=10, weight=weight)
        page.text(at, top + 1.8, near.note, _THUMBNAIL + 0.2, size=9.5, color=_SOFT)
