"""The networks that `alexnet bench step` compares with, in plain PyTorch."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from alexnet.model.layer_specs import (
    AveragePool,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    LocallyConnected,
    MaxPool,
    NetworkSpec,
    ReLU,
    ResponseNorm,
    SameMapNorm,
    Sigmoid,
    SizedLayer,
    Tanh,
    sized_layers,
)
from alexnet.model.variants import VARIANTS


class _ColumnNorm(nn.Module):
    """torch's response normalization, one column at a time; its alpha is the paper's times the window size."""

    def __init__(self, spec: ResponseNorm) -> None:
        super().__init__()
        self.spec = spec
        self.alpha = spec.alpha * (spec.size if spec.alpha_per_element else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        spec = self.spec
        parts = [
            F.local_response_norm(part, spec.size, alpha=self.alpha, beta=spec.beta, k=spec.k)
            for part in x.chunk(spec.columns, 1)
        ]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


class _PositionNorm(nn.Module):
    """Response normalization over neighboring positions of a channel, which torch lacks."""

    def __init__(self, spec: SameMapNorm) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        mean_square = F.avg_pool2d(x * x, self.spec.size, 1, self.spec.size // 2)
        result: torch.Tensor = x * (1 + self.spec.alpha * mean_square) ** -self.spec.beta
        return result


class _LocalConv(nn.Module):
    """A convolution with its own weights at every position, which torch lacks: windows times weights."""

    def __init__(self, layer: SizedLayer, spec: LocallyConnected) -> None:
        super().__init__()
        self.kernel, self.padding, self.side = spec.kernel, spec.padding, layer.out_side
        limit = 1 / math.sqrt(layer.fan_in)
        positions = layer.out_side**2
        self.weight = nn.Parameter(torch.empty(positions, layer.out_channels, layer.fan_in).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.zeros(layer.out_channels, layer.out_side, layer.out_side))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, D, H', W')."""
        windows = F.unfold(x, self.kernel, padding=self.padding)
        activations = torch.einsum("pdk,bkp->bdp", self.weight, windows)
        return activations.reshape(len(x), -1, self.side, self.side) + self.bias


class _ColumnDense(nn.Module):
    """Dense layers side by side, each reading its own part of the features."""

    def __init__(self, layer: SizedLayer) -> None:
        super().__init__()
        columns = layer.columns
        self.parts = nn.ModuleList(
            nn.Linear(layer.in_channels // columns, layer.out_channels // columns) for _ in range(columns)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, units)."""
        read = x.chunk(len(self.parts), 1)
        return torch.cat([part(values) for part, values in zip(self.parts, read, strict=True)], 1)


def paper_network(num_classes: int = 1000, *, normalized: bool = True) -> nn.Sequential:
    """The paper's network of torch's layers; `normalized=False` omits response normalization, as most copies do.

    (B, 3, 224, 224) -> (B, K). Dropout is torch's, which scales during training.
    """
    return plain_network(VARIANTS["paper"], num_classes, normalized=normalized)


def plain_network(
    spec: NetworkSpec, num_classes: int, *, width: float = 1.0, dropout: float = 0.5, normalized: bool = True
) -> nn.Sequential:
    """A network of torch's layers, one for each of `spec`, as one would write it without this package.

    (B, 3, S, S) -> (B, K). Dropout is torch's, max-pooling gives a window's gradient to one maximum, and images are
    not scaled.

    Args:
        spec: the network.
        num_classes: K.
        width: factor on the widths of all layers but the last.
        dropout: probability.
        normalized: False omits normalization of both kinds.
    """
    modules: list[nn.Module] = []
    for layer in sized_layers(spec, num_classes, width):
        if normalized or not isinstance(layer.spec, ResponseNorm | SameMapNorm):
            modules += _plain_modules(layer, dropout)
    return nn.Sequential(*modules)


def _plain_modules(layer: SizedLayer, dropout: float) -> Iterator[nn.Module]:
    """torch's modules for a layer, in order."""
    match layer.spec:
        case Convolution(kernel=kernel, stride=stride, padding=padding, end_padding=end_padding):
            if end_padding:
                yield nn.ZeroPad2d((0, end_padding, 0, end_padding))
            yield nn.Conv2d(
                layer.in_channels, layer.out_channels, kernel, stride, padding=padding, groups=layer.columns
            )
        case LocallyConnected() as local:
            yield _LocalConv(layer, local)
        case Dense():
            yield nn.Linear(layer.in_channels, layer.out_channels) if layer.columns == 1 else _ColumnDense(layer)
        case ReLU():
            yield nn.ReLU(inplace=True)
        case Tanh():
            yield nn.Tanh()
        case Sigmoid():
            yield nn.Sigmoid()
        case ResponseNorm() as norm:
            yield _ColumnNorm(norm)
        case SameMapNorm() as norm:
            yield _PositionNorm(norm)
        case MaxPool(size=size, stride=stride):
            yield nn.MaxPool2d(size, stride, ceil_mode=True)
        case AveragePool(size=size, stride=stride, divisor=divisor):
            whole = size * size if divisor == "whole" else None
            yield nn.AvgPool2d(size, stride, ceil_mode=True, count_include_pad=False, divisor_override=whole)
        case Dropout():
            yield nn.Dropout(dropout)
        case Flatten():
            yield nn.Flatten()


def torchvision_network(num_classes: int = 1000) -> nn.Sequential:
    """The layers of torchvision's `alexnet` in sequence. (B, 3, 224, 224) -> (B, K)."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d((6, 6)),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(9216, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, num_classes),
    )
