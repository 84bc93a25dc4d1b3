"""A trained network as one ONNX file: from the pixels of photographs of any size to the probabilities of named classes.

Input `images`: uint8 (N, H, W, 3), RGB, of any size, all of a batch of the same. Outputs: `probabilities`, float32
(N, K), and `class_names`, K strings. Metadata: `alexnet` is the description in a weights file, `version` that of this
package.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alexnet
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.exchange.onnx_check import OnnxCheck, check_onnx
from alexnet.exchange.onnx_graph import OPSET, OnnxGraph, add_network, onnx_module
from alexnet.exchange.onnx_preprocessing import add_preprocessing
from alexnet.exchange.onnx_quantization import Int8Check, quantize_onnx
from alexnet.model.weights import Trained, describe
from alexnet.storage.atomic import write_bytes
from alexnet.system.progress import ShowProgress

IR_VERSION = 8
"""The version of the file format that came with `OPSET`."""
MAX_BYTES = 2**31 - 2**20
"""A protobuf message has fewer than 2 GiB; the rest is for nodes and names."""
_INPUT_TEXT = (
    "uint8 (N, H, W, 3): photographs of one size, RGB, 0..255, upright. They are resized and cropped, and the mean "
    "image is subtracted, as in training."
)


@dataclass(frozen=True, kw_only=True)
class OnnxExport:
    """What was measured of a file that was written."""

    check: OnnxCheck | None
    """Beside torch; None if it was not asked for."""
    int8: Int8Check | None
    """None of a file in float32."""


def write_onnx(
    trained: Trained,
    path: Path,
    *,
    verify: PreparedData | None = None,
    int8: PreparedData | None = None,
    progress: ShowProgress = False,
) -> OnnxExport:
    """Write a network with its preprocessing, a softmax and its class names to an ONNX file, atomically.

    Args:
        trained: what `require_describable` accepts.
        path: the file.
        verify: run the file by ONNX Runtime beside torch on images of this data set, see `check_onnx`; with `int8`, the
            file in float32 that is quantized. The errors that `int8` measures are those of the written file.
        int8: compute in 8 bits, calibrated and measured on this data set, see `quantize_onnx`.
        progress: see `ShowProgress`.

    Raises:
        RequestError: the package onnx or onnxruntime is missing, the network is too large for an ONNX file, or a data
            set does not fit it.
        WorkError: ONNX Runtime computes something else than torch.
        OSError: the file cannot be written; nothing is left behind.
    """
    content = onnx_model(trained).SerializeToString(deterministic=True)
    check = quantized = None
    if verify is not None:
        check = check_onnx(content, preprocessing_model(trained), trained, verify, progress=progress)
    if int8 is not None:
        content, quantized = quantize_onnx(content, trained, int8, progress=progress)
    write_bytes(path, content)
    return OnnxExport(check=check, int8=quantized)


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
    scores = add_network(graph, trained.network, add_preprocessing(graph, trained))
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


def preprocessing_model(trained: Trained) -> bytes:
    """An ONNX file's content whose only output, `network_input`, is what the network reads: float32 (N, 3, C, C)."""
    helper, types = onnx_module("onnx.helper"), onnx_module().TensorProto
    graph = OnnxGraph()
    output = add_preprocessing(graph, trained)
    made = helper.make_graph(
        graph.nodes,
        "preprocessing",
        [helper.make_tensor_value_info("images", types.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info(output, types.FLOAT, ["N", 3, trained.crop, trained.crop])],
        graph.constants,
    )
    opset = helper.make_opsetid("", OPSET)
    content: bytes = helper.make_model(made, opset_imports=[opset], ir_version=IR_VERSION).SerializeToString()
    return content
