"""Every depth, color and layout of TIFF, PNG, PPM and JPEG 2000: read as other libraries read it, or refused by name.

The files are written by tifffile and imagecodecs, from values that the test knows; tifffile reads the TIFF files
back, so that a fault in writing is none of ours. Run as a script with the path of docs/odd-files.md, it rewrites the
table there.
"""

import io
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from alexnet.data.decode import UnreadableImage, decode_image

PAGE = Path(__file__).resolve().parents[2] / "docs" / "odd-files.md"
BEGIN, END = "<!-- layouts: made by tests/data/test_decode_layouts.py -->\n", "<!-- end of layouts -->\n"
HEIGHT, WIDTH = 20, 23
CHANNELS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}
NAMES = {
    "minisblack": "gray",
    "miniswhite": "gray, white is zero",
    "rgb": "RGB",
    "separated": "CMYK",
    "palette": "palette",
}
EXTRAS = {
    None: "",
    "unspecified": ", another channel",
    "unassalpha": ", transparency",
    "assocalpha": ", premultiplied transparency",
}
DTYPES = ("uint8", "uint16", "int8", "int16", "uint32", "int32", "float16", "float32", "float64")
PLANES, BIG, COMPRESSED, TILES = "planes", "big-endian", "compressed", "tiles"


@dataclass(frozen=True)
class Case:
    """A file of one layout, and its pixels."""

    row: str
    """Of the table: format and colors."""
    column: str
    """Of the table: kind of values."""
    options: frozenset[str]
    """How its pixels are stored."""
    content: bytes
    expected: np.ndarray
    """Float (H, W, 3), 0..255."""
    tolerance: int = 0


def levels(num_channels: int) -> np.ndarray:
    """Values of 0..1, both included, as differing planes, float (H, W, channels)."""
    down, right = np.mgrid[:HEIGHT, :WIDTH]
    planes = [((7 * down + 5 * right + 40 * number) % 150) / 149 for number in range(num_channels)]
    return np.stack(planes, axis=2)


def shown(values: np.ndarray, color: str, extra: str | None) -> np.ndarray:
    """RGB over white, float (H, W, 3), 0..255, of 8-bit values, int (H, W, channels)."""
    colors, rest = values[..., : CHANNELS[color]], values[..., CHANNELS[color] :]
    if color == "separated":
        light = 255 - colors[..., 3:]
        paper = (light - (2 * colors[..., :3] * light + 255) // 510).astype(float)
    else:
        paper = np.broadcast_to(255 - colors if color == "miniswhite" else colors, (*values.shape[:2], 3)).astype(float)
    if extra in ("unassalpha", "assocalpha") and color != "separated":
        alpha = rest[..., :1] / 255
        paper = (paper * alpha if extra == "unassalpha" else paper) + 255 * (1 - alpha)
    return paper.clip(0, 255)


def upper(values: np.ndarray, bits: int) -> np.ndarray:
    """The upper 8 bits of unsigned values; fewer bits spread over 0..255."""
    wide = values.astype(np.int64)
    return wide * 255 // (2**bits - 1) if bits < 8 else wide >> (bits - 8)


def tiff_cases() -> Iterator[Case]:
    choices = itertools.product(CHANNELS, EXTRAS, DTYPES, *[(False, True)] * 4)
    for color, extra, dtype, is_planar, is_big, is_compressed, is_tiled in choices:
        num_channels = CHANNELS[color] + (extra is not None)
        if num_channels == 1 and is_planar:
            continue
        kind = np.dtype(dtype)
        scale = np.iinfo(kind).max if kind.kind in "ui" else 1
        values = (levels(num_channels) * scale).astype(kind)
        if extra == "assocalpha":
            values[..., : CHANNELS[color]] = np.minimum(values[..., : CHANNELS[color]], values[..., -1:])
        stored = values[..., 0] if num_channels == 1 else np.moveaxis(values, -1, 0) if is_planar else values
        file = io.BytesIO()
        tifffile.imwrite(
            file,
            stored,
            photometric=color,
            planarconfig=None if num_channels == 1 else "separate" if is_planar else "contig",
            byteorder=">" if is_big else "<",
            compression="lzw" if is_compressed else None,
            tile=(16, 16) if is_tiled else None,
            extrasamples=None if extra is None else [extra],
            metadata=None,
        )
        assert np.array_equal(tifffile.imread(io.BytesIO(file.getvalue())), stored)
        pixels = shown(upper(values, 8 * kind.itemsize), color, extra) if kind.kind == "u" else np.zeros(0)
        yield Case(
            f"TIFF, {NAMES[color]}{EXTRAS[extra]}",
            column_of(kind),
            options(is_planar, is_big, is_compressed, is_tiled),
            file.getvalue(),
            pixels,
            tolerance=1 if extra in ("unassalpha", "assocalpha") else 0,
        )
    for bits, color in itertools.product((1, 2, 4, 6, 10, 12, 14), ("minisblack", "miniswhite")):
        values = np.rint(levels(1)[..., 0] * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
        file = io.BytesIO()
        tifffile.imwrite(
            file, values.astype(bool) if bits == 1 else values, photometric=color, bitspersample=bits, metadata=None
        )
        assert np.array_equal(tifffile.imread(io.BytesIO(file.getvalue())), values)
        pixels = shown(upper(values, bits)[..., None], color, None)
        yield Case(f"TIFF, {NAMES[color]}", f"{bits} bits", frozenset(), file.getvalue(), pixels)
    for is_big in (False, True):
        colors = np.random.default_rng(1).integers(0, 2**16, (3, 256), np.uint16)
        indices = (levels(1)[..., 0] * 255).astype(np.uint8)
        file = io.BytesIO()
        order = ">" if is_big else "<"
        tifffile.imwrite(file, indices, photometric="palette", colormap=colors, byteorder=order, metadata=None)
        pixels = (colors >> 8).T[indices].astype(float)
        yield Case("TIFF, palette", "8 bits", options(is_big=is_big), file.getvalue(), pixels)


def column_of(kind: np.dtype) -> str:
    if kind in (np.uint8, np.uint16):
        return f"{8 * kind.itemsize} bits"
    return "signed" if kind.kind == "i" else "floating-point" if kind.kind == "f" else "32 bits"


def options(
    is_planar: bool = False, is_big: bool = False, is_compressed: bool = False, is_tiled: bool = False
) -> frozenset[str]:
    flags = {PLANES: is_planar, BIG: is_big, COMPRESSED: is_compressed, TILES: is_tiled}
    return frozenset(name for name, is_set in flags.items() if is_set)


def png_cases() -> Iterator[Case]:
    for color, extra, bits in itertools.product(("minisblack", "rgb"), (None, "unassalpha"), (8, 16)):
        num_channels = CHANNELS[color] + (extra is not None)
        values = (levels(num_channels) * (2**bits - 1)).astype(f"uint{bits}")
        content = imagecodecs.png_encode(values[..., 0] if num_channels == 1 else values)
        pixels = shown(upper(values, bits), color, extra)
        row = f"PNG, {NAMES[color]}{EXTRAS[extra]}"
        yield Case(row, f"{bits} bits", frozenset(), content, pixels, tolerance=int(extra is not None))
    for bits in (1, 2, 4, 8):
        indices = np.rint(levels(1)[..., 0] * (2**bits - 1)).astype(np.uint8)
        image = Image.frombytes("P", (WIDTH, HEIGHT), indices.tobytes())
        colors = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), np.uint8)
        image.putpalette(colors.tobytes())
        file = io.BytesIO()
        image.save(file, "PNG", bits=bits)
        yield Case("PNG, palette", f"{bits} bits", frozenset(), file.getvalue(), colors[indices].astype(float))


def ppm_cases() -> Iterator[Case]:
    for color, bits in itertools.product(("minisblack", "rgb"), (2, 4, 8, 10, 12, 16)):
        values = np.rint(levels(CHANNELS[color]) * (2**bits - 1)).astype(np.int64)
        header = f"P{5 if color == 'minisblack' else 6} {WIDTH} {HEIGHT} {2**bits - 1}\n".encode()
        content = header + values.astype(">u2" if bits > 8 else "u1").tobytes()
        # It says its largest value, which is scaled to 255.
        pixels = shown(values * 255 // (2**bits - 1), color, None)
        yield Case(f"PPM, {NAMES[color]}", f"{bits} bits", frozenset(), content, pixels, tolerance=1)


def jpeg2000_cases() -> Iterator[Case]:
    choices = itertools.product(("minisblack", "rgb"), (None, "unassalpha"), (1, 2, 4, 8, 10, 12, 16))
    for color, extra, bits in choices:
        num_channels = CHANNELS[color] + (extra is not None)
        values = np.rint(levels(num_channels) * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
        stored = values[..., 0] if num_channels == 1 else values
        content = imagecodecs.jpeg2k_encode(stored, bitspersample=bits, reversible=True, codecformat="jp2")
        assert np.array_equal(imagecodecs.jpeg2k_decode(content), stored)
        pixels = shown(upper(values, bits), color, extra)
        row = f"JPEG 2000, {NAMES[color]}{EXTRAS[extra]}"
        yield Case(row, f"{bits} bits", frozenset(), content, pixels, tolerance=int(extra is not None))
    signed = (levels(1)[..., 0] * 32767).astype(np.int16)
    content = imagecodecs.jpeg2k_encode(signed, reversible=True)
    yield Case("JPEG 2000, gray", "signed", frozenset(), content, np.zeros(0))


def cases() -> Iterator[Case]:
    yield from tiff_cases()
    yield from png_cases()
    yield from ppm_cases()
    yield from jpeg2000_cases()


def is_read(case: Case) -> bool:
    """Whether a file is read; it must be read right, or refused in words that name what it is."""
    where = (case.row, case.column, sorted(case.options))
    try:
        got = decode_image(case.content, apply_orientation=True)
    except UnreadableImage as error:
        reason = str(error)
        assert "is not read; convert it to" in reason and "damaged" not in reason, (where, reason)
        assert reason.startswith(case.row.partition(",")[0]), (where, reason)
        return False
    assert got.shape == case.expected.shape, where
    difference = np.abs(got - case.expected).round(6)
    assert difference.max() <= case.tolerance, (where, difference.max(), (difference > case.tolerance).mean())
    return True


def described(outcomes: dict[frozenset[str], bool]) -> str:
    """The outcomes by options in words."""
    if len(set(outcomes.values())) == 1:
        return "read" if all(outcomes.values()) else "refused"
    refused = {options for options, was_read in outcomes.items() if not was_read}
    for words, is_meant in {
        "big-endian refused": lambda options: BIG in options,
        "in planes refused": lambda options: PLANES in options,
        "uncompressed in planes refused": lambda options: PLANES in options and COMPRESSED not in options,
        "big-endian and uncompressed in planes refused": lambda options: (
            BIG in options or (PLANES in options and COMPRESSED not in options)
        ),
        "read little-endian, compressed, in planes; else refused": lambda options: (
            not (BIG not in options and PLANES in options and COMPRESSED in options)
        ),
        "read compressed in planes; else refused": lambda options: not (PLANES in options and COMPRESSED in options),
    }.items():
        if refused == {options for options in outcomes if is_meant(options)}:
            return words if words.startswith("read") else f"read; {words}"
    raise AssertionError(f"no words for these outcomes: {sorted(map(sorted, refused))} of {len(outcomes)}")


def table() -> str:
    """The table of the documentation."""
    cells: dict[str, dict[str, dict[frozenset[str], bool]]] = {}
    for case in cases():
        outcomes = cells.setdefault(case.row, {}).setdefault(case.column, {})
        outcomes[case.options] = is_read(case) and outcomes.get(case.options, True)
    lines = ["| file | values | result |", "| --- | --- | --- |"]
    for row, columns in cells.items():
        columns_of: dict[str, list[str]] = {}
        for column, outcomes in columns.items():
            columns_of.setdefault(described(outcomes), []).append(column)
        lines += [f"| {row} | {joined(names)} | {result} |" for result, names in columns_of.items()]
    return "\n".join(lines) + "\n"


def joined(columns: list[str]) -> str:
    """Kinds of values, bits in order: `1, 2, 8 bits, signed`."""
    bits = sorted(int(name.removesuffix(" bits")) for name in columns if name.removesuffix(" bits").isdigit())
    words = [f"{', '.join(map(str, bits))} {'bit' if bits == [1] else 'bits'}"] if bits else []
    return ", ".join(words + [name for name in columns if not name.removesuffix(" bits").isdigit()])


def test_every_layout_is_read_right_or_refused_by_name_as_the_documentation_says() -> None:
    page = PAGE.read_text()
    assert page.split(BEGIN)[1].split(END)[0] == table(), f"run {sys.executable} {__file__} {PAGE}"


@pytest.mark.parametrize("color", ["minisblack", "rgb"])
def test_of_sixteen_bits_every_value_keeps_its_upper_eight(color: str) -> None:
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    for is_planar in (False, True):
        if color == "rgb":
            stored = np.stack([values] * 3, axis=0 if is_planar else 2)
            layout = "separate" if is_planar else "contig"
        else:
            stored, layout = values, None
        file = io.BytesIO()
        tifffile.imwrite(file, stored, photometric=color, planarconfig=layout, metadata=None)
        got = decode_image(file.getvalue(), apply_orientation=True)
        assert np.array_equal(got, np.repeat((values >> 8)[..., None], 3, axis=2))


if __name__ == "__main__":
    path = Path(sys.argv[1])
    text = path.read_text()
    path.write_text(text.split(BEGIN)[0] + BEGIN + table() + END + text.split(END)[1])
