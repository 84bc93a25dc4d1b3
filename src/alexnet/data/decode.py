"""Decodes image files to RGB, with one policy for odd files (docs/odd-files.md), and resizes and crops them.

libjpeg-turbo decodes JPEG, strictly: a file with damaged data is refused, not shown half gray. Pillow decodes all other
formats, which are recognized by their first bytes, never by the file's name. Gray and palette become RGB, transparency
is put on white, 16 bits become the upper 8, and of an animation the first frame is taken.
"""

import importlib
import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError, features

from alexnet.data.jpeg_warnings import WARNINGS, mend_warning, undecoded_kind
from alexnet.data.pillow_warnings import pillow_warnings_muted
from alexnet.data.pixel_layouts import (
    CONVERT,
    OPTIONAL_COMPRESSIONS,
    RECOMPRESS,
    TiffLayout,
    has_16_bits,
    jpeg2000_refusal,
)

MAX_PIXELS = 178_956_970
"""An image with more is refused, since a small file can claim any size. Pillow's own limit."""
MAX_ELONGATION = 100
"""A picture more than this many times longer than wide is refused; resized, it could fill the memory."""
FORMATS = "JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, JPEG 2000, AVIF, HEIC"
"""The formats that are read, for messages. Other formats of Pillow are not, since some of them start programs."""
SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
}
"""First bytes of files, and Pillow's name of the format."""
HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
AVIF_BRANDS = frozenset((b"avif", b"avis"))
HEIF_BRANDS = frozenset((b"mif1", b"mif2", b"msf1"))
"""Still images in an ISO container whose brand does not name their codec."""
INFLATED_BYTES = 2**20
"""Of a PNG whose data are counted, at a time."""
ORIENTATION_TAG = 274
UPRIGHT = 1

Fit = Literal["crop", "pad", "squash"]
"""How a picture becomes a square: cut to the central square, filled up to one, or stretched to one."""
PAD_COLOR = (124, 116, 104)
"""RGB of the bars of `pad`, 0..255: the mean color of ImageNet's photographs (0.485, 0.456, 0.406 of 255). After a mean
image is subtracted, bars of this color are nearly zero, where black ones would be a picture's strongest signal."""


class UnreadableImage(ValueError):
    """The bytes are not a usable image; the text is the reason."""


def decode_image(content: bytes, *, apply_orientation: bool) -> NDArray[np.uint8]:
    """Decode an image file.

    Args:
        content: the file's bytes.
        apply_orientation: turn the picture as its EXIF data say. TIFF and HEIC, which have the orientation in their own
            headers, are always turned.

    Returns:
        uint8 (H, W, 3), RGB, 0..255, contiguous.

    Raises:
        UnreadableImage: empty, damaged, too large, or of an unknown format. Only MemoryError is raised otherwise.
    """
    if not content:
        raise UnreadableImage(f"empty file; allowed are whole images ({FORMATS})")
    image, orientation = _decode_jpeg(content) if content.startswith(b"\xff\xd8") else _decode_other(content)
    if apply_orientation:
        image = _upright(image, orientation)
    return np.ascontiguousarray(image)


def decode_opened(image: Image.Image) -> NDArray[np.uint8]:
    """The upright pixels of an image that Pillow has opened, by the rules for files.

    Args:
        image: of any mode but `F`, whose range is not standardized; loaded if it is not yet. What it holds is taken as
            Pillow gives it: the current frame, and bits that a decoder of Pillow dropped are not read again.

    Returns:
        uint8 (H, W, 3), RGB, 0..255, contiguous; turned as the EXIF data say that the image has.

    Raises:
        UnreadableImage: damaged, too large, empty, or of values without a standard range.
    """
    try:
        with pillow_warnings_muted():
            require_size(*image.size)
            if isinstance(image, ImageFile.ImageFile) and image.tile and image.fp is None:
                raise UnreadableImage("it was closed before its pixels were read; call its `load` before it is closed")
            image.load()
            if image.mode == "F":
                raise UnreadableImage("mode F has no standard range; convert it to mode L or RGB")
            if image.mode == "I":
                values = np.asarray(image)
                if values.min() < 0 or values.max() > 0xFFFF:
                    raise UnreadableImage(
                        f"its values are {values.min():,} to {values.max():,}; allowed are 0 to 65,535"
                    )
            pixels, orientation = _to_rgb(image), _orientation_of(image)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:  # Pillow raises errors of many classes on damaged data
        raise UnreadableImage(f"Pillow reports {_one_line(error)!r}") from error
    return np.ascontiguousarray(_upright(pixels, orientation))


def on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB of pixels with transparency, uint8 (H, W, 4), on white, as in files."""
    return _to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))


def describe_fit(fit: Fit, side: int) -> str:
    """What `make_square` does, in words."""
    match fit:
        case "crop":
            return f"the shorter side is resized to {side} pixels and the central square is cut out"
        case "pad":
            return f"the longer side is resized to {side} pixels and the image is centered on a gray square"
        case "squash":
            return f"both sides are resized to {side} pixels, whatever the shape"


def begins_as_image(content: bytes) -> bool:
    """Whether a file begins like one of a format that is read, sound or damaged."""
    try:
        return content.startswith(b"\xff\xd8") or bool(_format_of(content))
    except UnreadableImage:
        return False


def make_square(image: NDArray[np.uint8], side: int, fit: Fit = "crop") -> NDArray[np.uint8]:
    """Resize a picture (bilinear, antialiased) to a square of `side` pixels.

    Args:
        image: uint8 (H, W, 3).
        side: pixels, 1 or more.
        fit: `crop` resizes the shorter side to `side` and takes the central square, as the paper does (section 2);
            `pad` resizes the longer side to `side` and fills the rest evenly with `PAD_COLOR`; `squash` resizes both.

    Returns:
        uint8 (side, side, 3), contiguous; not a view of a larger array.

    Raises:
        UnreadableImage: more than 100 times longer than wide, or vice versa.
    """
    height, width = image.shape[:2]
    shorter, longer = sorted((height, width))
    if longer > MAX_ELONGATION * shorter:
        raise UnreadableImage(
            f"{width} x {height} pixels: more than {MAX_ELONGATION} times longer than wide, or the reverse; allowed is "
            f"a longer side of up to {MAX_ELONGATION} times the shorter one, so cut it"
        )
    if fit == "squash":
        return np.ascontiguousarray(_resized(image, side, side))
    if fit == "pad":
        rows, columns = padded_region(height, width, side)
        square = np.full((side, side, 3), PAD_COLOR, np.uint8)
        square[rows, columns] = _resized(image, rows.stop - rows.start, columns.stop - columns.start)
        return square
    image = _resized(image, max(side, round(height * side / shorter)), max(side, round(width * side / shorter)))
    height, width = image.shape[:2]
    if height == width:
        return np.ascontiguousarray(image)
    top, left = (height - side) // 2, (width - side) // 2
    # A copy even if the rows are contiguous: a view would keep all of a long picture in memory.
    return image[top : top + side, left : left + side].copy()


def padded_region(height: int, width: int, side: int) -> tuple[slice, slice]:
    """The rows and columns that a picture of `height` x `width` pixels fills in its square with the fit `pad`."""
    longer = max(height, width)
    height, width = max(1, round(height * side / longer)), max(1, round(width * side / longer))
    top, left = (side - height) // 2, (side - width) // 2
    return slice(top, top + height), slice(left, left + width)


def _resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The picture in another size, uint8 (height, width, 3); itself where it has that size."""
    if image.shape[:2] == (height, width):
        return image
    # Only here: what reads no photographs, such as listing runs, imports this module too and starts without torch.
    import torch
    from torch.nn import functional

    writable = np.require(image, requirements=["C", "W"])  # torch warns of read-only arrays
    # (1, 3, H, W), channels-last in memory: three times as fast, as is the crop after it. The batch axis is added
    # first, or torch does not recognize channels-last.
    planes = torch.from_numpy(writable)[None].permute(0, 3, 1, 2)
    scaled = functional.interpolate(planes, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    resized: NDArray[np.uint8] = scaled[0].permute(1, 2, 0).numpy()
    return resized


def _decode_jpeg(content: bytes) -> tuple[NDArray[np.uint8], int]:
    """A JPEG's pixels as stored, and its EXIF orientation."""
    try:
        image = _decode_jpeg_strictly(content)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:
        image = _decode_mended_jpeg(content, error)
    # Searching for the EXIF marker costs less than opening the file a second time.
    return image, _jpeg_orientation(content) if b"Exif\x00\x00" in content else UPRIGHT


def _decode_jpeg_strictly(content: bytes) -> NDArray[np.uint8]:
    """A JPEG's pixels; an error with the words of libjpeg if it warns of anything."""
    height, width, color_space, _ = simplejpeg.decode_jpeg_header(content, strict=True)
    require_size(width, height)
    # CMYK is decoded as CMYK, so that the strict check applies to it too; Pillow only converts it.
    is_cmyk = color_space in ("CMYK", "YCCK")
    image: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace="CMYK" if is_cmyk else "RGB", strict=True)
    return _cmyk_to_rgb(image) if is_cmyk else image


def _decode_mended_jpeg(content: bytes, error: Exception) -> NDArray[np.uint8]:
    """The pixels of a JPEG that the strict decoder refuses with `error`, if all its warnings leave them whole."""
    for _ in WARNINGS:  # each is answered once
        mended = mend_warning(content, str(error))
        if mended is None:
            break
        content = mended
        try:
            return _decode_jpeg_strictly(content)
        except (UnreadableImage, MemoryError):
            raise
        except Exception as next_error:
            error = next_error
    if kind := undecoded_kind(content):
        raise UnreadableImage(f"{kind} is not read; convert it to a JPEG of 8 bits per channel or to PNG") from error
    raise UnreadableImage(f"damaged JPEG: {_one_line(error)}; only whole files are read") from error


def _cmyk_to_rgb(inks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB of CMYK as in JPEG files, which is inverted by a convention of Adobe: 255 is no ink."""
    height, width = inks.shape[:2]
    return np.asarray(Image.frombytes("CMYK", (width, height), (255 - inks).tobytes()).convert("RGB"))


def _jpeg_orientation(content: bytes) -> int:
    try:
        with pillow_warnings_muted(), Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            return _orientation_of(image)
    except Exception:  # Pillow raises errors of many classes on malformed metadata
        return UPRIGHT


def _orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1..8; 1 if the EXIF data cannot be read, since the pixels can."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, UPRIGHT))
    except Exception:  # as above
        return UPRIGHT


def _decode_other(content: bytes) -> tuple[NDArray[np.uint8], int]:
    format_name = _format_of(content)
    try:
        with pillow_warnings_muted():
            if format_name == "HEIC":
                return _decode_heic(content)
            if format_name == "TIFF":
                return _decode_tiff(content)
            return _decode_by_pillow(content, format_name)
    except (UnreadableImage, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more than {MAX_PIXELS:,} pixels, the largest size allowed") from error
    except UnidentifiedImageError as error:  # its text has only a memory address
        raise UnreadableImage(
            f"damaged image: the file begins as {format_name}, and its header cannot be read; only whole files are read"
        ) from error
    except Exception as error:  # Pillow raises errors of many classes on damaged data
        raise UnreadableImage(f"damaged image: {format_name}: {_one_line(error)}; only whole files are read") from error


def _format_of(content: bytes) -> str:
    """Pillow's name of the format, or HEIC."""
    for signature, format_name in SIGNATURES.items():
        if content.startswith(signature):
            return format_name
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "WEBP"
    if re.match(rb"P[1-6]\s", content):
        return "PPM"
    if content[4:8] == b"ftyp":
        # ISO/IEC 14496-12, section 4.3: the main brand, a version, then all compatible brands.
        brands = {content[start : start + 4] for start in range(16, int.from_bytes(content[:4], "big") & 0xFFFF, 4)}
        for known in ({content[8:12]}, brands):
            if known & HEIC_BRANDS:
                return "HEIC"
            if known & AVIF_BRANDS:
                return "AVIF"
        if content[8:12] in HEIF_BRANDS:
            return "HEIC"
    raise UnreadableImage(f"no image of a format that is read ({FORMATS})")


def _decode_by_pillow(content: bytes, format_name: str) -> tuple[NDArray[np.uint8], int]:
    if format_name == "AVIF" and not features.check("avif"):
        raise UnreadableImage(
            "AVIF image, and this Pillow was built without AVIF; install Pillow 11.3 or newer from PyPI, or convert "
            "the file to JPEG or PNG"
        )
    if format_name == "PNG":
        _require_sound_png(content)
    if format_name == "JPEG2000" and (reason := jpeg2000_refusal(content)):
        raise UnreadableImage(reason)
    try:
        with Image.open(io.BytesIO(content), formats=(format_name,)) as image:
            require_size(*image.size)
            image.load()
            if format_name == "PNG":
                _require_all_rows(content, image)
            if format_name == "PNG" and has_16_bits(content):
                image.info.pop("transparency", None)  # a color, which Pillow compares with the upper 8 bits
            return _to_rgb(image), _orientation_of(image)
    except ValueError as error:
        if format_name != "PNG" or "MAX_TEXT" not in str(error):
            raise
        return _decode_by_pillow(_without_texts(content), format_name)


def _decode_tiff(content: bytes) -> tuple[NDArray[np.uint8], int]:
    layout = TiffLayout.read(content)
    unread = UnreadableImage(f"{layout} is not read; {CONVERT}")
    if reason := layout.compression_refusal:
        raise UnreadableImage(reason)
    if not layout.is_read:
        raise unread
    try:
        image = Image.open(io.BytesIO(content), formats=("TIFF",))
    except UnidentifiedImageError as error:
        raise unread from error
    with image:
        require_size(*image.size)
        layout.correct_planes(image)
        try:
            image.load()
        except ValueError as error:
            if "raw mode" in str(error):  # extra channels in planes, for example
                raise unread from error
            raise
        except OSError as error:
            if name := OPTIONAL_COMPRESSIONS.get(layout.compression):
                raise UnreadableImage(
                    f"the {name} data of the TIFF cannot be decoded: they are damaged, or this Pillow was built "
                    f"without {name} for TIFF; {RECOMPRESS}"
                ) from error
            raise
        if image.mode.startswith("I;16"):
            pixels = _gray_to_rgb(layout.to_16_bits(np.asarray(image).astype(np.uint16)))
        else:
            pixels = _to_rgb(image)
        # After loading: Pillow turns TIFF while loading and then drops the tag.
        return pixels, _orientation_of(image)


def _decode_heic(content: bytes) -> tuple[NDArray[np.uint8], int]:
    """Pixels of a HEIC image and `UPRIGHT`: libheif turns it as the container says, which overrides EXIF."""
    try:
        pillow_heif = importlib.import_module("pillow_heif")
    except ImportError as error:
        raise UnreadableImage(
            "HEIC image, and the package that reads them is not installed; pip install 'alexnet[heif]', or convert the "
            "file to JPEG or PNG"
        ) from error
    primary = pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=True)
    require_size(*primary.size)
    return _to_rgb(primary.to_pillow()), UPRIGHT


def _require_sound_png(content: bytes) -> None:
    """Refuse a PNG with a wrong checksum or without end; Pillow ignores the checksums of the pixels."""
    view = memoryview(content)
    start, kind = 8, b""
    while kind != b"IEND":
        end = start + 12 + int.from_bytes(view[start : start + 4], "big")
        if end > len(view):
            raise UnreadableImage("damaged image: the PNG ends early; only whole files are read")
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise UnreadableImage("damaged image: a checksum of the PNG is wrong; only whole files are read")
        start, kind = end, bytes(view[start + 4 : start + 8])


def _require_all_rows(content: bytes, image: Image.Image) -> None:
    """Refuse a PNG of which data lack: Pillow leaves the pixels that a well-formed end of the data cuts off black.

    Only where the last row is zero, or rows are interlaced, are the data decompressed a second time to count them.
    """
    width, height, depth, color_type, _, _, is_interlaced = struct.unpack(">IIBBBBB", content[16:29])
    if not is_interlaced and any(image.crop((0, height - 1, width, height)).tobytes()):
        return
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    # Of Adam7's passes, first row and column and their steps (PNG specification, section 8.2).
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    expected = 0
    for top, down, left, right in passes if is_interlaced else [(0, 1, 0, 1)]:
        num_rows, num_columns = len(range(top, height, down)), len(range(left, width, right))
        expected += num_rows * (1 + (num_columns * bits + 7) // 8) if num_columns else 0
    data = b"".join(content[start:end] for kind, start, end in _png_chunks(content) if kind == b"IDAT")
    inflater, found, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[2:]  # without header: checksums are verified
    while rest and found < expected and not inflater.eof:
        found += len(inflater.decompress(rest, INFLATED_BYTES))
        rest = inflater.unconsumed_tail
    found += len(inflater.flush()) if found < expected else 0
    if found < expected:
        raise UnreadableImage("damaged image: the data of the PNG end before its last row; only whole files are read")


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, and start and end of the data, of each chunk of a sound PNG."""
    start = 8
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        yield content[start + 4 : start + 8], start + 8, end - 4
        start = end


def _without_texts(content: bytes) -> bytes:
    """A sound PNG without texts and color profile, of which Pillow refuses large ones."""
    kept = bytearray(content[:8])
    for kind, start, end in _png_chunks(content):
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept += content[start - 8 : end + 4]
    return bytes(kept)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """RGB pixels of a loaded image of any mode."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _gray_to_rgb(np.asarray(image).astype(np.uint16))
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", transparent.size, "white"), transparent)
    return np.asarray(image.convert("RGB"))


def _gray_to_rgb(gray: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """The upper 8 bits of gray, uint16 (H, W), as RGB."""
    return np.repeat((gray >> 8).astype(np.uint8)[:, :, None], 3, axis=2)


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation: 2 mirrored, 3 upside down, 6 and 8 on their side; 4, 5, 7 are mirrored too."""
    if orientation in (2, 4, 5, 7):
        image = image[:, ::-1]
    # The mirror above comes first, so 4, 5 and 7 are then turned like 3, 8 and 6.
    num_quarter_turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.rot90(image, num_quarter_turns)


def require_size(width: int, height: int) -> None:
    """Refuse an image with too many pixels for the memory, or with none."""
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width} x {height} is more than {MAX_PIXELS:,} pixels, the largest size allowed")
    if width < 1 or height < 1:
        raise UnreadableImage(f"{width} x {height} pixels; allowed is at least 1 x 1")


def _one_line(error: Exception) -> str:
    """A library's message in one line; the error's class if it has no message."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return " ".join(text.split())[:200] or type(error).__name__
