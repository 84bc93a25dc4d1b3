"""A convolution in the forms that are fast where the library's own is slow: the first layer's, small maps', float32's.

Axes: B images, C maps read, D maps written, H W places, k the side of the kernel, s its stride.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from alexnet.model import kernels
from alexnet.model.derivatives import needs_reference_ops
from alexnet.model.kernels import convolutions
from alexnet.model.kernels.operators import in_blocks

MATRIX_UNIT = 8
"""Maps that matrix units take at a time: a layer that reads fewer leaves most of them idle."""
# Side of the images up to which the product was seen to be the faster one (docs/log.md).
PRODUCT_UP_TO_PX = 8
WINOGRAD_FROM_IMAGES = 8
"""Images of a batch from which Winograd's filtering is looked for: fewer are answered before its code is loaded."""
# Products of an image at one place of the kernel, of a column, from which it pays (docs/log.md).
_FROM_PRODUCTS = 3_000_000
# Images laid out at a time: what they fill stays in a cache, and their sum is kept in float32.
_GROUP = 64


class Convolution2d(nn.Conv2d):
    """`torch.nn.Conv2d` in other forms where they are faster: same parameters, same results up to rounding.

    A first layer, few maps read s places apart, is slow because matrix units take eight maps or more at a time: s x s
    places laid side by side as maps make of it a layer of stride 1 that reads C s^2 maps (`by_blocks`). This serves
    bfloat16, one column, no padding.

    Columns cost a GPU more than they save: one convolution with zeros for what a column does not read multiplies twice
    as often and is done sooner (docs/log.md). This serves bfloat16 on GPUs.

    The library is also slow at the weight gradient of a 3 x 3 layer over few places; laid out as rows of windows the
    same sum is a plain matrix product (`benchmarks/weight_gradient.py`, docs/log.md). This serves bfloat16 on CPUs
    (also under autocast), one column, stride 1 and maps of at most `PRODUCT_UP_TO_PX` places a side.

    In float32 a processor has no matrix units, and products are what it waits for. Winograd's filtering takes fewer of
    them (`alexnet.model.kernels.winograd`, `benchmarks/winograd.py`): for the weight gradient of 3 x 3, which a first
    layer's is too, of blocks, and for all of 5 x 5 over many places. This serves float32 on CPUs, stride 1, maps
    enough, `WINOGRAD_FROM_IMAGES` images or more, and not while torch traces or compiles. It has no second derivatives
    (`alexnet.model.kernels.reference_ops` has them).

    Args:
        end: zeros added beyond the right and the lower edge only; the others as in `torch.nn.Conv2d`.
        keeps_ties: equal windows give equal results, to the last bit, wherever they are. With Winograd's filtering a
            result's rounding depends on its place in a tile: only gradients are then computed so.
    """

    def __init__(
        self,
        maps: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        end: int = 0,
        keeps_ties: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(maps, outputs, kernel, stride, padding, groups=groups, dtype=dtype)
        self.end, self.keeps_ties = end, keeps_ties

    def bias_in_epilogue(self, input: torch.Tensor) -> bool:
        """Whether `without_bias` and a fused pass behind it are the faster way, and nobody is hooked to this layer."""
        if self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks:
            return False
        return kernels.epilogue_adds_bias(input, _computed_dtype(input)) and not needs_reference_ops(
            self.weight, self.bias
        )

    def without_bias(self, input: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, D, H', W'), the biases left to somebody else."""
        return self._conv_forward(input, self.weight, None)

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self._has_blocks():
            if self._blocks_by_winograd(input, weight):
                return convolutions.strided_convolution(input, weight, bias, self.stride[0], self.end)
            if _computed_dtype(input) == torch.bfloat16:
                return by_blocks(input, weight, bias, self.stride[0], self.end)
        if self._by_winograd(input, weight):
            forward = self.kernel_size == (5, 5) and not self.keeps_ties
            return convolutions.convolution(input, weight, bias, int(self.padding[0]), forward=forward)
        if self.end:
            input = F.pad(input, (0, self.end, 0, self.end))
        if self.groups > 1 and input.is_cuda and _computed_dtype(input) == torch.bfloat16:
            whole = across_columns(weight.to(torch.bfloat16), self.groups)
            return F.conv2d(input, whole, bias, self.stride, self.padding, self.dilation)
        if bias is None or not self._served(input):
            outputs: torch.Tensor = super()._conv_forward(input, weight, bias)
            return outputs
        half = torch.bfloat16
        result: torch.Tensor = _ByProduct.apply(input.to(half), weight.to(half), bias.to(half), self.padding)  # type: ignore[no-untyped-call]
        return result

    def _has_blocks(self) -> bool:
        stride = self.stride[0]
        plain = self.groups == 1 and self.padding == (0, 0) and self.dilation == (1, 1)
        return plain and stride > 1 and self.stride[1] == stride and self.in_channels < MATRIX_UNIT

    def _blocks_by_winograd(self, input: torch.Tensor, weight: torch.Tensor) -> bool:
        # Blocks are read by 3 x 3 weights or by 5 x 5; in float32 the gradient of these is what gains.
        stride = self.stride[0]
        sides = {-(-places // stride) for places in self.kernel_size}
        places = input.shape[-1] * input.shape[-2]  # as many as blocks have maps
        gains = weight.requires_grad and not input.requires_grad and torch.is_grad_enabled()
        enough = self.in_channels * self.out_channels * places >= _FROM_PRODUCTS
        return gains and enough and sides in ({3}, {5}) and self._winograd_takes(input, weight)

    def _by_winograd(self, input: torch.Tensor, weight: torch.Tensor) -> bool:
        side = self.kernel_size[0]
        if self.kernel_size not in ((3, 3), (5, 5)) or self.padding not in [(zeros, zeros) for zeros in range(side)]:
            return False
        if self.stride != (1, 1) or self.dilation != (1, 1) or self.padding_mode != "zeros" or self.end:
            return False
        products = self.in_channels * self.out_channels * input.shape[-1] * input.shape[-2]
        if products < _FROM_PRODUCTS * self.groups**2 or not self._winograd_takes(input, weight):
            return False
        learns = torch.is_grad_enabled() and (weight.requires_grad or side == 5)
        return learns or (side == 5 and not self.keeps_ties)

    def _winograd_takes(self, input: torch.Tensor, weight: torch.Tensor) -> bool:
        if input.dim() != 4 or not kernels.supports_winograd(input):
            return False
        # The library says what is wrong with what does not fit.
        reach = min(input.shape[2:]) + 2 * int(self.padding[0]) + self.end
        if input.shape[1] != weight.shape[1] * self.groups or reach < max(self.kernel_size):
            return False
        if needs_reference_ops(weight, self.bias):
            return False
        # A graph would be bound to batches of so many images.
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or len(input) < WINOGRAD_FROM_IMAGES:
            return False
        return weight.dtype == torch.float32 and _computed_dtype(input) == torch.float32

    def _served(self, input: torch.Tensor) -> bool:
        if input.device.type != "cpu" or not torch.is_grad_enabled() or max(input.shape[2:]) > PRODUCT_UP_TO_PX:
            return False
        if self.groups > 1 or self.stride != (1, 1) or self.dilation != (1, 1):
            return False
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return False
        return _computed_dtype(input) == torch.bfloat16 and not needs_reference_ops(input, self.weight, self.bias)


def _computed_dtype(x: torch.Tensor) -> torch.dtype:
    """In which a convolution of x computes."""
    kind = x.device.type
    if kind == "meta":
        return x.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def across_columns(weight: torch.Tensor, columns: int) -> torch.Tensor:
    """Weights of a convolution in columns, (D, C / columns, k, k), as those of one over all maps, (D, C, k, k)."""
    maps = weight.shape[1]
    parts = [
        # Dimensions are counted from the last: before and behind the columns, rows, maps.
        F.pad(part, (0, 0, 0, 0, number * maps, (columns - 1 - number) * maps))
        for number, part in enumerate(weight.chunk(columns))
    ]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def by_blocks(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, end: int = 0
) -> torch.Tensor:
    """A convolution without padding, `stride` apart, as one of stride 1 over blocks of stride x stride places.

    Args:
        x: (B, C, H, W).
        weight: (D, C, k, k), as for the plain convolution.
        bias: (D), or none.
        stride: s, 2 or more.
        end: zeros beyond the right and the lower edge.

    Returns:
        (B, D, H', W') with H' = (H + end - k) // s + 1, as the plain convolution has it.
    """
    kernel = weight.shape[2]
    reach = -(-kernel // stride)  # blocks that a window reaches into
    rows, columns = ((side + end - kernel) // stride + reach for side in x.shape[2:])
    if kernels.supports_fused(x) and not x.requires_grad:
        blocks = in_blocks(x, stride, (rows, columns), _computed_dtype(x))
    else:
        blocks = _in_blocks(x, (rows, columns), stride)
    weight = _in_blocks(weight, (reach, reach), stride)
    return F.conv2d(blocks, weight, bias)


def _in_blocks(x: torch.Tensor, blocks: tuple[int, int], stride: int) -> torch.Tensor:
    """(B, C, H, W) -> (B, s s C, rows, columns) in channels-last memory, cut or filled with zeros to whole blocks."""
    rows, columns = blocks
    beyond = (0, columns * stride - x.shape[3], 0, rows * stride - x.shape[2])
    places = F.pad(x, beyond).permute(0, 2, 3, 1)  # (B, rows s, columns s, C)
    tiled = places.reshape(x.shape[0], rows, stride, columns, stride * x.shape[1]).transpose(2, 3)
    return tiled.reshape(x.shape[0], rows, columns, -1).permute(0, 3, 1, 2)


class _ByProduct(torch.autograd.Function):
    """Stride 1, one column; the gradient of the weights as a product of rows of windows."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: tuple[int, int]
    ) -> torch.Tensor:
        # x: (B, C, H, W), weight: (D, C, k, k), bias: (D)
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
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
    x: torch.Tensor, gradient: torch.Tensor, kernel_height: int, kernel_width: int, padding: tuple[int, int]
) -> torch.Tensor:
    """Gradient of a stride-1 convolution's weights: (B, C, H, W) and (B, D, H', W') -> float32 or wider (D, C, k, k).

    Args:
        x: what the convolution read, of any floating point dtype.
        gradient: of the loss by what it wrote; H' = H + 2 * padding - k + 1.
        kernel_height: k along H.
        kernel_width: k along W.
        padding: zeros around x, along H and along W.
    """
    maps, outputs = x.shape[1], gradient.shape[1]
    height, width = gradient.shape[2:]
    wide = torch.promote_types(x.dtype, torch.float32)
    total = x.new_zeros((outputs, kernel_height * kernel_width * maps), dtype=wide)
    for first in range(0, len(x), _GROUP):
        images = x[first : first + _GROUP].permute(0, 2, 3, 1)  # (b, H, W, C)
        images = F.pad(images, (0, 0, padding[1], padding[1], padding[0], padding[0])).contiguous()
        by_image, by_row, by_place, _ = images.stride()
        # A window's row holds k_w * C neighboring values, so a window is k_h such pieces: (b, H', W', k_h, k_w * C).
        windows = images.as_strided(
            (len(images), height, width, kernel_height, kernel_width * maps), (by_image, by_row, by_place, by_row, 1)
        )
        rows = windows.reshape(-1, kernel_height * kernel_width * maps)  # (b * H' * W', k_h * k_w * C)
        steps = gradient[first : first + _GROUP].permute(0, 2, 3, 1).reshape(-1, outputs)  # (b * H' * W', D)
        total += steps.t() @ rows
    return total.view(outputs, kernel_height, kernel_width, maps).permute(0, 3, 1, 2)
