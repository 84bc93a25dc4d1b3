"""Winograd convolutions as torch operators; float32 on CPUs.

Axes: B images, C input channels, D output channels, H x W positions, k the side of the kernel, G columns. Kernels take
channels-last memory; other layouts are copied.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

from alexnet.model.kernels.operators import (
    empty_blocks,
    empty_like_layout,
    no_gradient,
    to_channels_last,
    torch_operator,
)
from alexnet.system.after_import import after_import


@torch_operator("strided_convolution")
def strided_convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, end_padding: int
) -> torch.Tensor:
    """A strided first layer by torch, except for its weight gradient, which uses Winograd filtering.

    With blocks of stride x stride positions as channels, the layer has stride 1. The blocks are made only for the
    gradient, and not kept.

    Args:
        x: float32 (B, C, H, W), without gradient.
        weight: float32 (D, C, k, k), where k / stride, rounded up, is 3 or 5.
        bias: float32 (D), or None.
        stride: 2 or more.
        end_padding: zeros beyond the right and the bottom edge.

    Returns:
        (B, D, H', W'), H' = (H + end_padding - k) // stride + 1, channels-last.
    """
    padded = F.pad(x, (0, end_padding, 0, end_padding)) if end_padding else x
    return to_channels_last(F.conv2d(padded, weight, bias, stride))


@torch_operator("strided_convolution_backward")
def _strided_convolution_backward(gradient: torch.Tensor, x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    # gradient: (B, D, H', W'), x: (B, C, H, W) -> (D, C, k, k)
    from alexnet.model.kernels import cpu, winograd

    of_weight = _empty_strided_gradient(gradient, x, kernel, stride)
    if not x.numel():
        return of_weight.zero_()
    reach = -(-kernel // stride)  # blocks that a window overlaps
    rows, columns = (side + reach - 1 for side in gradient.shape[2:])
    blocks = empty_blocks(x, stride, rows, columns, x.dtype)
    cpu.space_to_depth(to_channels_last(x), stride, blocks)
    with torch.autocast("cpu", enabled=False):
        by_block = x.new_empty(gradient.shape[1], blocks.shape[1], reach, reach)  # (D, s s C, k / s, k / s)
        winograd.weight_gradient(blocks, to_channels_last(gradient), 0, by_block)
    by_position = by_block.permute(0, 2, 3, 1).reshape(-1, reach, reach, stride, stride * x.shape[1]).transpose(2, 3)
    by_position = by_position.reshape(-1, reach * stride, reach * stride, x.shape[1]).permute(0, 3, 1, 2)
    return of_weight.copy_(by_position[:, :, :kernel, :kernel])


@torch_operator("convolution")
def convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: int, forward: bool
) -> torch.Tensor:
    """A convolution of stride 1 whose gradients, and with `forward` also its output, use Winograd filtering.

    Args:
        x: float32 (B, C, H, W) for which `alexnet.model.kernels.supports_winograd` holds.
        weight: float32 (D, C / G, k, k), k 3 or 5.
        bias: float32 (D), or None.
        padding: zeros around x, below k.
        forward: whether the output uses Winograd filtering too, which needs k = 5; otherwise torch computes it.

    Returns:
        (B, D, H + 2 * padding - k + 1, W + 2 * padding - k + 1), channels-last.
    """
    if not forward or not x.numel():
        return to_channels_last(F.conv2d(x, weight, bias, padding=padding, groups=x.shape[1] // weight.shape[1]))
    from alexnet.model.kernels import winograd

    result = _empty_output(x, weight, bias, padding, forward)
    with torch.autocast("cpu", enabled=False):
        winograd.convolution(to_channels_last(x), weight, bias, padding, result)
    return result


@torch_operator("convolution_backward")
def _convolution_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: int,
    wants_x: bool,
    wants_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    # gradient: (B, D, H', W') -> that of x (B, C, H, W) and of the weights (D, C / G, k, k); empty if not wanted
    from alexnet.model.kernels import winograd

    of_x, of_weight = _empty_gradients(gradient, x, weight, padding, wants_x, wants_weight)
    if not x.numel():
        return of_x.zero_(), of_weight.zero_()
    gradient, x = to_channels_last(gradient), to_channels_last(x)
    with torch.autocast("cpu", enabled=False):  # the backward pass may run under autocast too
        if wants_x and weight.shape[2] == 5:
            winograd.input_gradient(gradient, weight, padding, of_x)
        elif wants_x:
            of_x.copy_(_library_input_gradient(gradient, x, weight, padding))
        if wants_weight:
            winograd.weight_gradient(x, gradient, padding, of_weight)
    return of_x, of_weight


def _library_input_gradient(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, padding: int
) -> torch.Tensor:
    columns, one = x.shape[1] // weight.shape[1], [1, 1]
    of_x: torch.Tensor = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, one, [padding, padding], one, False, [0, 0], columns, [True, False, False]
    )[0]
    return of_x


def _empty_output(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: int, forward: bool
) -> torch.Tensor:
    height, width = (side + 2 * padding - weight.shape[2] + 1 for side in x.shape[2:])
    return empty_like_layout(x, (x.shape[0], weight.shape[0], height, width), x.dtype)


def _empty_strided_output(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, end_padding: int
) -> torch.Tensor:
    height, width = ((side + end_padding - weight.shape[2]) // stride + 1 for side in x.shape[2:])
    return empty_like_layout(x, (x.shape[0], weight.shape[0], height, width), x.dtype)


def _empty_strided_gradient(gradient: torch.Tensor, x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    return x.new_empty(gradient.shape[1], x.shape[1], kernel, kernel)


def _empty_gradients(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: int,
    wants_x: bool,
    wants_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    of_x = torch.empty_like(x, memory_format=torch.channels_last) if wants_x else x.new_empty(0)
    return of_x, torch.empty_like(weight) if wants_weight else x.new_empty(0)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, bias, ctx.padding, _ = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _gradient(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    of_x, of_weight = _convolution_backward(gradient, x, weight, ctx.padding, wants_x, wants_weight)
    of_bias = gradient.sum((0, 2, 3)) if ctx.has_bias and wants_bias else None
    return of_x if wants_x else None, of_weight if wants_weight else None, of_bias, None, None


def _strided_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, bias, ctx.stride, _ = inputs
    ctx.save_for_backward(x)
    ctx.kernel, ctx.has_bias = weight.shape[2], bias is not None


def _strided_gradient(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    if wants_x:
        raise RuntimeError("the input of strided_convolution has no gradient; torch's own operations have one")
    of_weight = None
    if wants_weight:
        of_weight = _strided_convolution_backward(gradient, x, ctx.kernel, ctx.stride)
    of_bias = gradient.sum((0, 2, 3)) if ctx.has_bias and wants_bias else None
    return None, of_weight, of_bias, None, None


# Operations, as for plain convolutions: two per product.


def _flops(x: torch.Size, weight: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _flops_backward(
    gradient: torch.Size, _: Any, weight: torch.Size, padding: int, wants_x: bool, wants_weight: bool, **__: Any
) -> int:
    return 2 * (wants_x + wants_weight) * math.prod(gradient) * math.prod(weight[1:])


def _strided_flops_backward(gradient: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    return 2 * math.prod(gradient) * math.prod(out_shape[1:])


def _register_flops() -> None:
    from torch.utils.flop_counter import register_flop_formula

    ops = torch.ops.alexnet
    register_flop_formula([ops.convolution, ops.strided_convolution])(_flops)
    register_flop_formula(ops.convolution_backward)(_flops_backward)
    register_flop_formula(ops.strided_convolution_backward)(_strided_flops_backward)


# It imports Triton, for which no prediction should wait.
after_import("torch.utils.flop_counter", _register_flops)

torch.library.register_fake("alexnet::convolution", _empty_output)
torch.library.register_fake("alexnet::convolution_backward", _empty_gradients)
torch.library.register_autograd("alexnet::convolution", _gradient, setup_context=_setup)
torch.library.register_autograd("alexnet::convolution_backward", no_gradient)
torch.library.register_fake("alexnet::strided_convolution", _empty_strided_output)
torch.library.register_fake("alexnet::strided_convolution_backward", _empty_strided_gradient)
torch.library.register_autograd("alexnet::strided_convolution", _strided_gradient, setup_context=_strided_setup)
torch.library.register_autograd("alexnet::strided_convolution_backward", no_gradient)
