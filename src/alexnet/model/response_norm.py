"""Response normalization across neighboring channels (the paper's) and neighboring positions (the source's).

The reference form. Networks run the fused kernels of `model/kernels/` instead where these support the device and dtype.

Axes: B images, C channels, H x W positions.
"""

import contextlib
import math
from typing import Any

import torch
import torch.nn.functional as F

from alexnet.errors import RequestError
from alexnet.model.derivatives import needs_reference_ops
from alexnet.model.layer_specs import ResponseNorm, SameMapNorm


class _ResponseNorm(torch.autograd.Function):
    """x * (k + alpha * window sum of x^2) ^ -beta, with a backward pass that keeps only x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, spec: ResponseNorm) -> torch.Tensor:
        # x: (B, C, H, W)
        ctx.save_for_backward(x)
        ctx.spec = spec
        return normalize_channels(x, spec)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # dx_j = g_j d_j^-beta - 2 alpha beta x_j sum over i with j in window(i) of g_i x_i d_i^(-beta - 1)
        (x,), spec = ctx.saved_tensors, ctx.spec
        if torch.is_grad_enabled():  # a second backward pass will follow
            (of_x,) = torch.autograd.grad(normalize_channels(x, spec), x, gradient, create_graph=True)
            return of_x, None
        wide = _widened(x)
        denominator = _denominator(wide, spec)
        scaled = gradient.to(wide.dtype) * _power(denominator, -spec.beta)
        inner = (scaled * wide).div_(denominator)
        before, after = _reach(spec)
        crossed = _window_sum(inner, after, before, spec.columns)
        return scaled.addcmul_(crossed, wide, value=-2 * _factor(spec) * spec.beta).to(x.dtype), None


def normalize_channels(x: torch.Tensor, spec: ResponseNorm) -> torch.Tensor:
    """`local_response_norm` of (B, C, H, W) by torch's own operations alone, unchecked."""
    # The square of a float16 overflows from 256 on, and a bfloat16 keeps 8 bits.
    wide = _widened(x)
    return (wide * _power(_denominator(wide, spec), -spec.beta)).to(x.dtype)


def _widened(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _denominator(wide: torch.Tensor, spec: ResponseNorm) -> torch.Tensor:
    return _window_sum(wide * wide, *_reach(spec), spec.columns).mul_(_factor(spec)).add_(spec.k)


def _factor(spec: ResponseNorm) -> float:
    return spec.alpha if spec.alpha_per_element else spec.alpha / spec.size


def _reach(spec: ResponseNorm) -> tuple[int, int]:
    # Channels of a window before and after its own.
    return spec.size // 2, (spec.size - 1) // 2


def _power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    if exponent == -0.75:
        # The paper's exponent by two roots: a third of the time of a general power.
        root = base.rsqrt()  # base ^ -1/2
        return root * root.sqrt()
    return base.pow(exponent)


def _window_sum(x: torch.Tensor, before: int, after: int, columns: int) -> torch.Tensor:
    """For each channel of x (B, C, H, W), the sum over the channels of its window, `before` .. `after` around it.

    Channel by channel, not as a product with a matrix of ones and zeros: 0 times an infinity is NaN, so one activation
    that overflows would spoil every channel of its position.
    """
    if columns > 1:
        return torch.cat([_window_sum(part, before, after, 1) for part in x.chunk(columns, dim=1)], dim=1)
    channels = x.shape[1]
    before, after = min(before, channels - 1), min(after, channels - 1)
    padded = F.pad(x, (0, 0, 0, 0, before, after))
    total = padded[:, :channels].clone()
    for first in range(1, before + 1 + after):
        total += padded[:, first : first + channels]
    return total


def local_response_norm(
    x: torch.Tensor,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    columns: int = 1,
    alpha_per_element: bool = True,
) -> torch.Tensor:
    """Divide each activation by a power of the sum of squares over neighboring channels.

    b_i = a_i / (k + alpha * sum over j of a_j^2) ^ beta, where j runs over the `size` channels around i that exist in
    i's column: windows are clipped at the edges of a column.

    Args:
        x: float64, float32, bfloat16 or float16, (B, C, ...) with one channel or more and any number of positions.
            The last two are computed in float32. An infinity or NaN reaches only the windows that contain it.
        size: channels in a window, n in the paper. The window of channel i holds i - size // 2 .. i + (size - 1) // 2,
            so an even `size` has one channel more before i than after it.
        alpha: factor on each square (`alpha_per_element=True`, as the paper writes it); otherwise alpha / size is (the
            original source, Caffe and PyTorch).
        beta: exponent.
        k: added constant, above 0.
        columns: number of equal blocks of channels that are normalized separately; must divide C.

    Returns:
        A tensor like `x`.

    Raises:
        ValueError: an integer tensor or one without channels, or a value out of range.

    Paper: section 3.3.
    """
    spec = ResponseNorm(size=size, alpha=alpha, beta=beta, k=k, columns=columns, alpha_per_element=alpha_per_element)
    if not x.is_floating_point() or x.dim() < 2 or x.shape[1] < 1:
        raise RequestError(
            f"response normalization takes floating point (B, C, ...), got {x.dtype} of shape {tuple(x.shape)}"
        )
    if x.shape[1] % columns:
        raise RequestError(f"{x.shape[1]} channels, {columns} columns: the columns must divide the channels")
    positions = x if x.dim() == 4 else x.reshape(*x.shape[:2], math.prod(x.shape[2:]), 1)
    # Autocast would return the products in another dtype than the activations.
    with contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        if needs_reference_ops(positions):
            return normalize_channels(positions, spec).reshape(x.shape)
        result: torch.Tensor = _ResponseNorm.apply(positions, spec)  # type: ignore[no-untyped-call]
    return result.reshape(x.shape)


def same_map_norm(x: torch.Tensor, size: int = 5, alpha: float = 1e-3, beta: float = 0.75) -> torch.Tensor:
    """Divide each activation by a power of the sum of squares over neighboring positions of its channel.

    b = a / (1 + alpha / size^2 * sum of a^2 over the size x size positions around it) ^ beta. Positions beyond the edge
    count as 0, and the sum is not scaled up for them.

    Args:
        x: float64, float32, bfloat16 or float16, (B, C, H, W).
        size: side of the window, odd.
        alpha: factor on the mean square of the window.
        beta: exponent.

    Returns:
        A tensor like `x`.

    Raises:
        ValueError: an integer tensor or one of another number of axes, or a value out of range.

    Not in the paper; the original source calls it `rnorm` and has it in layer 2 and in its networks for CIFAR-10.
    """
    SameMapNorm(size=size, alpha=alpha, beta=beta)  # checks the values
    if not x.is_floating_point() or x.dim() != 4:
        raise RequestError(
            f"same-map normalization takes floating point (B, C, H, W), got {x.dtype} of shape {tuple(x.shape)}"
        )
    with contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        return normalize_positions(x, size, alpha, beta)


def normalize_positions(x: torch.Tensor, size: int, alpha: float, beta: float) -> torch.Tensor:
    """`same_map_norm` by torch's own operations alone, unchecked."""
    wide = _widened(x)
    # The padding's zeros are counted. Padded first: the backward pass of avg_pool2d with padding is wrong for
    # channels-last tensors on GPUs (pytorch/pytorch issue 188344; up to 2.13).
    mean_square = F.avg_pool2d(F.pad(wide * wide, [size // 2] * 4), size, stride=1)
    return (wide * _power(mean_square.mul(alpha).add(1.0), -beta)).to(x.dtype)
