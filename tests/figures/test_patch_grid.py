"""Patches three by three: which pixel is where, what is striped, and what is left empty."""

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet.figures.patch_grid import ChannelPatches, patch_grid_figure


def channel(num: int, side: int = 4, notes: tuple[str, ...] = ("a", "b")) -> ChannelPatches:
    """Patches of one color each: 20 times their number."""
    patches = np.full((num, side, side, 3), 20, np.uint8) * np.arange(num, dtype=np.uint8)[:, None, None, None]
    return ChannelPatches(f"channel {num}", notes, patches, np.ones((num, side, side), np.bool_))


def picture(one: ChannelPatches) -> NDArray[np.uint8]:
    """RGBA of a block, one of so many that blocks are small."""
    axes, *_ = patch_grid_figure([one] * 4, title="t").axes
    return np.asarray(axes.images[0].get_array())


@pytest.mark.parametrize("side", [1, 4, 195])
def test_patches_read_like_text_and_missing_ones_are_empty(side: int) -> None:
    drawn = picture(channel(7, side))
    assert drawn.shape == (296, 296, 4)
    for number in range(9):
        row, column = divmod(number, 3)
        cell = drawn[100 * row : 100 * row + 96, 100 * column : 100 * column + 96]
        assert (cell[..., 3] == (255 if number < 7 else 0)).all()
        assert number >= 7 or (cell[..., :3] == 20 * number).all()
    assert (drawn[96:100, :, 3] == 0).all() and (drawn[:, 96:100, 3] == 0).all()


def test_pixels_of_small_patches_stay_sharp_and_what_is_outside_is_striped() -> None:
    patch = np.random.default_rng(0).integers(1, 200, (1, 4, 4, 3), dtype=np.uint8)
    inside = np.ones((1, 4, 4), np.bool_)
    inside[0, :2] = False
    drawn = picture(ChannelPatches("c", (), patch * inside[..., None], inside))
    np.testing.assert_array_equal(drawn[60:96:24, 12:96:24, :3][:2], patch[0, 2:])
    outside = drawn[:48, :96, :3]
    assert set(np.unique(outside)) == {205, 235} and (outside == outside[..., :1]).all()


def test_edges_of_large_patches_mix_the_image_with_the_stripes() -> None:
    """Half of a cell's pixel is image: half of its light is the image's."""
    patch = np.full((1, 192, 192, 3), 100, np.uint8)
    inside = np.ones((1, 192, 192), np.bool_)
    inside[0, :, :5] = False
    drawn = picture(ChannelPatches("c", (), patch * inside[..., None], inside))
    assert set(np.unique(drawn[:96, 0, 0])) == {205, 235}
    assert set(np.unique(drawn[:96, 2, 0])) <= {50 + 205 // 2, 50 + 205 // 2 + 1, 50 + 235 // 2, 50 + 235 // 2 + 1}
    assert (drawn[:96, 3:96, :3] == 100).all()


def test_texts_are_shown_and_long_ones_are_cut() -> None:
    blocks = [channel(9), channel(0, notes=("never above 0",)), channel(2, notes=("x" * 60,))]
    figure = patch_grid_figure(blocks, title="$ the title", subtitle="more")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["channel 9", "channel 0", "channel 2"]
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["a\nb", "never above 0", "x" * 25 + "…"]
    assert {"$ the title", "more"} <= {text.get_text() for text in figure.texts}
    assert not any("striped" in text.get_text() for text in figure.texts)  # nothing is outside


def test_up_to_three_channels_are_drawn_larger() -> None:
    figure = patch_grid_figure([channel(9, 192)] * 3, title="t")
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(box.width > 0.3 for box in boxes) and len({round(box.y0, 6) for box in boxes}) == 1
    assert np.asarray(figure.axes[0].images[0].get_array()).shape == (584, 584, 4)


def test_blocks_have_their_places() -> None:
    figure = patch_grid_figure([channel(1)] * 14, title="t")
    boxes = [axes.get_position() for axes in figure.axes]
    assert len({round(box.y0, 6) for box in boxes}) == 3 and len({round(box.x0, 6) for box in boxes}) == 6
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 < box.y0 < box.y1 < 1 for box in boxes)


def test_no_channels_or_ten_patches_are_refused() -> None:
    for blocks in ([], [channel(10)]):
        with pytest.raises(ValueError, match="one channel or more, and has room for nine"):
            patch_grid_figure(blocks, title="t")
