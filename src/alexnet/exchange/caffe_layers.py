"""Caffe's layers: as the three generations of its files hold them, and as those of a variant would be written.

Field numbers are those of BVLC/caffe, src/caffe/proto/caffe.proto: NetParameter has `layer` (100, LayerParameter) or
the older `layers` (2, V1LayerParameter), in which the oldest files nest `layer` (1, V0LayerParameter). What the older
forms mean in the newest follows src/caffe/util/upgrade_proto.cpp there.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.exchange.protobuf import LENGTH, Field, Message, WireError, numbers, varints
from alexnet.model.layer_specs import Convolution, Dense, MaxPool, ReLU, ResponseNorm, SizedLayer

MAX_LAYERS = 1000
MAX_PARTS = 16
"""Of a layer: arrays, inputs, outputs, and values of one setting."""
MAX_DIMS = 32
"""Of an array, as in Caffe."""
MAX_TEXT_BYTES = 200

Settings = dict[str, Any]
"""Settings of a layer: numbers, and (vertical, horizontal) pairs of integers."""

_CONVOLUTION = {
    1: "num_output", 2: "bias_term", 3: "pad", 4: "kernel_size", 5: "group", 6: "stride", 9: "pad_h", 10: "pad_w",
    11: "kernel_h", 12: "kernel_w", 13: "stride_h", 14: "stride_w", 16: "axis", 18: "dilation",
}  # fmt: skip
_INNER_PRODUCT = {1: "num_output", 2: "bias_term", 5: "axis", 6: "transpose"}
_LRN = {1: "local_size", 2: "alpha", 3: "beta", 4: "norm_region", 5: "k"}
_POOLING = {
    1: "pool", 2: "kernel_size", 3: "stride", 4: "pad", 5: "kernel_h", 6: "kernel_w", 7: "stride_h", 8: "stride_w",
    9: "pad_h", 10: "pad_w", 12: "global_pooling",
}  # fmt: skip
_RELU = {1: "negative_slope"}
_DROPOUT = {1: "dropout_ratio"}
_TRANSFORM = {1: "scale", 3: "crop_size", 4: "mean_file", 5: "mean_value"}
PARAMETERS: dict[str, tuple[int, str, dict[int, str]]] = {
    "Convolution": (106, "convolution_param", _CONVOLUTION),
    "InnerProduct": (117, "inner_product_param", _INNER_PRODUCT),
    "LRN": (118, "lrn_param", _LRN),
    "Pooling": (121, "pooling_param", _POOLING),
    "ReLU": (123, "relu_param", _RELU),
    "Dropout": (108, "dropout_param", _DROPOUT),
}
"""The settings of a type: their field in a LayerParameter, its name, and what its own fields are."""
CHOICES = {"pool": ("MAX", "AVE", "STOCHASTIC"), "norm_region": ("ACROSS_CHANNELS", "WITHIN_CHANNEL")}
"""Settings whose numbers have names."""
_V1_TYPES = (
    "None", "Accuracy", "BNLL", "Concat", "Convolution", "Data", "Dropout", "EuclideanLoss", "Flatten", "HDF5Data",
    "HDF5Output", "Im2col", "ImageData", "InfogainLoss", "InnerProduct", "LRN", "MultinomialLogisticLoss", "Pooling",
    "ReLU", "Sigmoid", "Softmax", "SoftmaxWithLoss", "Split", "TanH", "WindowData", "Eltwise", "Power",
    "SigmoidCrossEntropyLoss", "HingeLoss", "MemoryData", "ArgMax", "Threshold", "DummyData", "Slice", "MVN", "AbsVal",
    "Silence", "ContrastiveLoss", "Exp", "Deconvolution",
)  # fmt: skip
"""By the number in a V1LayerParameter."""
_V0_TYPES = {
    "accuracy": "Accuracy", "conv": "Convolution", "data": "Data", "dropout": "Dropout", "flatten": "Flatten",
    "hdf5_data": "HDF5Data", "images": "ImageData", "innerproduct": "InnerProduct", "lrn": "LRN", "pool": "Pooling",
    "relu": "ReLU", "softmax": "Softmax", "softmax_loss": "SoftmaxWithLoss", "split": "Split",
    "window_data": "WindowData",
}  # fmt: skip
_PADDING = "padding"
"""A layer of the oldest files that pads the input of the next."""


@dataclass(frozen=True, kw_only=True)
class _Form:
    """Field numbers of one generation of layers; 0 is a field that it does not have."""

    name: int
    type: int
    inputs: int = 0
    outputs: int = 0
    blobs: int
    settings: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    own_settings: Mapping[int, str] = field(default_factory=dict)
    """Settings that are fields of the layer itself."""
    nested: int = 0
    """A layer of the generation before, in this one."""


_NEW = _Form(
    name=1, type=2, inputs=3, outputs=4, blobs=7,
    settings={100: _TRANSFORM} | {number: names for number, _, names in PARAMETERS.values()},
)  # fmt: skip
_V1 = _Form(
    name=4, type=5, inputs=2, outputs=3, blobs=6, nested=1,
    settings={
        10: _CONVOLUTION, 12: _DROPOUT, 17: _INNER_PRODUCT, 18: _LRN, 19: _POOLING, 30: _RELU, 36: _TRANSFORM,
        11: {2: "scale", 3: "mean_file", 5: "crop_size"},  # of a data layer, before there was transform_param
    },
)  # fmt: skip
_V0 = _Form(
    name=1, type=2, blobs=50,
    own_settings={
        3: "num_output", 4: "bias_term", 7: "pad", 8: "kernel_size", 9: "group", 10: "stride", 11: "pool",
        12: "dropout_ratio", 13: "local_size", 14: "alpha", 15: "beta", 17: "scale", 18: "mean_file", 20: "crop_size",
        22: "k",
    },
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class CaffeLayer:
    """One layer: of a file, or as a variant's would be written."""

    name: str
    type: str
    """As in the newest files, such as `Convolution`."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    blobs: tuple[Message, ...] = ()
    """Its arrays: weights, biases."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Settings that are given: lists of numbers, or text, which are not empty."""

    @property
    def settings(self) -> Settings:
        """What decides what the layer computes, defaults included; not the number of its outputs."""
        defaults: dict[str, float] = {}
        match self.type:
            case "Convolution":
                return {
                    "kernel_size": self._pair("kernel_size", "kernel", 0),
                    "stride": self._pair("stride", "stride", 1),
                    "pad": self._pair("pad", "pad", 0),
                    "dilation": self._pair("dilation", "dilation", 1),
                    "group": self.setting("group", 1),
                    "axis": self.setting("axis", 1),
                    "bias_term": self.setting("bias_term", 1),
                }
            case "InnerProduct":
                defaults = {"bias_term": 1, "axis": 1, "transpose": 0}
            case "LRN":
                defaults = {"local_size": 5, "alpha": 1.0, "beta": 0.75, "k": 1.0, "norm_region": 0}
            case "Pooling":
                return {
                    "pool": self.setting("pool", 0),
                    "kernel_size": self._pair("kernel_size", "kernel", 0),
                    "stride": self._pair("stride", "stride", 1),
                    "pad": self._pair("pad", "pad", 0),
                    "global_pooling": self.setting("global_pooling", 0),
                }
            case "ReLU":
                defaults = {"negative_slope": 0.0}
        return {name: self.setting(name, default) for name, default in defaults.items()}

    def setting(self, name: str, default: float) -> Any:
        """A number: the last one that is given, floating-point ones as float32 holds them."""
        value = self.given.get(name, (default,))[-1]
        return float(np.float32(value)) if isinstance(default, float) else value

    def _pair(self, name: str, prefix: str, default: int) -> tuple[Any, ...]:
        """A setting for both directions, given as one number, as two, or by name."""
        if {f"{prefix}_h", f"{prefix}_w"} & self.given.keys():
            return (self.setting(f"{prefix}_h", default), self.setting(f"{prefix}_w", default))
        values = tuple(self.given.get(name, (default,)))
        return values * 2 if len(values) == 1 else values


@dataclass(frozen=True, kw_only=True, eq=False)
class CaffeNetwork:
    """The layers of a file, in its order, which is that of computation."""

    name: str
    layers: tuple[CaffeLayer, ...]


def read_network(message: Message) -> CaffeNetwork:
    """A network from the bytes of its file; arrays are not read yet.

    Raises:
        WireError: these bytes are not a network.
    """
    name, layers = "", list[CaffeLayer]()
    padding: CaffeLayer | None = None
    for one in message:
        if one.wire_type != LENGTH:
            continue
        if one.number == 1:
            name = _text(one)
        elif one.number in (2, 100):
            if len(layers) == MAX_LAYERS:
                raise WireError(f"it has more than {MAX_LAYERS:,} layers")
            layer = _read_layer(one.message, _NEW if one.number == 100 else _V1)
            if layer.type == _PADDING:
                padding = layer
                continue
            if padding and layer.type in ("Convolution", "Pooling"):
                given = {**layer.given, "pad": padding.given.get("pad", [0])}
                layer = replace(layer, given=given, inputs=padding.inputs)
            padding = None
            layers.append(layer if layer.name else replace(layer, name=f"layer {len(layers) + 1}"))
    return CaffeNetwork(name=name, layers=tuple(layers))


def _read_layer(message: Message, form: _Form) -> CaffeLayer:
    layer = CaffeLayer(name="", type="")
    inputs, outputs, blobs = list[str](), list[str](), list[Message]()
    given: dict[str, Any] = {}
    for one in message:
        if one.number in form.own_settings:
            _add_setting(given, form.own_settings[one.number], one)
        elif one.number in form.settings:
            for inner in one.message:
                if name := form.settings[one.number].get(inner.number):
                    _add_setting(given, name, inner)
        elif one.number == form.nested and one.wire_type == LENGTH:
            layer = _read_layer(one.message, _V0)
        elif one.number == form.name:
            layer = replace(layer, name=_text(one))
        elif one.number == form.type:
            layer = replace(layer, type=_type(one))
        elif one.number == form.inputs and len(inputs) < MAX_PARTS:
            inputs.append(_text(one))
        elif one.number == form.outputs and len(outputs) < MAX_PARTS:
            outputs.append(_text(one))
        elif one.number == form.blobs and len(blobs) < MAX_PARTS:
            blobs.append(one.message)
    return replace(
        layer,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        blobs=(*layer.blobs, *blobs),
        given={**layer.given, **given},
    )


def _type(one: Field) -> str:
    if not isinstance(one.value, int):
        return _V0_TYPES.get(text := _text(one), text)
    return _V1_TYPES[one.value] if one.value < len(_V1_TYPES) else f"type {one.value}"


def _text(one: Field) -> str:
    """A name of the file, as messages can show it."""
    text = bytes(one.content[:MAX_TEXT_BYTES]).decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _add_setting(given: dict[str, Any], name: str, one: Field) -> None:
    """Add the values of a field, if it has any, to those of earlier fields, up to `MAX_PARTS`."""
    if name == "mean_file":
        if text := _text(one):
            given[name] = text
        return
    floating = name in ("alpha", "beta", "k", "negative_slope", "dropout_ratio", "scale", "mean_value")
    values: Iterable[float] = numbers(one, np.float32)[-MAX_PARTS:].tolist() if floating else varints(one)
    if more := [*islice(values, MAX_PARTS)]:
        given[name] = [*given.get(name, ()), *more][-MAX_PARTS:]


def blob_shape(blob: Message) -> tuple[int, ...]:
    """The shape of an array; of files before there were shapes, that with four dimensions.

    Raises:
        WireError: the shape is impossible.
    """
    shape, four = list[int](), dict[int, int]()
    for one in blob:
        if one.number in (1, 2, 3, 4) and isinstance(one.value, int):
            four[one.number] = one.value
        elif one.number == 7 and one.wire_type == LENGTH:
            for inner in one.message:
                if inner.number == 1:
                    shape += islice(varints(inner), MAX_DIMS + 1)
                    if len(shape) > MAX_DIMS:
                        raise WireError(f"the array at byte {blob.offset:,} has more than {MAX_DIMS} dimensions")
    return tuple(four.get(number, 0) for number in (1, 2, 3, 4)) if four else tuple(shape)


def read_blob(blob: Message) -> NDArray[np.float32]:
    """An array of a file, as float32 in its shape; its memory is its own.

    Raises:
        WireError: the array does not have as many numbers as its shape says.
    """
    shape = blob_shape(blob)
    size = math.prod(shape)
    num = sum(map(len, blob_chunks(blob)))
    if num != size:
        raise WireError(f"the array at byte {blob.offset:,} is {shape_text(shape)}, but has {num:,} numbers")
    array = np.empty(size, np.float32)
    first = 0
    with np.errstate(over="ignore", invalid="ignore"):  # of doubles; infinite weights are found later
        for chunk in blob_chunks(blob):
            array[first : first + len(chunk)] = chunk
            first += len(chunk)
    return array.reshape(shape)


def blob_chunks(blob: Message) -> Iterator[NDArray[Any]]:
    """The numbers of an array, in the order of the file; those of double precision where it has any, as in Caffe."""
    has_doubles = any(one.number == 8 and len(one.content) for one in blob)
    for one in blob:
        if one.number == (8 if has_doubles else 5):
            yield numbers(one, np.float64 if has_doubles else np.float32)


def shape_text(shape: Sequence[int | str]) -> str:
    """`96 x 3 x 11 x 11`."""
    return " x ".join(f"{dim}" for dim in shape) or "a single number"


def caffe_layers(layers: Iterable[SizedLayer]) -> list[CaffeLayer]:
    """Those layers of a variant that decide what it computes, as Caffe's would be written.

    Not dropout, which in Caffe changes nothing in testing, and not what flattens, which Caffe's dense layers do
    themselves. Only for the layers that variants `caffe` and `caffenet` have.
    """
    return [
        CaffeLayer(name=layer.name, type=_SPEC_TYPES[type(layer.spec)], given=_given(layer))
        for layer in layers
        if type(layer.spec) in _SPEC_TYPES
    ]


_SPEC_TYPES: dict[type, str] = {
    Convolution: "Convolution",
    Dense: "InnerProduct",
    ReLU: "ReLU",
    ResponseNorm: "LRN",
    MaxPool: "Pooling",
}


def _given(layer: SizedLayer) -> dict[str, Any]:
    """Settings as one writes them for Caffe: without those that are the default."""
    match layer.spec:
        case Convolution() as spec:
            optional = {"pad": (spec.padding, 0), "group": (spec.columns, 1), "stride": (spec.stride, 1)}
            return {"num_output": [layer.out_channels], "kernel_size": [spec.kernel]} | {
                name: [value] for name, (value, default) in optional.items() if value != default
            }
        case Dense():
            return {"num_output": [layer.out_channels]}
        case ResponseNorm() as spec:
            given = {"local_size": [spec.size], "alpha": [spec.alpha], "beta": [spec.beta]}
            return given if spec.k == 1 else {**given, "k": [spec.k]}
        case MaxPool() as spec:
            return {"pool": [0], "kernel_size": [spec.size], "stride": [spec.stride]}
        case _:
            return {}
