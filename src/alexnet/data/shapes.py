"""A small generated data set that needs no network; its title says that it is generated."""

import io
import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.data.sources.class_folders import SOURCE_FILE
from alexnet.storage.atomic import staged_folder, write_json
from alexnet.storage.paths import StrPath, as_path

SHAPES = ("circle", "square", "triangle", "cross", "ring", "star", "stripes across", "stripes up", "checks", "dots")
SHAPES_PER_CLASS = {"train": 200, "val": 50}
SHAPES_SIDE_PX = 32
SHAPES_SEED = 2012


_logger = logging.getLogger(__name__)


def fetch_shapes(destination: StrPath) -> None:
    """Draw a small data set of ten shapes, 32 x 32 pixels, with the same pixels each time.

    Args:
        destination: a folder that does not exist yet, or is empty; gets train/ and val/ with a folder per class.

    Raises:
        RequestError: the destination is taken.
    """
    with staged_folder(as_path(destination, "the destination")) as stage:
        _logger.info(f"drawing {sum(SHAPES_PER_CLASS.values()) * len(SHAPES):,} generated images of shapes")
        for split_number, (split, num_images) in enumerate(SHAPES_PER_CLASS.items()):
            for label, shape in enumerate(SHAPES):
                folder = stage / split / shape
                folder.mkdir(parents=True)
                generator = np.random.Generator(
                    np.random.Philox(key=np.array([SHAPES_SEED, 100 * split_number + label], np.uint64))
                )
                for number in range(num_images):
                    file = io.BytesIO()
                    Image.fromarray(draw_shape(shape, generator)).save(file, "PNG")
                    (folder / f"{number:04d}.png").write_bytes(file.getvalue())
        write_json(stage / SOURCE_FILE, {"title": "shapes (generated)", "generated": True, "side": SHAPES_SIDE_PX})


def draw_shape(shape: str, generator: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of a shape with random color, position, size and rotation, on a noisy background.

    Returns:
        uint8 (32, 32, 3).
    """
    size_px = generator.uniform(7.0, 13.0)
    center = generator.uniform(size_px, SHAPES_SIDE_PX - size_px, size=2)
    turn = generator.uniform(-np.pi, np.pi) * {
        "stripes across": 0.06,
        "stripes up": 0.06,
        "checks": 0.2,
        "dots": 0.2,
    }.get(shape, 1.0)
    ground = generator.uniform(0, 255, size=3)
    color = generator.uniform(0, 255, size=3)
    while np.abs(color - ground).sum() < 160:  # too similar to see
        color = generator.uniform(0, 255, size=3)

    fine = (np.arange(3 * SHAPES_SIDE_PX) + 0.5) / 3.0  # three samples per pixel and axis, for smooth edges
    down, right = np.meshgrid(fine - center[0], fine - center[1], indexing="ij")
    up = (-down * np.cos(turn) + right * np.sin(turn)) / size_px
    along = (right * np.cos(turn) + down * np.sin(turn)) / size_px
    mask = _shape_mask(shape, along, up).reshape(SHAPES_SIDE_PX, 3, SHAPES_SIDE_PX, 3).mean(axis=(1, 3))[:, :, None]
    slope = generator.uniform(-1.0, 1.0, size=(2, 3))
    position = np.linspace(-30.0, 30.0, SHAPES_SIDE_PX)
    picture = (
        ground * (1 - mask) + color * mask + position[:, None, None] * slope[0] + position[None, :, None] * slope[1]
    )
    picture += generator.normal(0.0, 16.0, size=picture.shape)
    drawn: NDArray[np.uint8] = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return drawn


def _shape_mask(shape: str, along: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the given points are in a shape of radius 1 around the origin."""
    radius = np.hypot(along, up)
    window = np.maximum(np.abs(along), np.abs(up)) < 1.0
    masks: dict[str, Callable[[], NDArray[np.bool_]]] = {
        "circle": lambda: radius < 0.9,
        "square": lambda: np.maximum(np.abs(along), np.abs(up)) < 0.8,
        "triangle": lambda: (up > -0.5) & (up + np.sqrt(3.0) * np.abs(along) < 1.0),
        "cross": lambda: window & (np.minimum(np.abs(along), np.abs(up)) < 0.28),
        "ring": lambda: (radius > 0.55) & (radius < 1.0),
        "star": lambda: (
            radius < 0.38 + 0.62 * np.abs(2.0 * np.mod(2.5 * np.arctan2(along, up) / np.pi + 0.5, 1.0) - 1.0) ** 2
        ),
        "stripes across": lambda: window & (np.sin(3.0 * np.pi * up) > 0),
        "stripes up": lambda: window & (np.sin(3.0 * np.pi * along) > 0),
        "checks": lambda: window & (np.sin(2.0 * np.pi * along) * np.sin(2.0 * np.pi * up) > 0),
        "dots": lambda: window & (np.hypot(np.mod(along + 1.0, 2 / 3) - 1 / 3, np.mod(up + 1.0, 2 / 3) - 1 / 3) < 0.22),
    }
    return masks[shape]()
