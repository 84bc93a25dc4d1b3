"""Whether the weights of a layer are trained, drawn at random or shuffled, from the weights alone."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.exchange.foreign_network import ForeignLayer
from alexnet.exchange.initializations import distribution, is_uniform_within
from alexnet.exchange.weight_structure import Structure, dead_units, is_orthogonal, living_part, structure

LayerVerdict = Literal["trained", "random", "shuffled", "constant", "broken", "undecided"]
MAX_MAGNITUDE = 1e4
"""Weights and biases beyond are those of a damaged file, or of a training that diverged."""
MIN_WEIGHTS = 1_000
"""Of fewer weights, both training and chance may leave too little to tell them apart."""
_MENTIONED_ZEROS = 0.01
"""Share of zeros from which on they are mentioned."""
_MIN_BIASES = 32
"""Biases from which on their distribution says something."""


@dataclass(frozen=True, kw_only=True)
class LayerProof:
    """What the weights of one layer say. Figures are None where the weights are broken or all equal."""

    name: str
    """In the network: `conv1`."""
    file_name: str
    shape: tuple[int, ...]
    verdict: LayerVerdict
    """`trained`: their order means something. `random`: as an initialization that people use makes them. `shuffled`:
    not so, but their order means nothing. `constant`: all equal. `broken`: not finite, or absurdly large. `undecided`:
    few weights, or only the norms of the units differ."""
    distribution: str
    """In words."""
    std: float | None = None
    excess_kurtosis: float | None = None
    top_singular_value: float | None = None
    """This and the two spreads relative to shuffled copies, see `Structure`."""
    unit_spread: float | None = None
    input_spread: float | None = None
    smoothness: float | None = None
    """Correlation of neighboring weights of a filter; None also without filters."""
    kernel_sums: float | None = None
    """Relative to shuffled copies; None also without filters."""
    biases: str
    """In words."""
    dead_units: int = 0
    """Units whose weights are all equal, or tiny."""
    duplicate_units: int = 0
    """Units with exactly the weights of an earlier one."""
    dead_inputs: int = 0
    """Inputs (of a convolution, input channels) that all units multiply by 0."""
    is_needed: bool | None = None
    """Of weights without structure: whether the network errs more with these weights shuffled, so that they are those
    that it was trained with; None where that was not tested."""
    silent_channels: int | None = None
    """Channels that are 0 after ReLU for all images of the sample; None where none were measured."""

    @property
    def num_channels(self) -> int:
        """Output channels; of a dense layer units."""
        return self.shape[2] if len(self.shape) == 6 else self.shape[0]

    @property
    def num_units(self) -> int:
        """Units with weights of their own: channels, of a locally connected layer at every position."""
        return math.prod(self.shape[:3]) if len(self.shape) == 6 else self.shape[0]

    @property
    def has_structure(self) -> bool:
        """Whether the weights alone say that they are trained."""
        return self.verdict == "trained"

    @property
    def is_suspect(self) -> bool:
        """Whether only the network's answers can say that these are the weights that it was trained with."""
        return self.verdict in ("random", "shuffled", "undecided")

    def to_dict(self) -> dict[str, Any]:
        """As `StoredLayerProof` has it."""
        return {**asdict(self), "shape": list(self.shape)}


def prove_layer(layer: ForeignLayer, name: str) -> LayerProof:
    """Tell whether a layer's weights are trained.

    Of layers in which each unit's weights were drawn independently from one distribution at most 1 in 1,000 is called
    trained, also where some units are dead or have other scales. Of those that were drawn from an initialization of
    `alexnet.exchange.initializations` at most 1 in 1,000 is called shuffled. How often trained layers are not
    recognized depends on how long they were trained; docs/exchange.md has figures.

    Args:
        name: of the layer's module in the network.
    """
    weight, bias = layer.weight.detach().float(), layer.bias.detach().float()
    fan_in, channels = weight.numel() // bias.numel(), bias.shape[0]
    kernel = weight.shape[-1] ** 2 if weight.dim() > 2 else 1
    known: dict[str, Any] = {"name": name, "file_name": layer.name, "shape": tuple(weight.shape)}
    for what, tensor in (("weights", weight), ("biases", bias)):
        if problem := _problem(tensor):
            return LayerProof(**known, verdict="broken", distribution=f"{what} {problem}", biases="not tested")
    known["biases"] = _describe_biases(bias.numpy(), fan_in)
    values = weight.numpy()
    if values.min() == values.max():
        all_equal = f"all {values.flat[0]:g}"
        return LayerProof(**known, verdict="constant", distribution=all_equal, dead_units=math.prod(bias.shape))
    alive = living_part(weight)
    found = structure(weight)
    rows = weight.reshape(bias.numel(), fan_in)
    is_dead = dead_units(rows)
    known["dead_units"] = int(is_dead.sum())
    known["duplicate_units"] = _duplicates(rows.numpy()[~is_dead.numpy()])
    known["dead_inputs"] = _dead_inputs(weight)
    nonzero = _nonzero(alive)
    if found is None:
        return LayerProof(**known, verdict="undecided", distribution="no unit has two different weights")
    drawn = distribution(nonzero, fan_in, channels * kernel)
    zeros = 1 - len(nonzero) / alive.numel()
    values_text = f"{100 * zeros:.0f} % zeros, the others {drawn.text}" if zeros >= _MENTIONED_ZEROS else drawn.text
    verdict, text = _judged(alive, nonzero, found, values_text, is_of_family=drawn.family is not None)
    return LayerProof(
        **known,
        verdict=verdict,
        distribution=text,
        std=drawn.std,
        excess_kurtosis=drawn.excess_kurtosis,
        top_singular_value=found.top_singular_value,
        unit_spread=found.unit_spread,
        input_spread=found.input_spread,
        smoothness=found.smoothness,
        kernel_sums=found.kernel_sums,
    )


def _judged(
    alive: torch.Tensor, nonzero: NDArray[np.float32], found: Structure, text: str, *, is_of_family: bool
) -> tuple[LayerVerdict, str]:
    """The verdict on a layer's living part, and its distribution in words."""
    orthogonal = is_orthogonal(alive)
    if orthogonal and len(nonzero) == min(len(alive), alive[0].numel()):
        return "random", "an identity, as eye_ and dirac_ make it"
    if len(nonzero) < MIN_WEIGHTS:
        return "undecided", f"fewer than {MIN_WEIGHTS:,} weights; {text}"
    if found.is_ordered:
        return "trained", text
    if orthogonal:
        return "random", f"{text}, orthogonal"
    if found.beyond_chance:
        return "undecided", f"only the norms of the units differ more than by chance; {text}"
    return ("random" if is_of_family else "shuffled"), text


def _nonzero(alive: torch.Tensor) -> NDArray[np.float32]:
    """The weights that are not exactly 0: pruned and sparse layers have those besides."""
    values = alive.numpy().reshape(-1)
    is_zero = values == 0
    return values[~is_zero] if is_zero.any() else values


def equal_layers(layers: Sequence[ForeignLayer], names: Sequence[str]) -> list[str]:
    """Sentences about layers that have exactly the weights of another, and layers of two equal halves."""
    found = []
    for number, (layer, name) in enumerate(zip(layers, names, strict=True)):
        if not bool((layer.weight != layer.weight.flatten()[0]).any()):
            continue  # constant: its own verdict says so
        for other, other_name in zip(layers[:number], names, strict=False):
            if torch.equal(layer.weight, other.weight):
                found.append(f"{name} has exactly the weights of {other_name}")
        rows = layer.weight.reshape(-1, layer.weight.shape[-1] if layer.weight.dim() == 2 else layer.weight[0].numel())
        half = len(rows) // 2
        if len(rows) % 2 == 0 and half > 1 and torch.equal(rows[:half], rows[half:]):
            found.append(f"the two halves of {name} have exactly the same weights")
    return found


def _problem(tensor: torch.Tensor) -> str | None:
    """What makes values unusable."""
    if num := int((~tensor.isfinite()).sum()):
        return f"not finite ({num:,} of {tensor.numel():,})"
    largest = float(tensor.abs().max())
    return f"absurdly large (up to {largest:.2g})" if largest > MAX_MAGNITUDE else None


def _describe_biases(bias: NDArray[np.float32], fan_in: int) -> str:
    values = bias.reshape(-1)
    if values.min() == values.max():
        return f"all {values[0]:g}, as initialized"
    if len(values) >= _MIN_BIASES and is_uniform_within(values, 1 / math.sqrt(fan_in)):
        return "uniform within 1/sqrt(fan-in), as torch draws them"
    return f"spread, {values.min():.3g} to {values.max():.3g}"


def _duplicates(rows: NDArray[np.float32]) -> int:
    """Rows of (units, inputs) that are equal to an earlier one."""
    return len(rows) - len({row.tobytes() for row in rows})


def _dead_inputs(weight: torch.Tensor) -> int:
    """Inputs, or input channels, of which all weights are 0."""
    is_zero = weight == 0
    axis = weight.dim() - (1 if weight.dim() == 2 else 3)
    return int(is_zero.all(dim=tuple(one for one in range(weight.dim()) if one != axis)).sum())
