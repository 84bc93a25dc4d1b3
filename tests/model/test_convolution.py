"""The weight gradient by a matrix product against sums over windows in float64, and against torch's own algorithm."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.fast_conv2d import Convolution2d

from alexnet.model import kernels
from alexnet.model.convolution import (
    MAX_PRODUCT_SIDE,
    space_to_depth,
    space_to_depth_convolution,
    ungrouped_weight,
    weight_gradient,
)
from alexnet.model.kernels.operators import space_to_depth as fused_space_to_depth


def gradient_by_loops(x: np.ndarray, g: np.ndarray, kernel: tuple[int, int], padding: tuple[int, int]) -> np.ndarray:
    """dL/dw[d, c, i, j] = sum over images and positions of g[b, d, y, x] * padded[b, c, y + i, x + j]."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    height, width = g.shape[2:]
    result = np.empty((g.shape[1], x.shape[1], *kernel))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            window = x[:, :, i : i + height, j : j + width]
            result[:, :, i, j] = np.einsum("bdyx,bcyx->dc", g, window)
    return result


@settings(max_examples=30, deadline=None)
@given(
    images=st.sampled_from([1, 3, 64, 65, 130]),
    channels=st.integers(1, 5),
    outputs=st.integers(1, 4),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_weight_gradient_equals_the_loops(
    images: int,
    channels: int,
    outputs: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    padding: tuple[int, int],
    last: bool,
    seed: int,
) -> None:
    height, width = (s + 2 * p - k + 1 for s, p, k in zip(size, padding, kernel, strict=True))
    if height < 1 or width < 1:
        return
    random = np.random.default_rng(seed)
    x, g = random.normal(size=(images, channels, *size)), random.normal(size=(images, outputs, height, width))
    layout = torch.channels_last if last else torch.contiguous_format
    tensors = [torch.from_numpy(a).contiguous(memory_format=layout) for a in (x, g)]
    got = weight_gradient(*tensors, *kernel, padding)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), gradient_by_loops(x, g, kernel, padding), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("side", [3, MAX_PRODUCT_SIDE])
def test_layer_trains_like_the_float64_one(side: int, autocast: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    layer = Convolution2d(6, 10, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(70, 6, side, side, generator=generator).bfloat16().float()
    g = torch.randn(70, 10, side, side, generator=generator).bfloat16().float()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter.bfloat16())
    reference = [t.detach().double().requires_grad_() for t in (x, layer.weight, layer.bias)]
    wanted = F.conv2d(*reference, padding=1)
    wanted.backward(g.double())
    if not autocast:
        layer.bfloat16()
    given_x = (x if autocast else x.bfloat16()).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = layer(given_x)
    assert "_WindowProduct" in type(result.grad_fn).__name__
    assert result.dtype == torch.bfloat16
    result.backward(g.bfloat16())
    for name, got, want in (
        ("output", result, wanted),
        ("input", given_x.grad, reference[0].grad),
        ("weight", layer.weight.grad, reference[1].grad),
        ("bias", layer.bias.grad, reference[2].grad),
    ):
        # Exact products of bfloat16 numbers, summed in float32, rounded once (the weights once for each 64
        # images). The input's gradient is torch's own, which rounds intermediate sums where the CPU has no such
        # products.
        error = (got.double() - want).norm() / want.norm()
        assert error < (2**-7 if name == "input" else 2**-8), name


def test_other_layers_are_left_to_torch() -> None:
    half = torch.bfloat16
    for layer, x in (
        (Convolution2d(4, 4, 3, padding=1), torch.ones(1, 4, 3, 3)),
        (Convolution2d(4, 4, 3, padding=1).to(half), torch.ones(1, 4, 9, 9, dtype=half)),
        (Convolution2d(4, 4, 3, padding=1, groups=2).to(half), torch.ones(1, 4, 3, 3, dtype=half)),
        (Convolution2d(4, 4, 3, stride=2).to(half), torch.ones(1, 4, 3, 3, dtype=half)),
    ):
        result = layer(x)
        assert "_WindowProduct" not in type(result.grad_fn).__name__
        assert torch.equal(result, torch.nn.Conv2d.forward(layer, x))


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "end"),
    [(224, 224, 11, 4, 3), (30, 41, 5, 3, 0), (9, 12, 4, 4, 0), (11, 10, 3, 2, 1)],
)
def test_space_to_depth_equals_a_stride(height: int, width: int, kernel: int, stride: int, end: int) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64, generator=generator, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, generator=generator, requires_grad=True)
    want = F.conv2d(F.pad(x, (0, end, 0, end)), weight, bias, stride)
    got = space_to_depth_convolution(x, weight, bias, stride, end)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    gradient = torch.randn(want.shape, dtype=torch.float64, generator=generator)
    inputs = (x, weight, bias)
    for one, other in zip(
        torch.autograd.grad(got, inputs, gradient), torch.autograd.grad(want, inputs, gradient), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_ungrouped_weights_equal_a_grouped_convolution() -> None:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64, generator=generator)
    weight = torch.randn(9, 2, 3, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    want, got = F.conv2d(x, weight, groups=3), F.conv2d(x, ungrouped_weight(weight, 3))
    torch.testing.assert_close(got, want)
    for one, other in zip(torch.autograd.grad(got.sum(), weight), torch.autograd.grad(want.sum(), weight), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_first_layer_reads_blocks_in_bfloat16(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    layer = Convolution2d(3, 8, 11, 4, end_padding=3).to(device=device, memory_format=torch.channels_last)
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(7)).to(device)
    want = F.conv2d(F.pad(x, (0, 3, 0, 3)).double(), layer.weight.double(), layer.bias.double(), 4)
    assert torch.equal(layer(x), F.conv2d(F.pad(x, (0, 3, 0, 3)), layer.weight, layer.bias, 4))
    with torch.autocast(device, torch.bfloat16):
        got = layer(x)
    assert got.dtype == torch.bfloat16 and got.shape == want.shape
    assert (got.double() - want).norm() < 2**-7 * want.norm()


@pytest.mark.skipif(kernels.fallback_reason("cpu") is not None, reason=str(kernels.fallback_reason("cpu")))
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)),
    stride=st.integers(1, 5),
    blocks=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    given_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_fused_space_to_depth_equals_the_reference(
    shape: tuple[int, ...], stride: int, blocks: tuple[int, int], given_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(given_dtype)
    for to_channels_last in (x, x.contiguous(memory_format=torch.channels_last)):
        got = fused_space_to_depth(to_channels_last, stride, *blocks, dtype)
        assert torch.equal(got, space_to_depth(x, blocks, stride).to(dtype))
        assert got.is_contiguous(memory_format=torch.channels_last)
