"""Layer specifications: one frozen object per layer, a tuple of them per network. Importing it does not load torch.

Sizes, parameters and operation counts follow from the specifications alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from alexnet.errors import RequestError

INPUT_CHANNELS = 3
"""Red, green, blue."""

InitStd = float | Literal["uniform"] | None
"""Initial weights: a standard deviation; None is sqrt(2 / fan_in), which keeps the spread of activations from layer to
layer; `uniform` is torch's default, weights and biases within 1 / sqrt(fan_in) of 0."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolutional layer. With two columns, each half of the output channels reads its own half of the input."""

    name: str
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    end_padding: int = 0
    """Zeros added beyond the right and the bottom edge only."""
    columns: int = 1
    init_std: InitStd
    bias: float
    """Initial value of all biases."""


@dataclass(frozen=True, kw_only=True)
class LocallyConnected:
    """A convolution of stride 1 with separate weights and biases at every position."""

    name: str
    out_channels: int
    kernel: int
    padding: int = 0
    init_std: InitStd
    bias: float
    """Initial value of all biases."""


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A fully connected layer. With two columns, each half of the units reads its own half of the features."""

    name: str
    units: int | None
    """None is the number of classes."""
    columns: int = 1
    init_std: InitStd
    bias: float
    """Initial value of all biases."""


@dataclass(frozen=True)
class ReLU:
    """max(0, x); its gradient at 0 is 0. Paper: section 3.1."""


@dataclass(frozen=True)
class Tanh:
    """tanh(x), with which the paper's section 3.1 compares ReLU."""


@dataclass(frozen=True)
class Sigmoid:
    """1 / (1 + exp(-x))."""


@dataclass(frozen=True, kw_only=True)
class ResponseNorm:
    """Response normalization across neighboring channels of a column. Paper: section 3.3."""

    size: int
    alpha: float
    beta: float
    k: float
    columns: int = 1
    alpha_per_element: bool = True
    """True: alpha multiplies each square, as the paper writes it. False: alpha / size does, as in the source."""

    def __post_init__(self) -> None:
        """Raises RequestError: a value out of range."""
        _require_integer("size", self.size)
        _require_integer("columns", self.columns)
        _require_finite("response normalization", alpha=self.alpha, beta=self.beta, k=self.k)
        if self.k <= 0 or self.alpha < 0:
            raise RequestError(f"k is {self.k} and alpha is {self.alpha}; allowed are k above 0 and alpha 0 or more")


@dataclass(frozen=True, kw_only=True)
class SameMapNorm:
    """Response normalization across neighboring positions of a channel; alpha / size^2 multiplies each square, k is 1.

    Not in the paper: the source has it in layer 2 and in its networks for CIFAR-10.
    """

    size: int
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        """Raises RequestError: a value out of range."""
        _require_integer("size", self.size)
        if self.size % 2 == 0:
            raise RequestError(
                f"size is {self.size}; allowed are odd numbers, 1 or more, so that the window has a center"
            )
        _require_finite("same-map normalization", alpha=self.alpha, beta=self.beta)
        if self.alpha < 0:
            raise RequestError(f"alpha is {self.alpha}; allowed is 0 or more")


def _require_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(f"{name} is {value!r}; allowed are integers, 1 or more")


def _require_finite(layer: str, **values: object) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RequestError(f"{name} of {layer} is {value!r}; allowed are finite numbers")


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """Max-pooling over `size` x `size` windows; windows are clipped at the edge. Paper: section 3.4."""

    size: int
    stride: int
    ties: Literal["one", "every"] = "one"
    """Which of several equal maxima of a window gets the gradient (the source: every)."""


@dataclass(frozen=True, kw_only=True)
class AveragePool:
    """Average-pooling over `size` x `size` windows; windows are clipped at the edge."""

    size: int
    stride: int
    divisor: Literal["inside", "whole"]
    """Divisor of the sum over a clipped window: the number of positions inside the image (the source's last version,
    Caffe), or that of the whole window (the source when its first networks for CIFAR-10 were published)."""


Pool = MaxPool | AveragePool


@dataclass(frozen=True)
class Dropout:
    """Dropout with the network's probability. Paper: section 4.2."""

    name: str
    inverted: bool = False
    """False: only mask in training, multiply by the keep probability in evaluation (paper). True: divide by the keep
    probability in training, nothing in evaluation (Caffe, torchvision)."""


@dataclass(frozen=True)
class Flatten:
    """(B, C, H, W) -> (B, C * H * W), channels first."""


WeightedSpec = Convolution | LocallyConnected | Dense
LayerSpec = WeightedSpec | ReLU | Tanh | Sigmoid | ResponseNorm | SameMapNorm | Pool | Dropout | Flatten


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A network. Two specifications are equal if they compute the same, wherever they are described."""

    source: str = field(default="", compare=False)
    """Where it is described."""
    num_classes: int = field(default=1000, compare=False)
    """Classes of the published network."""
    image_px: int
    """Side of the input image."""
    input_scale: float | tuple[float, float, float] = 1.0
    """Factor on the input before the first layer, one number or one per color."""
    layers: tuple[LayerSpec, ...]

    @cached_property
    def named_layers(self) -> "tuple[NamedLayer, ...]":
        """The layers with the names of their modules.

        A layer without a name of its own is called after what it does and the number of the last layer with weights
        before it: `relu5`, `pool5`, `norm1`, `same_map_norm2`; a second one of its kind is `pool1_2`.
        """
        named: list[NamedLayer] = []
        number = ""
        for spec in self.layers:
            if isinstance(spec, WeightedSpec):
                number = spec.name.lstrip("abcdefghijklmnopqrstuvwxyz_")
            named.append(NamedLayer(_free_name(spec, number, {one.name for one in named}), spec))
        return tuple(named)


@dataclass(frozen=True)
class NamedLayer:
    """A layer and the name of its module in the network."""

    name: str
    spec: LayerSpec

    @property
    def layers(self) -> "tuple[NamedLayer, ...]":
        """Itself: an operation of one layer."""
        return (self,)


_BASE_NAMES: dict[type[LayerSpec], str] = {
    ReLU: "relu",
    Tanh: "tanh",
    Sigmoid: "sigmoid",
    ResponseNorm: "norm",
    SameMapNorm: "same_map_norm",
    MaxPool: "pool",
    AveragePool: "pool",
}


def _free_name(spec: LayerSpec, number: str, taken: set[str]) -> str:
    if isinstance(spec, WeightedSpec | Dropout):
        return spec.name
    if isinstance(spec, Flatten):
        return "flatten"
    name = _BASE_NAMES[type(spec)] + number
    return next(one for one in (name, *(f"{name}_{count}" for count in range(2, 100))) if one not in taken)


@dataclass(frozen=True, kw_only=True)
class SizedLayer:
    """A layer of a network with the sizes of its input and output; dense features are channels of side 1."""

    name: str
    """The name of its module."""
    spec: LayerSpec
    in_channels: int
    in_side: int
    out_channels: int
    out_side: int

    @property
    def columns(self) -> int:
        """Columns of the layer."""
        return int(getattr(self.spec, "columns", 1))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the layer's weights; () for a layer without weights."""
        match self.spec:
            case Convolution(kernel=kernel, columns=columns):
                return (self.out_channels, self.in_channels // columns, kernel, kernel)
            case LocallyConnected(kernel=kernel):
                return (self.out_side, self.out_side, self.out_channels, self.in_channels, kernel, kernel)
            case Dense(columns=columns):
                return (self.out_channels, self.in_channels // columns)
            case _:
                return ()

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of the layer's biases; () for a layer without weights."""
        match self.spec:
            case LocallyConnected():
                return (self.out_channels, self.out_side, self.out_side)
            case _:
                return (self.out_channels,) if self.weight_shape else ()

    @property
    def fan_in(self) -> int:
        """Inputs of one unit; 0 for a layer without weights."""
        return math.prod(self.weight_shape) // math.prod(self.bias_shape) if self.weight_shape else 0

    @property
    def neurons(self) -> int:
        """Units of the layer, the paper's neurons: channels times positions; 0 for a layer without weights."""
        return self.out_channels * self.out_side**2 if self.weight_shape else 0

    @property
    def multiply_adds(self) -> int:
        """Multiplications (each with its addition) for one image, those by padding zeros included."""
        return self.neurons * self.fan_in


def sized_layers(network: NetworkSpec, num_classes: int, width: float = 1.0) -> Iterator[SizedLayer]:
    """The layers of a network in order, with their sizes.

    Args:
        network: the specification.
        num_classes: units of the last layer.
        width: factor on the channels and units of every layer but the last, rounded to even numbers.

    Raises:
        RequestError: a window is larger than its image.
    """
    channels, side = INPUT_CHANNELS, network.image_px
    for layer in network.named_layers:
        spec = layer.spec
        in_channels, in_side = channels, side
        match spec:
            case Convolution():
                channels = scaled(spec.out_channels, width)
                side = (side + 2 * spec.padding + spec.end_padding - spec.kernel) // spec.stride + 1
            case LocallyConnected():
                channels, side = scaled(spec.out_channels, width), side + 2 * spec.padding - spec.kernel + 1
            case MaxPool() | AveragePool():
                side = pooled_side(side, spec.size, spec.stride)
            case Flatten():
                channels, side = channels * side * side, 1
            case Dense():
                channels = num_classes if spec.units is None else scaled(spec.units, width)
            case _:
                pass
        if side < 1:
            raise RequestError(f"{spec} reads {in_side}-pixel images, which are smaller than its window")
        yield SizedLayer(
            name=layer.name,
            spec=spec,
            in_channels=in_channels,
            in_side=in_side,
            out_channels=channels,
            out_side=side,
        )


def pooled_side(side: int, size: int, stride: int) -> int:
    """Windows along one side: ceil((side - size) / stride) + 1, so the last one may be clipped at the edge."""
    return -(-(side - size) // stride) + 1


def scaled(published: int, width: float) -> int:
    """`published` channels or units at another width: an even number, 2 or more."""
    return max(2, 2 * round(published * width / 2))
