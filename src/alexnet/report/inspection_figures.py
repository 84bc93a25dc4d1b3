"""The figures of the page of `alexnet inspect`: HTML fragments from the result of `summarize_data`."""

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alexnet.data.dataset import PreparedData, Split
from alexnet.figures.contact_sheet import shrink, thumbnail_html
from alexnet.figures.filters import png_data_uri
from alexnet.figures.histogram import HistogramBar, histogram_html, round_edges
from alexnet.figures.swatches import color_ramp, color_ramp_html
from alexnet.report.data_measures import NUM_RATIO_STEPS, RATIO_STEP, size_edges
from alexnet.report.formatting import count_noun, range_text

MEAN_IMAGE_PX = 256
MOST_TICKS = 6
OPEN_TICK_START = 0.75
"""Ticks beyond this fraction of the bins are omitted if the last bin is open: its label needs the space."""
_SMOOTH_PX = 100
_RATIOS = ((1, 3), (1, 2), (1, 1), (2, 1), (3, 1))


def mean_image(data: PreparedData) -> str:
    """The mean image in its actual colors."""
    mean = shrink(np.rint(data.statistics.mean_image).clip(0, 255).astype(np.uint8), MEAN_IMAGE_PX)
    small = ' class="small"' if len(mean) < _SMOOTH_PX else ""
    return (
        f'<img{small} width="{len(mean)}" height="{len(mean)}" alt="Mean of all training images" '
        f'src="{png_data_uri(mean)}">'
    )


def component_ramp(color: Mapping[str, Any], component: Mapping[str, Any]) -> str:
    """A principal component as a color ramp around the mean color."""
    mean, vector = np.array(color["mean"]), np.array(component["vector"])
    return color_ramp_html(
        color_ramp(mean, vector, component["standard_deviation"]),
        f"Mean color plus and minus two standard deviations: {component['meaning']}",
    )


def uniform_size(sizes: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height if all originals share them."""
    extremes = {
        (split["width"][which], split["height"][which])
        for split in sizes["splits"].values()
        for which in ("min", "max")
    }
    return extremes.pop() if len(extremes) == 1 else None


def size_histogram(sizes: Mapping[str, Any], data: PreparedData) -> str:
    """Histogram of the shorter sides of the originals, with a marker at the stored side."""
    edges, counts = sizes["shorter_side"]["edges"], sizes["shorter_side"]["counts"]
    return histogram_html(
        _integer_bars(edges, counts, "pixels", "image"),
        caption="Shorter side of the originals, pixels",
        description=f"Histogram of the shorter side of the originals: {_peak(edges, counts, 'pixels')}.",
        ticks=_edge_ticks(edges),
        marker=size_marker(sizes, data),
    )


def size_marker(sizes: Mapping[str, Any], data: PreparedData) -> float | None:
    """Where the stored side is among the shorter sides, in bins; None if outside, or if longer sides were resized."""
    return None if data.fit == "pad" else bin_position(sizes["shorter_side"]["edges"], data.side)


def bin_position(edges: Sequence[int], value: int) -> float | None:
    """The position of a value in units of bins, 0 at the first edge; None if it is outside the bins."""
    if not edges[0] <= value < edges[-1]:
        return None
    index = bisect.bisect_right(edges, value) - 1
    return index + (value - edges[index]) / (edges[index + 1] - edges[index])


def ratio_histogram(sizes: Mapping[str, Any]) -> str:
    """Histogram of the aspect ratios of the originals."""
    edges, counts = sizes["width_to_height"]["edges"], sizes["width_to_height"]["counts"]
    bars = [
        HistogramBar(count, f"{low:.2f} to {high:.2f} times as wide as high: {count:,} images")
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    ticks = [(NUM_RATIO_STEPS + 0.5 + np.log2(wide / high) / RATIO_STEP, f"{wide}:{high}") for wide, high in _RATIOS]
    return histogram_html(
        bars,
        caption="Aspect ratio (width to height) of the originals",
        description=(
            f"Histogram of aspect ratios: {sizes['landscape']:.0%} landscape, {sizes['square']:.0%} square, "
            f"{sizes['portrait']:.0%} portrait."
        ),
        ticks=ticks,
    )


def class_histogram(by_size: Sequence[Mapping[str, Any]]) -> str:
    """Histogram of the classes' numbers of training images."""
    numbers = np.array([one["images"]["train"] for one in by_size], np.int64)
    edges = size_edges(numbers)
    bins = np.searchsorted(edges, numbers, side="right") - 1
    counts = np.bincount(bins, minlength=len(edges) - 1).tolist()
    return histogram_html(
        _integer_bars(edges.tolist(), counts, "training images", "class"),
        caption="Classes by their number of training images",
        description=f"Histogram of training images by class: {_peak(edges.tolist(), counts, 'training images')}.",
        ticks=_edge_ticks(edges.tolist()),
    )


def _integer_bars(edges: Sequence[int], counts: Sequence[int], unit: str, noun: str) -> list[HistogramBar]:
    """Bars whose titles say which integers they count."""
    return [
        HistogramBar(count, f"{range_text(low, high)} {unit}: {count_noun(count, noun)}")
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]


def _peak(edges: Sequence[int], counts: Sequence[int], unit: str) -> str:
    index = int(np.argmax(counts))
    return (
        f"from {edges[0]:,} to {edges[-1] - 1:,}, most often {range_text(edges[index], edges[index + 1])} {unit} "
        f"({counts[index]:,} of {sum(counts):,})"
    )


def _edge_ticks(edges: Sequence[int]) -> list[tuple[float, str]]:
    """A few labels at round numbers; a last bin that is wider than the others is labeled as open."""
    is_open = len(edges) > 2 and edges[-1] - edges[-2] != edges[1] - edges[0]
    regular = edges[:-1] if is_open else edges
    labeled = round_edges(regular[0], regular[-1], most_bins=MOST_TICKS)
    ticks = [(float(regular.index(edge)), f"{edge:,}") for edge in labeled.tolist() if edge in regular]
    if is_open:
        ticks = [tick for tick in ticks if tick[0] < OPEN_TICK_START * len(regular)]
        ticks.append((float(len(regular) - 1), f"{regular[-1]:,} and more"))
    return ticks


def duplicate_thumbnail(data: PreparedData, group: Mapping[str, Any]) -> str:
    """A thumbnail of an image that is stored more than once; empty if its path is not found."""
    for image in group["images"]:
        split = data.splits[image["split"]]
        index = _index_of(split, image["path"])
        if index is not None:
            thumbnail = shrink(np.asarray(split.images[index]))
            return thumbnail_html(thumbnail, f"Image {image['path']}", image["path"])
    return ""


def _index_of(split: Split, path: str) -> int | None:
    """Index of the image with key `path`; a split's keys are sorted by their bytes."""
    wanted = path.encode("utf-8", "surrogateescape")
    index = bisect.bisect_left(
        range(len(split)), wanted, key=lambda other: split.keys[other].encode("utf-8", "surrogateescape")
    )
    return index if index < len(split) and split.keys[index] == path else None
