"""Blocks of 4 x 4 pixels: decoded as Pillow decodes them, cut anywhere, no worse than a plain encoder's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet.data.bc1 import decode_crops, encode, num_block_rows
from alexnet.data.dataset import Split
from alexnet.data.device_cache import DeviceImageCache, cache_bytes
from alexnet.system import numba_jit

pytestmark = pytest.mark.skipif(bool(numba_jit.unavailable_reason), reason=f"no Numba: {numba_jit.unavailable_reason}")


def decoded_by_pillow(blocks: NDArray[np.int32], side: int) -> NDArray[np.uint8]:
    """Images (B, side, side, 3) of blocks (B, R, R, 2), by Pillow's decoder of BC1."""
    whole = 4 * blocks.shape[1]
    images = [
        np.asarray(Image.frombytes("RGBA", (whole, whole), block.astype("<i4").tobytes(), "bcn", (1,)).convert("RGB"))
        for block in blocks
    ]
    return np.stack(images)[:, :side, :side]


def decoded(blocks: NDArray[np.int32], side: int) -> NDArray[np.uint8]:
    num = len(blocks)
    corners = torch.zeros(num, 2, dtype=torch.int16)
    return decode_crops(torch.from_numpy(blocks), torch.arange(num), corners, side).numpy()


def textured(num: int, side: int, seed: int) -> NDArray[np.uint8]:
    """Pictures with edges, slopes, noise and colors anywhere, the whole range of bytes among them."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    images = np.empty((num, side, side, 3), np.uint8)
    for image in images:
        slope = random.normal(0, 80, (2, 3))
        shade = rows[..., None] * slope[0] + columns[..., None] * slope[1]
        edge = (columns + random.normal() * rows > random.random())[..., None] * random.normal(0, 90, 3)
        noise = random.normal(0, random.choice([0, 4, 40]), (side, side, 3))
        image[:] = np.clip(random.integers(0, 256, 3) + shade + edge + noise, 0, 255)
    return images


def without_least_squares(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What is left of an image, (S, S, 3), by an encoder that stops at the line of greatest variance, in float64.

    From the format's description: the outermost colors on the line in 5, 6, 5 bits, each pixel its nearest of four.
    """
    side = len(image)
    result = np.empty((side, side, 3))
    levels = np.array([31, 63, 31])
    for row in range(0, side, 4):
        for column in range(0, side, 4):
            pixels = image[row : row + 4, column : column + 4].reshape(-1, 3).astype(np.float64)
            mean = pixels.mean(0)
            axis = np.linalg.eigh((pixels - mean).T @ (pixels - mean))[1][:, -1]
            along = (pixels - mean) @ axis
            ends = [
                np.round(np.clip(mean + place * axis, 0, 255) / 255 * levels) / levels * 255
                for place in (along.max(), along.min())
            ]
            palette = np.stack([ends[0] + share * (ends[1] - ends[0]) for share in (0, 1 / 3, 2 / 3, 1)])
            nearest = ((pixels[:, None] - palette) ** 2).sum(-1).argmin(1)
            result[row : row + 4, column : column + 4] = palette[nearest].reshape(4, 4, 3)
    return result


@given(side=st.integers(1, 14), num=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_decoded_as_pillow_does(side: int, num: int, seed: int) -> None:
    images = textured(num, side, seed)
    blocks = encode(images)
    assert blocks.shape == (num, num_block_rows(side), num_block_rows(side), 2)
    assert blocks.nbytes == cache_bytes(num, side, bc1=True)
    if num:
        assert np.array_equal(decoded(blocks, side), decoded_by_pillow(blocks, side))


@given(words=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=2))
@settings(deadline=None)
def test_any_block_of_four_colors_is_decoded_as_pillow_does(words: list[int]) -> None:
    first, second = words[0] & 0xFFFF, words[0] >> 16 & 0xFFFF
    words[0] = np.uint32(max(first, second) | min(first, second) << 16).astype(np.int32)
    if first == second:
        words[1] = 0
    blocks = np.array(words, np.int32).reshape(1, 1, 1, 2)
    assert np.array_equal(decoded(blocks, 4), decoded_by_pillow(blocks, 4))


def test_only_the_mode_of_four_colors_is_written() -> None:
    random = np.random.default_rng(3)
    images = np.concatenate(
        [textured(20, 16, 4), random.integers(0, 256, (4, 1, 1, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)]
    )
    words = encode(images).astype(np.uint32)
    first, second, indices = words[..., 0] & 0xFFFF, words[..., 0] >> 16, words[..., 1]
    assert ((first > second) | ((first == second) & (indices == 0))).all()


@pytest.mark.parametrize("seed", range(4))
def test_nearer_than_without_least_squares(seed: int) -> None:
    """Every picture but those nearly exact in both; and by a twentieth in all, since colors in noise have no line."""
    images = textured(24, 32, seed)
    ours = ((decoded(encode(images), 32).astype(np.float64) - images) ** 2).mean((1, 2, 3))
    without = np.array([((without_least_squares(image) - image) ** 2).mean() for image in images])
    assert (ours <= np.maximum(1.02 * without, 5.0)).all()
    assert ours.sum() < 0.97 * without.sum(), ours.sum() / without.sum()


@pytest.mark.parametrize("turn", range(3))
def test_the_line_may_leave_out_the_color_that_varies_most(turn: int) -> None:
    """One color swings by 60, two others together by 50 each, at the same time in no way alike: they are the line."""
    swings = np.array([[first, second] for first in (-60, 60) for second in (-50, -16, 16, 50)] * 2)
    image = np.roll(np.stack([swings[:, 0], swings[:, 1], swings[:, 1]], 1) + 128, turn, axis=1)
    image = image.astype(np.uint8).reshape(1, 4, 4, 3)
    ours = ((decoded(encode(image), 4).astype(np.float64) - image) ** 2).mean()
    assert ours <= 1.02 * ((without_least_squares(image[0]) - image[0]) ** 2).mean()


@given(
    colors=st.lists(st.tuples(st.integers(0, 31), st.integers(0, 63), st.integers(0, 31)), min_size=2, max_size=2),
    pixels=st.integers(0, 2**16 - 1),
)
@settings(deadline=None)
def test_two_colors_of_the_format_are_kept(colors: list[tuple[int, int, int]], pixels: int) -> None:
    palette = np.array([(r << 3 | r >> 2, g << 2 | g >> 4, b << 3 | b >> 2) for r, g, b in colors], np.uint8)
    image = palette[np.array([pixels >> place & 1 for place in range(16)])].reshape(1, 4, 4, 3)
    assert np.array_equal(decoded(encode(image), 4), image)


@given(color=st.tuples(*[st.integers(0, 255)] * 3))
@settings(deadline=None)
def test_a_single_color_is_off_by_half_a_step_at_most(color: tuple[int, int, int]) -> None:
    image = np.full((1, 4, 4, 3), color, np.uint8)
    off = np.abs(decoded(encode(image), 4).astype(int) - image)
    assert (off.max((0, 1, 2)) <= (5, 3, 5)).all()


@given(data=st.data(), side=st.integers(1, 19), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_crops_are_cut_out_of_the_whole(data: st.DataObject, side: int, seed: int) -> None:
    crop = data.draw(st.integers(1, side))
    images = textured(3, side, seed)
    blocks = encode(images)
    whole = decoded_by_pillow(blocks, side)
    random = np.random.default_rng(seed)
    rows = random.integers(0, 3, 5)
    corners = random.integers(0, side - crop + 1, (5, 2)).astype(np.int16)
    given = torch.from_numpy(blocks), torch.from_numpy(rows), torch.from_numpy(corners), crop
    with pytest.MonkeyPatch.context() as patched:
        for why_not in ("", "as on a GPU without Triton"):
            patched.setattr("alexnet.data.bc1.unavailable_reason", why_not)
            for got, row, (top, left) in zip(decode_crops(*given).numpy(), rows, corners, strict=True):
                assert np.array_equal(got, whole[row, top : top + crop, left : left + crop])


def test_resident_blocks_do_not_depend_on_the_threads() -> None:
    images = textured(600, 12, 0)
    split = Split("train", images, np.arange(600), [""] * 600)
    samples = np.arange(1, 600, 2)
    for workers in (1, 3):
        device_cache = DeviceImageCache(split, samples, torch.device("cpu"), bc1=True, workers=workers)
        assert np.array_equal(device_cache.images.numpy(), encode(images[samples]))
