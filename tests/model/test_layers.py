"""The layers against float64 NumPy loops written from their formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.fast_conv2d import Convolution2d
from torch.func import functional_call

from alexnet.errors import RequestError
from alexnet.model.layers import (
    ColumnLinear,
    LocallyConnected2d,
    SeededDropout,
    average_pool,
    initialize,
    max_pool,
)


@settings(max_examples=25, deadline=None)
@given(side=st.integers(3, 14), size=st.integers(2, 3), stride=st.integers(1, 3), seed=st.integers(0, 99))
def test_pools_equal_the_loops(side: int, size: int, stride: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(1, 2, side, side))
    # FACTS of the source: ceil((side - size) / stride) + 1 windows, each clipped at the edge. torch omits a last
    # window that would begin beyond the image; with stride <= size no window does.
    stride = min(stride, size)
    positions = -(-(side - size) // stride) + 1
    windows = [
        [x[0, :, i * stride : i * stride + size, j * stride : j * stride + size] for j in range(positions)]
        for i in range(positions)
    ]
    largest = np.array([[window.max(axis=(1, 2)) for window in row] for row in windows])
    means = np.array(
        [[window.mean(axis=(1, 2)) for window in row] for row in windows]
    )  # of the positions inside the image
    shares = np.array([[window.sum(axis=(1, 2)) / size**2 for window in row] for row in windows])
    images = torch.from_numpy(x)
    for ties in ("one", "every"):
        np.testing.assert_array_equal(max_pool(images, size, stride, ties)[0].permute(1, 2, 0).numpy(), largest)  # type: ignore[arg-type]
    np.testing.assert_allclose(
        average_pool(images, size, stride)[0].permute(1, 2, 0).numpy(), means, rtol=1e-12, atol=1e-14
    )  # sums may cancel
    of_whole = average_pool(images, size, stride, "whole")[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(of_whole, shares, rtol=1e-12, atol=1e-14)
    # No two activations tie, so both gradients agree with differences, in overlapping and clipped windows too.
    small = images[:, :, :6, :6].clone().requires_grad_()
    if min(small.shape[2:]) >= size:
        assert torch.autograd.gradcheck(lambda v: max_pool(v, size, stride, "every"), (small,), eps=1e-7)
        assert torch.autograd.gradcheck(lambda v: average_pool(v, size, stride, "whole"), (small,))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (LocallyConnected2d(2, 3, 3, 1, 4), (2, 2, 4, 4)),
        (ColumnLinear(6, 4, 2), (3, 6)),
        (Convolution2d(4, 6, 3, padding=1, groups=2), (2, 4, 5, 4)),
        (Convolution2d(3, 2, 5, stride=4, end_padding=3), (2, 3, 10, 10)),
    ],
    ids=["locally connected", "dense in columns", "convolution in columns", "first convolution"],
)
def test_gradients_agree_with_differences(layer: torch.nn.Module, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    layer.double()
    names = [name for name, _ in layer.named_parameters()]
    sizes = [shape, *(parameter.shape for parameter in layer.parameters())]
    given = [torch.randn(size, dtype=torch.float64, generator=generator).requires_grad_() for size in sizes]

    def computed(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = functional_call(layer, dict(zip(names, parameters, strict=True)), x)
        return result

    assert torch.autograd.gradcheck(computed, given)


def test_ties_go_to_one_or_to_every() -> None:
    x = torch.tensor([[[[2.0, 1.0, 2.0], [2.0, 0.0, 3.0]]]], dtype=torch.float64, requires_grad=True)
    # Two 2 x 2 windows with stride 1: the first has 2 twice, the second 3 once.
    (every,) = torch.autograd.grad((max_pool(x, 2, 1, "every") * torch.tensor([5.0, 7.0])).sum(), x)
    assert every.tolist() == [[[[5.0, 0.0, 0.0], [5.0, 0.0, 7.0]]]]
    (one,) = torch.autograd.grad((max_pool(x, 2, 1, "one") * torch.tensor([5.0, 7.0])).sum(), x)
    assert one.tolist() == [[[[5.0, 0.0, 0.0], [0.0, 0.0, 7.0]]]]  # the first, here


def test_windows_that_leave_gaps_or_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match=r"windows of 2 positions with stride 3 do not fit"):
        max_pool(torch.zeros(1, 1, 6, 6), 2, 3)
    with pytest.raises(RequestError, match=r"windows of 5 positions with stride 2 do not fit shape \(1, 1, 2, 2\)"):
        average_pool(torch.zeros(1, 1, 2, 2), 5, 2)


def test_relu_has_no_gradient_at_zero() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    torch.relu(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 0.0, 1.0]


def test_columns_of_a_dense_layer_do_not_see_each_other() -> None:
    layer = ColumnLinear(6, 4, 2).double()
    initialize(layer, 3, 1.0, 0.5, torch.Generator().manual_seed(0))
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    out = layer(x)
    want = np.hstack([x.detach().numpy()[:, :3] @ layer.weight.detach().numpy()[:2].T + 0.5,
                      x.detach().numpy()[:, 3:] @ layer.weight.detach().numpy()[2:].T + 0.5])  # fmt: skip
    np.testing.assert_allclose(out.detach().numpy(), want, rtol=1e-12)
    out[:, :2].sum().backward()
    assert x.grad is not None and (x.grad[:, :3] != 0).all() and (x.grad[:, 3:] == 0).all()
    with pytest.raises(RequestError, match="2 columns must divide the 5 features and the 4 units"):
        ColumnLinear(5, 4, 2)


def test_local_layer_with_equal_weights_is_a_convolution() -> None:
    layer = LocallyConnected2d(3, 4, 3, 1, 5).double()
    shared = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    layer.weight.data.copy_(shared.expand(5, 5, -1, -1, -1, -1))
    layer.bias.data.copy_(torch.arange(100.0).reshape(4, 5, 5))
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    want = F.conv2d(x, shared, padding=1) + torch.arange(100.0, dtype=torch.float64).reshape(4, 5, 5)
    torch.testing.assert_close(layer(x), want)
    assert layer(x[:0]).shape == (0, 4, 5, 5)


def test_dropout_multiplies_by_the_keep_probability_in_evaluation() -> None:
    layer, x = SeededDropout(0.3), torch.full((1000, 20), 2.0)
    torch.testing.assert_close(layer.eval()(x), torch.full_like(x, 1.4))
    layer.train().generator = torch.Generator().manual_seed(3)
    out = layer(x)
    assert set(out.unique().tolist()) == {0.0, 2.0}  # nothing is scaled up
    # 20,000 draws: five standard errors are 0.0162.
    assert abs((out == 0).double().mean().item() - 0.3) < 0.0163
    layer.generator.manual_seed(3)
    torch.testing.assert_close(layer(x), out)
    assert SeededDropout(0.0).eval()(x) is x
    with pytest.raises(RequestError, match=r"dropout probability is 1\.0"):
        SeededDropout(1.0)


def test_inverted_dropout_scales_up_in_training_and_not_after() -> None:
    layer, x = SeededDropout(0.2, inverted=True), torch.full((500, 20), 2.0)
    assert layer.eval()(x) is x
    out = layer.train()(x)
    assert set(out.unique().tolist()) == {0.0, 2.5}


@pytest.mark.parametrize(("init_std", "want"), [(0.01, 0.01), (0.03, 0.03), (None, (2 / 75) ** 0.5)])
def test_moments_of_initial_weights(init_std: float | None, want: float) -> None:
    layer = torch.nn.Conv2d(3, 400, 5)
    initialize(layer, 75, init_std, 1.0, torch.Generator().manual_seed(0))
    values = layer.weight.detach().double().numpy()
    num = values.size  # 30,000
    assert abs(values.mean()) < 4 * want / num**0.5
    assert abs(values.std() - want) < 4 * want / (2 * num) ** 0.5
    assert layer.bias is not None and (layer.bias == 1.0).all()


def test_uniform_initial_weights_are_torchs() -> None:
    layer = torch.nn.Conv2d(3, 400, 5)
    limit = float(np.sqrt(1 / 75))
    initialize(layer, 75, "uniform", 1.0, torch.Generator().manual_seed(0))
    for tensor in (layer.weight, layer.bias):
        assert tensor is not None
        values = tensor.detach().double().numpy()
        assert np.abs(values).max() <= limit
        # Standard deviation of a uniform number limit / sqrt(3); its estimate's error from the fourth moment.
        assert abs(values.std() - limit / 3**0.5) < 4 * limit / 3**0.5 * (0.8 / 4 / values.size) ** 0.5
        assert abs(values.mean()) < 4 * limit / 3**0.5 / values.size**0.5


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 9), size=st.integers(1, 9), seed=st.integers(0, 99))
def test_dropout_of_parts_is_that_of_the_batch(num: int, size: int, seed: int) -> None:
    first, second = SeededDropout(0.5), SeededDropout(0.3)
    x = torch.ones(num, 6)

    def both(part: torch.Tensor) -> torch.Tensor:
        return torch.cat([first(part), second(part)], dim=1)

    def seeded() -> None:
        generator = torch.Generator().manual_seed(seed)
        first.generator = second.generator = generator

    seeded()
    whole = both(x)
    seeded()
    parts = []
    for begin in range(0, num, size):
        rows = slice(begin, min(begin + size, num))
        first.part = second.part = (rows, num)
        parts.append(both(x[rows]))
    assert torch.equal(torch.cat(parts), whole)
