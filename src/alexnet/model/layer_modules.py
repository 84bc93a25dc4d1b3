"""The torch module of each layer, and whether the modules may be skipped for a faster operation that computes the same.

They are torch's own classes wherever torch has one, so that tools that look for `nn.ReLU` or `nn.MaxPool2d` find them.

Axes: B images, C channels, H x W positions.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

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
    ResponseNorm,
    SameMapNorm,
    Sigmoid,
    SizedLayer,
    Tanh,
    WeightedSpec,
)
from alexnet.model.layers import (
    ColumnLinear,
    LocallyConnected2d,
    OneNode,
    SeededDropout,
    initialize,
    max_pool,
)
from alexnet.model.response_norm import local_response_norm, same_map_norm


class InputScale(OneNode):
    """Multiply the images by a factor, or each color by its own."""

    def __init__(self, factor: float | tuple[float, float, float]) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        if isinstance(self.factor, tuple):
            # Filled on the device: a graph that is being captured cannot copy from host memory.
            factors = [torch.full((1, 1, 1), one, dtype=images.dtype, device=images.device) for one in self.factor]
            return images * torch.cat(factors)
        return images * self.factor

    def extra_repr(self) -> str:
        return f"factor={self.factor}"


class ResponseNorm2d(OneNode):
    """Response normalization across neighboring channels, see `alexnet.local_response_norm`."""

    def __init__(self, spec: ResponseNorm) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        one = self.spec
        return local_response_norm(x, one.size, one.alpha, one.beta, one.k, one.columns, one.alpha_per_element)

    def extra_repr(self) -> str:
        return _settings(self.spec)


class SameMapNorm2d(OneNode):
    """Response normalization across neighboring positions, see `alexnet.model.response_norm.same_map_norm`."""

    def __init__(self, spec: SameMapNorm) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return same_map_norm(x, self.spec.size, self.spec.alpha, self.spec.beta)

    def extra_repr(self) -> str:
        return _settings(self.spec)


class EveryTieMaxPool2d(OneNode, nn.MaxPool2d):
    """Max-pooling whose gradient goes to each of several equal maxima of a window, as in the source."""

    kernel_size: int
    stride: int

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        return max_pool(input, self.kernel_size, self.stride, "every")


def _settings(spec: ResponseNorm | SameMapNorm) -> str:
    return ", ".join(f"{name}={value}" for name, value in vars(spec).items())


def build_modules(
    layer: SizedLayer, dropout: float, generator: torch.Generator | None
) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a layer by name, in the order in which they run; weights are drawn from `generator`."""
    spec = layer.spec
    if isinstance(spec, Convolution) and spec.end_padding:
        yield pad_name(layer.name), nn.ZeroPad2d((0, spec.end_padding, 0, spec.end_padding))
    module = _build(layer, dropout)
    if isinstance(spec, WeightedSpec):
        initialize(module, layer.fan_in, spec.init_std, spec.bias, generator)
    yield layer.name, module


def _build(layer: SizedLayer, dropout: float) -> Any:
    match layer.spec:
        case Convolution() as spec:
            sizes = (layer.in_channels, layer.out_channels, spec.kernel, spec.stride, spec.padding)
            return nn.Conv2d(*sizes, groups=spec.columns)
        case LocallyConnected() as spec:
            return LocallyConnected2d(layer.in_channels, layer.out_channels, spec.kernel, spec.padding, layer.out_side)
        case Dense(columns=columns) if columns > 1:
            return ColumnLinear(layer.in_channels, layer.out_channels, columns)
        case Dense():
            return nn.Linear(layer.in_channels, layer.out_channels)
        case ReLU():
            return nn.ReLU()
        case Tanh():
            return nn.Tanh()
        case Sigmoid():
            return nn.Sigmoid()
        case ResponseNorm() as spec:
            return ResponseNorm2d(spec)
        case SameMapNorm() as spec:
            return SameMapNorm2d(spec)
        case MaxPool(size=size, stride=stride, ties=ties):
            kind = nn.MaxPool2d if ties == "one" else EveryTieMaxPool2d
            return kind(size, stride, ceil_mode=True)  # the last window is clipped, see `max_pool`
        case AveragePool(size=size, stride=stride, divisor=divisor):
            positions = size**2 if divisor == "whole" else None
            return nn.AvgPool2d(size, stride, ceil_mode=True, count_include_pad=False, divisor_override=positions)
        case Dropout(inverted=inverted):
            return SeededDropout(dropout, inverted)
        case Flatten():
            return nn.Flatten()


def computes(module: nn.Module, spec: LayerSpec) -> bool:
    """Whether a module without hooks computes the layer, whatever its weights."""
    match spec:
        case Convolution():
            return type(module) is nn.Conv2d and _is_square(module)
        case LocallyConnected():
            return type(module) is LocallyConnected2d
        case Dense():
            return type(module) in (nn.Linear, ColumnLinear)
        case ReLU():
            return type(module) is nn.ReLU
        case Tanh():
            return type(module) is nn.Tanh
        case Sigmoid():
            return type(module) is nn.Sigmoid
        case ResponseNorm():
            return type(module) is ResponseNorm2d and module.spec == spec
        case SameMapNorm():
            return type(module) is SameMapNorm2d and module.spec == spec
        case MaxPool(size=size, stride=stride, ties=ties):
            kind = nn.MaxPool2d if ties == "one" else EveryTieMaxPool2d
            return type(module) is kind and (
                module.kernel_size,
                module.stride,
                module.padding,
                module.dilation,
                module.ceil_mode,
                module.return_indices,
            ) == (size, stride, 0, 1, True, False)
        case AveragePool(size=size, stride=stride, divisor=divisor):
            return type(module) is nn.AvgPool2d and (
                module.kernel_size,
                module.stride,
                module.padding,
                module.ceil_mode,
                module.count_include_pad,
                module.divisor_override,
            ) == (size, stride, 0, True, False, size**2 if divisor == "whole" else None)
        case Dropout(inverted=inverted):
            return type(module) is SeededDropout and module.inverted == inverted
        case Flatten():
            return type(module) is nn.Flatten


def _is_square(conv: nn.Conv2d) -> bool:
    """Whether it is of the kind that the fast algorithms know."""
    settings = (conv.kernel_size, conv.stride, conv.padding)
    return conv.dilation == (1, 1) and conv.padding_mode == "zeros" and all(one[0] == one[1] for one in settings)


def pads(module: nn.Module, spec: Convolution) -> bool:
    """Whether a module without hooks adds the zeros of `end_padding`."""
    return type(module) is nn.ZeroPad2d and module.padding == (0, spec.end_padding, 0, spec.end_padding)


def pad_name(conv_name: str) -> str:
    """The name of the module that adds `end_padding` before a convolution."""
    return conv_name.replace("conv", "pad")


def is_hooked(module: nn.Module) -> bool:
    """Whether hooks of this module, or another `forward` of its own, have to see its input or output."""
    return changes_forward(module) or bool(module._backward_hooks or module._backward_pre_hooks)


def changes_forward(module: nn.Module) -> bool:
    """Whether hooks of this module, or another `forward` of its own, may change its output."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def is_observed(x: torch.Tensor) -> bool:
    """Whether every module must run: torch.fx traces it, or a global hook or a dispatch mode sees all operations."""
    if isinstance(x, torch.fx.Proxy) or _has_any_global_hook():  # type: ignore[no-untyped-call]
        return True
    return not torch.compiler.is_compiling() and is_in_torch_dispatch_mode(include_infra_modes=False)
