"""The network, written so that it can be compared with section 3 of the paper.

Axes: B images, C channels, H x W positions, D features, K classes. A variant (`alexnet.model.variants`) is a tuple of
layer specifications; `AlexNet` builds the modules of the layers with weights and runs all layers in order.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from alexnet.errors import RequestError
from alexnet.model import kernels
from alexnet.model.convolution import Convolution2d
from alexnet.model.fusion import ConvEpilogue, Fused, fuse, fuse_epilogues
from alexnet.model.kernels.operators import norm_pool
from alexnet.model.kernels.operators import same_map_norm as fused_same_map_norm
from alexnet.model.layer_specs import (
    AveragePool,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    LayerSpec,
    LocallyConnected,
    MaxPool,
    ReLU,
    SameMapNorm,
    Sigmoid,
    SizedLayer,
    Tanh,
    WeightedSpec,
    sized_layers,
)
from alexnet.model.layers import (
    ColumnLinear,
    LocallyConnected2d,
    SeededDropout,
    WeightedModule,
    average_pool,
    initialize,
    max_pool,
)
from alexnet.model.response_norm import same_map_norm
from alexnet.model.tensor_names import describe_tensors, rename_as
from alexnet.model.variants import named_variant


class AlexNet(nn.Module):
    """The network of 2012, or one of its named variants.

    Input: float64, float32 or bfloat16 (B, 3, S, S) with S the variant's image side (224 for
    `paper`), RGB on the 0..255 scale minus the mean image. Output: class scores (B, K).

    Args:
        num_classes: K, 2 or more.
        variant: a name in `alexnet.model.variants.VARIANTS`.
        width: factor on the channels and units of every layer but the last, rounded to even numbers.
        dropout: probability that dropout zeroes a unit.
        generator: source of the initial weights; None is torch's global generator.

    Raises:
        ValueError: a value out of range, an unknown variant, or an input of another shape or dtype.

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
        self.spec = named_variant(variant)
        if num_classes < 2:
            raise RequestError(f"num_classes is {num_classes}; a network needs 2 or more")
        if not 0 < width <= 4:
            raise RequestError(f"width is {width}; allowed is above 0, up to 4")
        self.num_classes, self.variant, self.width, self.dropout = num_classes, variant, width, dropout
        self.fused_ops = fuse(self.spec.layers)
        self.compiled_ops = fuse_epilogues(self.fused_ops)
        kernels.load()
        self.sized_layers = tuple(sized_layers(self.spec, num_classes, width))
        keeps_ties = any(isinstance(spec, MaxPool) and spec.ties == "every" for spec in self.spec.layers)
        for layer in self.sized_layers:
            spec = layer.spec
            if isinstance(spec, Dropout):
                self.add_module(spec.name, SeededDropout(dropout, spec.inverted))
            elif isinstance(spec, WeightedSpec):
                module = _weighted_module(layer, keeps_ties)
                initialize(module, layer.fan_in, spec.init_std, spec.bias, generator)
                self.add_module(spec.name, module)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, K)."""
        self.require_images(images)
        x = self.scale(images)
        for op in self.compiled_ops:
            x = self.compute(op, x)
        return x

    def require_images(self, images: torch.Tensor) -> None:
        """Raise RequestError unless this is a batch of images that the network reads."""
        side = self.spec.image_px
        if images.dim() != 4 or tuple(images.shape[1:]) != (3, side, side) or not images.is_floating_point():
            raise RequestError(
                f"variant {self.variant!r} takes floating point (B, 3, {side}, {side}), 0..255 minus the mean; "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `torch.nn.Module.load_state_dict`, but if any tensor does not fit, nothing is loaded.

        State dicts of a network in DistributedDataParallel, DataParallel or `torch.compile` fit too: what the wrapper
        put into the names (`module.`, `_orig_mod.`) is ignored.

        Raises:
            RequestError: a tensor is missing, does not belong to this network, has another shape, or is there twice.
        """
        own = self.state_dict()
        given = rename_as(own, state_dict)
        missing = [name for name in own if name not in given] if strict else []
        unexpected = [name for name in given if name not in own] if strict else []
        shapes = [
            f"{name} is {tuple(given[name].shape)} and must be {tuple(tensor.shape)}"
            for name, tensor in own.items()
            if name in given and given[name].shape != tensor.shape
        ]
        if missing or unexpected or shapes:
            problems = (
                [f"{name} is missing" for name in missing] + [f"{name} is unexpected" for name in unexpected] + shapes
            )
            raise RequestError(
                f"these are not the weights of variant {self.variant!r} of width {self.width:g} with "
                f"{self.num_classes:,} classes: {problems[0]}"
                + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
                + f"; {_advice_for(state_dict)}"
            )
        return super().load_state_dict(given, strict, assign)

    def compute(self, op: LayerSpec | Fused | ConvEpilogue, x: torch.Tensor) -> torch.Tensor:
        """Run one of `fused_ops` or `compiled_ops`."""
        match op:
            case ConvEpilogue(convolution=convolution, epilogue=epilogue):
                module = self.get_submodule(convolution.name)
                # A module that replaced the layer computes its own bias.
                if type(module) is Convolution2d and module.bias is not None and module.bias_in_epilogue(x):
                    sums = module.without_bias(x)
                    # The precision in which autocast would pass the bias to the convolution.
                    return norm_pool(sums, op.norm_pool, module.bias.to(sums.dtype))
                return self.compute(epilogue, self.compute(convolution, x))
            case Fused():
                return norm_pool(x, op.norm_pool) if kernels.supports_fused(x) else op.norm_pool.reference(x)
            case Convolution() | LocallyConnected() | Dense() | Dropout():
                result: torch.Tensor = self.get_submodule(op.name)(x)
                return result
            case ReLU():
                return F.relu(x)
            case Tanh():
                return torch.tanh(x)
            case Sigmoid():
                return torch.sigmoid(x)
            case SameMapNorm():
                norm = fused_same_map_norm if kernels.supports_fused(x) else same_map_norm
                return norm(x, op.size, op.alpha, op.beta)
            case MaxPool():
                return max_pool(x, op.size, op.stride, op.ties)
            case AveragePool():
                return average_pool(x, op.size, op.stride, op.divisor)
            case Flatten():
                return x.flatten(1)
            case _:
                raise AssertionError(f"{op} is part of no network")

    def scale(self, images: torch.Tensor) -> torch.Tensor:
        """The images (B, 3, H, W) multiplied by `input_scale`."""
        scale = self.spec.input_scale
        if isinstance(scale, tuple):
            # Filled on the device: a graph that is being captured cannot copy from host memory.
            factors = [torch.full((1, 1, 1), one, dtype=images.dtype, device=images.device) for one in scale]
            return images * torch.cat(factors)
        return images if scale == 1 else images * scale

    def set_microbatch(self, rows: slice | None, num: int = 0) -> None:
        """Declare that the next images are these rows of a batch of `num`; None is a whole batch.

        Dropout then uses these rows of the whole batch's masks. The first rows of a batch must come first.
        """
        for module in self.modules():
            if isinstance(module, SeededDropout):
                module.expect(None if rows is None else (rows, num))

    def seed_dropout(self, generator: torch.Generator) -> None:
        """Draw all dropout masks from `generator` from now on; it must live on the network's device."""
        for module in self.modules():
            if isinstance(module, SeededDropout):
                module.generator = generator


def _advice_for(state_dict: Mapping[str, Any]) -> str:
    """What to do with a state dict that does not fit."""
    nested = [name for name, value in state_dict.items() if isinstance(value, Mapping)]
    if nested:
        return f"they are a dictionary that holds {', '.join(nested)}; pass the one of these that has the weights"
    shapes = {name: tuple(value.shape) for name, value in state_dict.items() if isinstance(value, torch.Tensor)}
    return f"they {describe_tensors(shapes)}; create the network that they belong to, or use alexnet.load"


def _weighted_module(layer: SizedLayer, keeps_ties: bool) -> WeightedModule:
    """The layer's module, its weights not initialized yet; `keeps_ties` as in `Convolution2d`."""
    match layer.spec:
        case Convolution() as spec:
            return Convolution2d(
                layer.in_channels,
                layer.out_channels,
                spec.kernel,
                spec.stride,
                spec.padding,
                groups=spec.columns,
                end_padding=spec.end_padding,
                keeps_ties=keeps_ties,
            )
        case LocallyConnected() as spec:
            return LocallyConnected2d(layer.in_channels, layer.out_channels, spec.kernel, spec.padding, layer.out_side)
        case Dense(columns=columns) if columns > 1:
            return ColumnLinear(layer.in_channels, layer.out_channels, columns)
        case Dense():
            return nn.Linear(layer.in_channels, layer.out_channels)
        case _:
            raise AssertionError(f"{layer.spec} has no weights")
