"""Which variant a Caffe network is: its layers, in order and with their settings, compared with those of variants."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from alexnet.errors import RequestError
from alexnet.exchange.caffe_layers import CHOICES, CaffeLayer, CaffeNetwork, blob_shape, caffe_layers, shape_text
from alexnet.exchange.foreign_network import ForeignLayer
from alexnet.model.layer_specs import INPUT_CHANNELS, Flatten, sized_layers
from alexnet.model.variants import VARIANTS

CAFFE_VARIANTS = ("caffe", "caffenet")
"""Those that Caffe computes equally."""
_WEIGHTED = ("Convolution", "InnerProduct")
_OTHER_OPERATIONS = ("LRN", "Pooling", "ReLU")
_WITHOUT_EFFECT = frozenset((
    "AnnotatedData", "Data", "Dropout", "DummyData", "Flatten", "HDF5Data", "HDF5Output", "ImageData", "Input",
    "MemoryData", "Python", "Silence", "Split", "WindowData",
))  # fmt: skip
"""Types that change no numbers in testing, or give the network its input."""
_AFTER_THE_SCORES = frozenset((
    "Accuracy", "ArgMax", "EuclideanLoss", "HingeLoss", "InfogainLoss", "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss", "Softmax", "SoftmaxWithLoss",
))  # fmt: skip


def matching_variants(
    path: Path, what: str, network: CaffeNetwork
) -> tuple[tuple[str, ...], list[CaffeLayer], list[str]]:
    """The variants that the network may be, its layers with weights, and what a user should know.

    Raises:
        RequestError: it is another network; the first difference is named.
    """
    operations = [one for one in network.layers if one.type not in _WITHOUT_EFFECT]
    while operations and operations[-1].type in _AFTER_THE_SCORES:
        operations.pop()
    if not any(one.blobs for one in operations):
        raise RequestError(f"{path} is {what} without weights; give the .caffemodel of a trained network")
    is_complete = any(one.type in _OTHER_OPERATIONS for one in operations)
    if not is_complete:
        operations = [_typed(one) for one in operations if one.blobs]
    found = {name: _first_difference(operations, _expected(name), name, is_complete) for name in CAFFE_VARIANTS}
    variants = [name for name, (_, difference) in found.items() if difference is None]
    difference = None if variants else max(found.values(), key=lambda one: one[0])[1]
    if variants and is_complete:
        difference = _branch(network)
    if difference is not None:
        raise RequestError(
            f"{path} is {what} of another network than Caffe's AlexNet and CaffeNet, which are the ones that can be "
            f"imported: {difference}"
        )
    weighted = _weighted(operations)
    if is_complete and all(one.given for one in weighted):
        return tuple(variants), weighted, []
    if re.search("caffe_?net", network.name, re.IGNORECASE):
        variants.reverse()
    note = (
        f"The file does not say all layers and their settings, such as strides: those of variant {variants[0]!r} were "
        "assumed."
    )
    if len(variants) > 1:
        note += f" If the network is {variants[1]!r}, import it with `--variant {variants[1]}`."
    return tuple(variants), weighted, [note]


def num_weighted_layers(variant: str) -> int:
    """How many layers of a variant have weights."""
    return len(_weighted(_expected(variant)))


def _expected(variant: str) -> list[CaffeLayer]:
    return caffe_layers(sized_layers(VARIANTS[variant], 1000))


def _weighted(layers: Iterable[CaffeLayer]) -> list[CaffeLayer]:
    return [one for one in layers if one.type in _WEIGHTED]


def _typed(layer: CaffeLayer) -> CaffeLayer:
    """A layer with its type, which the shape of its weights tells where the file does not."""
    if layer.type:
        return layer
    shape = blob_shape(layer.blobs[0])
    return replace(layer, type="Convolution" if len(shape) == 4 and shape[:2] != (1, 1) else "InnerProduct")


def _first_difference(
    found: Sequence[CaffeLayer], expected: Sequence[CaffeLayer], variant: str, is_complete: bool
) -> tuple[int, str | None]:
    """How many layers are those of a variant, and the first difference after them; None if there is none.

    A network that ends anywhere after its last convolution is not different.
    """
    if not is_complete:
        expected = _weighted(expected)
    last_convolution = max(number for number, one in enumerate(expected) if one.type == "Convolution")
    for number, (have, want) in enumerate(zip_longest(found, expected)):
        if have is None:
            is_enough = number > last_convolution
            return number, None if is_enough else f"it ends before {want.name}, which variant {variant!r} has"
        if want is None:
            return number, f"{have.name} ({have.type}) comes after the last layer that variant {variant!r} has"
        if have.type != want.type:
            return number, f"{have.name} is {have.type}, where variant {variant!r} has {want.name} ({want.type})"
        if have.type in _WEIGHTED and not have.given:
            continue
        for setting, value in want.settings.items():
            if have.settings[setting] != value:
                got, wanted = (_setting_text(setting, one) for one in (have.settings[setting], value))
                return number, (
                    f"{have.name} has {setting} {got}, where {want.name} of variant {variant!r} has {wanted}"
                )
    return len(found), None


def _setting_text(name: str, value: Any) -> str:
    if name in CHOICES and value < len(CHOICES[name]):
        return str(CHOICES[name][value])
    return " x ".join(f"{one:g}" for one in value) if isinstance(value, tuple) else f"{value:g}"


def _branch(network: CaffeNetwork) -> str | None:
    """Where the network is not a sequence of layers; None if it is one, or does not say what its layers read."""
    current: set[str] | None = None  # names of the output of the layer before
    for layer in network.layers:
        if layer.type in _AFTER_THE_SCORES or (layer.type in _WITHOUT_EFFECT and not layer.inputs):
            continue
        if layer.type in _WITHOUT_EFFECT and current is not None and not current & {*layer.inputs}:
            continue  # such as a split of the labels
        if current is not None and layer.inputs and not current >= {*layer.inputs}:
            return f"{layer.name} reads {layer.inputs[0]}, which is not the output of the layer before it"
        if layer.type == "Split":
            current = None if current is None else current | {*layer.outputs}
        elif layer.outputs and layer.type != "Silence" and (current is not None or layer.type not in _WITHOUT_EFFECT):
            current = {*layer.outputs}
    return None


def require_shapes(path: Path, what: str, variant: str, layers: Sequence[ForeignLayer]) -> None:
    """RequestError unless each layer reads what the layer before it gives, as in the variant, at whatever width."""
    channels, remaining = INPUT_CHANNELS, list(layers)
    for sized in sized_layers(VARIANTS[variant], 1000):
        if isinstance(sized.spec, Flatten):
            channels *= sized.in_side**2
        if not sized.weight_shape or not remaining:
            continue
        layer = remaining.pop(0)
        found, outputs = tuple(layer.weight.shape), layer.weight.shape[0] if layer.weight.dim() else 0
        expected = (outputs, channels // sized.columns, *sized.weight_shape[2:])
        if found != expected or outputs == 0 or outputs % sized.columns:
            raise RequestError(
                f"{path} is {what} of another network than variant {variant!r}: the weights of {layer.name} are "
                f"{shape_text(found)}, where {shape_text(('N', *expected[1:]))} would fit the layers before it"
            )
        if tuple(layer.bias.shape) != (outputs,):
            num = shape_text(tuple(layer.bias.shape))
            raise RequestError(
                f"{path}: the biases of {layer.name} are {num}; expected are {outputs:,}, as its outputs"
            )
        channels = outputs
