"""Every pixel of the filter grid against a plain loop; PNG data addresses decode to the same pixels."""

import base64
import io

import numpy as np
import PIL.Image
import pytest

from alexnet.figures.filters import filter_grid, png_data_uri


def by_loop(filters, num_columns, scale):
    """The grid pixel by pixel."""
    num, _, height, width = filters.shape
    lowest, highest = float(filters.min()), float(filters.max())
    num_rows = (num + num_columns - 1) // num_columns
    picture = np.zeros((scale * (num_rows * (height + 1) + 1), scale * (num_columns * (width + 1) + 1), 3), np.uint8)
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            cell_row, inner_row = divmod(row // scale, height + 1)
            cell_column, inner_column = divmod(column // scale, width + 1)
            place = cell_row * num_columns + cell_column
            if inner_row == 0 or inner_column == 0 or cell_column >= num_columns or place >= num:
                continue
            for channel in range(3):
                value = float(filters[place, channel, inner_row - 1, inner_column - 1])
                picture[row, column, channel] = round((value - lowest) / (highest - lowest) * 255)
    return picture


@pytest.mark.parametrize(("shape", "num_columns", "scale"), [((5, 3, 2, 3), 2, 2), ((4, 3, 2, 2), 4, 1)])
def test_every_pixel(shape, num_columns, scale):
    filters = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    got = filter_grid(filters, num_columns=num_columns, scale=scale)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, by_loop(filters, num_columns, scale))


def test_one_scale_for_all_filters():
    filters = np.zeros((2, 3, 1, 1), np.float32)
    filters[0], filters[1, 0] = -1, 1
    got = filter_grid(filters, scale=1)
    assert got[1, 1].tolist() == [0, 0, 0]
    assert got[1, 3].tolist() == [255, 128, 128]


def test_the_papers_layer_is_drawn_in_six_rows_of_sixteen():
    got = filter_grid(np.random.default_rng(0).normal(size=(96, 3, 11, 11)))
    assert got.shape == (4 * (6 * 12 + 1), 4 * (16 * 12 + 1), 3)


def test_filters_of_one_value_are_gray():
    assert filter_grid(np.full((1, 3, 2, 2), 0.5), scale=1)[1:3, 1:3].tolist() == [[[128] * 3] * 2] * 2


@pytest.mark.parametrize(
    "filters", [np.zeros((2, 4, 3, 3)), np.zeros((3, 3, 3)), np.zeros((0, 3, 2, 2)), np.full((1, 3, 2, 2), np.nan)]
)
def test_invalid_filters_are_refused(filters):
    with pytest.raises(ValueError, match="filters"):
        filter_grid(filters)


def test_data_address_holds_the_pixels():
    image = np.random.default_rng(2).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    address = png_data_uri(image[:, ::-1])
    assert address.startswith("data:image/png;base64,")
    content = base64.b64decode(address.split(",", 1)[1], validate=True)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(content))), image[:, ::-1])
