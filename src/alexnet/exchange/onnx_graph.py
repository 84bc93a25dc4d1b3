"""The layers of a network as nodes of an ONNX graph, each under the name of its module.

Written from the specifications, without torch's exporter (docs/decisions/025-onnx-from-specifications.md). Windows that
are clipped at an edge are given as explicit padding, which runtimes agree on, unlike `ceil_mode`.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.model.layer_specs import (
    AveragePool,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    LocallyConnected,
    MaxPool,
    ReLU,
    ResponseNorm,
    SameMapNorm,
    Sigmoid,
    SizedLayer,
    Tanh,
)
from alexnet.model.network import AlexNet

OPSET = 17
"""All operators used here are in it, and in all runtimes of recent years."""


def onnx_module(name: str = "onnx") -> Any:
    """A module of the packages `onnx` and `onnxruntime`, which are not installed with this one.

    Raises:
        RequestError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RequestError(
            f"ONNX files need the package {name.partition('.')[0]}, which is not installed; run: "
            "pip install 'alexnet[export]'"
        ) from error


class OnnxGraph:
    """Nodes and constants of a graph in the order in which they run. Names of nodes are those of their first output."""

    def __init__(self) -> None:
        self._onnx = onnx_module()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with one output; returns its name."""
        self.add_split(operator, inputs, [name], **attributes)
        return name

    def add_split(self, operator: str, inputs: Sequence[str], names: Sequence[str], **attributes: Any) -> None:
        """Add a node with several outputs."""
        self.nodes.append(self._onnx.helper.make_node(operator, inputs, names, name=names[0], **attributes))

    def add_text(self, text: str) -> None:
        """Add nodes in ONNX's text form, `output = Operator <attribute = 1> (input)` a line."""
        lines = "\n".join(line for line in text.splitlines() if line.strip())
        for node in self._onnx.parser.parse_graph(f"nodes () => () {{ {lines} }}").node:
            node.name = node.output[0]
            self.nodes.append(node)

    def constant(self, name: str, values: Any, dtype: type[np.generic] | type[str] = np.int64) -> str:
        """Add a constant; returns its name."""
        array = np.ascontiguousarray(np.asarray(values, object if dtype is str else dtype).reshape(np.shape(values)))
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name


def add_network(graph: OnnxGraph, network: AlexNet, x: str) -> str:
    """Add the layers of a network in evaluation, from `x`, float32 (N, 3, S, S); returns the scores' name, (N, K).

    Its specification and its weights count, not its modules: `require_describable` refuses what computes otherwise.
    """
    if network.spec.input_scale != 1:
        factors = np.broadcast_to(np.asarray(network.spec.input_scale), 3).reshape(3, 1, 1)
        x = graph.add("Mul", [x, graph.constant("input_scale.factor", factors, np.float32)], "input_scale")
    for layer in network.sized_layers:
        x = _add_layer(graph, layer, network, x)
    return x


def _add_layer(graph: OnnxGraph, layer: SizedLayer, network: AlexNet, x: str) -> str:
    name = layer.name
    match layer.spec:
        case Convolution() as spec:
            weight, bias = _weights(graph, layer, network)
            start, end = spec.padding, spec.padding + spec.end_padding
            return graph.add(
                "Conv",
                [x, weight, bias],
                name,
                kernel_shape=[spec.kernel] * 2,
                strides=[spec.stride] * 2,
                pads=[start, start, end, end],
                group=spec.columns,
            )
        case LocallyConnected() as spec:
            return _add_locally_connected(graph, layer, spec, network, x)
        case Dense(columns=1):
            return graph.add("Gemm", [x, *_weights(graph, layer, network)], name, transB=1)
        case Dense(columns=columns):
            parts = [[f"{name}.{part}{column}" for column in range(columns)] for part in ("x", "weight", "bias")]
            sources = (x, *_weights(graph, layer, network))
            for source, names, axis in zip(sources, parts, (1, 0, 0), strict=True):
                graph.add_split("Split", [source], names, axis=axis)
            products = [
                graph.add("Gemm", inputs, f"{name}.column{column}", transB=1)
                for column, inputs in enumerate(zip(*parts, strict=True))
            ]
            return graph.add("Concat", products, name, axis=1)
        case ReLU():
            return graph.add("Relu", [x], name)
        case Tanh():
            return graph.add("Tanh", [x], name)
        case Sigmoid():
            return graph.add("Sigmoid", [x], name)
        case ResponseNorm() as spec:
            return _add_response_norm(graph, layer, spec, x)
        case SameMapNorm() as spec:
            return _add_same_map_norm(graph, name, spec, x)
        case MaxPool(size=size, stride=stride):
            return graph.add("MaxPool", [x], name, **_windows(layer, size, stride))
        case AveragePool(size=size, stride=stride, divisor=divisor):
            windows = _windows(layer, size, stride)
            return graph.add("AveragePool", [x], name, **windows, count_include_pad=int(divisor == "whole"))
        case Dropout(inverted=inverted):
            if inverted or network.dropout == 0:
                return x
            return graph.add("Mul", [x, graph.constant(f"{name}.keep", 1 - network.dropout, np.float32)], name)
        case Flatten():
            return graph.add("Flatten", [x], name, axis=1)


def _weights(graph: OnnxGraph, layer: SizedLayer, network: AlexNet) -> tuple[str, str]:
    weight, bias = (_values(network, f"{layer.name}.{part}") for part in ("weight", "bias"))
    return (
        graph.constant(f"{layer.name}.weight", weight, np.float32),
        graph.constant(f"{layer.name}.bias", bias, np.float32),
    )


def _values(network: AlexNet, name: str) -> NDArray[np.float32]:
    values: NDArray[np.float32] = network.get_parameter(name).detach().to("cpu", torch.float32).numpy()
    return values


def _windows(layer: SizedLayer, size: int, stride: int) -> dict[str, list[int]]:
    # Padding up to the end of the last window: below and to the right only, and narrower than a window.
    beyond = (layer.out_side - 1) * stride + size - layer.in_side
    return {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [0, 0, max(0, beyond), max(0, beyond)]}


def _add_response_norm(graph: OnnxGraph, layer: SizedLayer, spec: ResponseNorm, x: str) -> str:
    if spec.size % 2 == 0:
        raise RequestError(f"{layer.name} has windows of {spec.size} channels; ONNX normalizes over odd numbers only")
    alpha = spec.alpha * (spec.size if spec.alpha_per_element else 1)  # ONNX divides it by the size
    settings: dict[str, Any] = {
        "size": spec.size,
        "alpha": float(alpha),
        "beta": float(spec.beta),
        "bias": float(spec.k),
    }
    if spec.columns == 1:
        return graph.add("LRN", [x], layer.name, **settings)
    # Columns as images of their own: (N, C, H, W) -> (N * columns, C / columns, H, W) and back.
    shapes = [
        (-1, channels, *[layer.in_side] * 2) for channels in (layer.in_channels // spec.columns, layer.in_channels)
    ]
    apart, joined = (
        graph.constant(f"{layer.name}.{what}_shape", shape)
        for what, shape in zip(("columns", "joined"), shapes, strict=True)
    )
    x = graph.add("Reshape", [x, apart], f"{layer.name}.columns")
    return graph.add("Reshape", [graph.add("LRN", [x], f"{layer.name}.lrn", **settings), joined], layer.name)


def _add_same_map_norm(graph: OnnxGraph, name: str, spec: SameMapNorm, x: str) -> str:
    pads = [spec.size // 2] * 4
    alpha, one, beta = (
        graph.constant(f"{name}.{what}", value, np.float32)
        for what, value in (("alpha", spec.alpha), ("one", 1), ("beta", spec.beta))
    )
    square = graph.add("Mul", [x, x], f"{name}.square")
    mean = graph.add(
        "AveragePool", [square], f"{name}.mean", kernel_shape=[spec.size] * 2, pads=pads, count_include_pad=1
    )
    sums = graph.add("Add", [graph.add("Mul", [mean, alpha], f"{name}.scaled"), one], f"{name}.sum")
    return graph.add("Div", [x, graph.add("Pow", [sums, beta], f"{name}.divisor")], name)


def _add_locally_connected(
    graph: OnnxGraph, layer: SizedLayer, spec: LocallyConnected, network: AlexNet, x: str
) -> str:
    # One product per output position: (N, C * k * k) times (C * k * k, D).
    name, side, kernel = layer.name, layer.out_side, spec.kernel
    padded_side = layer.in_side + 2 * spec.padding
    weight = _values(network, f"{name}.weight").reshape(side * side, layer.out_channels, -1).transpose(0, 2, 1)
    starts = (np.arange(side)[:, None] * padded_side + np.arange(side)).reshape(-1, 1)
    offsets = (np.arange(kernel)[:, None] * padded_side + np.arange(kernel)).reshape(1, -1)

    def constant(what: str, values: Any, dtype: type[np.generic] = np.int64) -> str:
        return graph.constant(f"{name}.{what}", values, dtype)

    pads = constant("pads", [0, 0, *[spec.padding] * 2, 0, 0, *[spec.padding] * 2])
    x = graph.add("Pad", [x, pads], f"{name}.padded")
    flat = constant("flat_shape", [0, 0, padded_side**2])
    x = graph.add("Reshape", [x, flat], f"{name}.flat")
    x = graph.add("Gather", [x, constant("places", starts + offsets)], f"{name}.windows", axis=2)  # (N, C, P, k * k)
    x = graph.add("Transpose", [x], f"{name}.by_position", perm=[2, 0, 1, 3])
    x = graph.add("Reshape", [x, constant("rows_shape", [0, 0, layer.fan_in])], f"{name}.rows")  # (P, N, C * k * k)
    x = graph.add("MatMul", [x, constant("weight", weight, np.float32)], f"{name}.products")  # (P, N, D)
    x = graph.add("Transpose", [x], f"{name}.by_image", perm=[1, 2, 0])
    x = graph.add("Reshape", [x, constant("map_shape", [0, 0, side, side])], f"{name}.maps")
    bias = constant("bias", _values(network, f"{name}.bias"), np.float32)
    return graph.add("Add", [x, bias], name)
