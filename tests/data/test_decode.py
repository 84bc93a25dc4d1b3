"""Odd files, one policy; resizing against Pillow."""

import contextlib
import io
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from alexnet.data.decode import UnreadableImage, decode_image, make_square


def smooth(height: int = 40, width: int = 60) -> np.ndarray:
    """A picture without sharp edges, uint8 (H, W, 3), so that JPEG hardly changes it."""
    down, right = np.mgrid[:height, :width]
    planes = [down * 255 / height, right * 255 / width, 127 + 100 * np.sin(down / 9 + right / 7)]
    return np.stack(planes, axis=2).astype(np.uint8)


def encode(image: Image.Image, format_name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(values: np.ndarray, color_type: int, *extra: bytes, size: tuple[int, int] | None = None) -> bytes:
    """A PNG written by hand; values uint8 or uint16 (H, W, channels), `size` the width and height that it claims."""
    height, width = values.shape[:2]
    claimed = size or (width, height)
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in values)
    header = struct.pack(">IIBBBBB", *claimed, values.itemsize * 8, color_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def refusal(content: bytes) -> str:
    """The reason why a file is refused, checked to be one line."""
    with pytest.raises(UnreadableImage) as caught:
        decode_image(content, apply_orientation=True)
    reason = str(caught.value)
    assert reason and reason.isprintable() and " at 0x" not in reason
    return reason


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
    gray = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    got = decode_image(encode(Image.fromarray(gray), "PNG"), apply_orientation=True)
    assert np.array_equal(got, np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_of_a_sixteen_bit_png_of_any_kind_the_upper_eight_are_kept(color_type: int, channels: int) -> None:
    values = np.random.default_rng(3).integers(0, 2**16, (5, 7, channels), np.uint16)
    if channels in (2, 4):
        values[..., -1] = 0xFFFF
    colors = values[..., : 1 if channels < 3 else 3] >> 8
    got = decode_image(png_of(values, color_type), apply_orientation=True)
    assert np.array_equal(got, np.broadcast_to(colors, (5, 7, 3)))


def test_sixteen_bit_tiff_and_ppm_keep_the_upper_eight() -> None:
    gray = np.random.default_rng(4).integers(0, 2**16, (5, 7), np.uint16)
    expected = np.repeat((gray >> 8)[..., None], 3, axis=2)
    tiff = encode(Image.fromarray(gray), "TIFF")
    ppm = b"P5 7 5 65535\n" + gray.astype(">u2").tobytes()
    for content in (tiff, ppm):
        assert np.array_equal(decode_image(content, apply_orientation=True), expected)


@pytest.mark.parametrize(("mode", "format_name"), [("LA", "PNG"), ("PA", "TIFF"), ("RGBA", "WEBP")])
def test_half_of_each_kind_of_transparent_picture_is_white(mode: str, format_name: str) -> None:
    alpha = np.repeat([[0], [255]], 20, axis=0).repeat(60, axis=1).astype(np.uint8)
    rgba = Image.fromarray(np.dstack([smooth(), alpha]))
    content = encode(rgba.convert(mode), format_name, lossless=True)
    got = decode_image(content, apply_orientation=True)
    assert (got[:20] == 255).all()
    assert np.array_equal(got[20:], np.asarray(rgba.convert(mode).convert("RGB"))[20:])


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"])
def test_a_single_pixel_is_a_picture(format_name: str) -> None:
    content = encode(Image.new("RGB", (1, 1), (255, 255, 255)), format_name)
    assert decode_image(content, apply_orientation=True).tolist() == [[[255, 255, 255]]]


def inks(*, transform: int) -> bytes:
    """A JPEG of four inks; with transform 2 their first three are luminance and chroma (YCCK)."""
    content = bytearray(encode(Image.fromarray(smooth(60, 80)).convert("CMYK"), "JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = transform
    return bytes(content)


@pytest.mark.parametrize(("transform", "color_space"), [(0, "CMYK"), (2, "YCCK")])
def test_the_inks_of_print_are_mixed_as_pillow_does(transform: int, color_space: str) -> None:
    content = inks(transform=transform)
    assert simplejpeg.decode_jpeg_header(content)[2] == color_space
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decode_image(content, apply_orientation=True), expected)
    if transform == 0:
        original = np.asarray(Image.fromarray(smooth(60, 80)).convert("CMYK").convert("RGB"))
        assert np.abs(expected.astype(int) - original).mean() < 3


def test_damaged_inks_are_refused_where_pillow_shows_them() -> None:
    content = inks(transform=0)
    num_shown_by_pillow_alone = 0
    for place in range(len(content) // 2, len(content) - 2, 7):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            simplejpeg.decode_jpeg(bytes(damaged), colorspace="CMYK", strict=True)
        except ValueError:
            assert "damaged JPEG" in refusal(bytes(damaged))
            with contextlib.suppress(OSError), Image.open(io.BytesIO(bytes(damaged))) as image:
                image.load()
                num_shown_by_pillow_alone += 1
    assert num_shown_by_pillow_alone > 3


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(format_name: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    content = encode(frames[0], format_name, save_all=True, append_images=frames[1:], lossless=True)
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


@pytest.mark.parametrize("apply_orientation", [True, False])
def test_tiff_is_always_turned_since_its_own_header_says_so(apply_orientation: bool) -> None:
    content = encode(Image.fromarray(smooth()), "TIFF", tiffinfo={274: 6})
    assert np.array_equal(decode_image(content, apply_orientation=apply_orientation), np.rot90(smooth(), 3))


def turned_by_a_quarter() -> dict[str, bytes]:
    """EXIF data that say: turn it to the right."""
    exif = Image.Exif()
    exif[274] = 6
    return {"exif": exif.tobytes()}


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_turned_once() -> None:
    content = encode(Image.fromarray(smooth()), "AVIF", quality=95, speed=10, **turned_by_a_quarter())
    upright = decode_image(content, apply_orientation=True).astype(int)
    assert np.abs(upright - np.rot90(smooth(), 3)).mean() < 4
    assert np.abs(decode_image(content, apply_orientation=False).astype(int) - smooth()).mean() < 4


@pytest.mark.parametrize("apply_orientation", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_heic_is_turned_once_by_its_container(turned: bool, apply_orientation: bool) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    options = turned_by_a_quarter() if turned else {}
    pillow_heif.from_pillow(Image.fromarray(smooth())).save(file, quality=95, **options)
    got = decode_image(file.getvalue(), apply_orientation=apply_orientation).astype(int)
    expected = np.rot90(smooth(), 3) if turned else smooth()
    assert got.shape == expected.shape
    assert np.abs(got - expected).mean() < 4


def container(main: bytes, *others: bytes) -> bytes:
    """The beginning of an ISO container."""
    brands = main + bytes(4) + b"".join(others)
    return struct.pack(">I", len(brands) + 8) + b"ftyp" + brands + bytes(64)


@pytest.mark.parametrize("brands", [(b"heic", b"mif1", b"heic"), (b"mif1", b"heix"), (b"mif1",), (b"hevc",)])
def test_heic_without_its_package_is_refused_by_its_name(
    brands: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "alexnet[heif]" in refusal(container(*brands))


@pytest.mark.parametrize("brands", [(b"avif", b"mif1"), (b"avis",), (b"mif1", b"miaf", b"avif")])
def test_avif_without_its_codec_is_refused_by_its_name(
    brands: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "check", lambda feature: False)
    assert "without AVIF" in refusal(container(*brands))


def test_damaged_phone_pictures_and_films_are_refused() -> None:
    assert "no image of a format" in refusal(container(b"isom", b"mp42"))
    if features.check("avif"):
        assert "damaged image" in refusal(container(b"avif"))
    pytest.importorskip("pillow_heif")
    assert "damaged image" in refusal(container(b"heic"))


@pytest.mark.parametrize("value", [b"\0\0", b"\0\1", b"\xff\xff"])
@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3)])
def test_a_transparent_color_of_a_sixteen_bit_png_is_not_applied(value: bytes, color_type: int, channels: int) -> None:
    values = np.random.default_rng(5).choice(np.array([0, 1, 255, 256, 65535], np.uint16), (5, 7, 1))
    content = png_of(np.repeat(values, channels, axis=2), color_type, chunk(b"tRNS", value * channels))
    assert np.array_equal(decode_image(content, apply_orientation=True), np.repeat(values >> 8, 3, axis=2))


def test_a_large_text_or_color_profile_in_a_png_is_no_damage() -> None:
    packed = zlib.compress(bytes(5 * 2**20))
    large = [
        chunk(b"zTXt", b"workflow\0\0" + packed),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + packed),
        chunk(b"iCCP", b"profile\0\0" + packed),
    ]
    for extra in [*([one] for one in large), large]:
        content = png_of(smooth(), 2, *extra)
        with pytest.raises(ValueError, match="MAX_TEXT"):
            Image.open(io.BytesIO(content))
        assert np.array_equal(decode_image(content, apply_orientation=True), smooth())
        assert "checksum" in refusal(content.replace(packed, packed[:-1] + b"?"))


def test_a_checksum_of_a_png_that_does_not_hold_refuses_it() -> None:
    content = png_of(smooth(), 2)
    assert np.array_equal(decode_image(content, apply_orientation=True), smooth())
    place = content.index(b"IEND") - 5  # the last byte of the checksum of the pixels
    damaged = bytearray(content)
    damaged[place] ^= 1
    with Image.open(io.BytesIO(bytes(damaged))) as image:
        image.load()  # Pillow passes over it
    assert "checksum" in refusal(bytes(damaged))
    for num_bytes in (1, 4, 12):
        assert "ends early" in refusal(content[:-num_bytes])


def adam7(pixels: np.ndarray) -> list[bytes]:
    """The rows of a PNG's seven passes, each after a filter byte of 0, of pixels uint8 (H, W, channels)."""
    places = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    passes = [pixels[top::down, left::right] for top, down, left, right in places]
    return [b"\0" + row.tobytes() for one in passes if one.size for row in one]


def png_of_rows(rows: bytes, size: tuple[int, int], color_type: int, depth: int = 8, *, interlaced: bool) -> bytes:
    header = struct.pack(">IIBBBBB", *size, depth, color_type, 0, 0, interlaced)
    data = zlib.compress(rows)
    cut = len(data) // 2
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", data[:cut]), chunk(b"IDAT", data[cut:]), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.integers(1, 4),
    is_black=st.booleans(),
    interlaced=st.booleans(),
    lost=st.integers(1, 2) | st.integers(3, 60),
)
def test_a_png_whose_data_end_too_early_is_refused_and_a_black_one_is_not(
    height: int, width: int, channels: int, is_black: bool, interlaced: bool, lost: int
) -> None:
    """Pillow reads both where whole rows are missing, as black."""
    pixels = np.random.default_rng(lost).integers(1, 256, (height, width, channels), dtype=np.uint8) * (not is_black)
    rows = adam7(pixels) if interlaced else [b"\0" + row.tobytes() for row in pixels]
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    whole = png_of_rows(b"".join(rows), (width, height), color_type, interlaced=interlaced)
    with Image.open(io.BytesIO(whole)) as image:
        white = Image.new("RGBA", image.size, "white")
        expected = np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    assert np.array_equal(decode_image(whole, apply_orientation=True), expected)
    cut = png_of_rows(b"".join(rows[:-lost]), (width, height), color_type, interlaced=interlaced)
    assert "damaged image: " in refusal(cut)


@pytest.mark.parametrize("depth", [1, 2, 4, 16])
def test_the_rows_of_a_png_of_any_depth_are_counted(depth: int) -> None:
    row = b"\0" * (1 + (13 * depth + 7) // 8)
    whole = png_of_rows(row * 9, (13, 9), 0, depth, interlaced=False)
    assert not decode_image(whole, apply_orientation=True).any()
    assert "the data of the PNG end before its last row" in refusal(
        png_of_rows(row * 8, (13, 9), 0, depth, interlaced=False)
    )


def test_kinds_that_are_not_decoded_are_named() -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    tifffile = pytest.importorskip("tifffile")
    pixels = smooth()
    files = {
        "JPEG-LS is not read": imagecodecs.jpegls_encode(pixels),
        "lossless JPEG is not read": imagecodecs.ljpeg_encode(pixels[:, :, 0]),
        "JPEG of 12 bits per channel is not read": imagecodecs.jpeg8_encode(
            pixels.astype(np.uint16) << 4, bitspersample=12
        ),
    }
    for name in ("JPEG 2000", "LERC", "PNG", "JPEG XL", "JPEG XR", "WebP"):
        file = io.BytesIO()
        compression = name.lower().replace(" ", "")
        tifffile.imwrite(file, pixels, photometric="rgb", compression=compression)
        files[f"{name} data of the TIFF" if name == "WebP" else f"TIFF compressed with {name} is not"] = file.getvalue()
    for words, content in files.items():
        if words.startswith("WebP"):  # where Pillow was built with it, it is read
            with contextlib.suppress(OSError), Image.open(io.BytesIO(content)) as image:
                image.load()
                continue
        reason = refusal(content)
        assert words in reason and ("convert it" in reason or "save it" in reason)
    damaged = bytearray(encode(Image.fromarray(smooth()), "JPEG"))
    damaged[damaged.index(b"\xff\xc0") + 4] = 0  # the precision
    assert "damaged JPEG" in refusal(bytes(damaged))
    assert "damaged JPEG" in refusal(encode(Image.fromarray(smooth()), "JPEG")[:-50])


def test_what_pillow_warns_about_is_harmless_in_many_threads_and_as_errors() -> None:
    no_frames = chunk(b"acTL", struct.pack(">II", 0, 0))
    content = png_of(smooth(), 2, no_frames)

    def by_pillow_itself() -> int:
        try:
            Image.open(io.BytesIO(content)).close()
        except UserWarning:
            return 1
        return 0

    def decoded() -> bool:
        return np.array_equal(decode_image(content, apply_orientation=True), smooth())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool:
            others = [pool.submit(by_pillow_itself if number % 2 else decoded) for number in range(200)]
            assert all(future.result() for future in others)


def test_a_bomb_of_which_pillow_only_warns_is_read_as_far_as_it_goes() -> None:
    content = png_of(np.zeros((4, 4, 1), np.uint8), 0, size=(10_000, 10_000))
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(content)).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "damaged image" in refusal(content)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_malformed_exif_does_not_refuse_good_pixels(format_name: str) -> None:
    exif = b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage"
    content = encode(Image.fromarray(smooth()), format_name, exif=exif)
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
        (encode(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"), "32-bit"),
        (png[:20], "damaged image"),
        (b"II*\x00", "damaged image"),
        (b"GIF89a", "damaged image"),
        (b"RIFF\x00\x00\x00\x00WEBP", "damaged image"),
        (b"P6 1 x", "damaged image"),
        (b"<html><body>404</body></html>", "no image of a format"),
        (b"\xff\xd8", "damaged JPEG"),
    ):
        assert reason in refusal(content)


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
    got = make_square(image, side)
    assert got.shape == (side, side, 3) and got.flags.c_contiguous
    shorter = min(height, width)
    size = (round(width * side / shorter), round(height * side / shorter))
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    difference = got.astype(int) - scaled[top : top + side, left : left + side]
    assert np.abs(difference).max() <= 1


def test_a_panorama_is_decoded_and_its_scaling_refused_with_what_is_allowed() -> None:
    content = encode(Image.new("RGB", (30_000, 10)), "PNG")
    image = decode_image(content, apply_orientation=True)
    assert image.shape == (10, 30_000, 3)
    with pytest.raises(UnreadableImage, match=r"^30000 x 10 pixels: .* allowed is a longer side of up to 100 times"):
        make_square(image, 8)
    assert make_square(image[:, :1000], 8).shape == (8, 8, 3)


def test_a_thread_of_a_picture_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="100 times longer"):
        make_square(np.zeros((1, 101, 3), np.uint8), 8)


@pytest.mark.parametrize(("height", "width"), [(800, 32), (32, 800), (33, 32), (64, 64), (32, 32)])
def test_a_square_keeps_no_larger_picture_in_memory(height: int, width: int) -> None:
    square = make_square(np.full((height, width, 3), 7, np.uint8), 32)
    behind = square
    while isinstance(behind.base, np.ndarray):
        behind = behind.base
    assert square.flags.c_contiguous and behind.nbytes == square.nbytes
