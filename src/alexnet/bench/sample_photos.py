"""Photographs for benchmarks: from a source, or generated pictures with the texture of photographs."""

from pathlib import Path

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from alexnet.data.sources.formats import open_source
from alexnet.errors import RequestError

GENERATED_HEIGHT_PX, GENERATED_WIDTH_PX, GENERATED_QUALITY = 375, 500, 92
"""The average of ImageNet's photographs."""
NUM_PATTERNS = 40


def write_photographs(tree: Path, source: Path | None, num_files: int) -> list[bytes]:
    """Write a folder with two splits of two classes; return the files' contents."""
    contents = _generate(num_files) if source is None else _read(source, num_files)
    for number, content in enumerate(contents):
        folder = tree / ("val" if number % 10 < 2 else "train") / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}.jpg").write_bytes(content)
    return contents


def _read(source: Path, num_files: int) -> list[bytes]:
    """Evenly spaced files of a source."""
    listing = open_source(source).splits["train"]
    chosen = np.linspace(0, len(listing) - 1, min(num_files, len(listing))).astype(np.int64)
    contents = [listing.read(number) for number in chosen.tolist()]
    if not all(isinstance(content, bytes) for content in contents):
        raise RequestError(f"{source} holds pixels, not image files; name a source of photographs")
    return [content for content in contents if isinstance(content, bytes)]


def _generate(num_files: int) -> list[bytes]:
    """Different JPEG files of 500 x 375 pixels with edges, textures and noise: shifted copies of a few patterns."""
    generator = np.random.default_rng(2012)
    patterns = [_pattern(generator) for _ in range(NUM_PATTERNS)]
    contents = []
    for number in range(num_files):
        pattern = np.roll(patterns[number % NUM_PATTERNS], (7 * number, 11 * number), axis=(0, 1))
        content: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pattern), GENERATED_QUALITY, "RGB", "420")
        contents.append(content)
    return contents


def _pattern(generator: np.random.Generator) -> NDArray[np.uint8]:
    """A picture, uint8 (375, 500, 3): waves of random direction and length, bright and dark disks, noise."""
    rows, columns = np.mgrid[0:GENERATED_HEIGHT_PX, 0:GENERATED_WIDTH_PX].astype(np.float32)
    gray = np.zeros((GENERATED_HEIGHT_PX, GENERATED_WIDTH_PX), np.float32)
    for _ in range(12):
        direction, length_px = generator.uniform(0, np.pi), generator.uniform(6, 300)
        along = np.cos(direction) * rows + np.sin(direction) * columns
        gray += np.sin(2 * np.pi * along / length_px + generator.uniform(0, 6)) * generator.uniform(4, 22)
    for _ in range(8):
        row, column = generator.uniform(0, GENERATED_HEIGHT_PX), generator.uniform(0, GENERATED_WIDTH_PX)
        inside = (rows - row) ** 2 + (columns - column) ** 2 < generator.uniform(20, 90) ** 2
        gray += inside * generator.uniform(-60, 60)
    color = generator.uniform(0.5, 1.0, 3).astype(np.float32)
    noise = generator.normal(0, 5, (GENERATED_HEIGHT_PX, GENERATED_WIDTH_PX, 3))
    return (128 + gray[:, :, None] * color + noise).clip(0, 255).astype(np.uint8)
