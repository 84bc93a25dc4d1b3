"""Convolutions by the first algorithm of `ALGORITHMS` that supports their input.

Axes: B images, C input channels, D output channels, H x W positions, k the side of the kernel, s its stride.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.model import kernels
from alexnet.model.derivatives import needs_reference_ops
from alexnet.model.kernels import convolutions
from alexnet.model.kernels.operators import space_to_depth as fused_space_to_depth

MATRIX_UNIT = 8
"""Channels that matrix units take at a time: a layer that reads fewer leaves most of them idle."""
MAX_PRODUCT_SIDE = 8
"""Largest side of the images for which `WindowProduct` measured faster (docs/log.md)."""
MIN_WINOGRAD_IMAGES = 8
"""Smallest batch for Winograd filtering: fewer images are done before its code is loaded."""
# Smallest number of products per image, kernel position and column for which Winograd filtering pays (docs/log.md).
_MIN_WINOGRAD_PRODUCTS = 3_000_000
# Images whose windows are laid out at a time: they fit a cache, and their sum is kept in float32.
_GROUP = 64


class FastConvolution:
    """A `torch.nn.Conv2d` by the fastest algorithm: the same results up to rounding.

    Args:
        conv: the layer, with its weights; no dilation, and zeros as padding.
        end_padding: zeros added beyond the right and the bottom edge only, before the layer's own padding.
        keeps_ties: equal windows give bit-equal results at every position. With Winograd filtering the rounding depends
            on the position in a tile, so only gradients are then computed that way.
    """

    def __init__(self, conv: nn.Conv2d, end_padding: int = 0, keeps_ties: bool = False) -> None:
        self.conv, self.end_padding, self.keeps_ties = conv, end_padding, keeps_ties

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H', W')."""
        return self.run(x, self.conv.weight, self.conv.bias)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with other weights and biases, which may be part of the layer's."""
        for algorithm in ALGORITHMS:
            if algorithm.supports(self, x, weight, bias):
                return algorithm.run(self, x, weight, bias)
        raise AssertionError("the library supports every convolution")

    def bias_for_epilogue(self) -> Tensor | None:
        """The biases, if a fused operation after the convolution may add them."""
        return None if needs_reference_ops(self.conv.weight, self.conv.bias) else self.conv.bias

    @property
    def reads_few_channels(self) -> bool:
        """Whether this is a strided first layer that is faster as a layer of stride 1 over blocks of positions."""
        plain = self.conv.groups == 1 and self.conv.padding == (0, 0)
        return plain and self.conv.stride[0] > 1 and self.conv.in_channels < MATRIX_UNIT


class ConvAlgorithm(Protocol):
    """One way to compute a convolution.

    Both methods take the layer, its input (B, C, H, W), and the weights and biases to use, which may be part of the
    layer's.
    """

    def supports(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether this algorithm computes the convolution, and is faster than those after it."""

    def run(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, C, H, W) -> (B, D, H', W')."""


class FirstLayerWinograd:
    """The weight gradient of a strided first layer by Winograd filtering; float32 on CPUs.

    Blocks of s x s positions become channels, which 3 x 3 or 5 x 5 weights read.
    """

    def supports(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        if not layer.reads_few_channels or not weight.requires_grad or x.requires_grad or not torch.is_grad_enabled():
            return False
        sides = {-(-side // layer.conv.stride[0]) for side in layer.conv.kernel_size}
        # s^2 times as many channels, and s^2 times fewer positions.
        products = layer.conv.in_channels * layer.conv.out_channels * x.shape[-1] * x.shape[-2]
        return products >= _MIN_WINOGRAD_PRODUCTS and sides in ({3}, {5}) and _winograd_takes(layer, x, weight)

    def run(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolutions.strided_convolution(x, weight, bias, layer.conv.stride[0], layer.end_padding)


class SpaceToDepth:
    """A strided first layer as one of stride 1 over blocks of s x s positions; bfloat16.

    Matrix units take eight channels or more at a time and a first layer reads three: blocks have 3 s^2 channels.
    """

    def supports(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        return layer.reads_few_channels and compute_dtype(x) == torch.bfloat16

    def run(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return space_to_depth_convolution(x, weight, bias, layer.conv.stride[0], layer.end_padding)


class Winograd:
    """Winograd filtering (`alexnet.model.kernels.winograd`, `benchmarks/winograd.py`); float32 on CPUs.

    Without matrix units, multiplications are the bottleneck, and it needs fewer: for the weight gradient of 3 x 3
    kernels and for all of 5 x 5 over many positions, stride 1, enough channels, `MIN_WINOGRAD_IMAGES` images or more,
    and not while torch traces or compiles. It has no second derivatives (`alexnet.model.kernels.reference_ops` does).
    """

    def supports(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        side = layer.conv.kernel_size[0]
        if side not in (3, 5) or int(layer.conv.padding[0]) >= side or layer.conv.stride != (1, 1) or layer.end_padding:
            return False
        products = layer.conv.in_channels * layer.conv.out_channels * x.shape[-1] * x.shape[-2]
        if products < _MIN_WINOGRAD_PRODUCTS * layer.conv.groups**2 or not _winograd_takes(layer, x, weight):
            return False
        learns = torch.is_grad_enabled() and (weight.requires_grad or side == 5)
        return learns or (side == 5 and not layer.keeps_ties)

    def run(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        forward = layer.conv.kernel_size == (5, 5) and not layer.keeps_ties
        return convolutions.convolution(x, weight, bias, int(layer.conv.padding[0]), forward=forward)


class ZerosForColumns:
    """Columns as one convolution over all channels, with zero weights across columns; bfloat16 on GPUs.

    It multiplies twice as often as a grouped convolution and is still faster (docs/log.md).
    """

    def supports(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        return layer.conv.groups > 1 and x.is_cuda and compute_dtype(x) == torch.bfloat16

    def run(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        whole = ungrouped_weight(weight.to(torch.bfloat16), layer.conv.groups)
        return F.conv2d(_end_padded(layer, x), whole, bias, layer.conv.stride, layer.conv.padding)


class WindowProduct:
    """The weight gradient as a matrix product of rows of windows; bfloat16 on CPUs, also under autocast.

    The library is slow at the weight gradient of a 3 x 3 layer over few positions (`benchmarks/weight_gradient.py`,
    docs/log.md). One column, stride 1, images of at most `MAX_PRODUCT_SIDE` positions a side.
    """

    def supports(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        if bias is None or x.device.type != "cpu" or not torch.is_grad_enabled():
            return False
        if (
            layer.conv.groups > 1
            or layer.conv.stride != (1, 1)
            or max(x.shape[2:]) + layer.end_padding > MAX_PRODUCT_SIDE
        ):
            return False
        return compute_dtype(x) == torch.bfloat16 and not needs_reference_ops(x, layer.conv.weight, layer.conv.bias)

    def run(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert bias is not None
        half = torch.bfloat16
        x = _end_padded(layer, x)
        result: Tensor = _WindowProduct.apply(x.to(half), weight.to(half), bias.to(half), layer.conv.padding)  # type: ignore[no-untyped-call]
        return result


class Library:
    """torch's own convolution."""

    def supports(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        return True

    def run(self, layer: FastConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = layer.conv._conv_forward(_end_padded(layer, x), weight, bias)
        return result


ALGORITHMS: tuple[ConvAlgorithm, ...] = (
    FirstLayerWinograd(),
    SpaceToDepth(),
    Winograd(),
    ZerosForColumns(),
    WindowProduct(),
    Library(),
)
"""The first that supports a layer and its input computes it."""


def _end_padded(layer: FastConvolution, x: Tensor) -> Tensor:
    return F.pad(x, (0, layer.end_padding, 0, layer.end_padding)) if layer.end_padding else x


def _winograd_takes(layer: FastConvolution, x: Tensor, weight: Tensor) -> bool:
    if x.dim() != 4 or not kernels.supports_winograd(x):
        return False
    # torch's convolution reports what does not fit.
    side = min(x.shape[2:]) + 2 * int(layer.conv.padding[0]) + layer.end_padding
    if x.shape[1] != weight.shape[1] * layer.conv.groups or side < max(layer.conv.kernel_size):
        return False
    if needs_reference_ops(weight, layer.conv.bias):
        return False
    # A traced graph would be bound to batches of this size.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or len(x) < MIN_WINOGRAD_IMAGES:
        return False
    return weight.dtype == torch.float32 and compute_dtype(x) == torch.float32


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a convolution of x is computed, which autocast may change."""
    kind = x.device.type
    if kind == "meta":
        return x.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def ungrouped_weight(weight: Tensor, columns: int) -> Tensor:
    """Weights of a grouped convolution, (D, C / columns, k, k), as those of one over all channels, (D, C, k, k)."""
    channels = weight.shape[1]
    parts = [
        # F.pad counts dimensions from the last: before and after kernel columns, kernel rows, channels.
        F.pad(part, (0, 0, 0, 0, number * channels, (columns - 1 - number) * channels))
        for number, part in enumerate(weight.chunk(columns))
    ]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def space_to_depth_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, end_padding: int = 0
) -> Tensor:
    """A convolution without padding, of stride s, as one of stride 1 over blocks of s x s positions.

    Args:
        x: (B, C, H, W).
        weight: (D, C, k, k), as for the plain convolution.
        bias: (D), or None.
        stride: s, 2 or more.
        end_padding: zeros beyond the right and the bottom edge.

    Returns:
        (B, D, H', W') with H' = (H + end_padding - k) // s + 1, as from the plain convolution.
    """
    kernel = weight.shape[2]
    reach = -(-kernel // stride)  # blocks that a window overlaps
    rows, columns = ((side + end_padding - kernel) // stride + reach for side in x.shape[2:])
    if kernels.supports_fused(x) and not x.requires_grad:
        blocks = fused_space_to_depth(x, stride, rows, columns, compute_dtype(x))
    else:
        blocks = space_to_depth(x, (rows, columns), stride)
    weight = space_to_depth(weight, (reach, reach), stride)
    return F.conv2d(blocks, weight, bias)


def space_to_depth(x: Tensor, blocks: tuple[int, int], stride: int) -> Tensor:
    """(B, C, H, W) -> (B, s s C, rows, columns), channels-last, cropped or zero-padded to whole blocks."""
    rows, columns = blocks
    beyond = (0, columns * stride - x.shape[3], 0, rows * stride - x.shape[2])
    padded = F.pad(x, beyond).permute(0, 2, 3, 1)  # (B, rows s, columns s, C)
    tiled = padded.reshape(x.shape[0], rows, stride, columns, stride * x.shape[1]).transpose(2, 3)
    return tiled.reshape(x.shape[0], rows, columns, -1).permute(0, 3, 1, 2)


class _WindowProduct(torch.autograd.Function):
    """A convolution of stride 1 and one column whose weight gradient is `weight_gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> Tensor:
        # x: (B, C, H, W), weight: (D, C, k, k), bias: (D)
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # gradient: (B, D, H', W')
        x, weight = ctx.saved_tensors
        padding = ctx.padding
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [True, False, False]
            )[0]
        of_weight = weight_gradient(x, gradient, weight.shape[2], weight.shape[3], padding).to(weight.dtype)
        of_bias = gradient.float().sum((0, 2, 3)).to(weight.dtype)
        return of_input, of_weight, of_bias, None


def weight_gradient(
    x: Tensor, gradient: Tensor, kernel_height: int, kernel_width: int, padding: tuple[int, int]
) -> Tensor:
    """Gradient of a stride-1 convolution's weights: (B, C, H, W) and (B, D, H', W') -> float32 or wider (D, C, k, k).

    Args:
        x: input of the convolution, of any floating point dtype.
        gradient: of the loss with respect to the output; H' = H + 2 * padding - k + 1.
        kernel_height: k along H.
        kernel_width: k along W.
        padding: zeros around x, along H and along W.
    """
    channels, outputs = x.shape[1], gradient.shape[1]
    height, width = gradient.shape[2:]
    wide = torch.promote_types(x.dtype, torch.float32)
    total = x.new_zeros((outputs, kernel_height * kernel_width * channels), dtype=wide)
    for first in range(0, len(x), _GROUP):
        images = x[first : first + _GROUP].permute(0, 2, 3, 1)  # (b, H, W, C)
        images = F.pad(images, (0, 0, padding[1], padding[1], padding[0], padding[0])).contiguous()
        by_image, by_row, by_position, _ = images.stride()
        # A row of a window is k_w * C adjacent values, and a window k_h such rows: (b, H', W', k_h, k_w * C).
        windows = images.as_strided(
            (len(images), height, width, kernel_height, kernel_width * channels),
            (by_image, by_row, by_position, by_row, 1),
        )
        rows = windows.reshape(-1, kernel_height * kernel_width * channels)  # (b * H' * W', k_h * k_w * C)
        steps = gradient[first : first + _GROUP].permute(0, 2, 3, 1).reshape(-1, outputs)  # (b * H' * W', D)
        total += steps.t() @ rows
    return total.view(outputs, kernel_height, kernel_width, channels).permute(0, 3, 1, 2)
