"""A trained network as one ONNX file: from the pixels of photographs of any size to the probabilities of named classes.

Input `images`: uint8 (N, H, W, 3), RGB, of any size, all of a batch of the same. Outputs: `probabilities`, float32
(N, K), and `class_names`, K strings. Metadata: `alexnet` is the description in a weights file, `version` that of this
package.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

import alexnet
from alexnet.data.augment import center_crop, crop_margin
from alexnet.data.decode import PAD_COLOR
from alexnet.errors import RequestError
from alexnet.exchange.onnx_graph import OPSET, OnnxGraph, add_network, onnx_module
from alexnet.model.weights import Trained, describe
from alexnet.storage.atomic import write_bytes

IR_VERSION = 8
"""Of the file, the first with operators of `OPSET`: older readers take it too."""
MAX_BYTES = 2**31 - 2**20
"""A protobuf message has fewer than 2 GiB; the rest is for nodes and names."""
_INPUT_TEXT = (
    "uint8 (N, H, W, 3): photographs of one size, RGB, 0..255, upright. They are resized and cropped, and the mean "
    "image is subtracted, as in training."
)


def write_onnx(trained: Trained, path: Path) -> None:
    """Write a network with its preprocessing, a softmax and its class names to an ONNX file, atomically.

    Args:
        trained: what `require_describable` accepts.
        path: the file.

    Raises:
        RequestError: the package onnx is missing, or the network is too large for an ONNX file.
        OSError: the file cannot be written; nothing is left behind.
    """
    write_bytes(path, onnx_model(trained).SerializeToString(deterministic=True))


def onnx_model(trained: Trained) -> Any:
    """The network as an `onnx.ModelProto`, see the module's docstring.

    Raises:
        RequestError: as `write_onnx`.
    """
    helper, types = onnx_module("onnx.helper"), onnx_module().TensorProto
    num_bytes = 4 * sum(one.numel() for one in trained.network.parameters())
    if num_bytes > MAX_BYTES:
        raise RequestError(
            f"the weights have {num_bytes / 2**30:.1f} GiB, and an ONNX file holds less than 2; export it as "
            "torch-export or safetensors"
        )
    graph = OnnxGraph()
    x = add_preprocessing(graph, trained, "images")
    scores = add_network(graph, trained.network, x)
    graph.add("Softmax", [scores], "probabilities", axis=1)
    names = graph.constant("classes", [one.name for one in trained.classes], str)
    graph.add("Identity", [names], "class_names")
    num_classes = len(trained.classes)
    made = helper.make_graph(
        graph.nodes,
        f"alexnet_{trained.network.variant}",
        [helper.make_tensor_value_info("images", types.UINT8, ["N", "H", "W", 3], _INPUT_TEXT)],
        [
            helper.make_tensor_value_info("probabilities", types.FLOAT, ["N", num_classes], "0..1, of each class"),
            helper.make_tensor_value_info("class_names", types.STRING, [num_classes], "names, in the same order"),
        ],
        graph.constants,
        doc_string=f"Variant {trained.network.variant!r} of the network of 2012 for {trained.title}",
    )
    model = helper.make_model(
        made,
        producer_name="alexnet",
        producer_version=alexnet.__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string=_INPUT_TEXT,
    )
    helper.set_model_props(model, {"alexnet": json.dumps(describe(trained)), "version": alexnet.__version__})
    return model


def add_preprocessing(graph: OnnxGraph, trained: Trained, images: str) -> str:
    """Add what `alexnet.preprocess` does to pixels: from uint8 (N, H, W, 3) to float32 (N, 3, C, C)."""
    side, crop = trained.side, trained.crop
    margin = crop_margin(side, crop) // 2
    if trained.fit == "pad":
        square = _add_padded(graph, images, side)
        corner = graph.constant("crop_start", [margin] * 2)
        end = graph.constant("crop_end", [margin + crop] * 2)
    else:
        square, first = _add_covering(graph, images, side, squash=trained.fit == "squash")
        corner = graph.add("Add", [first, graph.constant("crop_margin", margin)], "crop_start")
        end = graph.add("Add", [corner, graph.constant("crop_side", crop)], "crop_end")
    pixels = graph.add("Slice", [square, corner, end, graph.constant("crop_axes", [1, 2])], "crop")
    if trained.fit != "pad":
        pixels = graph.add("Cast", [pixels], "pixels", to=onnx_module().TensorProto.FLOAT)
    mean = graph.constant("mean_image", center_crop(trained.mean_image.cpu(), crop).numpy(), np.float32)
    centered = graph.add("Sub", [pixels, mean], "centered")
    return graph.add("Transpose", [centered], "network_input", perm=[0, 3, 1, 2])


def _add_covering(graph: OnnxGraph, images: str, side: int, *, squash: bool) -> tuple[str, str]:
    """The images resized to cover the square of `side`, and where in them it starts, (2,)."""
    if squash:
        return _add_resize(graph, images, graph.constant("resized_size", [side] * 2)), graph.constant("square", [0, 0])
    whole_side = graph.constant("side", side)
    rounded = _add_scaled_size(graph, images, side, "ReduceMin")
    size = graph.add("Max", [rounded, whole_side], "resized_size")
    beyond = graph.add("Sub", [size, whole_side], "beyond_square")
    return _add_resize(graph, images, size), graph.add("Div", [beyond, graph.constant("two", 2)], "square")


def _add_padded(graph: OnnxGraph, images: str, side: int) -> str:
    """The images resized to fit into the square of `side`, with bars of `PAD_COLOR`; float32 (N, side, side, 3)."""
    rounded = _add_scaled_size(graph, images, side, "ReduceMax")
    size = graph.add("Max", [rounded, graph.constant("least_side", 1)], "resized_size")
    beyond = graph.add("Sub", [graph.constant("side", side), size], "bars")
    before = graph.add("Div", [beyond, graph.constant("two", 2)], "bars_before")
    after = graph.add("Sub", [beyond, before], "bars_after")
    zero = graph.constant("no_bar", [0])
    pads = graph.add("Concat", [zero, before, zero, zero, after, zero], "pads", axis=0)
    pixels = graph.add("Cast", [_add_resize(graph, images, size)], "pixels", to=onnx_module().TensorProto.FLOAT)
    # Pad fills with one number for all colors: zeros around the difference from the color.
    color = graph.constant("pad_color", PAD_COLOR, np.float32)
    relative = graph.add("Sub", [pixels, color], "relative_to_pad_color")
    return graph.add("Add", [graph.add("Pad", [relative, pads], "padded"), color], "padded_square")


def _add_scaled_size(graph: OnnxGraph, images: str, side: int, of_sides: str) -> str:
    """Height and width times `side` over the shorter (ReduceMin) or longer (ReduceMax) one, rounded as Python does."""
    types = onnx_module().TensorProto
    size = graph.add("Shape", [images], "size", start=1, end=3)
    scaled = graph.add("Mul", [size, graph.constant("resized_side", side)], "size_times_side")
    of_side = graph.add(of_sides, [size], "resized_from", keepdims=1)
    exact = graph.add(
        "Div",
        [
            graph.add("Cast", [scaled], "size_times_side_float64", to=types.DOUBLE),
            graph.add("Cast", [of_side], "resized_from_float64", to=types.DOUBLE),
        ],
        "exact_size",
    )
    return graph.add("Cast", [graph.add("Round", [exact], "rounded_size")], "scaled_size", to=types.INT64)


def _add_resize(graph: OnnxGraph, images: str, size: str) -> str:
    # Weights beyond the edge are left out, as in torch and Pillow; ONNX would repeat the edge.
    return graph.add(
        "Resize",
        [images, "", "", size],
        "resized",
        mode="linear",
        antialias=1,
        exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
        axes=[1, 2],
    )
