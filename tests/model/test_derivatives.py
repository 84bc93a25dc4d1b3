"""Other derivatives than one gradient of a loss (`torch.func`, forward mode, second order), against float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.model.fast_conv2d import Convolution2d
from tests.model.varied_networks import VARIED, normwise, varied_network
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, vmap

from alexnet.model import kernels
from alexnet.model.convolution import MIN_WINOGRAD_IMAGES
from alexnet.model.kernels import reference_ops
from alexnet.model.layers import max_pool
from alexnet.model.network import AlexNet
from alexnet.model.response_norm import local_response_norm, same_map_norm

# torch compiles its own rules at the first forward-mode derivative.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`")


def loss_of(network: AlexNet, direction: torch.Tensor) -> Callable[..., torch.Tensor]:
    def loss(parameters: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = functional_call(network, parameters, (images,))
        return (scores * direction[: len(scores)]).square().sum()

    return loss


def detached(network: AlexNet) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("variant", VARIED)
def test_transforms_agree_with_backward(variant: str) -> None:
    network, images, direction = varied_network(variant)
    loss, parameters = loss_of(network, direction), detached(network)
    with reference_ops():  # rounding could change which of two maxima is the larger, and so the gradient
        loss(dict(network.named_parameters()), images).backward()
    of_all = grad(loss)(parameters, images)
    each = vmap(lambda image, toward: grad(loss_of(network, toward[None]))(parameters, image[None]))(images, direction)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.norm()) > 0, name
        assert normwise(of_all[name], parameter.grad) < 1e-4, name
        assert each[name].shape == (2, *parameter.shape) and normwise(each[name].sum(0), parameter.grad) < 1e-4, name


@pytest.mark.parametrize("variant", VARIED)
def test_forward_agrees_with_backward(variant: str) -> None:
    network, images, direction = varied_network(variant, torch.float64)
    step = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    asked = images.clone().requires_grad_()
    (network(asked) * direction).sum().backward()
    assert asked.grad is not None
    want = float((asked.grad * step).sum())
    single, tangent_in = network.float(), step.float()
    found = [jvp(lambda x: (single(x) * direction).sum(), (images.float(),), (tangent_in,))[1].detach()]
    with torch.no_grad(), forward_ad.dual_level():
        scores = forward_ad.unpack_dual(single(forward_ad.make_dual(images.float(), tangent_in))).tangent  # type: ignore[no-untyped-call]
        found.append((scores * direction).sum())
    assert want != 0 and all(float(one) == pytest.approx(want, rel=1e-3) for one in found)


@pytest.mark.parametrize("variant", VARIED)
def test_second_derivatives(variant: str) -> None:
    network, images, direction = varied_network(variant, torch.float64)
    loss, parameters = loss_of(network, direction), detached(network)
    generator = torch.Generator().manual_seed(6)
    step = {name: torch.randn(one.shape, dtype=one.dtype, generator=generator) for name, one in parameters.items()}
    want = jvp(lambda given: grad(loss)(given, images), (parameters,), (step,))[1]
    asked = dict(network.named_parameters())
    first = torch.autograd.grad(loss(asked, images), list(asked.values()), create_graph=True)
    along = sum((one * step[name]).sum() for one, name in zip(first, asked, strict=True))
    assert isinstance(along, torch.Tensor)
    for name, got in zip(asked, torch.autograd.grad(along, list(asked.values()), allow_unused=True), strict=True):
        if float(want[name].norm()) == 0:
            assert got is None or float(got.norm()) == 0, name
        else:
            assert got is not None and normwise(got, want[name]) < 1e-9, name


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: local_response_norm(x, 3, 0.3, 0.75, 1.0, 2),
        lambda x: same_map_norm(x, 3, 2.0, 0.75),
        lambda x: max_pool(x.square(), 3, 2, "every"),
    ],
    ids=["across channels", "in a map", "pooling"],
)
def test_every_order_by_differences(layer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 4, 4, 5))).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(layer, (x,))
    backward = torch.stack([torch.autograd.grad(one, x, retain_graph=True)[0] for one in layer(x)[0, 0].flatten()])
    torch.testing.assert_close(jacrev(lambda v: layer(v)[0, 0].flatten())(x.detach()), backward)


def test_ties_and_nan_pool_the_same_under_a_transform() -> None:
    x = torch.randint(0, 3, (2, 3, 7, 6), generator=torch.Generator().manual_seed(7)).double()
    gradient = torch.rand(2, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    asked = x.clone().requires_grad_()
    (max_pool(asked, 3, 2, "every") * gradient).sum().backward()
    found = grad(lambda v: (max_pool(v, 3, 2, "every") * gradient).sum())(x)
    torch.testing.assert_close(found, asked.grad)
    for what in (float("inf"), -float("inf"), float("nan")):
        x[0, 1] = what
        torch.testing.assert_close(
            vmap(lambda v: max_pool(v[None], 3, 2, "every")[0])(x), max_pool(x, 3, 2, "every"), equal_nan=True
        )


@pytest.mark.skipif(kernels.fallback_reason("cpu") is not None, reason=str(kernels.fallback_reason("cpu")))
@pytest.mark.parametrize("learned", ["weight", "bias"])
def test_winograd_leaves_transforms_to_the_library(learned: str) -> None:
    layer = Convolution2d(64, 64, 5, padding=2)
    x = torch.randn(MIN_WINOGRAD_IMAGES, 64, 32, 32, generator=torch.Generator().manual_seed(9))
    layer(x).square().mean().backward()
    parameters = {name: one.detach() for name, one in layer.named_parameters()}
    found = grad(lambda given: functional_call(layer, given, (x,)).square().mean())(parameters)
    for name, one in layer.named_parameters():
        assert one.grad is not None and normwise(found[name], one.grad) < 1e-5
    with torch.no_grad(), forward_ad.dual_level():
        tangent_in = torch.ones_like(parameters[learned])
        given = {**parameters, learned: forward_ad.make_dual(parameters[learned], tangent_in)}  # type: ignore[no-untyped-call]
        tangent = forward_ad.unpack_dual(functional_call(layer, given, (x,))).tangent  # type: ignore[no-untyped-call]
        want = torch.ones(len(x), 64, 32, 32)
        if learned == "weight":
            want = torch.nn.functional.conv2d(x, tangent_in, padding=2)
        torch.testing.assert_close(tangent, want, rtol=1e-4, atol=1e-3)


def test_second_derivatives_of_window_products() -> None:
    """Small images in bfloat16 have their own weight gradient; compared with float64 of the rounded factors."""
    layer = Convolution2d(8, 8, 3, padding=1)
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(10)).bfloat16().requires_grad_()
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        same = Convolution2d(8, 8, 3, padding=1).to(torch.bfloat16)
        same.load_state_dict(layer.state_dict())
        same.to(dtype)
        given = [x.detach().to(dtype).requires_grad_(), *same.parameters()]
        loss = same(given[0]).double().square().sum()
        first = torch.autograd.grad(loss, given, create_graph=True)
        along = sum(one.double().square().sum() for one in first)
        assert isinstance(along, torch.Tensor)
        found.append(torch.autograd.grad(along, given))
    for got, want in zip(*found, strict=True):
        assert normwise(got.double(), want) < 0.02


@pytest.mark.skipif(kernels.fallback_reason("cpu") is not None, reason=str(kernels.fallback_reason("cpu")))
def test_flops_of_winograd_are_those_of_the_plain_convolution() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for kernel in (3, 5):
        layer = Convolution2d(96, 128, kernel, padding=kernel // 2, groups=2)
        x = torch.randn(MIN_WINOGRAD_IMAGES, 96, 40, 40).requires_grad_()
        with FlopCounterMode(display=False) as counter:
            layer(x).sum().backward()
        assert any("alexnet" in str(name) for name in counter.get_flop_counts()["Global"])
        once = 2 * len(x) * 40 * 40 * 128 * 48 * kernel**2
        assert counter.get_total_flops() == 3 * once
    first = Convolution2d(3, 24, 11, 4, end_padding=3)
    with FlopCounterMode(display=False) as counter:
        first(torch.randn(MIN_WINOGRAD_IMAGES, 3, 224, 224)).sum().backward()
    assert any("strided" in str(name) for name in counter.get_flop_counts()["Global"])
    assert counter.get_total_flops() == 2 * 2 * MIN_WINOGRAD_IMAGES * 55 * 55 * 24 * 3 * 11 * 11
