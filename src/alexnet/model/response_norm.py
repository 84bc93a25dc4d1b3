"""Response normalization across neighboring channels (the paper's) and neighboring positions (the source's).

The reference form. Networks run the fused kernels of `model/kernels/` instead where these support the device and dtype.

Axes: B images, C channels, H x W positions.
"""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F

from alexnet.errors import RequestError
from alexnet.model.derivatives import needs_reference_ops


def window_matrix(
    num_channels: int, size: int, columns: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """(C, C) of `dtype` on `device`: 1 at (i, j) if channel j is in the window of channel i, else 0.

    The window of channel i holds the channels i - size//2 .. i + (size - 1)//2 of i's column.
    """
    channels = torch.arange(num_channels, device=device)
    offset = channels[None, :] - channels[:, None]  # (C, C), j - i
    column = channels * columns // num_channels
    near = (offset >= -(size // 2)) & (offset <= (size - 1) // 2)
    return (near & (column[None, :] == column[:, None])).to(dtype)


class _ResponseNorm(torch.autograd.Function):
    """x * (k + alpha * window sum of x^2) ^ -beta, with the window sum as one product by the window matrix.

    Multiplying by a (C, C) matrix of ones and zeros does more work than the window needs, but as a matrix product it
    takes a small part of the time of shifted additions or of a 3-d pooling on every device.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, window: torch.Tensor, alpha: float, beta: float, k: float) -> torch.Tensor:
        # x: (B, C, H, W); window: (C, C)
        ctx.save_for_backward(x, window)
        ctx.constants = (alpha, beta, k)
        return _normalized(x, window, alpha, beta, k)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # dx_j = g_j d_j^-beta - 2 alpha beta x_j sum over i with j in window(i) of g_i x_i d_i^(-beta - 1)
        x, window = ctx.saved_tensors
        alpha, beta, k = ctx.constants
        if torch.is_grad_enabled():  # a second backward pass will follow
            result = _normalized(x, window, alpha, beta, k)
            (of_x,) = torch.autograd.grad(result, x, gradient, create_graph=True)
            return of_x, None, None, None, None
        denominator = _denominator(x, window, alpha, k)
        activations = x.to(denominator.dtype)
        scaled = gradient.to(denominator.dtype) * _power(denominator, -beta)
        inner = (scaled * activations).div_(denominator).to(x.dtype)
        crossed = _window_sum(inner, window.t().contiguous()).to(denominator.dtype)
        return scaled.addcmul_(crossed, activations, value=-2 * alpha * beta).to(x.dtype), None, None, None, None


def _normalized(x: torch.Tensor, window: torch.Tensor, alpha: float, beta: float, k: float) -> torch.Tensor:
    power = _power(_denominator(x, window, alpha, k), -beta)
    # Widened first: torch multiplies tensors of two dtypes, one of them bfloat16, many times slower on a CPU.
    return (x.to(power.dtype) * power).to(x.dtype)


def _denominator(x: torch.Tensor, window: torch.Tensor, alpha: float, k: float) -> torch.Tensor:
    # The squares and their sums have the dtype of x (the product accumulates in float32); the rest is at least float32.
    wide = torch.promote_types(x.dtype, torch.float32)
    return _window_sum(x * x, window).to(wide).mul_(alpha).add_(k)


def _power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    if exponent == -0.75:
        # The paper's exponent by two roots: a third of the time of a general power.
        root = base.rsqrt()  # base ^ -1/2
        return root * root.sqrt()
    return base.pow(exponent)


def _window_sum(x: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    # x: (B, C, H, W), window: (C, C)
    if x.is_cuda:
        # By default torch uses TF32 for float32 convolutions on GPUs, but not for products.
        return torch.einsum("dc,bchw->bdhw", window, x)
    return F.conv2d(x, window[:, :, None, None])


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
        x: float64, float32 or bfloat16, (B, C, ...) with any number of positions.
        size: channels in a window, n in the paper.
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
    if not x.is_floating_point() or x.dim() < 2:
        raise RequestError(
            f"response normalization takes floating point (B, C, ...), got {x.dtype} of shape {tuple(x.shape)}"
        )
    if size < 1 or columns < 1 or x.shape[1] % columns:
        raise RequestError(
            f"{x.shape[1]} channels, {columns} columns, size {size}: columns must divide the channels, and columns and "
            "size must be 1 or more"
        )
    if k <= 0 or alpha < 0:
        raise RequestError(f"k is {k} and alpha is {alpha}; allowed are k above 0 and alpha 0 or more")
    factor = alpha if alpha_per_element else alpha / size
    window = window_matrix(x.shape[1], size, columns, x.device, x.dtype)
    positions = x if x.dim() == 4 else x.reshape(x.shape[0], x.shape[1], -1, 1)
    # Autocast would return the products in another dtype than the activations.
    with contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        if needs_reference_ops(positions):
            return _normalized(positions, window, factor, beta, k).reshape(x.shape)
        result: torch.Tensor = _ResponseNorm.apply(positions, window, factor, beta, k)  # type: ignore[no-untyped-call]
    return result.reshape(x.shape)


def same_map_norm(x: torch.Tensor, size: int = 5, alpha: float = 1e-3, beta: float = 0.75) -> torch.Tensor:
    """Divide each activation by a power of the sum of squares over neighboring positions of its channel.

    b = a / (1 + alpha / size^2 * sum of a^2 over the size x size positions around it) ^ beta. Positions beyond the edge
    count as 0, and the sum is not scaled up for them.

    Args:
        x: float64, float32 or bfloat16, (B, C, H, W).
        size: side of the window, odd.
        alpha: factor on the mean square of the window.
        beta: exponent.

    Returns:
        A tensor like `x`.

    Raises:
        ValueError: an integer tensor or one of another number of axes, or a value out of range.

    Not in the paper; the original source calls it `rnorm` and has it in layer 2 and in its networks for CIFAR-10.
    """
    if not x.is_floating_point() or x.dim() != 4:
        raise RequestError(
            f"same-map normalization takes floating point (B, C, H, W), got {x.dtype} of shape {tuple(x.shape)}"
        )
    if size < 1 or size % 2 == 0:
        raise RequestError(f"size is {size}; allowed are odd numbers, 1 or more, so that the window has a center")
    if alpha < 0:
        raise RequestError(f"alpha is {alpha}; allowed is 0 or more")
    with contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        # bfloat16 keeps 8 bits: intermediate values are float32 or wider.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # The padding's zeros are counted. Padded first: the backward pass of avg_pool2d with padding is wrong for
        # channels-last tensors on GPUs (pytorch/pytorch issue 188344; up to 2.13).
        mean_square = F.avg_pool2d(F.pad(wide * wide, [size // 2] * 4), size, stride=1)
        return (wide * _power(mean_square.mul(alpha).add(1.0), -beta)).to(x.dtype)
