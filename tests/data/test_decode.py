"""Odd files, one policy; resizing against Pillow."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from alexnet.data.decode import UnreadableImage, decode_image, resize_and_crop


def smooth(height: int = 40, width: int = 60) -> np.ndarray:
    """A picture without sharp edges, uint8 (H, W, 3), so that JPEG hardly changes it."""
    down, right = np.mgrid[:height, :width]
    planes = [down * 255 / height, right * 255 / width, 127 + 100 * np.sin(down / 9 + right / 7)]
    return np.stack(planes, axis=2).astype(np.uint8)


def encode(image: Image.Image, format_name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30, "subsampling": 2}])
def test_jpeg_decodes_as_the_reference_library_does(options: dict) -> None:
    content = encode(Image.fromarray(smooth()), "JPEG", **options)
    got = decode_image(content, apply_orientation=True)
    assert got.dtype == np.uint8 and got.shape == (40, 60, 3) and got.flags.c_contiguous
    assert np.array_equal(got, np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "YCbCr", "RGB"])
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "TIFF"])
def test_every_mode_becomes_rgb(mode: str, format_name: str) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    if (format_name, mode) in {("PNG", "CMYK"), ("PNG", "YCbCr"), ("JPEG", "P"), ("JPEG", "YCbCr"), ("JPEG", "1")}:
        pytest.skip("the format has no such mode")
    content = encode(image, format_name)
    got = decode_image(content, apply_orientation=True)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert got.shape == (40, 60, 3)
    assert np.array_equal(got, expected)


def test_transparency_is_laid_on_white() -> None:
    pixels = np.dstack([smooth(), np.full((40, 60), 255, np.uint8)])
    pixels[:20, :, 3] = 0
    got = decode_image(encode(Image.fromarray(pixels), "PNG"), apply_orientation=True)
    assert (got[:20] == 255).all()
    assert np.array_equal(got[20:], smooth()[20:])


def test_of_sixteen_bits_the_upper_eight_are_kept() -> None:
    grey = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    got = decode_image(encode(Image.fromarray(grey), "PNG"), apply_orientation=True)
    assert np.array_equal(got, np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(content, apply_orientation=True)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_pictures_are_turned_upright(orientation: int, format_name: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    content = encode(Image.fromarray(smooth()), format_name, exif=exif.tobytes())
    with Image.open(io.BytesIO(content)) as image:
        as_stored, upright = np.asarray(image), np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode_image(content, apply_orientation=True), upright)
    assert np.array_equal(decode_image(content, apply_orientation=False), as_stored)


def test_malformed_exif_does_not_refuse_good_pixels() -> None:
    content = encode(Image.fromarray(smooth()), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
    assert decode_image(content, apply_orientation=True).shape == (40, 60, 3)


def test_damaged_files_are_refused_with_a_reason() -> None:
    jpeg = encode(Image.fromarray(smooth(200, 300)), "JPEG")
    png = encode(Image.fromarray(smooth()), "PNG")
    for content, reason in (
        (b"", "empty file"),
        (b"a text", "no image of a format"),
        (jpeg[: len(jpeg) // 2], "damaged JPEG"),
        (jpeg[:-2], "damaged JPEG"),
        (jpeg[:30], "damaged JPEG"),
        (png[: len(png) // 2], "damaged image"),
        (encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
    ):
        with pytest.raises(UnreadableImage, match=reason):
            decode_image(content, apply_orientation=True)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_an_image_that_claims_to_be_huge_is_refused_unread(format_name: str) -> None:
    content = bytearray(encode(Image.new("RGB", (8, 8)), format_name))
    if format_name == "JPEG":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = (65000).to_bytes(2, "big") * 2
    else:
        content[16:24] = (30000).to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    with pytest.raises(UnreadableImage, match="more than 178,956,970 pixels"):
        decode_image(bytes(content), apply_orientation=True)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), side=st.integers(1, 40))
def test_resizing_is_pillows_then_the_central_square(height: int, width: int, side: int) -> None:
    image = smooth(height, width)
    got = resize_and_crop(image, side)
    assert got.shape == (side, side, 3) and got.flags.c_contiguous
    shorter = min(height, width)
    size = (round(width * side / shorter), round(height * side / shorter))
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    difference = got.astype(int) - scaled[top : top + side, left : left + side]
    assert np.abs(difference).max() <= 1


def test_a_thread_of_a_picture_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="100 times longer"):
        resize_and_crop(np.zeros((1, 101, 3), np.uint8), 8)
