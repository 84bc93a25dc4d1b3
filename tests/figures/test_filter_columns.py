"""Filters in columns: the pixels of the drawn blocks, bars and counts, and the layout for any number of filters."""

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from alexnet.figures.figure_style import figure_bytes
from alexnet.figures.filter_columns import filter_columns_figure


def random_filters(num: int, side: int = 11) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(num, 3, side, side)).astype(np.float32)


def picture_of(axes: Axes) -> NDArray[np.uint8]:
    return np.asarray(axes.images[0].get_array())


def test_the_48_filters_of_a_column_are_three_rows_of_sixteen_and_share_one_scale() -> None:
    filters = random_filters(96)
    filters[95] *= 3
    figure = filter_columns_figure(filters, 2)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "column 1: filters 0 to 47",
        "column 2: filters 48 to 95",
    ]
    largest = np.abs(filters).max()
    for column, axes in enumerate(figure.axes):
        picture = picture_of(axes)
        cells = picture.reshape(3, len(picture) // 3, 16, picture.shape[1] // 16, 4)
        assert [text.get_text() for text in axes.get_yticklabels()] == [str(48 * column + one) for one in (0, 16, 32)]
        for number in (0, 17, 47):
            cell = cells[number // 16, :, number % 16]
            assert (cell[88:, :, 3] == 0).all() and (cell[:, 88:, 3] == 0).all()  # nothing between filters
            assert (cell[:88, :88, 3] == 255).all()
            expected = 127.5 + 127.5 * filters[48 * column + number].astype(np.float64) / largest
            drawn = cell[4:88:8, 4:88:8, :3].transpose(2, 0, 1).astype(float)
            np.testing.assert_allclose(drawn, expected, atol=0.51)
            np.testing.assert_array_equal(cell[:8, :8, :3], np.broadcast_to(cell[0, 0, :3], (8, 8, 3)))


def bars_of(axes: Axes) -> list[float]:
    """Lengths of the bars as fractions of their tracks."""
    found = [one.get_width() for one in axes.patches if isinstance(one, Rectangle)]
    return [bar / max(found) for bar in found]


def test_bars_counts_and_means_are_those_of_the_colors() -> None:
    colors = np.array([0.0, 0.25, 0.5, 1.0, np.nan, 0.31, 0.32, 0.95])
    figure = filter_columns_figure(
        random_filters(8, 5), 2, colors=colors, random_color=2 / 3, title="a $1", note="b\nc"
    )
    blocks = [axes for axes in figure.axes if axes.images]
    counts = [axes for axes in figure.axes if not axes.images]
    assert bars_of(blocks[0]) == pytest.approx([1, 0, 1, 0.25, 1, 0.5, 1, 1])
    assert bars_of(blocks[1]) == pytest.approx([1, 1, 0.31, 1, 0.32, 1, 0.95])  # of NaN, only the track
    heights = [[one.get_height() for one in axes.patches if isinstance(one, Rectangle)] for axes in counts]
    assert heights == [[1, 0, 1, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 2, 0, 0, 0, 0, 0, 1]]
    assert [axes.get_title(loc="right") for axes in counts] == ["mean 0.44", "mean 0.53"]
    assert counts[0].get_ylim() == counts[1].get_ylim()
    texts = [text.get_text() for text in figure.texts]
    assert "a $1" in texts and "b\nc" in texts
    assert "random weights, 0.67" in counts[1].get_xlabel() and counts[0].get_xlabel() == ""


@settings(max_examples=6)
@given(num=st.integers(1, 40), columns=st.integers(1, 2), height=st.integers(1, 11), width=st.integers(1, 11))
def test_any_number_and_size_of_filters_has_its_place(num: int, columns: int, height: int, width: int) -> None:
    filters = np.ones((num * columns, 3, height, width))
    figure = filter_columns_figure(filters, columns, colors=np.linspace(0, 1, num * columns))
    for axes in figure.axes:
        box = axes.get_position()
        assert 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1
        if axes.images:
            scale = max(1, round(88 / max(height, width)))
            assert (picture_of(axes)[..., 3] == 255).sum() == num * height * width * scale**2


def test_without_columns_there_is_one_block_and_weights_of_zero_are_gray() -> None:
    figure = filter_columns_figure(np.zeros((3, 3, 2, 2)), 1)
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "filters 0 to 2"
    drawn = picture_of(axes)
    assert set(drawn[drawn[..., 3] == 255].tolist()[0]) == {128, 255}
    content = figure_bytes(figure, "png")
    assert PIL.Image.open(io.BytesIO(content)).size[0] == 1500


@pytest.mark.parametrize(
    ("filters", "columns"),
    [(np.ones((4, 2, 3, 3)), 1), (np.ones((3, 3, 3, 3)), 2), (np.ones((0, 3, 3, 3)), 1), (np.ones((2, 3, 3, 3)), 0)],
)
def test_other_shapes_are_refused(filters: NDArray[np.float64], columns: int) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        filter_columns_figure(filters, columns)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        filter_columns_figure(np.full((2, 3, 3, 3), np.inf), 1)
