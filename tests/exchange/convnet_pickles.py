"""Checkpoints of cuda-convnet for tests: networks as its layer dictionaries, pickles as Python 2 wrote them.

`scores` computes what these layers compute, in float64 NumPy from cuda-convnet's documentation.
"""

import struct
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Layers = dict[str, dict[str, Any]]


class OldInstance:
    """An instance of a class of Python 2 that is not a subclass of `object`, such as its options."""

    def __init__(self, module: str, name: str, **state: object) -> None:
        self.module, self.name, self.state = module, name, state


def python2_pickle(value: object) -> bytes:
    """As Python 2's cPickle writes it with its highest protocol: text is a string of bytes."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value: object) -> bytes:
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + struct.pack("<i", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str() | bytes():
            content = value.encode() if isinstance(value, str) else value
            return (
                b"U" + bytes([len(content)]) if len(content) < 256 else b"T" + struct.pack("<i", len(content))
            ) + content
        case list():
            return b"](" + b"".join(map(_pickled, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(_pickled, value)) + b"t"
        case dict():
            return b"}(" + b"".join(_pickled(key) + _pickled(one) for key, one in value.items()) + b"u"
        case np.ndarray():
            is_fortran = value.flags.f_contiguous and not value.flags.c_contiguous
            kind = (
                b"cnumpy\ndtype\n"
                + _pickled(("f4", 0, 1))
                + b"R"
                + _pickled((3, "<", None, None, None, -1, -1, 0))
                + b"b"
            )
            shape = b"(" + b"".join(map(_pickled, value.shape)) + b"t"
            content = value.astype(np.float32).tobytes("F" if is_fortran else "C")
            made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _pickled((0,)) + _pickled("b") + b"tR"
            return made + b"(" + _pickled(1) + shape + kind + _pickled(is_fortran) + _pickled(content) + b"tb"
        case OldInstance():
            return b"(c" + f"{value.module}\n{value.name}\n".encode() + b"o" + _pickled(value.state) + b"b"
    raise TypeError(type(value))


def checkpoint(layers: Layers, *, as_list: bool = False) -> dict[str, Any]:
    """What cuda-convnet pickles: layers by name, or (version 1) in a list in which inputs are numbers."""
    found: Any = layers
    if as_list:
        names = [*layers]
        found = [
            {**one, **({"inputs": [names.index(name) for name in one["inputs"]]} if "inputs" in one else {})}
            for one in layers.values()
        ]
    options = OldInstance(
        "options",
        "OptionsParser",
        options={"gpu": OldInstance("options", "Option", parser=OldInstance("options", "ListOptionParser"), value=[0])},
    )
    return {"model_state": {"layers": found, "epoch": 90, "batchnum": 1, "train_outputs": []}, "op": options}


class Builder:
    """Adds layers one after the other, with random weights."""

    def __init__(self, side: int, seed: int = 7) -> None:
        self.random = np.random.default_rng(seed)
        self.layers: Layers = {
            "data": {"name": "data", "type": "data", "outputs": 3 * side * side},
            "labels": {"name": "labels", "type": "data", "outputs": 1},
        }
        self.shapes: dict[str, tuple[int, int]] = {"data": (3, side)}
        """Channels and side of each layer's output; side 0 of dense ones."""

    def _add(self, name: str, kind: str, inputs: list[str], shape: tuple[int, int], **entries: Any) -> str:
        self.layers[name] = {
            "name": name,
            "type": kind,
            "inputs": inputs,
            "outputs": shape[0] * max(1, shape[1]) ** 2,
            **entries,
        }
        self.shapes[name] = shape
        return name

    def _normal(self, *shape: int, order: Any = "C") -> NDArray[np.float32]:
        fan_in = max(1, shape[0]) if len(shape) == 2 else 1
        return np.asarray(self.random.normal(0, (2 / fan_in) ** 0.5, shape), np.float32, order=order)

    def conv(
        self, name: str, inputs: list[str], filters: int, size: int, *, stride: int = 1, padding: int = 0,
        groups: int = 1, local: bool = False, **entries: Any,
    ) -> str:  # fmt: skip
        channels, side = self.shapes[inputs[0]]
        modules = 1 + -(-(2 * padding + side - size) // stride)
        rows = channels // groups * size**2 * (modules**2 if local else 1)
        scale = modules if local else 1  # of rows, for the spread of weights
        num = len(inputs)
        return self._add(
            name, "local" if local else "conv", inputs, (filters, modules),
            channels=[channels] * num, filterSize=[size] * num, filters=filters, groups=[groups] * num,
            stride=[stride] * num, padding=[-padding] * num, imgSize=[side] * num, modulesX=modules,
            randSparse=[False] * num, sharedBiases=True,
            weights=[self._normal(rows, filters) * np.float32(scale) for _ in inputs],
            weightsInc=[np.zeros((rows, filters), np.float32) for _ in inputs],
            biases=self.random.normal(0.2, 0.1, (filters * modules**2 if local else filters, 1)).astype(np.float32),
            **entries,
        )  # fmt: skip

    def dense(self, name: str, inputs: list[str], outputs: int, **entries: Any) -> str:
        sizes = [self.layers[one]["outputs"] for one in inputs]
        return self._add(
            name, "fc", inputs, (outputs, 0),
            weights=[self._normal(size, outputs, order="F") for size in sizes],
            weightsInc=[np.zeros((size, outputs), np.float32) for size in sizes],
            biases=self.random.normal(0.2, 0.1, (1, outputs)).astype(np.float32), **entries,
        )  # fmt: skip

    def pool(self, name: str, source: str, kind: str = "max", size: int = 3, stride: int = 2) -> str:
        channels, side = self.shapes[source]
        outputs = -(-(side - size) // stride) + 1
        entries = {"channels": channels, "sizeX": size, "stride": stride, "start": 0, "outputsX": outputs, "pool": kind}
        return self._add(name, "pool", [source], (channels, outputs), **entries)

    def neuron(self, name: str, source: str, kind: str = "relu") -> str:
        return self._add(name, "neuron", [source], self.shapes[source], neuron={"type": kind, "params": {}})

    def norm(self, name: str, source: str, size: int, scale: float, *, add: float | None = None) -> str:
        """Across channels with an addend, which older versions do not have (1); `add` 0 is across positions."""
        same_map = add == 0
        entries = {"size": size, "scale": scale / (size**2 if same_map else size), "pow": 0.75, "blocked": False}
        extra = {} if same_map or add is None else {"minDiv": add}
        return self._add(name, "rnorm" if same_map else "cmrnorm", [source], self.shapes[source], **entries, **extra)

    def dropout(self, name: str, source: str, kind: str = "hs", keep: float = 0.5) -> str:
        return self._add(name, kind, [source], self.shapes[source], keep=keep, enable=True)

    def end(self, source: str) -> Layers:
        self._add("probs", "softmax", [source], self.shapes[source])
        self._add("logprob", "cost.logreg", ["labels", "probs"], (1, 0))
        return self.layers


def scores(layers: Layers, image: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores of an image, (3, side, side) minus the mean, before the softmax."""
    values: dict[str, NDArray[np.float64]] = {"data": image}
    for name, one in layers.items():
        if one["type"] == "data" or name in ("probs", "logprob"):
            continue
        values[name] = _computed(one, [values[source] for source in one["inputs"]])
    return values[layers["probs"]["inputs"][0]]


def _computed(layer: dict[str, Any], inputs: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    x = inputs[0]
    match layer["type"]:
        case "fc":
            return layer["biases"][0] + sum(
                one.reshape(-1) @ w for one, w in zip(inputs, layer["weights"], strict=True)
            )
        case "conv" | "local":
            return _convolved(layer, inputs)
        case "neuron":
            assert layer["neuron"]["type"] == "relu"
            return np.maximum(x, 0)
        case "hs" | "dropout2":
            return x * layer["keep"]
        case "pool":
            size, stride, outputs = layer["sizeX"], layer["stride"], layer["outputsX"]
            made = np.empty((len(x), outputs, outputs))
            for row in range(outputs):
                for column in range(outputs):
                    window = x[:, row * stride : row * stride + size, column * stride : column * stride + size]
                    # Averages of the versions that trained the published networks.
                    made[:, row, column] = (
                        window.max((1, 2)) if layer["pool"] == "max" else window.sum((1, 2)) / size**2
                    )
            return made
        case "cmrnorm" | "rnorm":
            half, squares = layer["size"] // 2, x**2
            for axis in (0,) if layer["type"] == "cmrnorm" else (1, 2):
                padded = np.pad(squares, [(half, half) if one == axis else (0, 0) for one in range(3)])
                squares = sum(padded.take(range(at, at + x.shape[axis]), axis) for at in range(2 * half + 1))
            around = squares
            return x * (layer.get("minDiv", 1) + layer["scale"] * around) ** -layer["pow"]
    raise AssertionError(layer["type"])


def _convolved(layer: dict[str, Any], inputs: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    size, stride, modules = layer["filterSize"][0], layer["stride"][0], layer["modulesX"]
    filters, groups, padding = layer["filters"], layer["groups"][0], -layer["padding"][0]
    biases = layer["biases"].reshape(filters, -1)
    total = np.zeros((filters, modules * modules)) + biases
    for x, weights in zip(inputs, layer["weights"], strict=True):
        after = max(0, (modules - 1) * stride + size - padding - x.shape[1])
        padded = np.pad(x, ((0, 0), (padding, after), (padding, after)))
        windows = sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride][:, :modules, :modules]
        columns = windows.transpose(1, 2, 0, 3, 4).reshape(modules * modules, len(x), size * size)
        for group in range(groups):
            rows = slice(group * len(x) // groups, (group + 1) * len(x) // groups)
            own = slice(group * filters // groups, (group + 1) * filters // groups)
            flat = columns[:, rows].reshape(modules * modules, -1)
            if layer["type"] == "local":
                per_module = weights.reshape(modules * modules, -1, filters)
                total += np.einsum("mi,mif->fm", flat, per_module)
            else:
                total[own] += weights[:, own].T.astype(np.float64) @ flat.T
    return total.reshape(filters, modules, modules)
