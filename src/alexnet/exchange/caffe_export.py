"""A folder for Caffe: weights, the network's description, mean image and class names.

Only of networks that Caffe computes equally. Layers are named as in Caffe's published models.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.dataset import ClassInfo
from alexnet.data.decode import PAD_COLOR, Fit
from alexnet.errors import RequestError
from alexnet.exchange.caffe_layers import CHOICES, PARAMETERS, CaffeLayer, caffe_layers
from alexnet.exchange.caffe_matching import CAFFE_VARIANTS
from alexnet.exchange.forms import FOR_EVERY_VARIANT
from alexnet.exchange.protobuf import (
    encoded_varint,
    float_field,
    floats_field,
    integer_field,
    message_field,
    text_field,
)
from alexnet.model.layer_specs import (
    AveragePool,
    Convolution,
    Dense,
    Dropout,
    LayerSpec,
    LocallyConnected,
    ResponseNorm,
    SameMapNorm,
)
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained
from alexnet.storage.atomic import staged_folder, write_chunks, write_text
from alexnet.system.visible_text import visible

MODEL_NAMES = {"caffe": "AlexNet", "caffenet": "CaffeNet"}
"""Caffe's name of the network of a variant."""
DEPLOY_FILE = "deploy.prototxt"
WEIGHTS_FILE = "weights.caffemodel"
MEAN_FILE = "mean.binaryproto"
LABELS_FILE = "labels.txt"
README_FILE = "README.txt"
_MAX_REASONS = 3

_Chunks = list[bytes | memoryview]


def write_caffe(trained: Trained, folder: Path) -> None:
    """Write a folder that Caffe reads, atomically.

    `deploy.prototxt`: the network, for one image at a time. `weights.caffemodel`: its weights, bit for bit; of the
    first layer, for inputs in the order blue, green, red. `mean.binaryproto`: the mean image in that order.
    `labels.txt`: an id and a name per line, in the order of the outputs, see `label`. `README.txt`: how to use them
    from Python.

    Raises:
        RequestError: the folder exists, or Caffe does not compute this network equally (the message says why).
        WorkError: the disk is full.
        OSError: the folder cannot be written; nothing is left behind.
    """
    variant = trained.network.variant
    if variant not in CAFFE_VARIANTS:
        raise RequestError(
            f"variant {variant!r} cannot be exported to Caffe, which would compute something else: "
            f"{_differences(trained.network)}. Allowed are {' and '.join(CAFFE_VARIANTS)}; export it to "
            f"{FOR_EVERY_VARIANT}, which take every variant"
        )
    layers = _deployed_layers(trained.network)
    with staged_folder(folder) as stage:
        write_text(stage / DEPLOY_FILE, _prototxt(MODEL_NAMES[variant], trained.crop, layers))
        write_chunks(stage / WEIGHTS_FILE, _model(trained, layers))
        write_chunks(stage / MEAN_FILE, _mean(trained.mean_image))
        write_text(stage / LABELS_FILE, labels_text(trained.classes))
        write_text(stage / README_FILE, _readme(trained))


def _differences(network: AlexNet) -> str:
    """What of the network Caffe computes differently, or not at all."""
    spec = network.spec
    reasons = [] if spec.input_scale == 1 else ["the network multiplies its input by a factor"]
    for layer in spec.named_layers:
        if reason := _difference(layer.spec):
            reasons.append(f"{layer.name} {reason}")
    return ", ".join(reasons[:_MAX_REASONS] or ["only these two were compared with it"])


def _difference(spec: LayerSpec) -> str | None:
    match spec:
        case Convolution() if spec.end_padding:
            return "pads at the right and at the bottom only"
        case ResponseNorm() if spec.columns > 1:
            return "normalizes within columns"
        case Dense() if spec.columns > 1:
            return "has columns"
        case Dropout() if not spec.inverted:
            return "multiplies by the keep probability in testing"
        case AveragePool():
            return "divides by another number at the edges"
        case LocallyConnected() | SameMapNorm():
            return "is a layer that Caffe does not have"
        case _:
            return None


def _deployed_layers(network: AlexNet) -> list[CaffeLayer]:
    """The layers, connected: ReLU and dropout in place, as in Caffe's published models."""
    by_name = {one.name: one for one in caffe_layers(network.sized_layers)}
    layers: list[CaffeLayer] = []
    current = "data"
    for named in network.spec.named_layers:
        if isinstance(named.spec, Dropout):
            layer = CaffeLayer(
                name=named.name.replace("dropout", "drop"), type="Dropout", given={"dropout_ratio": [network.dropout]}
            )
        elif named.name in by_name:
            layer = by_name[named.name]
        else:
            continue  # Caffe's dense layers flatten
        output = current if layer.type in ("ReLU", "Dropout") else layer.name
        layers.append(replace(layer, inputs=(current,), outputs=(output,)))
        current = output
    return [*layers, CaffeLayer(name="prob", type="Softmax", inputs=(current,), outputs=("prob",))]


def _model(trained: Trained, layers: list[CaffeLayer]) -> Iterator[bytes | memoryview]:
    """The bytes of a NetParameter."""
    variant, state = trained.network.variant, trained.network.state_dict()
    yield text_field(1, MODEL_NAMES[variant])
    for layer in layers:
        parts: _Chunks = [text_field(1, layer.name), text_field(2, layer.type)]
        parts += [text_field(3, one) for one in layer.inputs] + [text_field(4, one) for one in layer.outputs]
        if f"{layer.name}.weight" in state:
            weight, bias = (_array(state[f"{layer.name}.{kind}"]) for kind in ("weight", "bias"))
            if layer.inputs == ("data",):
                weight = weight[:, ::-1]
            parts += message_field(7, _blob(weight)) + message_field(7, _blob(bias))
        if layer.given:
            parts += _settings(layer)
        yield from message_field(100, parts)


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.detach().cpu().float().numpy()


def _blob(array: NDArray[np.float32]) -> _Chunks:
    """A BlobProto in the newest form."""
    dims = [encoded_varint(dim) for dim in array.shape]
    return [*floats_field(5, array), *message_field(7, message_field(1, dims))]


def _settings(layer: CaffeLayer) -> _Chunks:
    number, _, names = PARAMETERS[layer.type]
    numbers = {name: one for one, name in names.items()}
    fields = [
        float_field(numbers[name], value) if isinstance(value, float) else integer_field(numbers[name], value)
        for name, values in layer.given.items()
        for value in values
    ]
    return message_field(number, fields)


def _mean(mean_image: torch.Tensor) -> _Chunks:
    """A BlobProto of four dimensions, as Caffe's own `compute_image_mean` writes it: (1, 3, H, W), blue first."""
    planes = _array(mean_image).transpose(2, 0, 1)[::-1]
    dims = zip((1, 2, 3, 4), (1, *planes.shape), strict=True)
    return [b"".join(integer_field(number, dim) for number, dim in dims), *floats_field(5, planes)]


def labels_text(classes: Sequence[ClassInfo]) -> str:
    """The content of `labels.txt`, which `class_lists.read_classes` reads."""
    separator = _separator(classes)
    return "".join(f"{label(one.id)}{separator}{label(one.name)}\n" for one in classes)


def label(text: str) -> str:
    """An id or a name as a line of `labels.txt` can hold it, and as an import takes it."""
    return visible(" ".join(text.split()))


def _separator(classes: Sequence[ClassInfo]) -> str:
    """Between id and name: a space, as in Caffe's own list, or a tab where that would not tell them apart."""
    is_told = all(re.search(r"\d", one.id) and not re.search(r"\s", one.id) and one.name.strip() for one in classes)
    return " " if is_told else "\t"


def _prototxt(name: str, side: int, layers: list[CaffeLayer]) -> str:
    """The network's description, for one image at a time."""
    lines = [
        f'name: "{name}"',
        "layer {",
        '  name: "data"',
        '  type: "Input"',
        '  top: "data"',
        f"  input_param {{ shape {{ dim: 1 dim: 3 dim: {side} dim: {side} }} }}",
        "}",
    ]
    for layer in layers:
        lines += ["layer {", f'  name: "{layer.name}"', f'  type: "{layer.type}"']
        lines += [f'  bottom: "{one}"' for one in layer.inputs] + [f'  top: "{one}"' for one in layer.outputs]
        if layer.given:
            settings = [
                f"    {name}: {_value(name, value)}" for name, values in layer.given.items() for value in values
            ]
            lines += [f"  {PARAMETERS[layer.type][1]} {{", *settings, "  }"]
        lines.append("}")
    return "\n".join(lines) + "\n"


def _value(name: str, value: Any) -> str:
    return CHOICES[name][value] if name in CHOICES else f"{value:.9g}"


_SQUARE: dict[Fit, tuple[str, ...]] = {
    "squash": ("image = image.resize(({side}, {side}), Image.BILINEAR)",),
    "crop": (
        "factor = {side} / min(image.size)",
        "image = image.resize([max({side}, round(length * factor)) for length in image.size], Image.BILINEAR)",
        "left, top = (image.width - {side}) // 2, (image.height - {side}) // 2",
        "image = image.crop((left, top, left + {side}, top + {side}))",
    ),
    "pad": ("image = ImageOps.pad(image, ({side}, {side}), Image.BILINEAR, color={color})",),
}
"""How each fit makes a photograph square, with Pillow."""


def _readme(trained: Trained) -> str:
    """How the folder is used from Python."""
    side, crop, variant = trained.side, trained.crop, trained.network.variant
    first, separator = (side - crop) // 2, _separator(trained.classes)
    square = "\n".join(f"    {line}" for line in _SQUARE[trained.fit]).format(side=side, color=PAD_COLOR)
    return f"""\
{MODEL_NAMES[variant]} for Caffe, with {len(trained.classes):,} classes. Trained on: {label(trained.title)}

{DEPLOY_FILE}: the network. {WEIGHTS_FILE}: its weights. {MEAN_FILE}: the mean image.
{LABELS_FILE}: id and name of each class, in the order of the outputs.

The network reads {crop} x {crop} pixels, 0..255, in the order blue, green, red, minus the mean image. In Python:

    import caffe
    import numpy as np
    from PIL import Image, ImageOps

    net = caffe.Net("{DEPLOY_FILE}", "{WEIGHTS_FILE}", caffe.TEST)
    blob = caffe.proto.caffe_pb2.BlobProto.FromString(open("{MEAN_FILE}", "rb").read())
    mean = caffe.io.blobproto_to_array(blob)[0]  # (3, {side}, {side}), blue, green, red

    image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
{square}
    pixels = np.asarray(image, np.float32)[:, :, ::-1].transpose(2, 0, 1) - mean
    net.blobs["data"].data[0] = pixels[:, {first}:{first + crop}, {first}:{first + crop}]
    probabilities = net.forward()["prob"][0]

    labels = [line.rstrip("\\n").split({json.dumps(separator)}, 1) for line in open("{LABELS_FILE}", encoding="utf-8")]
    print(labels[probabilities.argmax()], probabilities.max())
"""
