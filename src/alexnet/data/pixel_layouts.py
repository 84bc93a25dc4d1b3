"""The pixel layouts of TIFF and JPEG 2000, by their headers, and which of them Pillow reads right.

Pillow silently reads some layouts wrongly. `tests/data/test_decode_layouts.py` compares all of them with other
libraries, and writes the table of docs/odd-files.md.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile, TiffImagePlugin

CONVERT = "convert it to 8 or 16 bits per channel, gray or RGB"
SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLORS = {
    WHITE_IS_ZERO: "gray (white is zero)",
    BLACK_IS_ZERO: "gray",
    RGB: "RGB",
    PALETTE: "palette",
    CMYK: "CMYK",
    YCBCR: "YCbCr",
}
OTHER_COLORS = {4: "mask", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "camera mosaic", 34892: "linear raw"}
BITS = (1, 2, 4, 8, 12, 16)
PLANES = 2
UNCOMPRESSED, OLD_JPEG = 1, 6
OPTIONAL_COMPRESSIONS = {34925: "LZMA", 50000: "Zstandard", 50001: "WebP"}
"""Which Pillow's libtiff decodes or not, depending on how it was built."""
COMPRESSIONS = OPTIONAL_COMPRESSIONS | {
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34933: "PNG",
    34934: "JPEG XR",
    22610: "JPEG XR",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Names of compressions that are not always read, by their number in a TIFF."""
RECOMPRESS = "save it without compression, or with LZW or Deflate"


@dataclass(frozen=True)
class TiffLayout:
    """How a TIFF file stores its pixels; the names are those of its tags."""

    bits_per_sample: tuple[int, ...]
    sample_formats: tuple[int, ...]
    color: int
    extra_samples: tuple[int, ...]
    is_planar: bool
    """Whether each channel is stored by itself."""
    compression: int
    subsampling: tuple[int, ...]
    is_little_endian: bool

    @classmethod
    def read(cls, content: bytes) -> "TiffLayout":
        """The layout of the first image of a file; raises errors of many classes if it is damaged."""
        header = content[:16] if content[2:3] == b"+" or content[3:4] == b"+" else content[:8]
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        file = io.BytesIO(content)
        file.seek(tags.next)
        tags.load(file)
        compression = tags.get(TiffImagePlugin.COMPRESSION, UNCOMPRESSED)
        bits = _numbers(tags.get(TiffImagePlugin.BITSPERSAMPLE, 1))
        # Pillow takes a missing color as 0, and old JPEG data as YCbCr.
        (color,) = _numbers(tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0))
        return cls(
            bits_per_sample=bits,
            sample_formats=_numbers(tags.get(TiffImagePlugin.SAMPLEFORMAT, 1)),
            color=YCBCR if compression == OLD_JPEG else color,
            extra_samples=_numbers(tags.get(TiffImagePlugin.EXTRASAMPLES, ())),
            is_planar=tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == PLANES and len(bits) > 1,
            compression=compression,
            subsampling=_numbers(tags.get(TiffImagePlugin.YCBCRSUBSAMPLING, (2, 2))),
            is_little_endian=content.startswith(b"II"),
        )

    def __str__(self) -> str:
        color = COLORS.get(self.color) or OTHER_COLORS.get(self.color, f"color number {self.color}")
        kinds = ", ".join(SAMPLE_FORMATS.get(number, str(number)) for number in sorted(set(self.sample_formats)))
        bits = ", ".join(map(str, sorted(set(self.bits_per_sample))))
        extra = f", {len(self.extra_samples)} extra channels" if self.extra_samples else ""
        return f"TIFF of {kinds} {bits}-bit {color}{extra}{', channels in planes' if self.is_planar else ''}"

    @property
    def is_compressed(self) -> bool:
        """Whether the pixels are stored in another form than as they are."""
        return self.compression != UNCOMPRESSED

    @property
    def compression_refusal(self) -> str | None:
        """Why no Pillow reads the compression; None if one does."""
        if self.compression in TiffImagePlugin.COMPRESSION_INFO:
            return None
        name = COMPRESSIONS.get(self.compression, f"method number {self.compression!r}")
        return f"TIFF compressed with {name} is not read; {RECOMPRESS}"

    @property
    def is_read(self) -> bool:
        """Whether Pillow reads the layout right, or raises an error."""
        has_alpha = max(self.extra_samples, default=0) > 0
        is_deep = max(self.bits_per_sample) > 8
        return (
            set(self.sample_formats) == {1}
            and set(self.bits_per_sample) in [{bits} for bits in BITS]
            and self.color in COLORS
            and not (self.is_planar and has_alpha and self.color in (WHITE_IS_ZERO, BLACK_IS_ZERO))
            and not (self.is_planar and is_deep and self.color == CMYK)
            and not (self.color == YCBCR and not self.is_compressed and self.subsampling != (1, 1))
        )

    def correct_planes(self, image: ImageFile.ImageFile) -> None:
        """Make Pillow read the planes of an opened image with 16 bits; by itself it takes them as having 8."""
        if self.is_planar and not self.is_compressed and set(self.bits_per_sample) == {16}:
            order = "L" if self.is_little_endian else "B"
            image.tile = [
                tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
                for tile in image.tile
                if isinstance(tile.args, tuple)
            ]

    def to_16_bits(self, gray: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Gray of 12 or 16 bits as Pillow gives it, scaled to 16 bits, black at zero."""
        scaled = gray << np.uint16(16 - self.bits_per_sample[0])
        return ~scaled if self.color == WHITE_IS_ZERO else scaled


MAX_UPPER_BITS = 2**4
"""What the upper 8 of 16 bits stay below where values have 12 bits."""


def has_16_bits(content: bytes) -> bool:
    """Whether a file is a PNG or TIFF of 16 bits per channel, of which nothing says how many the values use."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content[24] == 16
    if not content.startswith((b"II", b"MM")):
        return False
    return set(TiffLayout.read(content).bits_per_sample) == {16}


def _numbers(value: Any) -> tuple[int, ...]:
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError("a tag of the header is no whole number")
    return numbers


def jpeg2000_refusal(content: bytes) -> str | None:
    """Why Pillow does not read the pixels of a JPEG 2000 file right; None if it does, or if the header is damaged."""
    # Marker, then at 36 bytes the number of channels, and for each its bits less one, signed or not (ISO/IEC 15444-1,
    # A.5.1).
    start = content.find(b"\xff\x4f\xff\x51") + 2
    num_channels = int.from_bytes(content[start + 38 : start + 40], "big")
    depths = content[start + 40 : start + 40 + 3 * num_channels : 3]
    bits = max(((depth & 0x7F) + 1 for depth in depths), default=8)
    is_signed = any(depth & 0x80 for depth in depths)
    # Of less bits it makes no full range, and with more it rounds white up to black, but for gray.
    if is_signed or bits < 8 or (bits > 8 and num_channels > 1):
        kind = "signed" if is_signed else "unsigned"
        return f"JPEG 2000 of {num_channels} channels of {kind} {bits}-bit values is not read; {CONVERT}"
    return None
