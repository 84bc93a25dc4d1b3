"""Tensors with names and shapes, of whatever program, to the layers of a network.

Layers are found by pairs of names (`X.weight`, `X.bias`), and the network by the shapes of the layers in their order.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.errors import RequestError, WorkError
from alexnet.exchange.foreign_network import TORCHVISION_CONVENTION, ForeignLayer, ForeignNetwork
from alexnet.model.foreign_files import DOWNLOAD
from alexnet.model.tensor_names import (
    LayerShapes,
    NetworkMatch,
    common_prefix,
    matching_networks,
    networks_of_layers,
    shapes_at_width_of,
    unwrapped_name,
)
from alexnet.model.variants import VARIANTS
from alexnet.storage.read_errors import raise_unless_damage

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Types of weights that are read; all become float32."""
_STATE_DICT_KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module"),
    *("model_weights", "net_state_dict", "state"),
)
"""Entries of checkpoints that hold the weights, the usual ones first."""
_AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?|shadow|teacher|momentum)([._]|$)", re.IGNORECASE)
_COUNTERS = re.compile(r"(^|\.)(num_batches_tracked|n_averaged|num_updates|decay)$")
_NORMALIZED = re.compile(r"(^|\.)running_(mean|var)$")
_TORCHVISION_NAMES = ("features.0", "features.3", "features.6", "features.8", "features.10")
_MAX_SHOWN = 3
_NUMBERS_AT_ONCE = 2**20
_MAX_DEPTH = 4
_MAX_REASON = 300
"""Characters of what is wrong with a file."""
_MAX_TENSORS = 2000
"""The largest variant has 20; a checkpoint may hold it several times, with the state of its optimizer."""
_MAX_NAME = 500
"""Characters of the name of a tensor."""


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file, which is not read yet."""

    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    """In memory of its own type."""
    read: Callable[[], torch.Tensor]
    """float32, contiguous."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer's tensors by its name."""

    name: str
    weight: StoredTensor
    bias: StoredTensor | None

    @property
    def shapes(self) -> LayerShapes:
        """Biases that the file lacks are counted as those of a convolutional or dense layer."""
        return self.weight.shape, self.weight.shape[:1] if self.bias is None else self.bias.shape


def float32_tensor(array: NDArray[Any], dtype: str) -> torch.Tensor:
    """An array of one of `FLOATS` (bfloat16: its 16 bits as integers) in float32, with memory of its own."""
    if dtype == "bfloat16":
        array = (array.astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore"):  # of float64: infinite weights are found later
        return torch.from_numpy(np.ascontiguousarray(array, np.dtype("<f4")))


def foreign_damage(path: Path, what: str, error: Exception) -> NoReturn:
    """Raise that a file of another program is damaged, or why else it could not be read."""
    raise_unless_damage(error, path)
    reason = " ".join(str(error)[:_MAX_REASON].split())
    raise WorkError(f"{path} is {what} that is cut short or damaged ({reason}); {DOWNLOAD}") from error


def find_state_dict(path: Path, what: str, content: object) -> tuple[str, dict[str, StoredTensor], tuple[str, ...]]:
    """The weights in what torch.save wrote: what holds them, the tensors by name, and notes on what was left out.

    Raises:
        RequestError: there are none.
    """
    entries, place = _entries(content), ""
    notes: list[str] = []
    for _ in range(_MAX_DEPTH):
        tensors = {name: one for name, one in entries.items() if isinstance(one, StoredTensor)}
        if any(name.endswith(("weight", "bias")) for name in tensors):
            return f"{what} (its entry {place!r})" if place else what, tensors, tuple(notes)
        held = {name: one for name, one in entries.items() if isinstance(one, dict)}
        known = [name for name in _STATE_DICT_KEYS if name in held]
        if not known:
            known = _with_tensors(held)
        if not known:
            break
        taken = known[0]
        place = f"{place}.{_cut(taken)}" if place else _cut(taken)
        averaged = [name for name in held if name != taken and _AVERAGE.search(name)][:_MAX_SHOWN]
        notes += [
            f"The entry {_cut(name)!r}, averaged weights of the same network, was left out; to import these instead, "
            "save this entry alone with torch.save."
            for name in averaged
        ]
        others = [name for name in entries if name != taken and name not in averaged]
        if others:
            notes.append(f"The entries {_shown(others)} were left out.")
        entries = _entries(held[taken])
    held_names = [*_entries(content)]
    found = f"its entries are {_shown(held_names)}" if held_names else "it holds no dictionary with names"
    raise RequestError(
        f"{path} is {what} without a state dict ({found}); save the network's weights with "
        "torch.save(model.state_dict(), FILE)"
    )


def _with_tensors(held: Mapping[str, dict[object, object]]) -> list[str]:
    """The dictionaries that hold tensors, by name; each is looked through once, however many names it has."""
    distinct = {id(one): one for one in held.values()}
    found = {key for key, one in distinct.items() if any(isinstance(value, StoredTensor) for value in one.values())}
    return [name for name, one in held.items() if id(one) in found]


def _entries(content: object) -> dict[str, object]:
    """The entries of a dictionary whose names are text, or bytes of Python 2."""
    if not isinstance(content, dict):
        return {}
    return {
        name.decode("latin1") if isinstance(name, bytes) else name: value
        for name, value in content.items()
        if isinstance(name, str | bytes)
    }


def network_of_tensors(
    path: Path, what: str, tensors: Mapping[str, StoredTensor], notes: Sequence[str] = (), *, is_ordered: bool
) -> ForeignNetwork:
    """The network whose layers have these tensors.

    Args:
        path: the file, for messages.
        what: what the file is.
        tensors: by the names in the file.
        notes: what was left out so far.
        is_ordered: whether `tensors` are in the order of the layers; otherwise their names decide.

    Raises:
        RequestError: the layers are of no variant, or not of weights alone.
    """
    _refuse_others(path, what, tensors)
    named = [
        _Layer(name.removesuffix(".weight"), one, tensors.get(f"{name.removesuffix('.weight')}.bias"))
        for name, one in tensors.items()
        if name.endswith(".weight")
    ]
    layers, matches, more_notes = _matched(path, what, named, is_ordered)
    used = {f"{layer.name}.{kind}" for layer in layers for kind in ("weight", "bias")}
    left_out = [name for name in tensors if name not in used and not _COUNTERS.search(name)]
    counters = [name for name in tensors if name not in used and _COUNTERS.search(name)]
    notes = [*notes, *more_notes]
    if left_out:
        notes.append(f"The tensors {_shown([f'{one} {tensors[one].shape}' for one in left_out])} were left out.")
    if counters:
        notes.append(f"The counters {_shown(counters)} were left out.")
    without = [layer.name for layer in layers if layer.bias is None]
    if without and _has_torchvisions_names(layers):
        raise RequestError(
            f"{path} is {what} with torchvision's names that lacks {_shown([f'{name}.bias' for name in without])}; all "
            "layers of torchvision's network have biases, so get the whole file"
        )
    if without:
        notes.append(f"The file has no biases of {_shown(without)}; they are 0.")
    if (size := sum(one.weight.num_bytes for one in layers)) > path.stat().st_size:
        raise RequestError(
            f"{path} is {what} whose layers share weights: together they have {size:,} bytes, more than it"
        )
    prefix = common_prefix(unwrapped_name(layer.name) for layer in layers)
    plain = [unwrapped_name(layer.name).removeprefix(prefix) for layer in layers]
    variants = [match.variant for match in matches]
    is_torchvision = "torchvision" in variants and _has_torchvisions_names(layers)
    return ForeignNetwork(
        what=f"{what} with torchvision's names" if is_torchvision else what,
        layers=tuple(_foreign_layer(layer) for layer in layers),
        variants=tuple(_likeliest_first(variants, layers, plain)),
        convention=TORCHVISION_CONVENTION if is_torchvision else None,
        notes=tuple(notes),
    )


def _has_torchvisions_names(layers: Sequence[_Layer]) -> bool:
    """Whether the convolutions are named as torchvision names them, below whatever holds its network."""
    names = [unwrapped_name(layer.name) for layer in layers[: len(_TORCHVISION_NAMES)]]
    prefix = names[0].removesuffix(_TORCHVISION_NAMES[0])
    return names == [f"{prefix}{name}" for name in _TORCHVISION_NAMES]


def _foreign_layer(layer: _Layer) -> ForeignLayer:
    weight = layer.weight.read()
    bias = torch.zeros(layer.shapes[1]) if layer.bias is None else layer.bias.read()
    return ForeignLayer(name=layer.name, weight=weight, bias=bias)


def require_finite(path: Path, layers: Sequence[ForeignLayer]) -> None:
    """Refuse weights that are not numbers, as a training that diverged leaves them.

    Raises:
        RequestError: naming the layer.
    """
    for layer in layers:
        for what, tensor in (("weights", layer.weight), ("biases", layer.bias)):
            flat = tensor.detach().numpy().reshape(-1)
            parts = (flat[at : at + _NUMBERS_AT_ONCE] for at in range(0, len(flat), _NUMBERS_AT_ONCE))
            if num := len(flat) - sum(int(np.isfinite(part).sum()) for part in parts):
                raise RequestError(
                    f"{path}: {num:,} of the {tensor.numel():,} {what} of {layer.name} are not finite (NaN or "
                    "infinite), as after a training that diverged; give weights that were saved before"
                )


def _likeliest_first(variants: list[str], layers: Sequence[_Layer], plain: Sequence[str]) -> list[str]:
    """Those first whose layers also have these names, as a network of this package that was saved by torch has."""
    shapes = {}
    for name, layer in zip(plain, layers, strict=True):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = layer.shapes
    found = matching_networks(shapes)
    by_name = found[0] if found else []
    return [name for name in variants if name in by_name] + [name for name in variants if name not in by_name]


def _refuse_others(path: Path, what: str, tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse what is of another network at first sight."""
    if len(tensors) > _MAX_TENSORS:
        raise RequestError(f"{path} is {what} with {len(tensors):,} tensors; the largest variant has 20")
    if (longest := max(map(len, tensors), default=0)) > _MAX_NAME:
        raise RequestError(f"{path} is {what} with a tensor whose name has {longest:,} characters; rename it")
    if normalized := [name for name in tensors if _NORMALIZED.search(name)]:
        raise RequestError(
            f"{path} is {what} of a network with batch normalization ({_shown(normalized)}), which no variant has: "
            "AlexNet was published without it. Import a network without batch normalization"
        )
    if not any(name.endswith(".weight") for name in tensors):
        raise RequestError(f"{path} is {what} without weights: its tensors are {_shown([*tensors]) or 'missing'}")
    for name, one in tensors.items():
        if name.endswith((".weight", ".bias")) and one.dtype not in FLOATS:
            raise RequestError(
                f"{path} is {what} whose tensor {name} has the type {one.dtype}; allowed are {', '.join(FLOATS)}. Save "
                "it in one of these"
            )


def _matched(
    path: Path, what: str, named: list[_Layer], is_ordered: bool
) -> tuple[list[_Layer], list[NetworkMatch], list[str]]:
    """The layers of one network in their order, the variants that they fit, and notes.

    The file's order counts, then that of the names; all layers, then those below one part of their names (a file may
    hold a network twice, such as with averaged weights); the whole network, then its convolutions.

    Raises:
        RequestError: they fit none.
    """
    orders = [named] if is_ordered else []
    orders.append(sorted(named, key=lambda layer: (len(layer.weight.shape) < 4, natural_key(layer.name))))
    for layers in [one for order in orders for one in (order, *_parts(order))]:
        if matches := networks_of_layers([layer.shapes for layer in layers]):
            return layers, matches, []
    for layers in [one for order in orders for one in (order, *_parts(order))]:
        convolutions = [layer for layer in layers if len(layer.weight.shape) != 2]
        if convolutions and (
            matches := networks_of_layers([layer.shapes for layer in convolutions], features_only=True)
        ):
            dense = [layer for layer in layers if len(layer.weight.shape) == 2]
            notes = [f"The dense layers {_described(dense)} were left out: they fit no variant."] if dense else []
            return convolutions, matches, notes
    problem = misfit([(layer.name, layer.weight.shape) for layer in orders[0]])
    order = (
        ""
        if is_ordered
        else ". Layers are read in the order of their names, convolutions first: rename them if need be"
    )
    raise RequestError(f"{path} is {what} of no known variant: {problem}{order}")


def _parts(layers: list[_Layer]) -> list[list[_Layer]]:
    """The layers by the first part of their names that differs, averaged weights last; [] where there is one part."""
    prefix = common_prefix(layer.name for layer in layers)
    parts: dict[str, list[_Layer]] = {}
    for layer in layers:
        parts.setdefault(layer.name.removeprefix(prefix).partition(".")[0], []).append(layer)
    names = sorted(parts, key=lambda name: bool(_AVERAGE.search(name)))
    return [parts[name] for name in names] if len(names) > 1 else []


def natural_key(name: str) -> list[tuple[int, str]]:
    """`features.10` is after `features.3`."""
    parts = re.split(r"([0-9]+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (-1, part) for part in parts]


def misfit(layers: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    """What the layers are, by name and shape of their weights, and where the closest variant differs."""
    shown = _shown([f"{name} {shape}" for name, shape in layers])
    best, closest, difference = (0, False), "", ""
    for variant in VARIANTS:
        width, expected = shapes_at_width_of(variant, [shape for _, shape in layers])
        pairs = zip(expected, layers, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0][1] == pair[1][1], pairs))
        if same and (same, width == 1) > best:  # of several, one of the published width
            best, closest = (same, width == 1), f"{variant!r} of width {width:g}"
            if same == min(len(expected), len(layers)):
                difference = f"has {len(expected)} layers with weights, not {len(layers)}"
            else:
                difference = f"has {expected[same][0]} {expected[same][1]} where the file has {layers[same][1]}"
    if not closest:
        return f"its layers are {shown}; expected are those of AlexNet or of another variant"
    return f"its layers are {shown}; the closest variant, {closest}, {difference}"


def _described(layers: Sequence[_Layer]) -> str:
    return _shown([f"{layer.name} {layer.weight.shape}" for layer in layers])


def _shown(names: Sequence[str]) -> str:
    """The first names, short enough for a message."""
    more = f" and {len(names) - _MAX_SHOWN:,} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(map(_cut, names[:_MAX_SHOWN])) + more


def _cut(name: str) -> str:
    return name[:80]
