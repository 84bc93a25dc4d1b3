"""JPEG files that libjpeg warns of: read where the pixels are whole, refused where image data are missing or wrong."""

import io
import re
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet.data.decode import UnreadableImage, decode_image
from alexnet.data.jpeg_warnings import WARNINGS, mend_warning

END = b"\xff\xd9"
TRAILER = b"\x00\x00\x00\x18ftypmp42" + bytes(1000) + b"SEFH\x00\x00\x00\x00SEFT"


def picture(seed: int = 0, height: int = 61, width: int = 83) -> Image.Image:
    """Smooth light and noise, so that the image data have no long runs."""
    random = np.random.default_rng(seed)
    down, right = np.mgrid[:height, :width]
    light = np.stack([120 + 90 * np.sin(down / random.uniform(5, 30) + right / 9) for _ in range(3)], axis=2)
    return Image.fromarray((light + random.normal(0, 12, light.shape)).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def inks(seed: int) -> Image.Image:
    return Image.merge("CMYK", [*picture(seed).split(), picture(seed + 1).convert("L")])


def files() -> dict[str, bytes]:
    """Sound files of several kinds, each with a color profile."""
    profile = {"icc_profile": b"not a profile" * 20}
    return {
        "baseline": encode(picture(1), **profile),
        "optimized": encode(picture(2), quality=92, optimize=True, **profile),
        "4:4:4": encode(picture(3), subsampling=0, **profile),
        "restarts": encode(picture(4), restart_marker_rows=1, **profile),
        "gray": encode(picture(5).convert("L"), **profile),
        "progressive": encode(picture(6), progressive=True, **profile),
        "inks": encode(inks(7), **profile),
        "inks, progressive": encode(inks(8), progressive=True, **profile),
    }


FILES = files()


def changed(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


def with_scan_parameters(content: bytes) -> bytes:
    """Zeros for the range of coefficients in every scan header, as cameras write them."""
    for found in re.finditer(rb"\xff\xda\x00[\x08\x0a\x0c\x0e]", content):
        size = content[found.start() + 3]
        content = changed(content, found.start() + 2 + size - 3, bytes(3))
    return content


def with_jfif_version(content: bytes) -> bytes:
    return changed(content, content.index(b"JFIF\x00") + 5, b"\x02")


def with_adobe_transform(content: bytes) -> bytes:
    """A segment of Adobe's, in place of that of JFIF where there is one, whose color transform is unknown."""
    if b"Adobe" in content:
        return changed(content, content.index(b"Adobe") + 11, b"\x09")
    assert content[2:4] == b"\xff\xe0"
    rest = content[4 + int.from_bytes(content[4:6], "big") :]
    return content[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x09" + rest


def with_bad_profile(content: bytes) -> bytes:
    """A color profile that says to be part 1 of 0."""
    return changed(content, content.index(b"ICC_PROFILE\x00") + 13, b"\x00")


def with_bytes_in_header(content: bytes) -> bytes:
    place = content.index(b"\xff\xdb")
    return content[:place] + b"\x07\x00" + content[place:]


def with_text_in_header(content: bytes) -> bytes:
    place = content.index(b"\xff\xdb")
    return content[:place] + b"exposure 1/60 s" * 40 + content[place:]


def with_padding(content: bytes) -> bytes:
    return content.removesuffix(END) + bytes(24) + END


def with_text_at_end(content: bytes) -> bytes:
    return content.removesuffix(END) + b'{"gimbal": [0.1, 2.5]}\n' * 9 + END


def with_trailer_for_end(content: bytes) -> bytes:
    return content.removesuffix(END) + TRAILER


EXTRANEOUS_AT_END = r"\d+ extraneous bytes before marker 0xd9"
HARMLESS: dict[Callable[[bytes], bytes], str] = {
    with_scan_parameters: "Invalid SOS parameters for sequential JPEG",
    with_jfif_version: "unknown JFIF revision number 2",
    with_adobe_transform: "Unknown Adobe color transform code 9",
    with_bytes_in_header: "2 extraneous bytes before marker 0xdb",
    with_text_in_header: "600 extraneous bytes before marker 0xdb",
    with_padding: EXTRANEOUS_AT_END,
    with_text_at_end: EXTRANEOUS_AT_END,
    with_trailer_for_end: "Premature end of JPEG file",
}
"""What is done to a sound file, and what libjpeg says of it."""
AT_END = (with_padding, with_text_at_end, with_trailer_for_end)
SEQUENTIAL_ALONE = (with_scan_parameters, with_trailer_for_end)


def strict(content: bytes) -> np.ndarray | str:
    """The pixels of the strict decoder, or its message."""
    try:
        space = simplejpeg.decode_jpeg_header(content, strict=True)[2]
        return simplejpeg.decode_jpeg(content, colorspace="CMYK" if space in ("CMYK", "YCCK") else "RGB", strict=True)
    except ValueError as error:
        return str(error)


def by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def applies(change: Callable[[bytes], bytes], kind: str) -> bool:
    """Whether a change makes sense for a file: gray has no color transform, JFIF no inks."""
    if "progressive" in kind and change in SEQUENTIAL_ALONE:
        return False
    if change is with_adobe_transform:
        return kind != "gray"
    return not (change is with_jfif_version and "inks" in kind)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("change", HARMLESS)
def test_a_harmless_warning_refuses_no_file(change: Callable[[bytes], bytes], kind: str) -> None:
    if not applies(change, kind):
        pytest.skip("the file has no such thing")
    content = change(FILES[kind])
    message = strict(content)
    assert isinstance(message, str) and re.search(HARMLESS[change], message)
    got = decode_image(content, apply_orientation=True)
    assert np.array_equal(got, by_pillow(content))
    if change is not with_adobe_transform or "inks" not in kind:
        assert np.array_equal(got, by_pillow(FILES[kind]))


def test_a_malformed_color_profile_refuses_no_file() -> None:
    content = with_bad_profile(FILES["baseline"])
    assert np.array_equal(decode_image(content, apply_orientation=True), by_pillow(FILES["baseline"]))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(FILES)),
    chosen=st.sets(st.sampled_from(list(HARMLESS)), min_size=2, max_size=5),
    cut=st.floats(0.0, 1.0, exclude_max=True),
)
def test_several_harmless_warnings_are_answered_and_hide_no_missing_data(
    kind: str, chosen: set[Callable[[bytes], bytes]], cut: float
) -> None:
    chosen = {one for one in chosen if applies(one, kind)}
    content = FILES[kind]
    for change in (one for one in HARMLESS if one in chosen and one not in AT_END):
        if change is not with_jfif_version or b"JFIF" in content:
            content = change(content)
    whole = content
    for change in [one for one in AT_END if one in chosen][:1]:
        whole = change(content)
    expected = by_pillow(content)
    assert np.array_equal(decode_image(whole, apply_orientation=True), expected)
    # The same file with a part of its image data missing.
    first = content.rindex(b"\xff\xda") + 20
    end = len(content) - len(END)
    place = first + int(cut * (end - 12 - first))
    for rest in (b"", END, bytes(end - place) + END, bytes(end - place), TRAILER, TRAILER + END):
        if not isinstance(strict(FILES[kind][: place - len(content)] + rest), str):
            continue  # the rest happens to be codes of the missing pixels, of which no decoder can know
        with pytest.raises(UnreadableImage, match="damaged JPEG"):
            decode_image(content[:place] + rest, apply_orientation=True)


def test_damaged_image_data_is_refused_as_by_the_strict_decoder() -> None:
    random = np.random.default_rng(7)
    num_refused_at_end = 0
    for number in range(900):
        sound = list(FILES.values())[number % len(FILES)]
        content = bytearray(sound)
        first = sound.rindex(b"\xff\xda") + 20
        start = int(random.integers(first, len(sound) - 2))
        size = min(len(sound) - 2 - start, int(2 ** random.uniform(0, 9)))
        damage = ("flip", "zeros", "zeros to the end", "gone", "twice", "text")[number // len(FILES) % 6]
        if damage == "flip":
            content[start] ^= 1 << int(random.integers(8))
        elif damage == "zeros":
            content[start : start + size] = bytes(size)
        elif damage == "zeros to the end":
            content[start:-2] = bytes(len(content) - 2 - start)
        elif damage == "gone":
            del content[start : start + size]
        elif damage == "twice":
            content[start:start] = content[start : start + size]
        else:
            content[start : start + size] = (b"<x:xmpmeta/>\n\0\0\0" * 40)[:size]
        expected = strict(bytes(content))
        for change in (bytes, with_scan_parameters, with_bytes_in_header):
            if "progressive" in list(FILES)[number % len(FILES)] and change is with_scan_parameters:
                continue
            try:
                decode_image(change(bytes(content)), apply_orientation=False)
            except UnreadableImage:
                assert isinstance(expected, str)
                num_refused_at_end += "before marker 0xd9" in expected
            else:
                assert not isinstance(expected, str), (number, damage, expected)
    assert num_refused_at_end > 300  # the warning that padding causes, too


def test_zeros_in_place_of_the_last_image_data_are_no_padding() -> None:
    num_refused_at_end = 0
    for seed in range(40):
        content = encode(picture(seed, 32, 32), quality=60)
        for num_bytes in range(9, 40):
            damaged = content[: -2 - num_bytes] + bytes(num_bytes) + END
            expected = strict(damaged)
            if isinstance(expected, str):
                num_refused_at_end += "before marker 0xd9" in expected
                with pytest.raises(UnreadableImage, match="damaged JPEG"):
                    decode_image(damaged, apply_orientation=False)
    assert num_refused_at_end > 40


@pytest.mark.parametrize("kind", FILES)
def test_a_file_without_its_end_mark_and_without_a_trailer_is_cut_short(kind: str) -> None:
    for rest in (b"", b"\xff", b"\x00", bytes(7)):
        with pytest.raises(UnreadableImage, match="damaged JPEG"):
            decode_image(FILES[kind].removesuffix(END) + rest, apply_orientation=True)


def test_a_progressive_file_without_its_last_scan_is_refused_whatever_stands_there() -> None:
    content = FILES["progressive"]
    last = content.rindex(b"\xff\xda")
    for rest in (TRAILER, b"\x00\x00" + content[last + 2 :]):
        with pytest.raises(UnreadableImage, match="damaged JPEG"):
            decode_image(content[:last] + rest, apply_orientation=True)


def test_bytes_after_the_first_marker_are_no_jpeg() -> None:
    content = FILES["baseline"]
    with pytest.raises(UnreadableImage, match="extraneous bytes"):
        decode_image(content[:2] + b"\x07\x00" + content[2:], apply_orientation=True)


def test_a_lost_table_of_codes_is_no_stray_text() -> None:
    content = FILES["optimized"]
    place = content.index(b"\xff\xc4")
    with pytest.raises(UnreadableImage, match="damaged JPEG"):
        decode_image(changed(content, place, b"\x00"), apply_orientation=True)


def test_a_header_that_is_shorter_than_its_kind_is_refused() -> None:
    scan = b"\xff\xda\x00\x02" + bytes(20) + END
    for start in (
        b"\xff\xd8\xff\xc0\x00\x02",
        b"\xff\xd8\xff\xc0\x00\x08" + bytes(6),
        b"\xff\xd8\xff\xee\x00\x07Adobe",
    ):
        for warning in ("Unknown Adobe color transform code 9", "Premature end of JPEG file", "any other"):
            mend_warning(start + scan, warning)
            mend_warning(start, warning)
        with pytest.raises(UnreadableImage, match="damaged JPEG"):
            decode_image(start + scan, apply_orientation=True)


def test_every_warning_of_the_library_is_in_the_table() -> None:
    """The messages are those of libjpeg-turbo's jerror.h, with numbers in place of its formats."""
    harmful = (
        "Corrupt JPEG data: premature end of data segment",
        "Corrupt JPEG data: bad Huffman code",
        "Corrupt JPEG data: bad arithmetic code",
        "Corrupt JPEG data: found marker 0xd3 instead of RST2",
        "Inconsistent progression sequence for component 0 coefficient 1",
    )
    conditional = (
        "Unknown Adobe color transform code 9",
        "Corrupt JPEG data: 12 extraneous bytes before marker 0xd9",
        "Corrupt JPEG data: 2 extraneous bytes before marker 0xdb",
        "Corrupt JPEG data: bad ICC marker",
        "Warning: unknown JFIF revision number 2.01",
        "Premature end of JPEG file",
        "Invalid SOS parameters for sequential JPEG",
    )
    for message in harmful + conditional:
        (answer,) = (answer for pattern, answer in WARNINGS.items() if re.match(pattern, message))
        assert (answer is None) == (message in harmful), message


def test_foreign_bytes_that_decode_like_image_data_and_end_in_an_error_are_refused() -> None:
    """Any bytes without FF decode to something; an error after them, unlike a warning, is never excused."""
    image = FILES["baseline"]
    start = image.index(b"\xff\xda") + 600
    foreign = b"D'(,J1#@25=A42634D-6C2?K9/LC3" * 900 + b"\xff\x57" + bytes(40)
    for content in (image[:start] + foreign, image.removesuffix(END) + TRAILER + b"\xff\x57" + bytes(40)):
        with pytest.raises(OSError, match="broken data stream"):
            by_pillow(content)
        with pytest.raises(UnreadableImage, match="damaged JPEG"):
            decode_image(content, apply_orientation=True)
