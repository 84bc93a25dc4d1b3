"""The fused operations as torch operators: autograd, compiling, exporting and autocast work with them.

Axes: B images, C channels, H x W positions. Kernels take channels-last memory; other layouts are copied.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from alexnet.model.kernels.norm_pool import NormPool, PoolNorm
from alexnet.model.layer_specs import pooled_side

P = ParamSpec("P")
T = TypeVar("T")


def norm_pool(x: torch.Tensor, op: NormPool | PoolNorm, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`op.reference(x)`, or of x plus its biases, in one pass over memory, backward in one or two.

    The maximum of a window is chosen before the result is rounded to the dtype of `x`, so bfloat16 has fewer ties here
    than in the reference.

    Args:
        x: float32 or bfloat16 (B, C, H, W) for which `supports_fused` holds.
        op: what is computed.
        bias: floating point (C,), of the channels of x.

    Returns:
        (B, C, H', W') of the dtype of `x`, channels-last.
    """
    if isinstance(op, PoolNorm):
        if bias is None:
            return _pool_norm(x, *op.as_scalars())[0]
        return norm_pool(norm_pool(x, op.pool, bias), op.norm)
    return _norm_pool(x, None if bias is None else bias.contiguous(), *op.as_scalars())[0]


def torch_operator(name: str, schema: str | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Replace the decorated function by the operator `alexnet::name`, registered on every device.

    `torch.library.custom_op` would load torch's compiler on the first call, which takes two seconds of every command.

    Args:
        name: of the operator.
        schema: its arguments and results; None infers them from the function's annotations.
    """

    def register(function: Callable[P, T]) -> Callable[P, T]:
        qualified = f"alexnet::{name}"
        torch.library.define(qualified, schema or torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(qualified, "default")(function)
        operator: Callable[P, T] = getattr(torch.ops.alexnet, name).default
        return operator

    return register


@torch_operator("in_blocks")
def space_to_depth(x: torch.Tensor, stride: int, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Blocks of stride x stride positions as channels, in one pass over memory; it has no gradient.

    Args:
        x: float32 or bfloat16 (B, C, H, W) for which `supports_fused` holds.
        stride: s.
        rows: of blocks; positions beyond the edge of x are 0.
        columns: of blocks.
        dtype: of the result, float32 or bfloat16.

    Returns:
        (B, s s C, rows, columns), channels-last.
    """
    result = empty_blocks(x, stride, rows, columns, dtype)
    if x.numel():
        _backend(x).space_to_depth(to_channels_last(x), stride, result)
    else:
        result.zero_()
    return result


def empty_blocks(x: torch.Tensor, stride: int, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Uninitialized memory for the blocks of x (B, C, H, W), channels-last (B, s s C, rows, columns)."""
    return empty_like_layout(x, (x.shape[0], stride * stride * x.shape[1], rows, columns), dtype)


@torch_operator("norm_pool", f"(Tensor x, Tensor? bias, {NormPool.scalar_schema()}) -> (Tensor, Tensor)")
def _norm_pool(x: torch.Tensor, bias: torch.Tensor | None, *scalars: Any) -> tuple[torch.Tensor, torch.Tensor]:
    # x: (B, C, H, W) -> result (B, C, H', W') and its winners
    op = NormPool.from_scalars(scalars)
    result, winners = _empty_result(x, op)
    if x.numel():
        _backend(x).norm_pool(to_channels_last(x), bias, op, result, winners)
    return result, winners


@torch_operator(
    "norm_pool_backward",
    f"(Tensor gradient, Tensor x, Tensor? bias, Tensor result, Tensor winners, {NormPool.scalar_schema()})"
    " -> (Tensor, Tensor)",
)
def _norm_pool_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    result: torch.Tensor,
    winners: torch.Tensor,
    *scalars: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    # gradient, result: (B, C, H', W'); x: (B, C, H, W) -> its gradient (B, C, H, W), and that of the biases (C) or (0)
    # For a plain ReLU, x may be the result.
    op = NormPool.from_scalars(scalars)
    of_x, of_bias = _empty_channels_last(x), _empty_bias_gradient(x, bias)
    if x.numel():
        backend = _backend(x)
        source, added = (result, None) if op.is_relu else (x, bias)
        backend.norm_pool_backward(
            to_channels_last(gradient), to_channels_last(source), added, result, winners, op, of_x
        )
        if bias is not None:
            backend.channel_sums(of_x, of_bias)
    return of_x, of_bias


@torch_operator("pool_norm", f"(Tensor x, {PoolNorm.scalar_schema()}) -> (Tensor, Tensor, Tensor)")
def _pool_norm(x: torch.Tensor, *scalars: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # x: (B, C, H, W) -> result (B, C, H', W'), its winners, and what was normalized
    result, winners, pooled = _empty_pool_norm(x, *scalars)
    if x.numel():
        _backend(x).pool_norm(to_channels_last(x), PoolNorm.from_scalars(scalars), result, winners, pooled)
    return result, winners, pooled


@torch_operator(
    "pool_norm_backward",
    "(Tensor gradient, Tensor winners, Tensor pooled, SymInt height, SymInt width, "
    f"{PoolNorm.scalar_schema()}) -> Tensor",
)
def _pool_norm_backward(
    gradient: torch.Tensor, winners: torch.Tensor, pooled: torch.Tensor, height: int, width: int, *scalars: Any
) -> torch.Tensor:
    # gradient, winners, pooled: (B, C, H', W') -> the gradient of x (B, C, H, W)
    of_x = empty_like_layout(pooled, (*pooled.shape[:2], height, width), pooled.dtype)
    if of_x.numel():
        backend, op = _backend(pooled), PoolNorm.from_scalars(scalars)
        backend.pool_norm_backward(to_channels_last(gradient), winners, pooled, op, of_x)
    return of_x


@torch_operator("same_map_norm")
def same_map_norm(x: torch.Tensor, size: int, alpha: float, beta: float) -> torch.Tensor:
    """`alexnet.model.response_norm.same_map_norm` in one pass over memory; x float32 or bfloat16 (B, C, H, W)."""
    result = _empty_channels_last(x)
    if x.numel():
        _backend(x).same_map_norm(to_channels_last(x), size, alpha, beta, result)
    return result


@torch_operator("same_map_norm_backward")
def _same_map_norm_backward(
    gradient: torch.Tensor, x: torch.Tensor, size: int, alpha: float, beta: float
) -> torch.Tensor:
    of_x = _empty_channels_last(x)
    if x.numel():
        _backend(x).same_map_norm_backward(to_channels_last(gradient), to_channels_last(x), size, alpha, beta, of_x)
    return of_x


def _backend(x: torch.Tensor) -> Any:
    if x.device.type == "cuda":
        from alexnet.model.kernels import gpu

        return gpu
    from alexnet.model.kernels import cpu

    return cpu


def to_channels_last(x: torch.Tensor) -> torch.Tensor:
    """x (B, C, H, W) in channels-last memory; copied if its layout differs."""
    return x.contiguous(memory_format=torch.channels_last)


def empty_like_layout(x: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Uninitialized memory (B, C, H, W), channels-last, on the device of x."""
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


def _empty_channels_last(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _empty_result(x: torch.Tensor, op: NormPool) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for the result and its windows' winners: the index of one position (uint8) or a bit for each (int16)."""
    if not op.pools:
        return _empty_channels_last(x), x.new_empty(0, dtype=torch.uint8)
    shape = (*x.shape[:2], *(pooled_side(side, op.pool, op.stride) for side in x.shape[2:]))
    winners_dtype = torch.int16 if op.all_ties else torch.uint8
    return empty_like_layout(x, shape, x.dtype), empty_like_layout(x, shape, winners_dtype)


def _empty_pool_norm(x: torch.Tensor, *scalars: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    result, winners = _empty_result(x, PoolNorm.from_scalars(scalars).pool)
    return result, winners, torch.empty_like(result)


def _empty_bias_gradient(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Memory for the gradient of the biases; of size 0 without biases, and zeros without images."""
    if bias is None:
        return x.new_empty(0)
    return torch.empty_like(bias) if x.numel() else torch.zeros_like(bias)


def no_gradient(ctx: Any, *gradients: torch.Tensor) -> None:
    """Refuse to differentiate: without this, torch would take the gradient for zero."""
    raise RuntimeError(
        "the fused operations have no second derivatives, and space_to_depth has no gradient; "
        "torch's own operations, within alexnet.model.kernels.reference_ops(), have both"
    )


def _norm_pool_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, bias, *scalars = inputs
    # The backward pass of a plain ReLU needs only its result, so the convolution's output need not be kept.
    ctx.save_for_backward(output[0] if NormPool.from_scalars(tuple(scalars)).is_relu else x, bias, *output)
    ctx.scalars = scalars


def _norm_pool_gradient(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, bias, result, winners = ctx.saved_tensors
    of_x, of_bias = _norm_pool_backward(gradient, x, bias, result, winners, *ctx.scalars)
    return of_x, None if bias is None else of_bias, *([None] * len(ctx.scalars))


def _pool_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    # Not x, which has several times as many activations.
    x, *ctx.scalars = inputs
    ctx.save_for_backward(*output[1:])
    ctx.sides = x.shape[2:]


def _pool_norm_gradient(ctx: Any, gradient: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    winners, pooled = ctx.saved_tensors
    of_x = _pool_norm_backward(gradient, winners, pooled, *ctx.sides, *ctx.scalars)
    return of_x, *([None] * len(ctx.scalars))


def _same_map_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.scalars = inputs[1:]


def _same_map_norm_gradient(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return _same_map_norm_backward(gradient, ctx.saved_tensors[0], *ctx.scalars), None, None, None


torch.library.register_fake("alexnet::in_blocks", empty_blocks)
torch.library.register_fake(
    "alexnet::norm_pool", lambda x, bias, *scalars: _empty_result(x, NormPool.from_scalars(scalars))
)
torch.library.register_fake(
    "alexnet::norm_pool_backward",
    lambda gradient, x, bias, *rest: (_empty_channels_last(x), _empty_bias_gradient(x, bias)),
)
torch.library.register_fake("alexnet::pool_norm", _empty_pool_norm)
torch.library.register_fake(
    "alexnet::pool_norm_backward",
    lambda gradient, winners, pooled, height, width, *scalars: empty_like_layout(
        pooled, (*pooled.shape[:2], height, width), pooled.dtype
    ),
)
torch.library.register_fake("alexnet::same_map_norm", lambda x, *scalars: _empty_channels_last(x))
torch.library.register_fake("alexnet::same_map_norm_backward", lambda gradient, x, *scalars: _empty_channels_last(x))
for _name in ("in_blocks", "norm_pool_backward", "pool_norm_backward", "same_map_norm_backward"):
    torch.library.register_autograd(f"alexnet::{_name}", no_gradient)
torch.library.register_autograd("alexnet::norm_pool", _norm_pool_gradient, setup_context=_norm_pool_setup)
torch.library.register_autograd("alexnet::pool_norm", _pool_norm_gradient, setup_context=_pool_norm_setup)
torch.library.register_autograd("alexnet::same_map_norm", _same_map_norm_gradient, setup_context=_same_map_norm_setup)
