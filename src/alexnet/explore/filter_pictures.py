"""What the filters of a network look for: the first layer's as they are, those of deeper layers by image patches.

Paper: figure 3 and section 6.1.
"""

import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.explore.filter_colors import RANDOM_COLOR, ColorTest, FirstFilters, color_test, first_filters
from alexnet.explore.image_source import split_source
from alexnet.explore.top_patches import TopPatches, chosen_channels, top_patches
from alexnet.figures.figure_style import figure_bytes, shortened
from alexnet.figures.filter_columns import filter_columns_figure
from alexnet.figures.notebook_html import picture_html, result_html
from alexnet.figures.patch_grid import ChannelPatches, patch_grid_figure
from alexnet.model.activations import ActivationReader
from alexnet.model.layer_specs import WeightedSpec
from alexnet.model.weights import Trained, load_trained, name_of
from alexnet.storage.paths import StrPath, StrPaths, as_path, described
from alexnet.system.device import Device, PrecisionChoice, choose_device, choose_precision
from alexnet.system.progress import ShowProgress, counted
from alexnet.system.visible_text import visible

_PICTURE_PX = 720
"""Longer side of a figure in a notebook."""
_MOST_CHARACTERS = 50
"""Of a run's name above a figure."""


@dataclass(frozen=True, eq=False)
class FilterColumns:
    """The first layer's filters, with the color of each and the test of the columns."""

    filters: FirstFilters
    color: ColorTest

    def __repr__(self) -> str:
        return f"FilterColumns({self.describe()})"

    def describe(self) -> str:
        """What is shown, in a sentence."""
        num, _, height, width = self.filters.weights.shape
        columns = f" in {self.filters.columns} columns" if self.filters.columns > 1 else ""
        return f"the {num} filters of {self.filters.layer}{columns}, {height} x {width} pixels"

    def to_dict(self) -> dict[str, Any]:
        """A JSON object, without the weights."""
        num, _, height, width = self.filters.weights.shape
        return {"filters": num, "height_px": height, "width_px": width, "color": self.color.to_dict()}


@dataclass(frozen=True, eq=False)
class Filters:
    """What the filters of some layers look for."""

    name: str
    """Of the run, or the variant of a network in memory."""
    variant: str
    split: str | None
    """Whose images have been looked at; None if none were."""
    layers: dict[str, FilterColumns | TopPatches]
    """By layer, in the order asked for."""

    def __repr__(self) -> str:
        return f"Filters({self.name!r}: {'; '.join(one.describe() for one in self.layers.values())})"

    def _repr_html_(self) -> str:
        return result_html(f"filters of {self.name}", *(self._picture(layer) for layer in self.layers))

    def _picture(self, layer: str) -> Markup:
        content = figure_bytes(self.figure(layer), "png")
        pixels = np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))
        return picture_html(pixels, self.layers[layer].describe(), side=_PICTURE_PX)

    def figure(self, layer: str | None = None) -> Figure:
        """The picture of a layer; it may be omitted if there is only one.

        Raises:
            RequestError: another layer, or none of several.
        """
        if layer is None and len(self.layers) == 1:
            (layer,) = self.layers
        if layer not in self.layers:
            raise RequestError(f"layer is {described(layer)}; allowed is {', '.join(self.layers)}")
        name, shown = shortened(self.name, _MOST_CHARACTERS), self.layers[layer]
        if isinstance(shown, TopPatches):
            return _patches_figure(shown, name, self.split)
        return filter_columns_figure(
            shown.filters.weights,
            shown.filters.columns,
            colors=shown.color.colors,
            random_color=RANDOM_COLOR,
            title=f"{name}: {shown.describe()}",
            note=shown.color.describe(),
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON object, as `alexnet filters --json` prints it: everything but weights and pixels."""
        layers = {name: one.to_dict() for name, one in self.layers.items()}
        return {"run": self.name, "variant": self.variant, "split": self.split, "layers": layers}


def filters(
    run: Trained | StrPath,
    layers: Sequence[str] | str | None = None,
    *,
    data: StrPaths | None = None,
    split: str | None = None,
    channels: Sequence[int] | None = None,
    batch_size: int | None = None,
    device: Device = "auto",
    precision: PrecisionChoice = "float32",
    progress: ShowProgress = None,
) -> Filters:
    """What a network's filters look for, as pictures and numbers.

    The filters of the first layer are drawn as they are, by column, with a measure of their color and a permutation
    test of the difference between the columns, see `alexnet.explore.filter_colors`. Of other layers, each channel is
    shown by the nine image patches that excite it most, at most one of an image, cropped to what the layer sees.

    Args:
        run: a run folder, a weights file, or what `alexnet.load` returned.
        layers: names of layers; None is the first convolution. Its patches are those of the layers after it, `relu1`.
        data: the prepared data set to take patches from, or several to concatenate; None is what the run was trained
            on.
        split: None is the data set's evaluation split.
        channels: whose patches are shown; None are all, or 24 evenly spaced ones of a layer with more.
        precision: bfloat16, which `auto` may choose, has so few digits that many images tie.
        progress: see `ShowProgress`; a function is called with (images done, images in total).

    Raises:
        RequestError: no trained network, an unknown layer or channel, or no images to take patches from.
        WorkError: weights or activations that are not finite.
    """
    trained = run if isinstance(run, Trained) else load_trained(run)
    network = trained.network
    first = next(one.name for one in network.spec.named_layers if isinstance(one.spec, WeightedSpec))
    names = [first] if layers is None else [layers] if isinstance(layers, str) else layers
    if not isinstance(names, Sequence):
        raise RequestError(f"layers is {described(names)}; allowed is the name of a layer, or a list of names")
    reader = ActivationReader(network, names)
    trained.require_trained(names, "RUN" if isinstance(run, Trained) else run)
    deeper = [one for one in names if one != first]
    if not deeper and (channels is not None or data is not None or split is not None):
        raise RequestError(
            f"the filters of {first} are drawn without images, and all of them; name another layer, or omit "
            "--channels, --data and --split"
        )
    chosen = {one: chosen_channels(trained, one, reader.shape(one)[0], channels) for one in deeper}
    found: dict[str, FilterColumns | TopPatches] = {}
    if first in names:
        weights = first_filters(network)
        found[first] = FilterColumns(weights, color_test(weights.weights, weights.columns))
    if deeper:
        if isinstance(run, Trained) and data is None:
            raise RequestError("a network in memory names no data set to take patches from; name one with data=...")
        folder = Path() if isinstance(run, Trained) else as_path(run, "the run")
        source = split_source(folder, data, split, trained)
        split = str(source.identity["split"])
        chosen_device = choose_device(device)
        chosen_precision = choose_precision(precision, chosen_device)
        with counted("filters", shown=progress) as update:
            found |= top_patches(trained, chosen, source, batch_size, chosen_device, chosen_precision, update)
    return Filters(
        name=network.variant if isinstance(run, Trained) else name_of(as_path(run, "the run")),
        variant=network.variant,
        split=split,
        layers={one: found[one] for one in names},
    )


def _patches_figure(shown: TopPatches, name: str, split: str | None) -> Figure:
    blocks = []
    for row, heading in enumerate(shown.headings):
        count = len(shown.keys[row])
        notes = [_range(shown.activations[row, :count]) if count else "0 in every image"]
        if shown.num_tied[row]:
            notes.append(f"{shown.num_tied[row]:,} images tie")
        else:
            notes += _main_class(shown.class_names[row])
        patches, is_inside = shown.patches[row, :count], shown.is_inside[row, :count]
        blocks.append(ChannelPatches(visible(heading), notes, patches, is_inside))
    tie = "; of images that tie at the lowest, the first in the data set are shown"
    return patch_grid_figure(
        blocks,
        title=f"{name}: what excites {shown.choice()}",
        subtitle=f"the {shown.what()} with the highest activations, best first, each from another of the "
        f"{shown.num_images:,} images of {split}\n"
        f"below: their activations, and the class of the majority{tie if shown.num_tied.any() else ''}",
    )


def _range(activations: NDArray[np.float32]) -> str:
    """The first and the last of activations with as many decimals: three digits of the one that is farther from 0."""
    first, last = float(activations[0]), float(activations[-1])
    largest = max(abs(first), abs(last))
    decimals = max(0, 2 - math.floor(math.log10(largest)))
    shown = [f"{one:.{decimals}f}" if 0.001 <= largest < 100_000 else f"{one:.1e}" for one in (first, last)]
    return f"activation {' to '.join(dict.fromkeys(shown))}"


def _main_class(names: Sequence[str | None]) -> list[str]:
    """A line that names the class of more than half of the patches, or says that there is none; none without labels."""
    named = Counter(one for one in names if one is not None)
    for name, number in named.most_common(1):
        return [f"{number} of {len(names)}: {visible(name)}" if 2 * number > len(names) else "mixed classes"]
    return []
