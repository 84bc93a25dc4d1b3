"""Which warnings of libjpeg-turbo leave the pixels whole, and the change to a file that answers each.

A strict decoder reports one warning, which may hide a worse one. So no warning is ever passed over: what it complains
about is rewritten or cut out, and the changed file must pass the strict decoder without any warning left. No change
touches image data.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import simplejpeg  # type: ignore[import-untyped]

SOI, EOI, SOS, APP0, APP2, APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE2, 0xEE
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
"""Frames in Huffman coding."""
SEQUENTIAL_FRAMES = (BASELINE, EXTENDED, 0xC9)
FRAMES = (*SEQUENTIAL_FRAMES, PROGRESSIVE, 0xC3, 0xC5, 0xC6, 0xC7, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
LOSSLESS_FRAMES = (0xC3, 0xC7, 0xCB, 0xCF)
JPEG_LS_FRAME = 0xF7
NEXT_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""In entropy-coded data, which contain only stuffed bytes (FF 00) and restart markers."""
END = bytes((0xFF, EOI))
MAX_STRAY_BYTES = 16
"""Between segments of the header. A lost table of pixels or codes has more, or its loss shows while decoding."""
SAMPLE_BYTES = 32
MIN_FOREIGN_BYTES = 8
"""The decoder itself passes over fewer bytes after the image data."""
FOREIGN_SHARE = 0.9
_FOREIGN = bytes(byte for byte in range(256) if byte == 0 or 32 <= byte < 127 or byte in b"\t\r\n")
"""Zeros and printable text: nearly all bytes of padding and metadata, and 38 % of entropy-coded data."""


@dataclass(frozen=True)
class _Segment:
    """A part of a JPEG file; together they are the file, as far as it can be followed."""

    marker: int | None
    """Second byte of the marker; None for bytes that belong to no segment."""
    start: int
    body: int
    """Start of its content, after marker and length; for a scan also after its header."""
    end: int


def mend_warning(content: bytes, warning: str) -> bytes | None:
    """A file without what libjpeg warned of, if that leaves the pixels whole; else None.

    Args:
        content: a JPEG file.
        warning: the message of a strict decoder, which reports one of possibly several warnings.
    """
    # Errors have no answer: damaged image data cause them, too, and may by chance end like an image.
    answer = next((answer for pattern, answer in WARNINGS.items() if re.match(pattern, warning)), None)
    try:
        mended = answer(content) if answer else None
    except IndexError:  # a segment is shorter than its kind
        return None
    return mended if mended != content else None


def undecoded_kind(content: bytes) -> str | None:
    """The kind of a JPEG that libjpeg-turbo does not decode by its kind; None for the others."""
    kinds = (*FRAMES, JPEG_LS_FRAME)
    frame = next((one for one in _segments(content) if one.marker in kinds), None)
    if frame is None or frame.body >= frame.end:
        return None
    if frame.marker == JPEG_LS_FRAME:
        return "JPEG-LS"
    if frame.marker in LOSSLESS_FRAMES:
        return "lossless JPEG"
    precision = content[frame.body]
    return f"JPEG of {precision} bits per channel" if 8 < precision <= 16 else None


def _segments(content: bytes) -> Iterator[_Segment]:
    """The segments of a JPEG file in order; ends where no further one can be found."""
    start, size = 0, len(content)
    while start < size:
        found = NEXT_MARKER.search(content, start)
        if found is None:
            yield _Segment(None, start, start, size)
            return
        if found.start() > start:
            yield _Segment(None, start, start, found.start())
        start, body = found.span()
        marker = content[body - 1]
        if marker in (SOI, EOI, 1):
            end = body
        else:
            end = body + int.from_bytes(content[body : body + 2], "big")
            if end < body + 2 or end > size:
                return
            body += 2
        if marker == SOS:
            body = end
            scan_end = NEXT_MARKER.search(content, body)
            end = scan_end.start() if scan_end else size
        yield _Segment(marker, start, body, end)
        if marker == EOI:
            return
        start = end


def _patched(content: bytes, changes: dict[int, int]) -> bytes:
    changed = bytearray(content)
    for place, value in changes.items():
        changed[place] = value
    return bytes(changed)


def _set_scan_parameters(content: bytes) -> bytes:
    """Write 0, 63, 0 into the scan headers of a sequential JPEG, whose decoder does not use them."""
    segments = list(_segments(content))
    if not any(one.marker in SEQUENTIAL_FRAMES for one in segments):
        return content
    ends = [one.body for one in segments if one.marker == SOS]
    return _patched(content, {end + place: value for end in ends for place, value in ((-3, 0), (-2, 63), (-1, 0))})


def _set_jfif_version(content: bytes) -> bytes:
    """Write 1 as the major version of JFIF, which only says what the metadata may contain."""
    bodies = (one.body for one in _segments(content) if one.marker == APP0)
    return _patched(content, {body + 5: 1 for body in bodies if content.startswith(b"JFIF\0", body)})


def _set_adobe_transform(content: bytes) -> bytes:
    """Write down the color transform that libjpeg assumes where Adobe's is unknown: YCbCr, or YCCK with four inks."""
    segments = list(_segments(content))
    frame = next((one for one in segments if one.marker in FRAMES), None)
    if frame is None:
        return content
    transform = 1 if content[frame.body + 5] == 3 else 2
    bodies = (one.body for one in segments if one.marker == APP14)
    return _patched(content, {body + 11: transform for body in bodies if content.startswith(b"Adobe", body)})


def _drop_color_profile(content: bytes) -> bytes:
    """Cut out color profiles, which are not applied."""
    kept = bytearray()
    end = 0
    for one in _segments(content):
        if one.marker == APP2 and content.startswith(b"ICC_PROFILE\0", one.body):
            kept += content[end : one.start]
            end = one.end
    return bytes(kept + content[end:])


def _drop_extraneous(content: bytes) -> bytes | None:
    """Cut out a few bytes, or padding and text, between the segments before the first scan; or those behind it."""
    kept = bytearray()
    end = 0
    for one in _segments(content):
        if one.marker == SOS:
            break
        if one.marker is None:
            stray = content[one.start : one.end]
            # Directly after the first marker, other programs take the file for no JPEG.
            if one.start == 2 or (len(stray) > MAX_STRAY_BYTES and not _is_foreign(stray)):
                return None
            kept += content[end : one.start]
            end = one.end
    return bytes(kept + content[end:]) if end else _cut_behind_image(content)


def _cut_behind_image(content: bytes) -> bytes | None:
    """Cut out what lies between the image data and the end mark, or replaces the mark; None if that is not certain.

    Damage to the image data can also make the decoder finish early and leave bytes. So what is left must be foreign,
    padding or text, from the very byte at which the decoder has finished, and what comes before must not be.
    """
    segments = list(_segments(content))
    frame = next((one for one in segments if one.marker in FRAMES), None)
    scans = [one for one in segments if one.marker == SOS]
    if frame is None or frame.marker not in (BASELINE, EXTENDED, PROGRESSIVE) or not scans:
        return None
    num_components = content[frame.body + 5]
    last = scans[-1]
    if segments[-1].marker != EOI or segments[-2] != last:
        # Without the mark, only a sequential scan of all components proves that no further scan is missing.
        last = scans[0]
        if frame.marker == PROGRESSIVE or content[last.body - 4 - 2 * num_components] != num_components:
            return None

    def is_complete(end: int) -> bool:
        return _is_complete(content[:end] + END, num_components)

    if not is_complete(last.end):
        return None
    places = range(last.body, last.end + 1)
    end = places[bisect_left(places, True, key=is_complete)]
    image = content[max(last.body, end - SAMPLE_BYTES) : end].replace(b"\xff\0", b"\xff")
    rest = content[end : last.end]
    if len(rest) < MIN_FOREIGN_BYTES or not _is_foreign(rest):
        return None
    # Foreign bytes in place of image data decode as such; then the image ends within them. Half of the bytes of image
    # data are above 127.
    if image[-1] == rest[0] or max(image[-MIN_FOREIGN_BYTES:]) < 128:
        return None
    return content[:end] + END


def _is_complete(content: bytes, num_components: int) -> bool:
    """Whether a JPEG has at least as much image data as its size needs."""
    color_space = "CMYK" if num_components == 4 else "GRAY"
    try:
        # Without color and at an eighth of the size: only the entropy coding matters.
        simplejpeg.decode_jpeg(content, colorspace=color_space, min_height=1, min_width=1, strict=True)
    except ValueError as error:
        return re.match(EXTRANEOUS_AT_END, str(error)) is not None
    return True


def _is_foreign(content: bytes) -> bool:
    """Whether bytes begin like padding or text, as entropy-coded data do not."""
    sample = content[:SAMPLE_BYTES]
    return len(sample) - len(sample.translate(None, _FOREIGN)) >= FOREIGN_SHARE * len(sample)


EXTRANEOUS = r"Corrupt JPEG data: \d+ extraneous bytes before marker"
EXTRANEOUS_AT_END = EXTRANEOUS + " 0xd9"
WARNINGS: dict[str, Callable[[bytes], bytes | None] | None] = {
    r"Invalid SOS parameters for sequential JPEG": _set_scan_parameters,
    r"Warning: unknown JFIF revision number": _set_jfif_version,
    r"Unknown Adobe color transform code": _set_adobe_transform,
    r"Corrupt JPEG data: bad ICC marker": _drop_color_profile,
    EXTRANEOUS: _drop_extraneous,
    r"Premature end of JPEG file": _cut_behind_image,
    r"Corrupt JPEG data: premature end of data segment": None,
    r"Corrupt JPEG data: bad Huffman code": None,
    r"Corrupt JPEG data: bad arithmetic code": None,
    r"Corrupt JPEG data: found marker 0x\w\w instead of RST\d": None,
    r"Inconsistent progression sequence": None,
}
"""How to answer each warning of libjpeg-turbo, by a pattern of its message; None if image data are missing or wrong."""
