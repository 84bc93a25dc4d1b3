"""The fused passes as operators that torch knows: autograd, compiling, exporting and autocast see through them.

Axes: B images, C maps (channels), H W places. Tensors lie in channels-last memory; what does not is copied.
"""

from collections.abc import Callable
from typing import Any

import torch

from alexnet.model.kernels.norm_pool import NormPool
from alexnet.model.layer_specs import pooled_side


def norm_pool(x: torch.Tensor, form: NormPool, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`form.plain(x)`, or of x with its biases, in one pass over memory, backward in one or two.

    The largest activation of a window is chosen before the result is rounded to the dtype of `x`, so that in bfloat16
    more ties are told apart than by the plain form.

    Args:
        x: float32 or bfloat16 (B, C, H, W) on a device for which `serves` says yes.
        form: what is computed.
        bias: floating point (C,), of the maps of x.

    Returns:
        (B, C, H', W') of the dtype of `x`, channels-last.
    """
    result: torch.Tensor = _norm_pool(
        x,
        None if bias is None else bias.contiguous(),
        form.rectify_before,
        form.size,
        form.alpha,
        form.beta,
        form.k,
        form.columns,
        form.pool,
        form.stride,
        form.ties == "every",
        form.rectify_after,
    )[0]
    return result


def same_map_norm(x: torch.Tensor, size: int, alpha: float, beta: float) -> torch.Tensor:
    """`alexnet.model.response_norm.same_map_norm` in one pass over memory; x float32 or bfloat16 (B, C, H, W)."""
    result: torch.Tensor = _same_map_norm(x, size, alpha, beta)
    return result


def in_blocks(x: torch.Tensor, stride: int, blocks: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """Blocks of stride x stride places laid side by side as maps, in one pass; it has no gradient.

    Args:
        x: float32 or bfloat16 (B, C, H, W) on a device for which `serves` says yes.
        stride: s.
        blocks: rows and columns of the result; places beyond the edge of x are 0.
        dtype: of the result, one of the two.

    Returns:
        (B, s s C, rows, columns), channels-last.
    """
    result: torch.Tensor = _in_blocks(x, stride, *blocks, dtype)
    return result


def torch_operator(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the function under this an operator of torch's, its form on every device.

    `torch.library.custom_op` would do too, and load torch's compiler on the first call: two seconds of every command.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        qualified = f"alexnet::{name}"
        torch.library.define(qualified, torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(qualified, "default")(function)
        operator: Callable[..., Any] = getattr(torch.ops.alexnet, name).default
        return operator

    return register


@torch_operator("in_blocks")
def _in_blocks(x: torch.Tensor, stride: int, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    result = blocks_of(x, stride, rows, columns, dtype)
    if x.numel():
        _backend(x).in_blocks(to_channels_last(x), stride, result)
    else:
        result.zero_()
    return result


def _in_blocks_outputs(x: torch.Tensor, stride: int, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    return blocks_of(x, stride, rows, columns, dtype)


def blocks_of(x: torch.Tensor, stride: int, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Memory without values for the blocks of x (B, C, H, W), channels-last (B, s s C, rows, columns)."""
    return empty_like_layout(x, (x.shape[0], stride * stride * x.shape[1], rows, columns), dtype)


@torch_operator("norm_pool")
def _norm_pool(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    rectify_before: bool,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    columns: int,
    pool: int,
    stride: int,
    every: bool,
    rectify_after: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    # x: (B, C, H, W) -> result (B, C, H', W') and its winners
    form = _form(rectify_before, size, alpha, beta, k, columns, pool, stride, every, rectify_after)
    result, winners = _outputs(x, form)
    if x.numel():
        _backend(x).norm_pool(to_channels_last(x), bias, form, result, winners)
    return result, winners


@torch_operator("norm_pool_backward")
def _norm_pool_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    result: torch.Tensor,
    winners: torch.Tensor,
    rectify_before: bool,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    columns: int,
    pool: int,
    stride: int,
    every: bool,
    rectify_after: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    # gradient, result: (B, C, H', W'); x: (B, C, H, W) -> its gradient (B, C, H, W), and that of the biases (C) or (0)
    # Of a form that only rectifies, x may be the result.
    form = _form(rectify_before, size, alpha, beta, k, columns, pool, stride, every, rectify_after)
    of_x, of_bias = _like(x), _of_bias(x, bias)
    if x.numel():
        backend = _backend(x)
        source, added = (result, None) if form.only_rectifies else (x, bias)
        backend.norm_pool_backward(
            to_channels_last(gradient), to_channels_last(source), added, result, winners, form, of_x
        )
        if bias is not None:
            backend.sums_over_places(of_x, of_bias)
    return of_x, of_bias


@torch_operator("same_map_norm")
def _same_map_norm(x: torch.Tensor, size: int, alpha: float, beta: float) -> torch.Tensor:
    result = _like(x)
    if x.numel():
        _backend(x).same_map_norm(to_channels_last(x), size, alpha, beta, result)
    return result


@torch_operator("same_map_norm_backward")
def _same_map_norm_backward(
    gradient: torch.Tensor, x: torch.Tensor, size: int, alpha: float, beta: float
) -> torch.Tensor:
    of_x = _like(x)
    if x.numel():
        _backend(x).same_map_norm_backward(to_channels_last(gradient), to_channels_last(x), size, alpha, beta, of_x)
    return of_x


def _form(
    rectify_before: bool,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    columns: int,
    pool: int,
    stride: int,
    every: bool,
    rectify_after: bool,
) -> NormPool:
    return NormPool(
        rectify_before=rectify_before,
        size=size,
        alpha=alpha,
        beta=beta,
        k=k,
        columns=columns,
        pool=pool,
        stride=stride,
        ties="every" if every else "one",
        rectify_after=rectify_after,
    )


def _backend(x: torch.Tensor) -> Any:
    if x.device.type == "cuda":
        from alexnet.model.kernels import gpu

        return gpu
    from alexnet.model.kernels import cpu

    return cpu


def to_channels_last(x: torch.Tensor) -> torch.Tensor:
    """x (B, C, H, W) in channels-last memory; a copy where it lies otherwise."""
    return x.contiguous(memory_format=torch.channels_last)


def _like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _outputs(x: torch.Tensor, form: NormPool) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for the result, and for the winners of its windows: a place's number (uint8) or a bit for each (int16)."""
    if not form.pools:
        return _like(x), x.new_empty(0, dtype=torch.uint8)
    shape = (*x.shape[:2], *(pooled_side(side, form.pool, form.stride) for side in x.shape[2:]))
    noted = torch.int16 if form.ties == "every" else torch.uint8
    return empty_like_layout(x, shape, x.dtype), empty_like_layout(x, shape, noted)


def empty_like_layout(x: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Memory without values for (B, C, H, W), channels-last, on the device of x."""
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


def _of_bias(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Room for the gradient of the biases; empty without them, and zeros where there are no images."""
    if bias is None:
        return x.new_empty(0)
    return torch.empty_like(bias) if x.numel() else torch.zeros_like(bias)


def _norm_pool_outputs(x: torch.Tensor, bias: torch.Tensor | None, *numbers: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _outputs(x, _form(*numbers))


def _norm_pool_backward_outputs(
    gradient: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return _like(x), _of_bias(x, bias)


def _same_map_norm_outputs(x: torch.Tensor, size: int, alpha: float, beta: float) -> torch.Tensor:
    return _like(x)


def _same_map_norm_backward_outputs(
    gradient: torch.Tensor, x: torch.Tensor, size: int, alpha: float, beta: float
) -> torch.Tensor:
    return _like(x)


def no_gradient(ctx: Any, *gradients: torch.Tensor) -> None:
    # Left away, torch would take the gradient for zero.
    raise RuntimeError(
        "the fast forms have no second derivatives, and blocks of places have no gradient at all; "
        "within alexnet.model.kernels.reference_ops() torch's own operations have both"
    )


def _keep_norm_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, bias, *numbers = inputs
    # Where all that is done is to rectify, the result says what may pass: the sums without biases need not be kept.
    ctx.save_for_backward(output[0] if _form(*numbers).only_rectifies else x, bias, *output)
    ctx.numbers = numbers


def _norm_pool_gradient(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, bias, result, winners = ctx.saved_tensors
    of_x, of_bias = _norm_pool_backward(gradient, x, bias, result, winners, *ctx.numbers)
    return of_x, None if bias is None else of_bias, *([None] * len(ctx.numbers))


def _keep_same_map(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.numbers = inputs[1:]


def _same_map_gradient(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return _same_map_norm_backward(gradient, ctx.saved_tensors[0], *ctx.numbers), None, None, None


torch.library.register_fake("alexnet::in_blocks", _in_blocks_outputs)
torch.library.register_fake("alexnet::norm_pool", _norm_pool_outputs)
torch.library.register_fake("alexnet::norm_pool_backward", _norm_pool_backward_outputs)
torch.library.register_fake("alexnet::same_map_norm", _same_map_norm_outputs)
torch.library.register_fake("alexnet::same_map_norm_backward", _same_map_norm_backward_outputs)
for _name in ("in_blocks", "norm_pool_backward", "same_map_norm_backward"):
    torch.library.register_autograd(f"alexnet::{_name}", no_gradient)
torch.library.register_autograd("alexnet::norm_pool", _norm_pool_gradient, setup_context=_keep_norm_pool)
torch.library.register_autograd("alexnet::same_map_norm", _same_map_gradient, setup_context=_keep_same_map)
