"""Pooling, dropout, dense layers in columns, locally connected layers, first weights: the paper's and its source's.

Axes: B images, C maps (channels), H W places, D features.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from alexnet.errors import RequestError
from alexnet.model.derivatives import needs_reference_ops
from alexnet.model.layer_specs import Deviation, pooled_side


def max_pool(x: torch.Tensor, size: int, stride: int, ties: Literal["one", "every"] = "one") -> torch.Tensor:
    """Largest activation in each window of `size` x `size`, `stride` apart; (B, C, H, W) -> (B, C, H', W').

    H' = ceil((H - size) / stride) + 1: the last window may reach beyond the edge and is cut there, as the
    original source has it. Where several activations of a window are the largest, the gradient goes to one of
    them (`one`, torch) or to each in full (`every`, the source). Paper: section 3.4 (size 3, stride 2:
    windows overlap).

    Raises:
        ValueError: the windows leave gaps (stride above size) or are larger than the maps.
    """
    _check_windows(x, size, stride)
    if ties == "one":
        return F.max_pool2d(x, size, stride, ceil_mode=True)
    if needs_reference_ops(x):
        return _max_pool_to_every(x, size, stride)
    result: torch.Tensor = _MaxPoolToEvery.apply(x, size, stride)  # type: ignore[no-untyped-call]
    return result


def average_pool(
    x: torch.Tensor, size: int, stride: int, divisor: Literal["inside", "whole"] = "inside"
) -> torch.Tensor:
    """Mean activation in each window, windows as in `max_pool`.

    A window cut by the edge has the mean of what is left (`inside`), or the sum of that divided by all its places
    (`whole`), see `Pool`.
    """
    _check_windows(x, size, stride)
    places = size**2 if divisor == "whole" else None
    return F.avg_pool2d(x, size, stride, ceil_mode=True, count_include_pad=False, divisor_override=places)


def _check_windows(x: torch.Tensor, size: int, stride: int) -> None:
    if not 1 <= stride <= size or min(pooled_side(side, size, stride) for side in x.shape[2:]) < 1:
        raise RequestError(
            f"windows of {size} places, {stride} apart, over maps of shape {tuple(x.shape)}: the distance must be 1 up "
            "to the window, and one window must begin and end in the maps or be cut by their edge"
        )


class _MaxPoolToEvery(torch.autograd.Function):
    """Max-pooling that gives the gradient of a window to each of its largest activations."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
        # x: (B, C, H, W) -> (B, C, H', W')
        largest = F.max_pool2d(x, size, stride, ceil_mode=True)
        ctx.save_for_backward(x, largest)
        ctx.window = (size, stride)
        return largest

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, largest = ctx.saved_tensors
        size, stride = ctx.window
        height, width = x.shape[2:]
        padded = _to_whole_windows(x, largest, size, stride)
        total = torch.zeros_like(padded, dtype=torch.promote_types(x.dtype, torch.float32))
        for place in _places(largest, size, stride):
            total[place] += (padded[place] == largest) * gradient
        return total[..., :height, :width].to(x.dtype), None, None


def _max_pool_to_every(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    # The same of operations of torch's: the largest, and for derivatives of any kind a zero that changes as they do.
    largest = F.max_pool2d(x, size, stride, ceil_mode=True).detach()
    padded = _to_whole_windows(x, largest, size, stride)
    result = largest
    for place in _places(largest, size, stride):
        result = result + torch.where((padded[place] == largest) & largest.isfinite(), padded[place] - largest, 0.0)
    return result


def _to_whole_windows(x: torch.Tensor, largest: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    # Up to the end of the last window, with something below every activation there.
    (height, width), (rows, columns) = x.shape[2:], largest.shape[2:]
    beyond = (0, (columns - 1) * stride + size - width, 0, (rows - 1) * stride + size - height)
    return F.pad(x, beyond, value=-math.inf)


def _places(largest: torch.Tensor, size: int, stride: int) -> Iterator[tuple[Any, ...]]:
    # For each place of a window the indices of those places of all windows, (..., H', W').
    rows, columns = largest.shape[2:]
    for row in range(size):
        for column in range(size):
            yield (
                ...,
                slice(row, row + (rows - 1) * stride + 1, stride),
                slice(column, column + (columns - 1) * stride + 1, stride),
            )


class ColumnLinear(nn.Module):
    """A dense layer whose units read the features of their own column only.

    Parameters: `weight` (units, features / columns), `bias` (units). Column c of the features is their c-th
    equal block, and so for the units. No-communication network of the source (layers-150).
    """

    def __init__(self, features: int, units: int, columns: int) -> None:
        super().__init__()
        if features % columns or units % columns:
            raise RequestError(f"{columns} columns must divide the {features} features and the {units} units")
        self.columns = columns
        self.weight = nn.Parameter(torch.empty(units, features // columns))
        self.bias = nn.Parameter(torch.empty(units))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, units)."""
        halves = zip(
            x.chunk(self.columns, 1), self.weight.chunk(self.columns), self.bias.chunk(self.columns), strict=True
        )
        return torch.cat([F.linear(part, weight, bias) for part, weight, bias in halves], dim=1)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1] * self.columns}, {self.weight.shape[0]}, columns={self.columns}"


class LocallyConnected2d(nn.Module):
    """A convolution, stride 1, with weights and biases of their own at every place.

    Parameters: `weight` (H', W', D, C, k, k) and `bias` (D, H', W') for D maps written of C read.
    Original source: `local`, in its networks for CIFAR-10.
    """

    def __init__(self, maps: int, outputs: int, kernel: int, padding: int, side: int) -> None:
        super().__init__()
        self.kernel, self.padding, self.side = kernel, padding, side
        self.weight = nn.Parameter(torch.empty(side, side, outputs, maps, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs, side, side))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, D, H', W')."""
        places, outputs = self.side * self.side, self.weight.shape[2]
        windows = F.unfold(x, self.kernel, padding=self.padding)  # (B, C * k * k, H' * W')
        weight = self.weight.reshape(places, outputs, -1)  # (H' * W', D, C * k * k)
        # One product a place: (D, C * k * k) times (C * k * k, B).
        activations = torch.bmm(weight, windows.permute(2, 1, 0))  # (H' * W', D, B)
        activations = activations.permute(2, 1, 0).reshape(-1, outputs, self.side, self.side)
        return activations + self.bias.to(activations.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[3]}, {self.weight.shape[2]}, kernel={self.kernel}, side={self.side}"


class Dropout(nn.Module):
    """Zero each unit with a probability while training; multiply by the share kept when testing.

    Nothing is scaled up while training, unlike `torch.nn.Dropout`, which for the same weights gives other
    steps. Paper: section 4.2.

    Args:
        probability: of a unit to be zeroed, 0 up to, not including, 1.
        inverted: divide by the share kept while training and do nothing when testing, as Caffe and torch do.

    Attributes:
        generator: where the masks come from; None is torch's global generator.
        part: rows of a larger batch that the next input holds, and the rows of that batch; None is all. The mask of a
            batch is drawn with the first part that is seen of it, so it is the same whatever the parts.
        units: units of a larger layer that the input holds, and the units of that layer; None is all. The mask is drawn
            for the whole layer.
    """

    def __init__(self, probability: float, inverted: bool = False) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise RequestError(f"dropout probability is {probability}; allowed is 0 up to, not including, 1")
        self.keep = 1 - probability
        self.inverted = inverted
        self.generator: torch.Generator | None = None
        self.part: tuple[slice, int] | None = None
        self.units: tuple[slice, int] | None = None
        self._drawn: torch.Tensor | None = None

    def expect(self, part: tuple[slice, int] | None) -> None:
        """Set `part`; None also forgets the mask of the batch before."""
        self.part = part
        if part is None:
            self._drawn = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, D)."""
        if self.keep == 1:
            return x
        if not self.training:
            return x if self.inverted else x * self.keep
        kept = x * self._mask(x)
        return kept / self.keep if self.inverted else kept

    def _mask(self, x: torch.Tensor) -> torch.Tensor:
        rows, num = self.part or (slice(None), len(x))
        units, width = self.units or (slice(None), x.shape[1])
        mask = self._drawn
        if mask is None:
            mask = x.new_empty((num, width)).bernoulli_(self.keep, generator=self.generator)
            if self.part is not None:
                self._drawn = mask  # for the parts that follow
        return mask[rows, units]

    def extra_repr(self) -> str:
        return f"keep={self.keep}, inverted={self.inverted}"


WeightedModule = nn.Conv2d | nn.Linear | ColumnLinear | LocallyConnected2d


@torch.no_grad()
def initialize(
    layer: WeightedModule, fan_in: int, deviation: Deviation, bias: float, generator: torch.Generator | None
) -> None:
    """Give a layer its first weights and its first biases.

    Args:
        layer: its `weight` and `bias` are overwritten.
        fan_in: activations that one unit reads.
        deviation: of weights N(0, deviation^2), or one of the words of `Deviation`.
        bias: value of all biases (ignored by `uniform`, which draws them).
        generator: None is torch's global generator.

    Paper: section 5 (0.01; biases 1 in conv2, conv4, conv5 and the hidden dense layers, else 0).
    """
    assert layer.bias is not None
    if deviation == "uniform":
        limit = 1 / math.sqrt(fan_in)
        layer.weight.uniform_(-limit, limit, generator=generator)
        layer.bias.uniform_(-limit, limit, generator=generator)
        return
    layer.weight.normal_(0, math.sqrt(2 / fan_in) if deviation is None else deviation, generator=generator)
    layer.bias.fill_(bias)
