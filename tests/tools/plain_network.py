"""A network's known answers: the same layers as a sequence of torch's own modules, built from the variant's definition.

Nothing here runs the project's operations. Tools give right answers for a plain sequence, so what they give for
`AlexNet` can be compared with it.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from tests.model.varied_networks import VARIED
from torch import nn

from alexnet import AlexNet
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
    sized_layers,
)

DISTINCT = (
    *VARIED,
    "torchvision",
    "non-overlapping",
    "no-communication",
    "tanh",
    "minus-conv2",
    "cifar-13pct",
    "quick",
)
"""Variants that together have everything in which variants differ."""


class Scale(nn.Module):
    """Images times one number, or one per color."""

    def __init__(self, factors: float | tuple[float, float, float]) -> None:
        super().__init__()
        self.factors = torch.tensor(factors, dtype=torch.float64).reshape(-1, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.factors.to(images.dtype)


class ChannelNorm(nn.Module):
    """x / (k + factor * sum of squares over neighboring channels of a column) ** beta, as the formula says it."""

    def __init__(self, spec: ResponseNorm) -> None:
        super().__init__()
        self.spec = spec
        self.factor = spec.alpha if spec.alpha_per_element else spec.alpha / spec.size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for part in x.chunk(self.spec.columns, 1):
            squares, channels = part.square(), part.shape[1]
            windows = [
                squares[:, max(0, one - self.spec.size // 2) : one + (self.spec.size - 1) // 2 + 1].sum(1)
                for one in range(channels)
            ]
            parts.append(part / (self.spec.k + self.factor * torch.stack(windows, 1)) ** self.spec.beta)
        return torch.cat(parts, 1)


class MapNorm(nn.Module):
    """x / (1 + alpha / size ** 2 * sum of squares over neighboring positions) ** beta."""

    def __init__(self, spec: SameMapNorm) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Zeros beyond the edges count as positions, as the divisor size ** 2 says.
        means = F.avg_pool2d(x.square(), self.spec.size, 1, self.spec.size // 2, count_include_pad=True)
        return x / (1 + self.spec.alpha * means) ** self.spec.beta


class Local(nn.Module):
    """A convolution with separate weights at every position, position by position."""

    def __init__(self, spec: LocallyConnected, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.spec, self.weight, self.bias = spec, nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = F.pad(x, (self.spec.padding,) * 4)
        side, kernel = self.weight.shape[0], self.spec.kernel
        rows = [
            torch.stack(
                [
                    F.conv2d(padded[..., y : y + kernel, z : z + kernel], self.weight[y, z])[..., 0, 0]
                    for z in range(side)
                ],
                -1,
            )
            for y in range(side)
        ]
        return torch.stack(rows, -2) + self.bias


class DenseColumns(nn.Module):
    """A dense layer in columns, each of which is a dense layer."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, columns: int) -> None:
        super().__init__()
        self.weight, self.bias, self.columns = nn.Parameter(weight), nn.Parameter(bias), columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = torch.block_diag(*self.weight.chunk(self.columns))
        return x @ whole.T + self.bias


class SourcePool(nn.MaxPool2d):
    """Max-pooling whose gradient goes in full to each of several equal maxima of a window.

    Tools that have a rule for exactly `nn.MaxPool2d` have none for it.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, stride = int(self.kernel_size), int(self.stride)  # type: ignore[arg-type]
        side = -(-(x.shape[2] - size) // stride) + 1
        beyond = (side - 1) * stride + size - x.shape[2]
        padded = F.pad(x, (0, beyond, 0, beyond), value=torch.finfo(x.dtype).min)
        windows = F.unfold(padded, size, stride=stride).unflatten(1, (x.shape[1], size * size))
        largest = windows.amax(2, keepdim=True).detach()
        ties = torch.where(windows == largest, windows - largest, 0)  # zeros, with the gradients of the maxima
        return (largest[:, :, 0] + ties.sum(2)).unflatten(2, (side, side))


class Keep(nn.Module):
    """The paper's dropout in evaluation: every unit times the probability of keeping it."""

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.keep


def plain_network(network: AlexNet) -> nn.Sequential:
    """The network in evaluation as one module per layer, with copies of its weights."""
    return nn.Sequential(*_modules(network)).eval()


def _modules(network: AlexNet) -> Iterator[nn.Module]:
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    if network.spec.input_scale != 1:
        yield Scale(network.spec.input_scale)
    for layer in sized_layers(network.spec, network.num_classes, network.width):
        name = getattr(layer.spec, "name", "")
        yield from _layer_modules(layer, state.get(f"{name}.weight"), state.get(f"{name}.bias"), network.dropout)


def _layer_modules(
    layer: SizedLayer, weight: torch.Tensor | None, bias: torch.Tensor | None, dropout: float
) -> Iterator[nn.Module]:
    spec: LayerSpec = layer.spec
    match spec:
        case Convolution():
            if spec.end_padding:
                yield nn.ZeroPad2d((0, spec.end_padding, 0, spec.end_padding))
            convolution = nn.Conv2d(
                layer.in_channels, layer.out_channels, spec.kernel, spec.stride, spec.padding, groups=spec.columns
            )
            yield _with_weights(convolution, weight, bias)
        case Dense() if spec.columns == 1:
            yield _with_weights(nn.Linear(layer.in_channels, layer.out_channels), weight, bias)
        case Dense():
            assert weight is not None and bias is not None
            yield DenseColumns(weight, bias, spec.columns)
        case LocallyConnected():
            assert weight is not None and bias is not None
            yield Local(spec, weight, bias)
        case ReLU():
            yield nn.ReLU()
        case Tanh():
            yield nn.Tanh()
        case Sigmoid():
            yield nn.Sigmoid()
        case ResponseNorm():
            yield ChannelNorm(spec)
        case SameMapNorm():
            yield MapNorm(spec)
        case MaxPool():
            kind = nn.MaxPool2d if spec.ties == "one" else SourcePool
            yield kind(spec.size, spec.stride, ceil_mode=True)
        case AveragePool():
            divisor = spec.size**2 if spec.divisor == "whole" else None
            yield nn.AvgPool2d(spec.size, spec.stride, 0, True, count_include_pad=False, divisor_override=divisor)
        case Flatten():
            yield nn.Flatten()
        case Dropout():
            yield nn.Identity() if spec.inverted else Keep(1 - dropout)


def _with_weights(
    module: nn.Conv2d | nn.Linear, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> nn.Conv2d | nn.Linear:
    assert weight is not None and bias is not None
    module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
    return module
