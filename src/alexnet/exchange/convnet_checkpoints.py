"""Reads checkpoints of cuda-convnet, versions 1 and 2, and of the authors' program of 2012, which grew into both.

A checkpoint is a Python 2 pickle of `{'model_state': {'layers': ..., ...}, 'op': options}`, possibly as the member
`data` of a zip. Layers are dictionaries, in a list (version 1, where inputs are numbers) or by name. Weights are
matrices of (inputs, outputs), one per input of the layer; two columns are two layers side by side.
"""

import io
import math
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.sources.zip_archive import read_zip_list, read_zip_member
from alexnet.errors import RequestError
from alexnet.exchange.foreign_network import (
    CIFAR_MEAN_COLOR,
    ForeignLayer,
    ForeignNetwork,
    InputConvention,
    is_of_cifar,
)
from alexnet.exchange.state_dicts import foreign_damage, misfit, natural_key
from alexnet.model.foreign_files import CHECKPOINT_NAME, START_BYTES, foreign_format
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
    sized_layers,
)
from alexnet.model.tensor_names import NetworkMatch, networks_of_layers
from alexnet.model.variants import VARIANTS
from alexnet.storage.inert_unpickler import ARRAY_NAMES, ArrayUnpickler, PickledArray

WHAT = "a checkpoint of cuda-convnet"
_MAX_UNPACKED = 4
"""Times the packed size: weights hardly compress, their last updates may be zeros."""
_MEAN_BYTES = 2**20
_MAX_LAYERS = 500
"""The largest variant has about 60 in two columns."""
_MAX_INPUTS = 16
"""Of a layer."""
_MAX_ENTRIES = 500
"""Of a dictionary; the program's layers have about 40."""
_MAX_NAME = 200
"""Characters of the name of a layer, or of one of its settings."""
_MAX_NUMBER = 2**53
"""Of a setting; larger ones are no exact floating-point numbers."""
_ALLOWED_NAMES = {*ARRAY_NAMES, "copy_reg._reconstructor", "copyreg._reconstructor", "collections.OrderedDict"}
_ALLOWED_NAMES |= {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("object", "set", "list")}
_IMAGENET_MEAN = (127.30, 119.72, 104.91)
"""RGB, 0..255: mean color of the mean image that cuda-convnet's instructions for ImageNet come with."""
_WEIGHTED = ("conv", "local", "fc")
_MONOTONE = ("relu", "tanh", "logistic")


@dataclass(frozen=True)
class _Operation:
    """What a layer computes, comparable."""

    name: str = field(compare=False)
    """Of the layer."""
    kind: str
    settings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer of the checkpoint."""

    name: str
    type: str
    inputs: tuple[str, ...]
    entries: Mapping[str, Any]

    def number(self, key: str, default: float | None = None) -> float:
        """A number, or the same number for every input; ValueError if there is none."""
        found = self.entries.get(key, default)
        values = found if isinstance(found, list) else [found]
        if not 1 <= len(values) <= _MAX_INPUTS or any(
            type(one) not in (int, float, bool) or one != values[0] for one in values
        ):
            raise ValueError(f"its layer {self.name} has no number {key}")
        if not abs(values[0]) < _MAX_NUMBER:
            raise ValueError(f"its layer {self.name} has a number {key} beyond {_MAX_NUMBER:,}")
        return values[0]  # type: ignore[no-any-return]

    def count(self, key: str, default: float | None = None) -> int:
        """A number of things, 1 or more."""
        number = self.number(key, default)
        if not 1 <= number < 2**31 or number != int(number):
            raise ValueError(f"its layer {self.name} has {number} as {key}")
        return int(number)

    def array_of(self, value: object, shape: tuple[int, ...]) -> "PickledArray":
        """An array of as many floating-point numbers as that shape has; ValueError if it is none."""
        found = value.shape if isinstance(value, PickledArray) else None
        if not isinstance(value, PickledArray) or math.prod(value.shape) != math.prod(shape) or not value.is_float:
            raise ValueError(f"its layer {self.name} has weights or biases of shape {found}, expected {shape}")
        return value


@dataclass(frozen=True, eq=False)
class _Weights:
    """The weights of one layer, of one or two columns, before they are read."""

    name: str
    shape: tuple[int, ...]
    bias_shape: tuple[int, ...]
    num_bytes: int
    read: Callable[[], tuple[NDArray[np.float32], NDArray[np.float32]]]


class _CheckpointUnpickler(ArrayUnpickler):
    """Options and other objects of the program stay inert; names of Python's own library are refused."""

    max_operations = 2**18
    max_text_bytes = 2**20

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def require_allowed(self, name: str) -> None:
        module = name.partition(".")[0]
        known = name.replace("numpy._core.", "numpy.core.") in _ALLOWED_NAMES
        if not known and (module in sys.stdlib_module_names or module in ("__builtin__", "copy_reg", "numpy", "torch")):
            raise RequestError(
                f"{self.path} is a Python pickle that refers to {name!r}, which weights do not need; nothing in it was "
                "run. Have the program that wrote it write its arrays as safetensors or `.npy`"
            )

    def call(self, name: str, arguments: tuple[object, ...]) -> object:
        if name == "collections.OrderedDict" or name.endswith("ordereddict.OrderedDict"):
            first = arguments[0] if arguments else []
            self.spend(8 * len(first) if isinstance(first, list) else 0)
            pairs = [one for one in first if isinstance(one, list) and len(one) == 2] if isinstance(first, list) else []
            return {key: value for key, value in pairs if isinstance(key, str | bytes)}
        return super().call(name, arguments)


def is_pickle(path: Path) -> bool:
    """Whether a file begins as a pickle; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return foreign_format(path, file.read(START_BYTES)) == "pickle"
    except OSError:
        return False


def read_batches_meta(path: Path) -> NDArray[np.float32]:
    """The mean image in a `batches.meta` of cuda-convnet's data, (side, side, 3) RGB, 0..255.

    Raises:
        RequestError: it is another file, or refers to functions of Python's library.
        WorkError: it is damaged or cut short.
        TemporaryError: the machine or the drive failed.
    """
    try:
        with path.open("rb") as file:
            mean = _entry(_CheckpointUnpickler(file, path).load(), "data_mean")
            side = math.isqrt(math.prod(mean.shape) // 3) if isinstance(mean, PickledArray) else 0
            if not isinstance(mean, PickledArray) or side == 0 or math.prod(mean.shape) != 3 * side * side:
                raise RequestError(f"{path} is a Python pickle without a square mean image (data_mean) of three colors")
            planes = mean.values.reshape(3, side, side)
            return np.ascontiguousarray(np.moveaxis(planes, 0, -1), np.float32)
    except RequestError:
        raise
    except (OSError, ValueError) as error:
        foreign_damage(path, "a Python pickle", error)


def newest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest of the checkpoints in a folder, by the numbers of their names, and how many there are."""
    found = [one for one in folder.iterdir() if CHECKPOINT_NAME.fullmatch(one.name) and one.is_file()]
    return (max(found, key=lambda one: natural_key(one.name)), len(found)) if found else None


def read_convnet(path: Path) -> ForeignNetwork | None:
    """The network in a checkpoint of cuda-convnet; None if the file is another pickle or zip.

    Args:
        path: the file, or a folder of checkpoints, of which the newest is read.

    Raises:
        RequestError: its network is none of the variants, or the pickle refers to functions of Python's library.
        WorkError: it is damaged or cut short.
        TemporaryError: the machine or the drive failed.
    """
    notes = []
    if path.is_dir():
        if (newest := newest_checkpoint(path)) is None:
            return None
        path, count = newest
        notes = [f"The newest of {count:,} checkpoints in the folder was read, {path.name}."] if count > 1 else []
    try:
        with path.open("rb") as file:
            if (content := _pickle_of(path, file)) is None:
                return None
            layers = _entry(_entry(_CheckpointUnpickler(content, path).load(), "model_state"), "layers")
            if layers is None:
                return None
            return _network(path, _layers(path, layers), _size(content), notes)
    except RequestError:
        raise
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        foreign_damage(path, "a Python pickle", error)


def _pickle_of(path: Path, file: BinaryIO) -> BinaryIO | None:
    """The pickle in a file, from its beginning: the file itself, or the member `data` of a zip."""
    if file.read(4) != b"PK\x03\x04":
        file.seek(0)
        return file
    members = {one.filename: one for one in read_zip_list(path)}
    if [*members] != ["data"]:
        return None
    member = members["data"]
    if member.file_size > _MAX_UNPACKED * member.compress_size + _MEAN_BYTES:
        raise RequestError(
            f"{path} is a zip that claims to unpack to {member.file_size:,} bytes, more than weights do; unpack it and "
            "give the file inside"
        )
    is_packed = member.compress_type == zipfile.ZIP_DEFLATED
    if not is_packed and member.compress_type != zipfile.ZIP_STORED:
        raise ValueError("its member is compressed by an unknown method")
    location = (member.header_offset, member.compress_size * 2 + is_packed, member.file_size, member.CRC)
    return io.BytesIO(read_zip_member(path, location))


def _size(file: BinaryIO) -> int:
    return file.seek(0, 2)


def _entry(content: object, name: str) -> object:
    """An entry of a dictionary, whose names Python 2 wrote as bytes; None if there is none."""
    return content.get(name, content.get(name.encode())) if isinstance(content, dict) else None


def _entries(content: object) -> dict[str, Any]:
    """The entries of a dictionary by name, which Python 2 wrote as bytes; ValueError if there are too many."""
    if not isinstance(content, dict):
        return {}
    if len(content) > _MAX_ENTRIES:
        raise ValueError(f"a dictionary of {len(content):,} entries")
    return {_text(key): one for key, one in content.items()}


def _text(value: object) -> str:
    """A name; only the type of what is none."""
    if not isinstance(value, str | bytes) or len(value) > _MAX_NAME:
        return f"({type(value).__name__})"
    return value.decode("latin1") if isinstance(value, bytes) else value


def _layers(path: Path, found: object) -> dict[str, _Layer]:
    """The layers by name."""
    given = found if isinstance(found, list) else [*_entries(found).values()]
    if len(given) > _MAX_LAYERS:
        _refuse(path, f"it has {len(given):,} layers")
    entries = [_entries(one) for one in given]
    names = [_text(one.get("name", "")) for one in entries]
    layers = {}
    for name, one in zip(names, entries, strict=True):
        inputs = one.get("inputs", [])
        if not name or name in layers or "type" not in one or not isinstance(inputs, list):
            raise ValueError("a layer without a name of its own, a type or inputs")
        if len(inputs) > _MAX_INPUTS:
            _refuse(path, f"its layer {name} reads {len(inputs):,} layers")
        numbers = [number for number in inputs if type(number) is int]
        if any(not 0 <= number < len(names) for number in numbers):
            raise ValueError(f"its layer {name} reads a layer that is not there")
        read = tuple(names[number] if type(number) is int else _text(number) for number in inputs)
        layers[name] = _Layer(name, _text(one["type"]), read, one)
    return layers


def _network(path: Path, layers: dict[str, _Layer], num_bytes: int, notes: list[str]) -> ForeignNetwork:
    """The network of these layers, if it computes what a variant does.

    Args:
        num_bytes: of the pickle.
    """
    operations, weights = _sequence(path, layers)
    matches = networks_of_layers([(one.shape, one.bias_shape) for one in weights])
    if not matches:
        _refuse(path, misfit([(one.name, one.shape) for one in weights]))
    compared = [(match.variant, *_difference(operations, _operations_of(match))) for match in matches]
    variants = tuple(variant for variant, _, difference in compared if not difference)
    if not variants:
        variant, _, difference = max(compared, key=lambda one: one[1])
        _refuse(path, f"its layers have the shapes of variant {variant!r}, but {difference}")
    if sum(one.num_bytes for one in weights) > num_bytes:
        _refuse(path, "its layers share weights")
    spec = VARIANTS[variants[0]]
    data, mean = ("CIFAR-10", CIFAR_MEAN_COLOR) if is_of_cifar(spec) else ("ImageNet", _IMAGENET_MEAN)
    notes.append(
        "The file does not hold the mean image that its network subtracts (it is in `batches.meta` of the training "
        f"data). Without `--mean batches.meta`, the mean color of {data} is subtracted."
    )
    if any(isinstance(one, AveragePool) for one in spec.layers):
        notes.append(
            "Versions of cuda-convnet divide the sum of an average pooling at the border by the whole window, as this "
            "variant does, or by its part inside the image; the file does not say which."
        )
    return ForeignNetwork(
        what=WHAT,
        layers=tuple(_foreign_layer(one) for one in weights),
        variants=variants,
        convention=InputConvention(mean=mean),
        mean_at="center",
        notes=tuple(notes),
    )


def _foreign_layer(weights: _Weights) -> ForeignLayer:
    weight, bias = (torch.from_numpy(np.ascontiguousarray(one, np.float32)) for one in weights.read())
    return ForeignLayer(name=weights.name, weight=weight, bias=bias)


def _sequence(path: Path, layers: dict[str, _Layer]) -> tuple[list[_Operation], list[_Weights]]:
    """What the network computes, layer by layer, and those of its layers that have weights; two columns as one."""
    operations: list[_Operation] = []
    weights: list[_Weights] = []
    columns = [name for name, one in layers.items() if one.type == "data"]  # also the labels
    for _ in layers:
        if not (step := _next(path, layers, columns)):
            break
        first = step[0]
        if first.type in _WEIGHTED:
            operation, one = _joined(path, step, columns if weights else [*first.inputs])
            weights.append(one)
            operations.append(operation)
        else:
            if len(step) != len(columns) or any(len(one.inputs) != 1 for one in step):
                _refuse(path, f"its layer {first.name} ({first.type}) does not read the one layer before it")
            found = [_operation(path, one, len(step)) for one in step]
            if any(one != found[0] for one in found):
                _refuse(path, f"its layers {first.name} and {step[1].name} differ")
            operations += [found[0]] if found[0] is not None else []
        columns = [one.name for one in step]
    return operations, weights


def _refuse(path: Path, problem: str) -> NoReturn:
    raise RequestError(f"{path} is {WHAT} of no known variant: {problem}")


def _next(path: Path, layers: dict[str, _Layer], columns: Sequence[str]) -> list[_Layer]:
    """The layers that read the outputs of the layers before, one or one per column in order; [] at the end."""
    read = {*columns}
    found = [
        one
        for one in layers.values()
        if read & {*one.inputs} and one.type != "softmax" and not one.type.startswith("cost.")
    ]
    if not found:
        return []
    if len(found) > 2 or any(not {*one.inputs} <= read for one in found) or len({one.type for one in found}) > 1:
        names = " and ".join(one.name for one in found[:3])
        _refuse(path, f"its layers {names} are not one after the other, nor two columns")
    if len(columns) == 2 and all(len(one.inputs) == 1 for one in found) and found[0].inputs != found[-1].inputs:
        found.sort(key=lambda one: columns.index(one.inputs[0]))
    else:
        found.sort(key=lambda one: (_first_gpu(one), natural_key(one.name)))
    return found


def _first_gpu(layer: _Layer) -> int:
    gpu = layer.entries.get("gpu", 0)
    gpu = gpu[0] if isinstance(gpu, list) and gpu else gpu
    return gpu if type(gpu) is int else 0


@dataclass(frozen=True, eq=False)
class _Matrix:
    """The weights by which one layer reads one of its inputs."""

    array: PickledArray
    stored: tuple[int, ...]
    """The shape of the array with all of its axes."""
    axes: tuple[int, ...]
    """Those in the order of this package's layout."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.stored[axis] for axis in self.axes)

    def read(self) -> NDArray[np.float32]:
        return self.array.values.reshape(self.stored).transpose(self.axes)


def _joined(path: Path, step: Sequence[_Layer], sources: Sequence[str]) -> tuple[_Operation, _Weights]:
    """A layer with weights from its columns, and what it computes.

    Args:
        path: the file, for messages.
        step: one layer, or two columns.
        sources: the layers before, in the order of their columns.
    """
    first = step[0]
    reads_own = len(step) == len(sources) == 2 and all(
        one.inputs == (source,) for one, source in zip(step, sources, strict=True)
    )
    if not reads_own and any(sorted(one.inputs) != sorted(sources) for one in step):
        _refuse(path, f"the inputs of its layer {first.name} are neither all columns nor only its own")
    rows = [
        [_matrix(path, one, one.inputs.index(source)) for source in sources if source in one.inputs] for one in step
    ]
    operation = _weighted_operation(first, 2 if reads_own else 1)
    groups = operation.settings.get("columns", 1)
    is_alike = len({tuple(one.shape for one in row) for row in rows}) == 1
    if not is_alike or any(_weighted_operation(one, 2 if reads_own else 1) != operation for one in step[1:]):
        _refuse(path, f"its layers {first.name} and {step[-1].name} differ")
    if len(rows) * len(rows[0]) > 1 and (first.type == "local" or (groups > 1 and not reads_own)):
        _refuse(path, f"its layer {first.name} has several inputs or columns, and groups or weights per position")
    inputs = 3 if first.type == "local" else 1  # the axis
    shape = [*rows[0][0].shape]
    shape[inputs] = sum(one.shape[inputs] for one in rows[0])
    outputs = shape[2 if first.type == "local" else 0]
    bias_shape = (outputs, *shape[:2]) if first.type == "local" else (outputs,)
    biases = [one.array_of(one.entries.get("biases"), bias_shape) for one in step]

    def read() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        weight = np.concatenate([np.concatenate([one.read() for one in row], inputs) for row in rows])
        return weight, np.concatenate([one.values.reshape(bias_shape) for one in biases])

    arrays = [one.array for row in rows for one in row] + biases
    return operation, _Weights(
        name="+".join(one.name for one in step),
        shape=tuple(shape) if len(step) == 1 else (outputs * len(step), *shape[1:]),
        bias_shape=bias_shape if len(step) == 1 else (outputs * len(step),),
        num_bytes=sum(one.num_bytes for one in arrays),
        read=read,
    )


def _matrix(path: Path, layer: _Layer, number: int) -> _Matrix:
    """The weights of one input; ValueError if they do not fit the layer's sizes."""
    weights = layer.entries.get("weights")
    array = weights[number] if isinstance(weights, list) and number < len(weights) else weights
    stored: tuple[int, ...]
    axes: tuple[int, ...]
    if layer.type == "fc":
        found = array.shape if isinstance(array, PickledArray) else ()
        stored = (found[0] if len(found) == 2 else 0, layer.count("outputs"))
        axes = (1, 0)
    else:
        size, filters = layer.count("filterSize"), layer.count("filters")
        channels, rest = divmod(layer.count("channels"), layer.count("groups", 1))
        if rest or layer.number("randSparse", False):
            _refuse(path, f"its layer {layer.name} has groups of random or unequal channels")
        if layer.type == "conv":
            stored, axes = (channels, size, size, filters), (3, 0, 1, 2)
        else:
            side = layer.count("modulesX")
            stored, axes = (side, side, channels, size, size, filters), (0, 1, 5, 2, 3, 4)
    return _Matrix(layer.array_of(array, stored), stored, axes)


def _weighted_operation(layer: _Layer, columns: int) -> _Operation:
    """What a layer with weights computes."""
    if layer.type == "fc":
        return _Operation(layer.name, "fc", {"columns": columns})
    settings = {
        "window": layer.number("filterSize"),
        "stride": layer.number("stride", 1),
        "padding": abs(layer.number("padding", 0)),  # stored as a position
        "input side": layer.number("imgSize"),
        "output side": layer.number("modulesX"),
    }
    if layer.type == "conv":
        settings["columns"] = max(columns, layer.number("groups", 1))
    return _Operation(layer.name, layer.type, settings)


def _operation(path: Path, layer: _Layer, columns: int) -> _Operation | None:
    """What a layer without weights computes; None is nothing."""
    match layer.type:
        case "neuron":
            neuron = _entries(layer.entries.get("neuron"))
            kind, parameters = _text(neuron.get("type", "")), _entries(neuron.get("params"))
            if kind in ("ident", "linear"):
                return None
            if kind in ("relu", "logistic") or (kind == "tanh" and all(one == 1 for one in parameters.values())):
                return _Operation(layer.name, kind)
            _refuse(path, f"its layer {layer.name} computes {kind or 'something unknown'}")
        case "pool":
            kind = _text(layer.entries.get("pool", ""))
            if kind in ("max", "avg") and layer.number("start", 0) == 0:
                settings = {
                    "window": layer.number("sizeX"),
                    "stride": layer.number("stride"),
                    "output side": layer.number("outputsX"),
                }
                return _Operation(layer.name, f"{kind}-pooling", settings)
            start = layer.number("start", 0)
            _refuse(path, f"its layer {layer.name} has pooling {kind!r} from {start}; expected is max or avg from 0")
        case "cmrnorm" | "rnorm":
            settings = {
                "window": layer.number("size"),
                "scale": layer.number("scale"),  # already divided by the window
                "power": layer.number("pow"),
                "addend": layer.number("minDiv", 1),
            }
            if layer.type == "rnorm":
                return _Operation(layer.name, "same-map normalization", settings)
            if layer.number("blocked", False):
                _refuse(path, f"its layer {layer.name} normalizes in blocks of channels")
            return _Operation(layer.name, "normalization", settings | {"columns": columns})
        case "hs" | "dropout" | "dropout2":
            if not layer.number("enable", True):
                return None
            return _Operation(layer.name, "dropout", {"kept": layer.number("keep", 0.5), "scaled in training": 0})
    _refuse(path, f"its layer {layer.name} is of type {layer.type}")


def _operations_of(match: NetworkMatch) -> list[_Operation]:
    """What a variant computes."""
    spec = VARIANTS[match.variant]
    found = (_operation_of(one) for one in sized_layers(spec, match.num_classes or spec.num_classes, match.width))
    return [one for one in found if one is not None]


def _operation_of(sized: SizedLayer) -> _Operation | None:
    spec = sized.spec
    settings: dict[str, float]
    match spec:
        case Convolution() | LocallyConnected():
            is_shared = isinstance(spec, Convolution)
            settings = {
                "window": spec.kernel,
                "stride": spec.stride if isinstance(spec, Convolution) else 1,
                "padding": spec.padding,
                "input side": sized.in_side,
                "output side": sized.out_side,
            }
            columns = {"columns": sized.columns} if is_shared else {}
            return _Operation(sized.name, "conv" if is_shared else "local", settings | columns)
        case Dense():
            return _Operation(sized.name, "fc", {"columns": sized.columns})
        case ReLU():
            return _Operation(sized.name, "relu")
        case Tanh():
            return _Operation(sized.name, "tanh")
        case Sigmoid():
            return _Operation(sized.name, "logistic")
        case MaxPool() | AveragePool():
            kind = "max" if isinstance(spec, MaxPool) else "avg"
            settings = {"window": spec.size, "stride": spec.stride, "output side": sized.out_side}
            return _Operation(sized.name, f"{kind}-pooling", settings)
        case ResponseNorm():
            scale = spec.alpha if spec.alpha_per_element else spec.alpha / spec.size
            settings = {"window": spec.size, "scale": scale, "power": spec.beta, "addend": spec.k}
            return _Operation(sized.name, "normalization", settings | {"columns": spec.columns})
        case SameMapNorm():
            scale = spec.alpha / spec.size**2
            return _Operation(
                sized.name,
                "same-map normalization",
                {"window": spec.size, "scale": scale, "power": spec.beta, "addend": 1},
            )
        case Dropout():
            return _Operation(sized.name, "dropout", {"kept": 0.5, "scaled in training": int(spec.inverted)})
        case Flatten():
            return None


def _difference(found: Sequence[_Operation], expected: Sequence[_Operation]) -> tuple[int, str]:
    """How many operations are the same, and what the first other one is; "" if there is none."""
    pairs = zip_longest(_activations_first(found), _activations_first(expected))
    for number, (have, want) in enumerate(pairs):
        if have is None or want is None or have.kind != want.kind:
            return number, f"the file has {_described(have)} where the variant has {_described(want)}"
        for key, value in want.settings.items():
            if not math.isclose(have.settings[key], value, rel_tol=1e-5):
                return number, f"{have.name} has {key} {have.settings[key]:g} where the variant has {value:g}"
    return len(found), ""


def _activations_first(operations: Sequence[_Operation]) -> list[_Operation]:
    """With activation functions before max-pooling, which gives the same whichever comes first."""
    ordered = [*operations]
    for number in range(1, len(ordered)):
        place = number
        while place and ordered[place].kind in _MONOTONE and ordered[place - 1].kind == "max-pooling":
            ordered[place - 1], ordered[place] = ordered[place], ordered[place - 1]
            place -= 1
    return ordered


def _described(operation: _Operation | None) -> str:
    return f"{operation.kind} ({operation.name})" if operation else "nothing more"
