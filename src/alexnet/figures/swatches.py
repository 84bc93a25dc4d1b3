"""Directions in color space as rows of swatches and as text."""

import numpy as np
import numpy.typing as npt

from alexnet.system.visible_text import visible_html

SWATCHES_STYLE = """
.ramp {
  display: flex; height: 2.1rem; border-radius: 4px; overflow: hidden; border: 1px solid var(--line);
  print-color-adjust: exact; -webkit-print-color-adjust: exact;
}
.ramp span { flex: 1; }
"""
"""CSS that a page with `color_ramp_html` must include once."""

NUM_SWATCHES = 9
NUM_DEVIATIONS = 2.0
# Around the color wheel: each name is a twelfth, each primary color a third.
_HUES = (
    "red", "orange", "yellow", "yellow-green", "green", "blue-green",
    "cyan", "sky blue", "blue", "violet", "magenta", "pink",
)  # fmt: skip
_GRAY_COSINE = 0.9


def color_ramp(
    mean: npt.NDArray[np.floating], direction: npt.NDArray[np.floating], deviation: float
) -> npt.NDArray[np.uint8]:
    """Colors from two standard deviations below the mean to two above it, along a direction.

    Args:
        mean: (3,), RGB, 0..255.
        direction: (3,), a unit vector.
        deviation: standard deviation along it, 0..255 units.

    Returns:
        uint8 (9, 3), RGB, clipped to 0..255.
    """
    steps = np.linspace(-NUM_DEVIATIONS, NUM_DEVIATIONS, NUM_SWATCHES)
    colors = np.asarray(mean, np.float64) + deviation * steps[:, None] * np.asarray(direction, np.float64)
    return np.rint(np.clip(colors, 0, 255)).astype(np.uint8)


def color_ramp_html(colors: npt.NDArray[np.uint8], description: str) -> str:
    """A row of swatches, uint8 (N, 3), RGB, as an HTML element; the description is escaped."""
    swatches = "".join(f'<span style="background: #{color.tobytes().hex()}"></span>' for color in colors)
    return f'<div class="ramp" role="img" aria-label="{visible_html(description)}">{swatches}</div>'


def describe_direction(direction: npt.NDArray[np.floating]) -> str:
    """The change along a direction, (3,), RGB, not zero, as text, such as `dark to light` or `sky blue to orange`."""
    values = np.asarray(direction, np.float64)
    along_gray = values.sum() / (np.sqrt(3) * np.linalg.norm(values))
    if abs(along_gray) > _GRAY_COSINE:
        return "dark to light" if along_gray > 0 else "light to dark"
    red, green, blue = values - values.mean()
    hue = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)  # 0 is red, a third of the circle green
    index = round(hue / (2 * np.pi) * len(_HUES))
    return f"{_HUES[(index + len(_HUES) // 2) % len(_HUES)]} to {_HUES[index % len(_HUES)]}"
