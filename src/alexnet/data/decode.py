"""From bytes to RGB, one policy for odd files; and from any size to the stored square.

JPEG is decoded by libjpeg-turbo, strictly: a file with damaged data is refused, not shown half grey.
Pillow reads what is no JPEG and the colour spaces of print. Grey and palette become RGB, transparency is
laid on white, 16 bits become the upper 8, of an animation the first frame is taken.
"""

import io

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch.nn import functional

MAX_PIXELS = 178_956_970
"""An image with more is refused: a small file can claim any size. Pillow's own limit."""
MAX_ELONGATION = 100
"""A picture more than this many times longer than wide is refused; its scaled form could fill the memory."""
PILLOW_FORMATS = ("PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG", "JPEG2000")
"""Read through Pillow; its other formats are left out, some start programs."""
ORIENTATION_TAG = 274
UPRIGHT = 1


class UnreadableImage(ValueError):
    """The bytes are no image that can be used; the text is the reason."""


def decode_image(content: bytes, *, apply_orientation: bool) -> NDArray[np.uint8]:
    """Decode an image file.

    Args:
        content: the file's bytes.
        apply_orientation: turn the picture as its EXIF data say it was held.

    Returns:
        uint8 (H, W, 3), RGB, 0..255, contiguous.

    Raises:
        UnreadableImage: empty, damaged, too large, or of no format that is read.
    """
    if not content:
        raise UnreadableImage("empty file")
    image, orientation = _decode_jpeg(content) if content.startswith(b"\xff\xd8") else _decode_other(content)
    if apply_orientation:
        image = _upright(image, orientation)
    return np.ascontiguousarray(image)


def resize_and_crop(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Scale the shorter side to `side` pixels (bilinear, antialiased), then cut out the central square.

    Args:
        image: uint8 (H, W, 3).
        side: pixels, 1 or more.

    Returns:
        uint8 (side, side, 3).

    Raises:
        UnreadableImage: more than 100 times longer than wide, or the reverse.

    Paper: section 2.
    """
    height, width = image.shape[:2]
    shorter, longer = sorted((height, width))
    if longer > MAX_ELONGATION * shorter:
        raise UnreadableImage(f"{width} x {height} pixels: more than {MAX_ELONGATION} times longer than wide")
    if shorter != side:
        size = (max(side, round(height * side / shorter)), max(side, round(width * side / shorter)))
        writable = np.require(image, requirements=["C", "W"])  # torch takes no read-only array without a warning
        planes = torch.from_numpy(writable).permute(2, 0, 1)[None]  # channels-last in memory, the fast form
        scaled = functional.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)
        image = scaled[0].permute(1, 2, 0).numpy()
        height, width = size
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _decode_jpeg(content: bytes) -> tuple[NDArray[np.uint8], int]:
    """A JPEG's pixels as stored, and its EXIF orientation."""
    try:
        height, width, colour_space, _ = simplejpeg.decode_jpeg_header(content, strict=True)
        _require_size(width, height)
        if colour_space in ("CMYK", "YCCK"):
            return _decode_other(content)
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
    except UnreadableImage:
        raise
    except ValueError as error:
        raise UnreadableImage(f"damaged JPEG: {error}") from error
    # Opening the file a second time costs more than searching it for the mark that EXIF data carry.
    return image, _jpeg_orientation(content) if b"Exif\x00\x00" in content else UPRIGHT


def _jpeg_orientation(content: bytes) -> int:
    """EXIF orientation, 1..8; 1 where the EXIF data cannot be read, since the pixels can."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            return int(image.getexif().get(ORIENTATION_TAG, UPRIGHT))
    except Exception:  # Pillow raises errors of many classes on malformed EXIF data
        return UPRIGHT


def _decode_other(content: bytes) -> tuple[NDArray[np.uint8], int]:
    """Pixels and orientation of a file that Pillow reads."""
    try:
        with Image.open(io.BytesIO(content), formats=PILLOW_FORMATS) as image:
            _require_size(*image.size)
            image.load()
            # After loading, as Pillow itself turns some formats while loading and then drops the tag.
            orientation = int(image.getexif().get(ORIENTATION_TAG, UPRIGHT))
            return _to_rgb(image), orientation
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(
            "no image of a format that is read (JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, JPEG 2000)"
        ) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow raises errors of many classes on damaged data
        raise UnreadableImage(f"damaged image: {error}") from error


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """RGB pixels of a loaded image of any mode."""
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels have no agreed range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise UnreadableImage("32-bit pixels have no agreed range")
        return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", transparent.size, "white"), transparent)
    return np.asarray(image.convert("RGB"))


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation: 2 mirrored, 3 upside down, 6 and 8 lying on a side; 4, 5, 7 are mirrored too."""
    if orientation in (2, 4, 5, 7):
        image = image[:, ::-1]
    # The mirror above comes first, so 4, 5 and 7 are then turned like 3, 8 and 6.
    num_quarter_turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.rot90(image, num_quarter_turns)


def _require_size(width: int, height: int) -> None:
    """Refuse an image whose pixels would fill the memory."""
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width} x {height} is more than {MAX_PIXELS:,} pixels")
