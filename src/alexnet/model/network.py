"""The network, written so that it can be held against section 3 of the paper, and its variants.

Axes: B images, C maps, H W places, D features, K classes. A variant is a tuple of layer descriptions;
`AlexNet` builds what it says and runs it in that order.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import nn

from alexnet.errors import RequestError
from alexnet.model.convolution import Convolution2d
from alexnet.model.layers import Dropout, initialise, local_response_norm, max_pool


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
    deviation: float | None = 0.01
    bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A fully-connected layer of `units`; None stands for the number of classes."""

    name: str
    units: int | None
    deviation: float | None = 0.01
    bias: float = 0.0


@dataclass(frozen=True)
class Rectify:
    """max(0, x). Paper: section 3.1."""


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """Response normalisation, alpha on each square. Paper: section 3.3."""

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    columns: int = 1


@dataclass(frozen=True)
class Pool:
    """Max-pooling in windows of `size`, `stride` apart. Paper: section 3.4."""

    size: int = 3
    stride: int = 2


@dataclass(frozen=True)
class Drop:
    """Dropout with the network's probability. Paper: section 4.2."""

    name: str


@dataclass(frozen=True)
class Flatten:
    """(B, C, H, W) -> (B, C * H * W), maps first."""


Layer = Convolution | Dense | Rectify | Normalise | Pool | Drop | Flatten


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One published or named network."""

    source: str
    """Where it is described."""
    image_px: int
    """Side of the image it reads."""
    layers: tuple[Layer, ...]
    input_scale: float = 1.0
    """Factor on the input before the first layer."""

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
        return {"image_px": self.image_px, "input_scale": self.input_scale, "layers": layers}


_PAPER = Variant(
    source="Krizhevsky, Sutskever and Hinton 2012, section 3.5",
    image_px=224,
    layers=(
        # 224 -> 55: the last window ends three pixels beyond the image (docs/decisions/003).
        Convolution(name="conv1", maps=96, kernel=11, stride=4, end_padding=3),
        Rectify(),
        Normalise(columns=2),
        Pool(),  # 55 -> 27
        Convolution(name="conv2", maps=256, kernel=5, padding=2, columns=2, bias=1),
        Rectify(),
        Normalise(columns=2),
        Pool(),  # 27 -> 13
        Convolution(name="conv3", maps=384, kernel=3, padding=1),
        Rectify(),
        Convolution(name="conv4", maps=384, kernel=3, padding=1, columns=2, bias=1),
        Rectify(),
        Convolution(name="conv5", maps=256, kernel=3, padding=1, columns=2, bias=1),
        Rectify(),
        Pool(),  # 13 -> 6
        Flatten(),
        Dense(name="fc6", units=4096, bias=1),
        Rectify(),
        Drop("drop6"),
        Dense(name="fc7", units=4096, bias=1),
        Rectify(),
        Drop("drop7"),
        Dense(name="fc8", units=None),
    ),
)

_QUICK = Variant(
    source="this project: four convolutional layers in the paper's style for 32-pixel images, trained in two minutes",
    image_px=28,
    input_scale=1 / 64,
    layers=(
        Convolution(name="conv1", maps=64, kernel=5, padding=2, deviation=None),
        # The larger of two rectified responses is the rectified larger one: pooled first there are fewer to rectify.
        Pool(),  # 28 -> 14
        Rectify(),
        Normalise(size=9, alpha=0.05, k=1),
        Convolution(name="conv2", maps=128, kernel=3, padding=1, deviation=None),
        Pool(),  # 14 -> 7
        Rectify(),
        Normalise(size=9, alpha=0.05, k=1),
        Convolution(name="conv3", maps=256, kernel=3, padding=1, deviation=None),
        Pool(),  # 7 -> 3
        Rectify(),
        Convolution(name="conv4", maps=256, kernel=3, padding=1, deviation=None),
        Rectify(),
        Flatten(),
        Drop("drop5"),
        Dense(name="fc5", units=None, deviation=0.01),
    ),
)

VARIANTS = {"paper": _PAPER, "quick": _QUICK}
"""All variants by name."""


class AlexNet(nn.Module):
    """The network of 2012, or one of its named variants.

    Input: float64, float32 or bfloat16 (B, 3, S, S) with S the variant's image side (224 for
    `paper`), RGB on the 0..255 scale with the mean image subtracted. Output: class scores (B, K).

    Args:
        num_classes: K, 2 or more.
        variant: a name in `VARIANTS`.
        width: factor on the maps and units of every layer but the last, rounded to even numbers.
        dropout: probability that dropout zeroes a unit.
        generator: where the first weights come from; None is torch's global generator.

    Raises:
        ValueError: a value out of range, an unknown variant, or an input the network does not take.

    Paper: section 3.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        variant: str = "paper",
        width: float = 1.0,
        *,
        dropout: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise RequestError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS)}")
        if num_classes < 2:
            raise RequestError(f"num_classes is {num_classes}; a network needs 2 or more")
        if not 0 < width <= 4:
            raise RequestError(f"width is {width}; allowed is above 0, up to 4")
        self.num_classes, self.variant, self.width, self.dropout = num_classes, variant, width, dropout
        self.description = VARIANTS[variant]
        self._build(generator)

    def _build(self, generator: torch.Generator | None) -> None:
        maps, side = 3, self.description.image_px
        features = 0
        for layer in self.description.layers:
            match layer:
                case Convolution():
                    outputs = self._scaled(layer.maps)
                    convolution = Convolution2d(
                        maps, outputs, layer.kernel, layer.stride, layer.padding, groups=layer.columns
                    )
                    initialise(convolution, layer.deviation, layer.bias, generator)
                    self.add_module(layer.name, convolution)
                    maps = outputs
                    side = (side + 2 * layer.padding + layer.end_padding - layer.kernel) // layer.stride + 1
                case Pool():
                    side = -(-(side - layer.size) // layer.stride) + 1
                case Flatten():
                    features = maps * side * side
                case Dense():
                    units = self.num_classes if layer.units is None else self._scaled(layer.units)
                    dense = nn.Linear(features, units)
                    initialise(dense, layer.deviation, layer.bias, generator)
                    self.add_module(layer.name, dense)
                    features = units
                case Drop():
                    self.add_module(layer.name, Dropout(self.dropout))
                case Rectify() | Normalise():
                    pass

    def _scaled(self, published: int) -> int:
        return max(2, 2 * round(published * self.width / 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, K)."""
        side = self.description.image_px
        if images.dim() != 4 or tuple(images.shape[1:]) != (3, side, side) or not images.is_floating_point():
            raise RequestError(
                f"variant {self.variant!r} takes floating point (B, 3, {side}, {side}), 0..255 less the mean; "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        x = images if self.description.input_scale == 1 else images * self.description.input_scale
        for layer in self.description.layers:
            match layer:
                case Convolution():
                    if layer.end_padding:
                        x = F.pad(x, (0, layer.end_padding, 0, layer.end_padding))
                    x = self.get_submodule(layer.name)(x)
                case Dense() | Drop():
                    x = self.get_submodule(layer.name)(x)
                case Rectify():
                    x = F.relu(x)
                case Normalise():
                    x = local_response_norm(x, layer.size, layer.alpha, layer.beta, layer.k, layer.columns)
                case Pool():
                    x = max_pool(x, layer.size, layer.stride)
                case Flatten():
                    x = x.flatten(1)
        return x

    def seed_dropout(self, generator: torch.Generator) -> None:
        """Draw all dropout masks from `generator` from now on; it must live on the network's device."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.generator = generator
