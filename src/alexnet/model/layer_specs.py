"""The words in which a network is described: one frozen object a layer, a tuple of them a network.

Nothing here computes activations; sizes, parameters and operations follow from the description alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from alexnet.errors import RequestError

INPUT_MAPS = 3
"""Red, green, blue."""

Deviation = float | Literal["uniform"] | None
"""First weights: a standard deviation; None is sqrt(2 / inputs of a unit), which keeps the spread of activations from
layer to layer; `uniform` is torch's own default, weights and biases within 1 / sqrt(inputs of a unit) of 0."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolutional layer. With two columns each half of its maps reads only its own half of the maps below."""

    name: str
    maps: int
    kernel: int
    stride: int = 1
    padding: int = 0
    end_padding: int = 0
    """Zeros added beyond the right and the lower edge only."""
    columns: int = 1
    deviation: Deviation = 0.01
    bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LocallyConnected:
    """A convolution, stride 1, that has other weights and another bias at every place (locally connected)."""

    name: str
    maps: int
    kernel: int
    padding: int = 0
    deviation: Deviation = 0.01
    bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A fully-connected layer of `units`; None stands for the number of classes.

    With two columns each half of its units reads only its own half of the features below.
    """

    name: str
    units: int | None
    deviation: Deviation = 0.01
    bias: float = 0.0
    columns: int = 1


@dataclass(frozen=True)
class ReLU:
    """max(0, x); its gradient at 0 is 0. Paper: section 3.1."""


@dataclass(frozen=True)
class Squash:
    """tanh(x), with which the paper's section 3.1 compares rectifying, or 1 / (1 + exp(-x))."""

    function: Literal["tanh", "sigmoid"] = "tanh"


@dataclass(frozen=True, kw_only=True)
class ResponseNorm:
    """Response normalization among neighboring maps of a column. Paper: section 3.3."""

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    columns: int = 1
    alpha_per_element: bool = True
    """True: alpha multiplies each square, as the paper writes it. False: alpha / size does, as the source has it."""


@dataclass(frozen=True, kw_only=True)
class SameMapNorm:
    """Response normalization among neighboring places of one map; alpha / size^2 multiplies each square, k is 1.

    Not in the paper: the source has it in layer 2 and in its networks for CIFAR-10.
    """

    size: int = 5
    alpha: float = 1e-3
    beta: float = 0.75


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Pooling in windows of `size`, `stride` apart; a window that ends beyond the edge is cut. Paper: section 3.4."""

    size: int = 3
    stride: int = 2
    kind: Literal["max", "average"] = "max"
    ties: Literal["one", "every"] = "one"
    """Where several activations of a window are the largest: which of them get the gradient (the source: every)."""
    divisor: Literal["inside", "whole"] = "inside"
    """What the sum over a window that the edge cuts is divided by for its mean: the places inside (the source at its
    end, Caffe), or those of the whole window (the source when its first networks for CIFAR-10 were published)."""


@dataclass(frozen=True)
class Drop:
    """Dropout with the network's probability. Paper: section 4.2."""

    name: str
    inverted: bool = False
    """False: the mask alone in training, times the share kept when testing (paper). True: divided by the share kept in
    training, nothing when testing (Caffe, torchvision)."""


@dataclass(frozen=True)
class Flatten:
    """(B, C, H, W) -> (B, C * H * W), maps first."""


Layer = Convolution | LocallyConnected | Dense | ReLU | Squash | ResponseNorm | SameMapNorm | Pool | Drop | Flatten
Weighted = Convolution | LocallyConnected | Dense


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """One published or named network."""

    source: str
    """Where it is described."""
    image_px: int
    """Side of the image it reads."""
    layers: tuple[Layer, ...]
    input_scale: float | tuple[float, float, float] = 1.0
    """Factor on the input before the first layer, one or one a color."""

    def as_json(self) -> dict[str, object]:
        """What the network computes: input and layers in order, each with the settings that are not their defaults.

        Kept beside trained weights: a variant may change under the same name and the same shapes.
        """
        layers = [
            {"layer": type(layer).__name__}
            | {
                field.name: getattr(layer, field.name)
                for field in fields(layer)
                if getattr(layer, field.name) != field.default
            }
            for layer in self.layers
        ]
        scale = self.input_scale if isinstance(self.input_scale, float) else list(self.input_scale)
        return {"image_px": self.image_px, "input_scale": scale, "layers": layers}


@dataclass(frozen=True, kw_only=True)
class SizedLayer:
    """A layer where it stands: what it reads and what it writes, as (maps, side); dense features have side 1."""

    layer: Layer
    reads: tuple[int, int]
    writes: tuple[int, int]

    @property
    def name(self) -> str:
        """The layer's name; empty for one that has none."""
        return str(getattr(self.layer, "name", ""))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the layer's weights; () for a layer without."""
        maps, outputs, side = self.reads[0], self.writes[0], self.writes[1]
        match self.layer:
            case Convolution(kernel=kernel, columns=columns):
                return (outputs, maps // columns, kernel, kernel)
            case LocallyConnected(kernel=kernel):
                return (side, side, outputs, maps, kernel, kernel)
            case Dense(columns=columns):
                return (outputs, maps // columns)
            case _:
                return ()

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of the layer's biases; () for a layer without."""
        match self.layer:
            case Convolution() | Dense():
                return (self.writes[0],)
            case LocallyConnected():
                return (self.writes[0], self.writes[1], self.writes[1])
            case _:
                return ()

    @property
    def fan_in(self) -> int:
        """Activations that one unit reads and multiplies: its fan-in; 0 for a layer without weights."""
        match self.layer:
            case Convolution(kernel=kernel, columns=columns):
                return self.reads[0] // columns * kernel * kernel
            case LocallyConnected(kernel=kernel):
                return self.reads[0] * kernel * kernel
            case Dense(columns=columns):
                return self.reads[0] // columns
            case _:
                return 0

    @property
    def neurons(self) -> int:
        """Units of the layer, the paper's neurons: maps times places; 0 for a layer without weights."""
        return self.writes[0] * self.writes[1] ** 2 if self.weight_shape else 0

    @property
    def multiply_adds(self) -> int:
        """Multiplications (each with its addition) for one image, places in the zero border included."""
        return self.neurons * self.fan_in


def sized_layers(variant: NetworkSpec, num_classes: int, width: float = 1.0) -> Iterator[SizedLayer]:
    """The layers of a network in order, with their sizes.

    Args:
        variant: the description.
        num_classes: units of the last layer.
        width: factor on the maps and units of every layer but the last, rounded to even numbers.

    Raises:
        RequestError: a layer finds nothing to read: a window larger than its image.
    """
    maps, side = INPUT_MAPS, variant.image_px
    for layer in variant.layers:
        reads = (maps, side)
        match layer:
            case Convolution():
                maps = scaled(layer.maps, width)
                side = (side + 2 * layer.padding + layer.end_padding - layer.kernel) // layer.stride + 1
            case LocallyConnected():
                maps, side = scaled(layer.maps, width), side + 2 * layer.padding - layer.kernel + 1
            case Pool():
                side = pooled_side(side, layer.size, layer.stride)
            case Flatten():
                maps, side = maps * side * side, 1
            case Dense():
                maps = num_classes if layer.units is None else scaled(layer.units, width)
            case _:
                pass
        if side < 1:
            raise RequestError(f"{layer} reads {reads[1]}-pixel maps, which are smaller than its window")
        yield SizedLayer(layer=layer, reads=reads, writes=(maps, side))


def pooled_side(side: int, size: int, stride: int) -> int:
    """Windows along one side: ceil((side - size) / stride) + 1, so that the last one may be cut by the edge."""
    return -(-(side - size) // stride) + 1


def scaled(published: int, width: float) -> int:
    """`published` maps or units at another width: an even number, 2 or more."""
    return max(2, 2 * round(published * width / 2))
