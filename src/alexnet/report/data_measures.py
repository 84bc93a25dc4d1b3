"""Statistics of a prepared data set for `alexnet inspect`: original sizes, mean and colors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet.data.dataset import Statistics
from alexnet.data.decode import Fit
from alexnet.figures.histogram import round_edges
from alexnet.figures.swatches import describe_direction

TAIL_PERCENTILE = 99
"""Larger sizes share one bin: otherwise a few huge images would squeeze all the others into one."""
RATIO_STEP = 0.2
"""Width of a bin of log2(width / height): 1:1, 4:3, 3:2 and 16:9 are each near the middle of a bin."""
NUM_RATIO_STEPS = 8
"""Bins on either side of 1:1: up to about 3:1."""
_RATIO_EDGES: npt.NDArray[np.float64] = (
    np.arange(-NUM_RATIO_STEPS, NUM_RATIO_STEPS + 2, dtype=np.float64) - 0.5
) * RATIO_STEP
"""Of log2(width / height)."""
_NO_VARIANCE = 1e-9


def summarize_sizes(sizes: Mapping[str, npt.NDArray[np.int32]], side: int, fit: Fit = "crop") -> dict[str, Any]:
    """The sizes of the original images, before they were resized to `side` pixels.

    Args:
        sizes: by split, int32 (N, 2), height and width, pixels; none is empty.
        fit: how they were made square; with `pad` it is the longer side that is resized to `side`.

    Returns:
        `splits`: for each, `width` and `height` with `min`, `median`, `max`, and `enlarged`, the fraction whose resized
        side is below `side`. Of all splits together: `enlarged`; `landscape`, `square`, `portrait`, fractions; and the
        histograms `shorter_side` (pixels) and `width_to_height`, each `edges` (B + 1) and `counts` (B): bin i goes from
        edge i up to, but excluding, edge i + 1. The outermost bins also count the values beyond.
    """
    shorter = np.concatenate([one.min(axis=1) for one in sizes.values()])
    heights, widths = np.concatenate(list(sizes.values())).T
    return {
        "splits": {name: _split_sizes(one, side, fit) for name, one in sizes.items()},
        "enlarged": _enlarged(np.concatenate(list(sizes.values())), side, fit),
        "landscape": float(np.mean(widths > heights)),
        "square": float(np.mean(widths == heights)),
        "portrait": float(np.mean(widths < heights)),
        "images": len(shorter),
        "shorter_side": _histogram(shorter, size_edges(shorter)),
        "width_to_height": _histogram(np.log2(widths / heights), _RATIO_EDGES, power_of=2),
    }


def size_edges(values: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Round edges for a histogram of integers, (N,), N >= 1; the last bin takes the tail, however long."""
    lowest, highest = int(values.min()), int(values.max())
    usual = int(np.percentile(values, TAIL_PERCENTILE, method="higher"))
    edges = round_edges(lowest, usual)
    return edges if highest < edges[-1] else np.append(edges, highest + 1)


def summarize_colors(statistics: Statistics) -> dict[str, Any]:
    """Mean, spread and principal components of the RGB values of all training pixels, in 0..255 units.

    Returns:
        `mean` and `standard_deviation` (R, G, B); `components`, the largest first: `fraction` of the variance, 0..1,
        `standard_deviation` along it, its unit `vector` (R, G, B), and its `meaning` as text.
    """
    total = float(statistics.eigenvalues.sum())
    components = []
    for number in reversed(range(3)):
        eigenvalue, vector = float(statistics.eigenvalues[number]), statistics.eigenvectors[:, number]
        fraction = eigenvalue / total if total > 0 else 0.0
        components.append(
            {
                "fraction": fraction,
                "standard_deviation": float(np.sqrt(eigenvalue)),
                "vector": [float(value) for value in vector],
                "meaning": describe_direction(vector) if fraction > _NO_VARIANCE else "no variation",
            }
        )
    return {
        "mean": [float(value) for value in statistics.mean_image.mean(axis=(0, 1), dtype=np.float64)],
        "standard_deviation": [float(value) for value in np.sqrt(np.diag(statistics.covariance))],
        "components": components,
    }


def _enlarged(sizes: npt.NDArray[np.int32], side: int, fit: Fit) -> float:
    """The fraction of the images, (N, 2), that were enlarged."""
    return float(np.mean((sizes.max(axis=1) if fit == "pad" else sizes.min(axis=1)) < side))


def _split_sizes(sizes: npt.NDArray[np.int32], side: int, fit: Fit) -> dict[str, Any]:
    """Minimum, median and maximum of width and height of one split."""

    def min_median_max(values: npt.NDArray[np.int32]) -> dict[str, int]:
        quantiles = np.percentile(values, (0, 50, 100), method="lower").tolist()
        return dict(zip(("min", "median", "max"), quantiles, strict=True))

    return {
        "width": min_median_max(sizes[:, 1]),
        "height": min_median_max(sizes[:, 0]),
        "enlarged": _enlarged(sizes, side, fit),
    }


def _histogram(
    values: npt.NDArray[Any], edges: npt.NDArray[Any], power_of: float | None = None
) -> dict[str, list[Any]]:
    """Counts between edges; values beyond them are counted in the outermost bins."""
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(bins, minlength=len(edges) - 1)
    return {"edges": (edges if power_of is None else power_of**edges).tolist(), "counts": counts.tolist()}
