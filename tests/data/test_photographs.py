"""One photograph in all its types and fits, against Pillow and NumPy."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from alexnet.data.decode import PAD_COLOR, decode_image, make_square
from alexnet.data.photographs import Fit, as_images, square_image, square_of_file
from alexnet.errors import RequestError

FITS: tuple[Fit, ...] = ("crop", "pad", "squash")


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def reference(pixels: NDArray[np.uint8], side: int, fit: Fit) -> NDArray[np.uint8]:
    """The square by Pillow's resizing and NumPy."""
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    if fit == "squash":
        return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    scale = side / (min(height, width) if fit == "crop" else max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    if fit == "crop":
        top, left = (size[1] - side) // 2, (size[0] - side) // 2
        return scaled[top : top + side, left : left + side]
    before = [((side - length) // 2, side - length - (side - length) // 2) for length in (size[1], size[0])]
    planes = [np.pad(scaled[:, :, c], before, constant_values=PAD_COLOR[c]) for c in range(3)]
    return np.stack(planes, axis=2)


def refusal(image: Any, side: int = 8, fit: Any = "crop") -> str:
    """The reason why an image is refused, checked to be one short line."""
    with pytest.raises(RequestError) as caught:
        square_image(image, side, fit)
    reason = str(caught.value)
    assert reason.isprintable() and len(reason) < 1500
    return reason


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    side=st.integers(1, 40),
    fit=st.sampled_from(FITS),
)
def test_a_square_is_pillows_resized_and_cropped_or_padded(height: int, width: int, side: int, fit: Fit) -> None:
    pixels = noise(height, width)
    got = square_image(pixels, side, fit)
    assert got.shape == (side, side, 3) and got.dtype == np.uint8 and got.flags.c_contiguous and got.flags.writeable
    assert np.abs(got.astype(int) - reference(pixels, side, fit)).max() <= 1
    got[:] = 0
    assert pixels.any() or pixels.size < 10  # not a view of the image


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 100), (100, 1), (50, 5000), (5000, 50), (32, 32)])
def test_tall_wide_and_tiny_pictures_become_squares(height: int, width: int, fit: Fit) -> None:
    pixels = np.full((height, width, 3), (200, 30, 90), np.uint8)
    square = square_image(pixels, 32, fit)
    if fit == "pad" and height != width:
        is_picture = (square == (200, 30, 90)).all(axis=2)
        assert is_picture.sum() == 32 * max(1, round(32 * min(height, width) / max(height, width)))
        assert (square[~is_picture] == PAD_COLOR).all()
    else:
        assert (square == (200, 30, 90)).all()


def test_bars_have_the_mean_color_of_imagenet() -> None:
    assert tuple(round(255 * mean) for mean in (0.485, 0.456, 0.406)) == PAD_COLOR


@pytest.mark.parametrize("fit", FITS)
def test_a_thread_of_a_picture_is_refused_whatever_the_fit(fit: Fit) -> None:
    reason = refusal(np.zeros((1, 5000, 3), np.uint8), fit=fit)
    assert "5000 x 1 pixels" in reason and "up to 100 times" in reason


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    fit=st.sampled_from(FITS),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_all_types_give_the_same_square(height: int, width: int, fit: Fit, dtype: type[np.floating[Any]]) -> None:
    pixels = noise(height, width)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    expected = square_of_file(file.getvalue(), "a.png", 24, fit)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    unit = (pixels / 255).astype(dtype)
    for image in (
        pixels,
        pixels[::-1, ::-1][::-1, ::-1],
        Image.open(file),
        Image.fromarray(pixels),
        planes,
        unit,
        torch.from_numpy(unit).permute(2, 0, 1).contiguous().requires_grad_(),
    ):
        assert np.array_equal(square_image(image, 24, fit), expected)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "I;16"]
)
@pytest.mark.parametrize("opened", [True, False])
def test_an_image_of_pillow_is_taken_as_its_file(mode: str, opened: bool, tmp_path: Path) -> None:
    """Saved without loss where a format has the mode, otherwise against Pillow's own conversion."""
    rgba = Image.fromarray(noise(30, 40, 4), "RGBA")
    image = {
        "I;16": lambda: Image.fromarray(noise(30, 40, 1)[:, :, 0].astype(np.uint16) * 257),
        "La": lambda: rgba.convert("LA").convert("La"),
        "PA": lambda: rgba.convert("P").convert("PA"),
        "P": lambda: rgba.quantize(16),  # with transparent colors
    }.get(mode, lambda: rgba.convert("RGB").convert(mode) if mode in ("CMYK", "HSV", "YCbCr") else rgba.convert(mode))()
    assert image.mode == mode
    format_name = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"):
        path = tmp_path / f"image.{format_name.lower()}"
        image.save(path)
        expected = decode_image(path.read_bytes(), apply_orientation=True)
        image = Image.open(path) if opened else image
    else:
        seen = image.convert("LA") if mode == "La" else image
        white = Image.new("RGBA", image.size, "white")
        expected = np.asarray(Image.alpha_composite(white, seen.convert("RGBA")).convert("RGB"))
        if mode == "HSV":
            expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(square_image(image, 24), make_square(expected, 24))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_files_and_opened_images_are_turned_alike(orientation: int, format_name: str, tmp_path: Path) -> None:
    path = tmp_path / f"turned.{format_name.lower()}"
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(noise(24, 40)).save(
        path, format_name, exif=exif, **({"lossless": True} if format_name == "WEBP" else {})
    )
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    for fit in FITS:
        assert np.array_equal(square_image(path, 16, fit), make_square(upright, 16, fit))
        with Image.open(path) as opened:
            assert np.array_equal(square_image(opened, 16, fit), make_square(upright, 16, fit))
            assert np.array_equal(square_image(opened, 16, fit), make_square(upright, 16, fit))  # not turned twice


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_gray_and_transparent_arrays_and_tensors_are_taken_as_such_files(channels: int, tmp_path: Path) -> None:
    pixels = noise(30, 40, channels)
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    image.save(tmp_path / "image.png")
    expected = square_image(tmp_path / "image.png", 24)
    forms: list[Any] = [pixels, torch.from_numpy(pixels).permute(2, 0, 1), pixels / 255]
    forms += [pixels[:, :, 0], torch.from_numpy(pixels[:, :, 0])] if channels == 1 else []
    for form in forms:
        assert np.array_equal(square_image(form, 24), expected)


def test_bfloat16_and_slight_overshoots_are_rounded() -> None:
    assert (square_image(torch.full((3, 5, 5), 1.0, dtype=torch.bfloat16), 5) == 255).all()
    assert (square_image(np.full((5, 5), 1 + 1e-6), 5) == 255).all()
    assert (square_image(np.full((5, 5), -1e-6), 5) == 0).all()
    assert (square_image(np.full((5, 5), 127.4 / 255), 5) == 127).all()


def test_paths_are_strings_or_paths(tmp_path: Path) -> None:
    Image.fromarray(noise(30, 40)).save(tmp_path / "a.png")
    assert np.array_equal(square_image(str(tmp_path / "a.png"), 8), square_image(tmp_path / "a.png", 8))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((3, 224, 224), np.uint8), r"uint8 array of shape \(3, 224, 224\) .*transpose\(1, 2, 0\)"),
        (torch.zeros(224, 224, 3, dtype=torch.uint8), r"uint8 tensor of shape \(224, 224, 3\) .*permute\(2, 0, 1\)"),
        (np.zeros((5, 5, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((5, 5, 7), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((2, 5, 5, 3), np.uint8), "pass each of its images"),
        (torch.zeros(2, 3, 5, 5), "pass each of its images"),
        (np.zeros((), np.uint8), r"shape \(\)"),
        (np.zeros(0), r"shape \(0,\)"),
        (np.zeros((0, 5, 3), np.uint8), "5 x 0 pixels; allowed is at least 1 x 1"),
        (torch.zeros(3, 5, 0), "0 x 5 pixels"),
        (np.broadcast_to(np.uint8(0), (10**6, 10**6, 3)), "more than 178,956,970 pixels"),
        (np.zeros((5, 5, 3), bool), "bool array .* allowed are uint8"),
        (np.zeros((5, 5, 3), np.int64), "int64 array .* allowed are uint8"),
        (np.zeros((5, 5, 3), complex), "complex128 array .* allowed are uint8"),
        (np.full((5, 5, 3), None), "object array .* allowed are uint8"),
        (torch.zeros(3, 5, 5, dtype=torch.bool), "bool tensor .* allowed are uint8"),
        (torch.zeros(3, 5, 5, dtype=torch.complex64), "complex64 tensor .* allowed are uint8"),
        (torch.zeros(3, 5, 5, device="meta"), "torch cannot give its values"),
        (torch.zeros(3, 5, 5).to_sparse(), "torch cannot give its values"),
        (np.full((5, 5, 3), 200.0), "from 200 to 200; allowed are .* 0 to 1; if they are 0 to 255"),
        (np.linspace(-2, 2.6, 75).reshape(5, 5, 3), r"from -2 to 2\.6; .*if it was normalized"),
        (np.full((5, 5, 3), np.nan), "not finite"),
        (torch.full((3, 5, 5), torch.inf), "not finite"),
        (Image.new("F", (5, 5)), "PIL image of mode F .*no standard range"),
        (Image.fromarray(np.full((5, 5), 70_000, np.int32)), "70,000 to 70,000; allowed are 0 to 65,535"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels"),
        (b"\x89PNG", "type bytes; allowed are paths, PIL images"),
        (None, "type NoneType; allowed are paths"),
        ([1, 2], "type list"),
        ("<html>" + "<p>a page</p>\n" * 9999, "name image files"),
        ("a\0b.png", "allowed is a path that is not empty and has no null characters"),
        ("\ud800.png", "cannot read"),
        ("", "an image is ''; allowed is a path that is not empty"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_refused_with_what_is_allowed(image: Any, words: str) -> None:
    with pytest.raises(RequestError, match=f"(?s){words}") as caught:
        square_image(image, 8)
    assert len(str(caught.value)) < 1500


def test_files_and_opened_images_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert "Is a directory; name image files" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "none.png")
    (tmp_path / "page.jpg").write_text("<html>")
    assert "page.jpg is not a readable image: no image of a format" in refusal(tmp_path / "page.jpg")
    Image.fromarray(noise(64, 64)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    with Image.open(tmp_path / "cut.jpg") as opened:
        assert "PIL image of mode RGB cannot be used: Pillow reports 'image file is trunc" in refusal(opened)
    opened = Image.open(tmp_path / "whole.jpg")
    opened.close()
    assert "closed before its pixels were read; call its `load`" in refusal(opened)


def test_an_opened_bomb_is_refused_unread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of a kilobyte that claims 150 million pixels passes; one beyond the limit of files does not."""
    Image.new("1", (30_000, 10_000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(tmp_path / "bomb.png") as bomb:
        monkeypatch.setattr(bomb, "load", lambda: pytest.fail("its pixels are decoded"))
        assert "30000 x 10000 is more than 178,956,970 pixels" in refusal(bomb)


def test_twelve_bits_in_sixteen_are_said_of_opened_images_too(caplog: pytest.LogCaptureFixture) -> None:
    square_image(Image.fromarray(np.full((9, 9), 4095, np.uint16)), 8)
    assert "PIL image of mode I;16 has 16 bits per channel and uses only the lower 12" in caplog.text
    caplog.clear()
    square_image(Image.fromarray(np.full((9, 9), 65535, np.uint16)), 8)
    square_image(Image.new("RGB", (9, 9)), 8)
    assert caplog.text == ""


def test_an_unknown_fit_is_refused() -> None:
    assert refusal(noise(5, 5), fit="stretch") == "--fit is 'stretch'; allowed is crop, pad, squash"


def test_one_image_or_many_of_any_types(tmp_path: Path) -> None:
    one, path = noise(5, 6), tmp_path / "a.png"
    picture, tensor = Image.fromarray(one), torch.zeros(3, 5, 6)
    assert list(as_images("a.png")) == ["a.png"] and list(as_images(path)) == [path]
    assert list(as_images(picture)) == [picture]
    assert [image is one for image in as_images(one)] == [True]
    assert [image is tensor for image in as_images(tensor)] == [True]
    mixed = list(as_images(iter([path, picture, one, tensor])))
    assert mixed[0] is path and mixed[1] is picture and mixed[2] is one and mixed[3] is tensor
    batch = np.stack([one, one[::-1]])
    assert [np.array_equal(image, expected) for image, expected in zip(as_images(batch), batch, strict=True)] == [
        True
    ] * 2
    assert [tuple(image.shape) for image in as_images(torch.zeros(4, 3, 5, 6))] == [(3, 5, 6)] * 4  # type: ignore[union-attr]
    assert list(as_images(np.array(["a.png", "b.png"], object))) == ["a.png", "b.png"]  # type: ignore[arg-type]
    assert list(as_images([])) == []
    for wrong in (None, 7, b"abc", {"a": 1}, io.BytesIO(b"an image")):
        with pytest.raises(RequestError, match=r"images are of type .*; allowed are paths, PIL images"):
            as_images(wrong)  # type: ignore[arg-type]
