"""Pooling, dropout, dense layers in columns, locally connected layers, initial weights: the paper's and its source's.

Axes: B images, C channels, H x W positions, D features.
"""

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from alexnet.errors import RequestError
from alexnet.model.derivatives import needs_reference_ops
from alexnet.model.layer_specs import InitStd, pooled_side


def max_pool(x: torch.Tensor, size: int, stride: int, ties: Literal["one", "every"] = "one") -> torch.Tensor:
    """Maximum of `size` x `size` windows with stride `stride`; (B, C, H, W) -> (B, C, H', W').

    H' = ceil((H - size) / stride) + 1: the last window may extend beyond the edge and is clipped there, as in the
    original source. If several activations of a window are equal to its maximum, the gradient goes to one of them
    (`one`, as in torch) or to each in full (`every`, as in the source). Paper: section 3.4 (size 3, stride 2: windows
    overlap). Networks run a fused kernel of `model/kernels/` instead where it supports the device and dtype.

    Raises:
        ValueError: the windows leave gaps (stride above size) or are larger than the image.
    """
    _check_windows(x, size, stride)
    if ties == "one":
        return F.max_pool2d(x, size, stride, ceil_mode=True)
    if needs_reference_ops(x):
        return _max_pool_every_tie(x, size, stride)
    result: torch.Tensor = _MaxPoolEveryTie.apply(x, size, stride)  # type: ignore[no-untyped-call]
    return result


def average_pool(
    x: torch.Tensor, size: int, stride: int, divisor: Literal["inside", "whole"] = "inside"
) -> torch.Tensor:
    """Mean activation in each window, windows as in `max_pool`.

    The sum over a clipped window is divided by its positions inside the image (`inside`) or by all of its positions
    (`whole`), see `AveragePool`.
    """
    _check_windows(x, size, stride)
    if divisor == "whole" and torch.onnx.is_in_onnx_export():
        # ONNX has no divisor of one's own, and torch's exporter drops it: zeros that count are the same.
        return F.avg_pool2d(_padded_to_windows(x, size, stride, 0), size, stride)
    positions = size**2 if divisor == "whole" else None
    return F.avg_pool2d(x, size, stride, ceil_mode=True, count_include_pad=False, divisor_override=positions)


def _check_windows(x: torch.Tensor, size: int, stride: int) -> None:
    if not 1 <= stride <= size or min(pooled_side(side, size, stride) for side in x.shape[2:]) < 1:
        raise RequestError(
            f"pooling windows of {size} positions with stride {stride} do not fit shape {tuple(x.shape)}: the stride "
            "must be from 1 to the window size, and the image must hold a window or the start of a clipped one"
        )


class _MaxPoolEveryTie(torch.autograd.Function):
    """Max-pooling that gives the gradient of a window to each of its equal maxima."""

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
        padded = _padded_to_windows(x, size, stride, -math.inf)
        total = torch.zeros_like(padded, dtype=torch.promote_types(x.dtype, torch.float32))
        for position in _window_positions(largest, size, stride):
            total[position] += (padded[position] == largest) * gradient
        return total[..., :height, :width].to(x.dtype), None, None


def _max_pool_every_tie(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    # The same by torch's operations: the maximum, plus zeros whose derivatives of any order are those of the maxima.
    largest = F.max_pool2d(x, size, stride, ceil_mode=True).detach()
    padded = _padded_to_windows(x, size, stride, -math.inf)
    result = largest
    for position in _window_positions(largest, size, stride):
        there = padded[position]
        result = result + torch.where((there == largest) & largest.isfinite(), there - largest, 0.0)
    return result


def _padded_to_windows(x: torch.Tensor, size: int, stride: int, value: float) -> torch.Tensor:
    # Up to the end of the last window.
    below, right = ((pooled_side(side, size, stride) - 1) * stride + size - side for side in x.shape[2:])
    return F.pad(x, (0, right, 0, below), value=value)


def _window_positions(largest: torch.Tensor, size: int, stride: int) -> Iterator[tuple[Any, ...]]:
    # For each position in a window, the indices of that position in all windows, (..., H', W').
    rows, columns = largest.shape[2:]
    for row in range(size):
        for column in range(size):
            yield (
                ...,
                slice(row, row + (rows - 1) * stride + 1, stride),
                slice(column, column + (columns - 1) * stride + 1, stride),
            )


class OneNode(nn.Module):
    """A module that torch.fx keeps as one node of a graph, with its own `train` and `eval`, as it does torch's own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # torch.fx asks the object where it is from; pickles ask the class.
        self.__module__ = "torch.nn"


class ColumnLinear(OneNode):
    """A dense layer whose units read only the features of their own column.

    Parameters: `weight` (units, features / columns), `bias` (units). Column c is the c-th of equal blocks, of the
    features and of the units. The source has it in its no-communication network (layers-150).
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
        parts = zip(
            x.chunk(self.columns, 1), self.weight.chunk(self.columns), self.bias.chunk(self.columns), strict=True
        )
        return torch.cat([F.linear(part, weight, bias) for part, weight, bias in parts], dim=1)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1] * self.columns}, {self.weight.shape[0]}, columns={self.columns}"


class LocallyConnected2d(OneNode):
    """A convolution of stride 1 with separate weights and biases at every position.

    Parameters: `weight` (H', W', D, C, k, k) and `bias` (D, H', W') for C input and D output channels. The source calls
    it `local`, in its networks for CIFAR-10.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, padding: int, side: int) -> None:
        super().__init__()
        self.kernel, self.padding, self.side = kernel, padding, side
        self.weight = nn.Parameter(torch.empty(side, side, out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out_channels, side, side))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, D, H', W')."""
        positions, outputs = self.side * self.side, self.weight.shape[2]
        windows = F.unfold(x, self.kernel, padding=self.padding)  # (B, C * k * k, H' * W')
        weight = self.weight.reshape(positions, outputs, -1)  # (H' * W', D, C * k * k)
        # One product per position: (D, C * k * k) times (C * k * k, B).
        activations = torch.bmm(weight, windows.permute(2, 1, 0))  # (H' * W', D, B)
        activations = activations.permute(2, 1, 0).reshape(-1, outputs, self.side, self.side)
        return activations + self.bias.to(activations.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[3]}, {self.weight.shape[2]}, kernel={self.kernel}, side={self.side}"


_own = threading.local()
_mask_lock = threading.Lock()


@contextlib.contextmanager
def part_of_this_thread(part: tuple[slice, int]) -> Iterator[None]:
    """Within the block, the inputs of this thread's dropout layers are this part of a batch, as `SeededDropout.part`.

    Threads that run parts of one batch draw a layer's mask once, whichever needs it first: every thread reaches the
    layers in their order, so that is the order in which masks are drawn.
    """
    _own.part = part
    try:
        yield
    finally:
        del _own.part


class SeededDropout(OneNode, _DropoutNd):
    """Zero each unit with a probability in training; multiply by the keep probability in evaluation.

    In training nothing is scaled up, unlike in `torch.nn.Dropout`, so the same weights get other gradients. Masks are
    drawn for the whole batch and layer, so they do not depend on how these are split. Paper: section 4.2.

    It is not an `nn.Dropout`: what removes these for evaluation would remove the factor.

    Args:
        probability: of zeroing a unit, at least 0, below 1.
        inverted: divide by the keep probability in training and do nothing in evaluation, as Caffe and torch do.

    Attributes:
        p: the probability; it may be changed at any time.
        generator: source of the masks; None is torch's global generator.
        part: which rows of a batch the next input holds, and the number of rows of the batch; None is all. The mask of
            a batch is drawn with its first part.
        units: which units of a layer the input holds, and the number of units of the layer; None is all.
    """

    def __init__(self, probability: float, inverted: bool = False) -> None:
        if not 0 <= probability < 1:
            raise RequestError(f"dropout probability is {probability}; allowed is 0 or more, below 1")
        super().__init__(probability)
        self.inverted = inverted
        self.generator: torch.Generator | None = None
        self.part: tuple[slice, int] | None = None
        self.units: tuple[slice, int] | None = None
        self._mask: torch.Tensor | None = None

    def expect(self, part: tuple[slice, int] | None) -> None:
        """Set `part`; None also discards the mask of the previous batch."""
        self.part = part
        if part is None:
            self._mask = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, D)."""
        keep = 1 - self.p
        if keep == 1:
            return x
        if not self.training:
            return x if self.inverted else x * keep
        kept = x * self._current_mask(x, keep)
        return kept / keep if self.inverted and keep else kept

    def _current_mask(self, x: torch.Tensor, keep: float) -> torch.Tensor:
        # torch's compiler can follow neither the thread's own part nor a lock.
        own = None if torch.compiler.is_compiling() else getattr(_own, "part", None)
        rows, num = own or self.part or (slice(None), len(x))
        units, width = self.units or (slice(None), x.shape[1])
        if own is None:
            mask = self._mask_of(x, num, width, keep)
        else:
            with _mask_lock:
                mask = self._mask_of(x, num, width, keep)
        return mask[rows, units]

    def _mask_of(self, x: torch.Tensor, num: int, width: int, keep: float) -> torch.Tensor:
        """The mask of the whole batch (num, width): that of earlier parts, or a new one."""
        mask = self._mask
        if mask is None:
            mask = x.new_empty((num, width)).bernoulli_(keep, generator=self.generator)
            if self.part is not None:
                self._mask = mask  # for the next parts
        return mask

    def extra_repr(self) -> str:
        return f"p={self.p}, inverted={self.inverted}"


WeightedModule = nn.Conv2d | nn.Linear | ColumnLinear | LocallyConnected2d


@torch.no_grad()
def initialize(
    layer: WeightedModule, fan_in: int, init_std: InitStd, bias: float, generator: torch.Generator | None
) -> None:
    """Initialize a layer's weights and biases.

    Args:
        layer: its `weight` and `bias` are overwritten; on the device `meta` there are none.
        fan_in: inputs of one unit.
        init_std: weights are N(0, init_std^2); or None or `uniform`, see `InitStd`.
        bias: value of all biases (ignored by `uniform`, which draws them).
        generator: None is torch's global generator.

    Paper: section 5 (0.01; biases 1 in conv2, conv4, conv5 and the hidden dense layers, else 0).
    """
    assert layer.bias is not None
    if layer.weight.is_meta:  # torch would import its whole library of symbols to draw nothing
        return
    if init_std == "uniform":
        limit = 1 / math.sqrt(fan_in)
        layer.weight.uniform_(-limit, limit, generator=generator)
        layer.bias.uniform_(-limit, limit, generator=generator)
        return
    layer.weight.normal_(0, math.sqrt(2 / fan_in) if init_std is None else init_std, generator=generator)
    layer.bias.fill_(bias)
