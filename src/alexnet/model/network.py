"""The network, written so that it can be held against section 3 of the paper, and its variants.

Axes: B images, C maps, H W places, D features, K classes. A variant is a tuple of layer descriptions;
`AlexNet` builds what it says and runs it in that order. The networks for CIFAR-10 stand in `model/cifar.py`;
docs/fidelity.md holds all differences in one table.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from alexnet.errors import RequestError
from alexnet.model import kernels
from alexnet.model.cifar import CIFAR_VARIANTS
from alexnet.model.convolution import Convolution2d
from alexnet.model.fusion import ConvEpilogue, Fused, fused, with_epilogues
from alexnet.model.kernels.operators import norm_pool
from alexnet.model.kernels.operators import same_map_norm as fused_same_map_norm
from alexnet.model.layer_specs import (
    Convolution,
    Dense,
    Drop,
    Flatten,
    Layer,
    LocallyConnected,
    NetworkSpec,
    Pool,
    ReLU,
    ResponseNorm,
    SameMapNorm,
    SizedLayer,
    Squash,
    sized_layers,
)
from alexnet.model.layers import (
    ColumnLinear,
    Dropout,
    LocallyConnected2d,
    WeightedModule,
    average_pool,
    initialize,
    max_pool,
)
from alexnet.model.response_norm import same_map_norm

PAPER = NetworkSpec(
    source="Krizhevsky, Sutskever and Hinton 2012, section 3.5",
    image_px=224,
    layers=(
        # 224 -> 55: the last window ends three pixels beyond the image (docs/decisions/003).
        Convolution(name="conv1", maps=96, kernel=11, stride=4, end_padding=3),
        ReLU(),
        ResponseNorm(columns=2),
        Pool(),  # 55 -> 27
        Convolution(name="conv2", maps=256, kernel=5, padding=2, columns=2, bias=1),
        ReLU(),
        ResponseNorm(columns=2),
        Pool(),  # 27 -> 13
        Convolution(name="conv3", maps=384, kernel=3, padding=1),
        ReLU(),
        Convolution(name="conv4", maps=384, kernel=3, padding=1, columns=2, bias=1),
        ReLU(),
        Convolution(name="conv5", maps=256, kernel=3, padding=1, columns=2, bias=1),
        ReLU(),
        Pool(),  # 13 -> 6
        Flatten(),
        Dense(name="fc6", units=4096, bias=1),
        ReLU(),
        Drop("drop6"),
        Dense(name="fc7", units=4096, bias=1),
        ReLU(),
        Drop("drop7"),
        Dense(name="fc8", units=None),
    ),
)
"""The network as the paper's text describes it."""

# Flattening and fc6 to fc8 with their rectifying and dropout: the same in nearly all that follows.
_HEAD = PAPER.layers[-8:]
_SOURCE_NORM = ResponseNorm(columns=2, alpha_per_element=False)
_SOURCE_POOL = Pool(ties="every")

ORIGINAL = NetworkSpec(
    source="the original source, layers-145: the network that made the paper's numbers",
    image_px=224,
    layers=(
        Convolution(name="conv1", maps=96, kernel=11, stride=4, end_padding=3),
        _SOURCE_NORM,  # of signed activations
        _SOURCE_POOL,
        ReLU(),
        Convolution(name="conv2", maps=256, kernel=5, padding=2, columns=2, bias=1),
        ReLU(),
        _SOURCE_NORM,
        SameMapNorm(),
        _SOURCE_POOL,
        Convolution(name="conv3", maps=384, kernel=3, padding=1, deviation=0.03),
        ReLU(),
        Convolution(name="conv4", maps=384, kernel=3, padding=1, columns=2, deviation=0.03, bias=1),
        ReLU(),
        Convolution(name="conv5", maps=256, kernel=3, padding=1, columns=2, deviation=0.03, bias=1),
        _SOURCE_POOL,
        ReLU(),
        *_HEAD,
    ),
)
"""The network as its authors ran it."""


def _changed(base: NetworkSpec, source: str, changes: dict[str, Layer]) -> NetworkSpec:
    """`base` with the layers of these names exchanged."""
    layers = tuple(changes.get(getattr(layer, "name", ""), layer) for layer in base.layers)
    return replace(base, source=source, layers=layers)


def _exchanged(base: NetworkSpec, source: str, kind: type[Layer], *instead: Layer) -> NetworkSpec:
    """`base` with every layer of a kind exchanged for the layers `instead`, none or more."""
    layers = tuple(new for layer in base.layers for new in (instead if isinstance(layer, kind) else (layer,)))
    return replace(base, source=source, layers=layers)


def _minus(name: str) -> NetworkSpec:
    """`paper` without one middle layer and what follows it up to the next pooling or weights.

    Poolings stay, so every layer that is left reads maps of its published side. Without conv3, where the
    columns meet, they meet in conv4: only the depth changes (docs/decisions/009).
    """
    layers: list[Layer] = []
    removing = False
    for layer in PAPER.layers:
        if isinstance(layer, Convolution | Dense):
            removing = layer.name == name
        if not removing or isinstance(layer, Pool | Flatten):
            layers.append(layer)
    minus = replace(PAPER, source=f"paper, section 7: `paper` without {name}", layers=tuple(layers))
    if name != "conv3":
        return minus
    conv4 = next(layer for layer in PAPER.layers if isinstance(layer, Convolution) and layer.name == "conv4")
    return _changed(minus, minus.source, {"conv4": replace(conv4, columns=1)})


_ONE_GPU = replace(
    ORIGINAL,
    source="paper, section 3.2, and the source's layers-145-half: one column, conv5 as wide as two",
    layers=(
        Convolution(name="conv1", maps=48, kernel=11, stride=4, end_padding=3),
        ResponseNorm(alpha_per_element=False),
        _SOURCE_POOL,
        ReLU(),
        Convolution(name="conv2", maps=128, kernel=5, padding=2, bias=1),
        ReLU(),
        ResponseNorm(alpha_per_element=False),
        SameMapNorm(),
        _SOURCE_POOL,
        Convolution(name="conv3", maps=192, kernel=3, padding=1, deviation=0.03),
        ReLU(),
        Convolution(name="conv4", maps=192, kernel=3, padding=1, deviation=0.03, bias=1),
        ReLU(),
        Convolution(name="conv5", maps=256, kernel=3, padding=1, deviation=0.03, bias=1),
        _SOURCE_POOL,
        ReLU(),
        *_HEAD,
    ),
)

_NO_NORM = _exchanged(
    _exchanged(ORIGINAL, "", ResponseNorm),
    "paper, section 3.3, and the source's layers-148: `original` without normalization of either kind",
    SameMapNorm,
)

_NON_OVERLAPPING = _changed(
    _exchanged(ORIGINAL, "", Pool, Pool(size=2, stride=2, ties="every")),
    "paper, section 3.4, and the source's layers-147: windows of 2, 2 apart; borders keep the later sizes",
    {
        "conv2": Convolution(name="conv2", maps=256, kernel=5, padding=1, columns=2, bias=1),
        "conv5": Convolution(name="conv5", maps=256, kernel=3, columns=2, deviation=0.03, bias=1),
    },
)

_NO_COMMUNICATION = _changed(
    ORIGINAL,
    "the source's layers-150: the columns meet in the last layer only; wider conv2 and fc6",
    {
        "conv2": Convolution(name="conv2", maps=320, kernel=5, padding=2, columns=2, bias=1),
        "conv3": Convolution(name="conv3", maps=384, kernel=3, padding=1, columns=2, deviation=0.03),
        "fc6": Dense(name="fc6", units=8192, columns=2, bias=1),
        "fc7": Dense(name="fc7", units=4096, columns=2, bias=1),
    },
)

_SIX_CONV = replace(
    ORIGINAL,
    source="paper, section 6, and the source's layers-146: a sixth convolution over the last pooling layer",
    layers=(
        *ORIGINAL.layers[: -len(_HEAD)],
        Convolution(name="conv6", maps=256, kernel=3, padding=1, deviation=0.03, bias=1),
        ReLU(),
        *_HEAD,
    ),
)

_SIX_CONV_22K = replace(
    _SIX_CONV,
    source="the source's layers-146-2011: six-conv with two linear layers of 1,024 before its 21,843 classes",
    # The two layers of 1,024 read the same and are read together: one of 2,048.
    layers=(*_SIX_CONV.layers[:-1], Dense(name="fc8", units=2048), Dense(name="fc9", units=None)),
)

_CAFFE_NORM = ResponseNorm(k=1, alpha_per_element=False)

_CAFFE = NetworkSpec(
    source="Caffe's bvlc_alexnet: 227 pixels, normalization across the columns' border with k = 1, biases 0.1",
    image_px=227,
    layers=(
        Convolution(name="conv1", maps=96, kernel=11, stride=4),
        ReLU(),
        _CAFFE_NORM,
        Pool(),
        Convolution(name="conv2", maps=256, kernel=5, padding=2, columns=2, bias=0.1),
        ReLU(),
        _CAFFE_NORM,
        Pool(),
        Convolution(name="conv3", maps=384, kernel=3, padding=1),
        ReLU(),
        Convolution(name="conv4", maps=384, kernel=3, padding=1, columns=2, bias=0.1),
        ReLU(),
        Convolution(name="conv5", maps=256, kernel=3, padding=1, columns=2, bias=0.1),
        ReLU(),
        Pool(),
        Flatten(),
        Dense(name="fc6", units=4096, deviation=0.005, bias=0.1),
        ReLU(),
        Drop("drop6", inverted=True),
        Dense(name="fc7", units=4096, deviation=0.005, bias=0.1),
        ReLU(),
        Drop("drop7", inverted=True),
        Dense(name="fc8", units=None),
    ),
)

_TORCHVISION = NetworkSpec(
    source="torchvision's alexnet, after Krizhevsky 2014: one column, other widths, no normalization",
    image_px=224,
    # It reads colors from 0 to 1, less the mean, divided by these deviations.
    input_scale=(1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)),
    layers=(
        Convolution(name="conv1", maps=64, kernel=11, stride=4, padding=2, deviation="uniform"),
        ReLU(),
        Pool(),  # 55 -> 27
        Convolution(name="conv2", maps=192, kernel=5, padding=2, deviation="uniform"),
        ReLU(),
        Pool(),  # 27 -> 13
        Convolution(name="conv3", maps=384, kernel=3, padding=1, deviation="uniform"),
        ReLU(),
        Convolution(name="conv4", maps=256, kernel=3, padding=1, deviation="uniform"),
        ReLU(),
        Convolution(name="conv5", maps=256, kernel=3, padding=1, deviation="uniform"),
        ReLU(),
        Pool(),  # 13 -> 6; the adaptive average that follows there changes nothing at 224 pixels
        Flatten(),
        Drop("drop6", inverted=True),
        Dense(name="fc6", units=4096, deviation="uniform"),
        ReLU(),
        Drop("drop7", inverted=True),
        Dense(name="fc7", units=4096, deviation="uniform"),
        ReLU(),
        Dense(name="fc8", units=None, deviation="uniform"),
    ),
)

VARIANTS = {
    "paper": PAPER,
    "original": ORIGINAL,
    "one-gpu": _ONE_GPU,
    "no-norm": _NO_NORM,
    "non-overlapping": _NON_OVERLAPPING,
    "no-communication": _NO_COMMUNICATION,
    "six-conv": _SIX_CONV,
    "six-conv-22k": _SIX_CONV_22K,
    "tanh": _exchanged(PAPER, "paper, section 3.1: `paper` with tanh for rectifying", ReLU, Squash("tanh")),
    "sigmoid": _exchanged(PAPER, "`paper` with the logistic function for rectifying", ReLU, Squash("sigmoid")),
    **{f"minus-{name}": _minus(name) for name in ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7")},
    "caffe": _CAFFE,
    "torchvision": _TORCHVISION,
    **CIFAR_VARIANTS,
}
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
        self.stages = fused(self.description.layers)
        self.passes = with_epilogues(self.stages)
        kernels.load()
        self.sized_layers = tuple(sized_layers(self.description, num_classes, width))
        ties = any(isinstance(layer, Pool) and layer.ties == "every" for layer in self.description.layers)
        for place in self.sized_layers:
            if isinstance(place.layer, Drop):
                self.add_module(place.layer.name, Dropout(dropout, place.layer.inverted))
            elif isinstance(place.layer, Convolution | LocallyConnected | Dense):
                module = _weighted_module(place, ties)
                initialize(module, place.fan_in, place.layer.deviation, place.layer.bias, generator)
                self.add_module(place.layer.name, module)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, K)."""
        self.require_images(images)
        x = self.scale(images)
        for stage in self.passes:
            x = self.compute(stage, x)
        return x

    def require_images(self, images: torch.Tensor) -> None:
        """Refuse what is not a batch of the images that the network reads."""
        side = self.description.image_px
        if images.dim() != 4 or tuple(images.shape[1:]) != (3, side, side) or not images.is_floating_point():
            raise RequestError(
                f"variant {self.variant!r} takes floating point (B, 3, {side}, {side}), 0..255 less the mean; "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `torch.nn.Module.load_state_dict`; weights of other layers are refused before any is taken.

        Raises:
            RequestError: a tensor is missing, is not of this network, or has another shape.
        """
        own, given = self.state_dict(), state_dict
        missing = [name for name in own if name not in given] if strict else []
        unknown = [name for name in given if name not in own] if strict else []
        shapes = [
            f"{name} is {tuple(given[name].shape)} and must be {tuple(tensor.shape)}"
            for name, tensor in own.items()
            if name in given and given[name].shape != tensor.shape
        ]
        if missing or unknown or shapes:
            found = (
                [f"{name} is missing" for name in missing] + [f"{name} is not a layer's" for name in unknown] + shapes
            )
            raise RequestError(
                f"these are not the weights of variant {self.variant!r} of width {self.width:g}: {found[0]}"
                + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
                + "; make the network that they are of, or let alexnet.load do so"
            )
        return super().load_state_dict(state_dict, strict, assign)

    def compute(self, stage: Layer | Fused | ConvEpilogue, x: torch.Tensor) -> torch.Tensor:
        """What one of `stages`, or of `passes`, makes of what the one before it made."""
        match stage:
            case ConvEpilogue(convolution=convolution, behind=behind):
                module = self.get_submodule(convolution.name)
                # What somebody has put in a layer's place is asked for all of it.
                if type(module) is Convolution2d and module.bias is not None and module.bias_in_epilogue(x):
                    sums = module.without_bias(x)
                    # As precise as where autocast hands it to the convolution.
                    return norm_pool(sums, stage.form, module.bias.to(sums.dtype))
                return self.compute(behind, self.compute(convolution, x))
            case Fused(form=form):
                return norm_pool(x, form) if kernels.supports_fused(x) else form.plain(x)
            case Convolution() | LocallyConnected() | Dense() | Drop():
                return self._module(stage.name, x)
            case ReLU():
                return F.relu(x)
            case Squash():
                return torch.tanh(x) if stage.function == "tanh" else torch.sigmoid(x)
            case SameMapNorm():
                norm = fused_same_map_norm if kernels.supports_fused(x) else same_map_norm
                return norm(x, stage.size, stage.alpha, stage.beta)
            case Pool(kind="max"):
                return max_pool(x, stage.size, stage.stride, stage.ties)
            case Pool():
                return average_pool(x, stage.size, stage.stride, stage.divisor)
            case Flatten():
                return x.flatten(1)
            case _:
                raise AssertionError(f"{stage} stands in no network")

    def _module(self, name: str, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.get_submodule(name)(x)
        return result

    def scale(self, images: torch.Tensor) -> torch.Tensor:
        """Images as the first layer reads them, (B, 3, H, W)."""
        scale = self.description.input_scale
        if isinstance(scale, tuple):
            # Filled on the device: a graph that is being captured cannot copy from the processor's memory.
            factors = [torch.full((1, 1, 1), one, dtype=images.dtype, device=images.device) for one in scale]
            return images * torch.cat(factors)
        return images if scale == 1 else images * scale

    def set_microbatch(self, rows: slice | None, num: int = 0) -> None:
        """Say that the next images are these rows of a batch of `num`, the first ones first; None is a whole batch.

        Dropout then draws the masks that the whole batch would have had.
        """
        for module in self.modules():
            if isinstance(module, Dropout):
                module.expect(None if rows is None else (rows, num))

    def seed_dropout(self, generator: torch.Generator) -> None:
        """Draw all dropout masks from `generator` from now on; it must live on the network's device."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.generator = generator


def _weighted_module(place: SizedLayer, ties: bool) -> WeightedModule:
    """The layer's module, its weights still without values; `ties` if equal activations must stay equal."""
    maps, outputs = place.reads[0], place.writes[0]
    match place.layer:
        case Convolution(kernel=kernel, stride=stride, padding=padding, columns=columns, end_padding=end):
            return Convolution2d(maps, outputs, kernel, stride, padding, groups=columns, end=end, keeps_ties=ties)
        case LocallyConnected(kernel=kernel, padding=padding):
            return LocallyConnected2d(maps, outputs, kernel, padding, place.writes[1])
        case Dense(columns=columns) if columns > 1:
            return ColumnLinear(maps, outputs, columns)
        case Dense():
            return nn.Linear(maps, outputs)
        case _:
            raise AssertionError(f"{place.layer} has no weights")
