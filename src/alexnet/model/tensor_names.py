"""Names and shapes of the tensors of a state dict: those that wrappers prefixed, and what network they are of."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from alexnet.errors import RequestError
from alexnet.model.layer_specs import (
    Dense,
    LocallyConnected,
    NetworkSpec,
    SizedLayer,
    WeightedSpec,
    scaled,
    sized_layers,
)
from alexnet.model.variants import VARIANTS

T = TypeVar("T")

LayerShapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of the weights and of the biases of a layer."""
Shapes = Mapping[str, Sequence[int]]
"""Shapes by tensor name."""
WRAPPERS = ("module", "_orig_mod")
"""What DistributedDataParallel (also DataParallel and averaged models) and torch.compile put into names."""
_MIN_WIDTH, _MAX_WIDTH = 1e-6, 4.0
_TORCHVISION = {"features.0.weight": (64, 3, 11, 11), "classifier.1.weight": (4096, 9216)}


def unwrapped_name(name: str) -> str:
    """A tensor's name without what wrappers put into it: `module._orig_mod.conv1.weight` is `conv1.weight`."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def is_wrapped(names: Iterable[str]) -> bool:
    """Whether a wrapper put something into one of the names."""
    return any(unwrapped_name(name) != name for name in names)


def rename_as(own_names: Iterable[str], given: Mapping[str, T]) -> Mapping[str, T]:
    """A state dict under the names of a network that is wrapped otherwise; `given` itself if no name changes.

    Raises:
        RequestError: two tensors would get the same name.
    """
    own = {unwrapped_name(name): name for name in own_names}
    renamed: dict[str, T] = {}
    sources: dict[str, str] = {}
    for name, value in given.items():
        plain = unwrapped_name(name)
        new = own.get(plain, plain)
        if new in renamed:
            raise RequestError(
                f"both {sources[new]} and {name} would be {new} of the network; pass one of the two state dicts"
            )
        renamed[new], sources[new] = value, name
    return given if sources.keys() == given.keys() else renamed


def common_prefix(names: Iterable[str]) -> str:
    """What all names begin with, up to a dot: what holds a network, such as a LightningModule, puts it before them."""
    return "".join(os.path.commonprefix([*names]).rpartition(".")[:2])  # noqa: RUF071 (cut at a dot)


def describe_tensors(shapes: Shapes) -> str:
    """What network tensors are of, as the end of a sentence about them: `fit variant 'paper' of width 1 ...`."""
    plain = {unwrapped_name(name): tuple(shape) for name, shape in shapes.items()}
    prefix = common_prefix(plain)
    if found := matching_networks({name.removeprefix(prefix): shape for name, shape in plain.items()}):
        names, width, num_classes = found
        others = [*map(repr, names[1:3]), *(["others"] if len(names) > 3 else [])]
        more = f" (also {', '.join(others)})" if others else ""
        without = f" if `{prefix}` is removed from their names" if prefix else ""
        return f"fit variant {names[0]!r}{more} of width {width:g} with {num_classes:,} classes{without}"
    if all(plain.get(name) == shape for name, shape in _TORCHVISION.items()):
        return (
            "look like torchvision's AlexNet (features.0.weight is (64, 3, 11, 11)); variant 'torchvision' has the "
            "same in the same order, from conv1.weight to fc8.bias"
        )
    first = ", ".join(f"{name} {tuple(shape)}" for name, shape in list(shapes.items())[:3])
    return f"fit no variant; they are {first}{' ...' if len(shapes) > 3 else ''}" if first else "are missing"


@dataclass(frozen=True)
class NetworkMatch:
    """A variant whose layers have the shapes of given tensors."""

    variant: str
    width: float
    num_classes: int | None
    """None of the convolutional part."""


def networks_of_layers(layers: Sequence[LayerShapes], *, features_only: bool = False) -> list[NetworkMatch]:
    """The variants whose layers with weights have these shapes in this order, whatever their names.

    Args:
        layers: of each layer the shape of its weights and that of its biases, from input to output.
        features_only: whether these are the layers before the first dense one.
    """
    matches = []
    for variant, spec in VARIANTS.items():
        weighted = [one for one in spec.layers if isinstance(one, WeightedSpec)]
        if features_only:
            weighted = weighted[: next(number for number, one in enumerate(weighted) if isinstance(one, Dense))]
        if len(weighted) != len(layers) or not all(len(bias) for _, bias in layers):
            continue
        outputs = [(published_size(one), bias[0]) for one, (_, bias) in zip(weighted, layers, strict=True)]
        if not all(size is not None or found > 0 for size, found in outputs):
            continue
        if (width := roundest_width([(size, found) for size, found in outputs if size is not None])) is None:
            continue
        num_classes = None if features_only else outputs[-1][1]
        sized = [one for one in sized_layers(spec, num_classes or spec.num_classes, width) if one.weight_shape]
        if [(one.weight_shape, one.bias_shape) for one in sized[: len(layers)]] == [*layers]:
            matches.append(NetworkMatch(variant, width, num_classes))
    return matches


def shapes_at_width_of(
    variant: str, shapes: Sequence[tuple[int, ...]]
) -> tuple[float, list[tuple[str, tuple[int, ...]]]]:
    """A variant's width at which as many of its first layers as possible have as many outputs as these weights, and the
    names and shapes of its weights at that width. Its last layer has as many outputs as the last of these weights."""
    spec = VARIANTS[variant]
    weighted = [one for one in spec.layers if isinstance(one, WeightedSpec)]
    sizes = [
        (size, shape[2] if isinstance(one, LocallyConnected) and len(shape) > 2 else shape[0])
        for one, shape in zip(weighted, shapes, strict=False)
        if shape and (size := published_size(one)) is not None
    ]
    widths = (roundest_width(sizes[:count]) for count in range(len(sizes), 0, -1))
    width = next((one for one in widths if one is not None), 1.0)
    num_classes = shapes[-1][0] if shapes and shapes[-1] and shapes[-1][0] >= 2 else spec.num_classes
    sized = sized_layers(spec, num_classes, width)
    return width, [(one.name, one.weight_shape) for one in sized if one.weight_shape]


def matching_networks(shapes: Shapes) -> tuple[list[str], float, int] | None:
    """The variants whose tensors have these names and shapes, their width and number of classes; None if none has."""
    matches: dict[str, tuple[float, int]] = {}
    for variant, spec in VARIANTS.items():
        if (found := _width_and_classes(spec, shapes)) is None:
            continue
        layers = [layer for layer in sized_layers(spec, found[1], found[0]) if layer.weight_shape]
        if _tensor_shapes(layers) == {name: tuple(shape) for name, shape in shapes.items()}:
            matches[variant] = found
    if not matches:
        return None
    (width, num_classes), *_ = matches.values()
    return list(matches), width, num_classes


def _tensor_shapes(layers: Iterable[SizedLayer]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for layer in layers:
        shapes[f"{layer.name}.weight"], shapes[f"{layer.name}.bias"] = layer.weight_shape, layer.bias_shape
    return shapes


def _width_and_classes(spec: NetworkSpec, shapes: Shapes) -> tuple[float, int] | None:
    """The roundest width at which each layer has as many outputs as the tensors, and the number of classes."""
    outputs = []
    for layer in spec.layers:
        if isinstance(layer, WeightedSpec):
            bias = shapes.get(f"{layer.name}.bias", ())
            if not bias:
                return None
            outputs.append((published_size(layer), bias[0]))
    width = roundest_width([(size, found) for size, found in outputs if size is not None])
    return None if width is None else (width, outputs[-1][1])


def published_size(layer: WeightedSpec) -> int | None:
    """Outputs of a layer at width 1; None is the number of classes."""
    return layer.units if isinstance(layer, Dense) else layer.out_channels


def roundest_width(outputs: Sequence[tuple[int, int]]) -> float | None:
    """The roundest width at which layers of published sizes have these sizes."""
    # Rounded to even numbers, but never below 2.
    low = max((found - 1) / size if found > 2 else _MIN_WIDTH for size, found in outputs)
    high = min((found + 1) / size for size, found in outputs)
    for digits in range(7):
        first = math.ceil(low * 10**digits)
        width: float
        for width in (first / 10**digits, (first + 1) / 10**digits):  # the first may be rounded to another size
            if width <= min(high, _MAX_WIDTH) and all(scaled(size, width) == found for size, found in outputs):
                return width
    return None
