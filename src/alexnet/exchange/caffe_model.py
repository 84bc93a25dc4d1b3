"""Caffe's models: reads the networks that Caffe published, and writes those that Caffe computes equally.

A `.caffemodel` holds layers with their settings and weights (`caffe_layers`). Its first layer reads colors in the order
blue, green, red, 0..255, minus a mean.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from alexnet.errors import RequestError
from alexnet.exchange.caffe_layers import CaffeLayer, CaffeNetwork, read_blob, read_network
from alexnet.exchange.caffe_matching import matching_variants, num_weighted_layers, require_shapes
from alexnet.exchange.foreign_network import CAFFE_CONVENTION, ForeignLayer, ForeignNetwork, InputConvention
from alexnet.exchange.protobuf import LENGTH, VARINT, Message, WireError, mapped_message
from alexnet.model.foreign_files import DOWNLOAD
from alexnet.model.variants import VARIANTS
from alexnet.storage.typed_files import damaged

_START_BYTES = 4096
_NETWORK_FIELDS = {1: LENGTH, 2: LENGTH, 3: LENGTH, 4: VARINT, 5: VARINT, 6: LENGTH, 8: LENGTH, 100: LENGTH}
"""Wire types of the fields that a NetParameter may begin with."""
_READING = {"scale", "crop_size", "mean_file", "mean_value"}
"""Settings of a data layer that say how pixels are read."""
_INSTEAD_OF_MEAN = "Without `--mean FILE.binaryproto`, the mean color of Caffe's published mean image is subtracted."


def read_caffe(path: Path) -> ForeignNetwork:
    """The network in a `.caffemodel` file.

    It may be bvlc_alexnet (variant `caffe`) or bvlc_reference_caffenet (`caffenet`), of any width, without its last
    layers, and in any of the three forms that Caffe has written. Of a file without the layers' settings, only shapes
    can be compared; a note says so. Memory is that of the weights, beside the file, which is mapped.

    Raises:
        RequestError: it is another file or another network; the message says which.
        WorkError: it is damaged or cut short, or lies about lengths.
    """
    message = mapped_message(path, "give a .caffemodel")
    try:
        _refuse_others(path, message)
        return _foreign_network(path, read_network(message))
    except WireError as error:
        raise damaged(path, f"or cut short: {error}", DOWNLOAD) from error


def _refuse_others(path: Path, message: Message) -> None:
    """RequestError if the file is of another kind."""
    start = bytes(message.content[:_START_BYTES])
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        raise RequestError(
            f"{path} is a Caffe model in HDF5, which is not read; load it in Caffe and save it as a .caffemodel: "
            f"`caffe.Net(prototxt, weights, caffe.TEST).save('{path.name.removesuffix('.h5') or 'model.caffemodel'}')`"
        )
    if re.fullmatch(rb"[\t\r\n -~\x80-\xff]*", start):
        if re.match(rb"(\xef\xbb\xbf)?\s*<", start):
            raise RequestError(f"{path} is a web page, not weights: a site's answer in place of the file; {DOWNLOAD}")
        if re.search(rb"(?m)^\s*(name|layers?|input|net|base_lr)\s*[:{]", start):
            raise RequestError(f"{path} is a description in text (.prototxt), without weights; give the .caffemodel")
        raise RequestError(f"{path} is a text file, not weights; give the .caffemodel")
    tag, _ = message.varint(0)
    number, wire_type = tag >> 3, tag & 7
    if (number, wire_type) in ((1, VARINT), (5, LENGTH)):
        if any(one.number == 3 and one.wire_type == LENGTH for one in message):
            raise RequestError(
                f"{path} is the state of Caffe's solver (.solverstate), which holds the momentum of a training, not "
                "weights; give the .caffemodel that was written with it"
            )
        raise RequestError(
            f"{path} is one array, such as a mean image (.binaryproto), not weights; give the .caffemodel"
        )
    if _NETWORK_FIELDS.get(number) != wire_type:
        raise RequestError(f"{path} is not a Caffe model (it begins with {start[:8].hex(' ')}); give a .caffemodel")


def _foreign_network(path: Path, network: CaffeNetwork) -> ForeignNetwork:
    what = f"a Caffe model ({network.name})" if network.name else "a Caffe model"
    variants, weighted, notes = matching_variants(path, what, network)
    layers = tuple(_foreign_layer(path, one) for one in weighted)
    require_shapes(path, what, variants[0], layers)
    if len(layers) < num_weighted_layers(variants[0]):
        notes.append(f"The file has no weights after {layers[-1].name}.")
    convention, more = _convention(network.layers, VARIANTS[variants[0]].image_px)
    return ForeignNetwork(
        what=what, layers=layers, variants=variants, convention=convention, fit="squash", notes=(*notes, *more)
    )


def _foreign_layer(path: Path, layer: CaffeLayer) -> ForeignLayer:
    """The weights of a layer.

    Raises:
        RequestError: it has no weights and biases.
        WireError: the arrays are damaged.
    """
    if len(layer.blobs) != 2:
        found = {0: "no weights", 1: "no biases"}.get(len(layer.blobs), f"{len(layer.blobs)} arrays")
        raise RequestError(f"{path}: {layer.name} has {found}; expected are an array of weights and one of biases")
    weight, bias = (read_blob(blob) for blob in layer.blobs)
    if layer.type == "InnerProduct" and weight.ndim == 4 and weight.shape[:2] == (1, 1):  # of files without shapes
        weight = weight[0, 0]
    if bias.ndim == 4 and bias.shape[:3] == (1, 1, 1):
        bias = bias[0, 0, 0]
    return ForeignLayer(name=layer.name, weight=torch.from_numpy(weight), bias=torch.from_numpy(bias))


def _convention(layers: Sequence[CaffeLayer], image_px: int) -> tuple[InputConvention, list[str]]:
    """How the network reads pixels: Caffe's way, changed by what the file says of its training; and notes."""
    convention, notes = CAFFE_CONVENTION, list[str]()
    reading = next((one for one in layers if _READING & one.given.keys()), CaffeLayer(name="", type=""))
    if colors := reading.given.get("mean_value"):
        if len(colors) in (1, 3) and all(0 <= color <= 255 for color in colors):  # not NaN
            blue, green, red = colors if len(colors) == 3 else colors * 3
            convention = replace(convention, mean=(red, green, blue))
        else:
            given = ", ".join(f"{color:g}" for color in colors)
            notes.append(
                f"Its training subtracted {given}, which is not a color of 0..255 and was ignored. {_INSTEAD_OF_MEAN}"
            )
    elif name := reading.given.get("mean_file"):
        notes.append(
            f"Its training subtracted a mean image ({name.rpartition('/')[2]}), which is not in the file. "
            f"{_INSTEAD_OF_MEAN}"
        )
    scale = reading.setting("scale", 1.0)
    if abs(255 * scale - 1) < 0.005:  # 1/256 is usual, too
        convention = replace(convention, scale="1")
    elif scale != 1:
        notes.append(
            f"Its training multiplied pixels by {scale:g}, which was ignored; if the error on your images is high, try "
            "`--input-scale`."
        )
    if (crop_px := reading.setting("crop_size", 0)) not in (0, image_px):  # 0: without crops
        notes.append(f"It was trained with crops of {crop_px} pixels, and gets crops of {image_px}.")
    return convention, notes
