"""Methods that explain a class score, through captum, against the formula or against the same on a plain sequence."""

import copy
from collections.abc import Iterator
from typing import Any

import captum.attr
import pytest
import torch
from captum.attr._utils.lrp_rules import EpsilonRule, IdentityRule
from tests.model.varied_networks import normwise, varied_network
from tests.tools.plain_network import plain_network
from torch import nn

from alexnet import AlexNet

TARGET = 3
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12}
CASES = [
    *((name, torch.float32) for name in ("original", "cifar-18pct", "torchvision", "quick")),
    *((name, torch.float64) for name in ("original", "cifar-18pct")),
    *(
        pytest.param((name, dtype), marks=pytest.mark.slow)
        for name in ("paper", "cifar-11pct", "cifar-13pct")
        for dtype in TOLERANCE
    ),
]
Case = tuple[AlexNet, nn.Sequential, torch.Tensor]
# captum says that it sets hooks, and that it needs the gradient of its input.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    network, images, _ = varied_network(*request.param)
    return network, plain_network(network), images


class _Guided(torch.autograd.Function):
    """ReLU whose gradient passes where the input and the gradient are positive (Springenberg et al. 2014)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x > 0) * (gradient > 0)


class _Deconvolution(torch.autograd.Function):
    """ReLU whose gradient passes where the gradient is positive (Zeiler and Fergus 2013)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (gradient > 0)


class _OtherReLU(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def _replace_relus(model: nn.Module, function: type[torch.autograd.Function]) -> None:
    """As grad-cam replaces them: through the table of modules, which no method of the model sees."""
    for name, child in model._modules.items():
        if isinstance(child, nn.ReLU):
            model._modules[name] = _OtherReLU(function)


def _gradient(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(model(images)[:, TARGET].sum(), images)[0]


@pytest.mark.parametrize(
    ("method", "function"),
    [(captum.attr.GuidedBackprop, _Guided), (captum.attr.Deconvolution, _Deconvolution)],
    ids=["guided", "deconvolution"],
)
def test_gradients_through_changed_relus(case: Case, method: Any, function: type[torch.autograd.Function]) -> None:
    network, plain, images = case
    _replace_relus(plain, function)
    want, unchanged = _gradient(plain, images), _gradient(network, images)
    got = method(network).attribute(images, target=TARGET)
    assert normwise(got, want) < TOLERANCE[images.dtype]
    assert normwise(got, unchanged) > 0.1
    assert torch.equal(_gradient(network, images), unchanged)  # nothing of it remains
    _replace_relus(network, function)
    assert normwise(_gradient(network, images), want) < TOLERANCE[images.dtype]


def test_saliency_and_integrated_gradients(case: Case) -> None:
    network, plain, images = case
    saliency = captum.attr.Saliency(network).attribute(images, target=TARGET, abs=False)
    assert normwise(saliency, _gradient(plain, images)) < TOLERANCE[images.dtype]
    baselines = _baselines(images)
    for method in (captum.attr.IntegratedGradients, captum.attr.InputXGradient):
        given = {"baselines": baselines, "n_steps": 8} if method is captum.attr.IntegratedGradients else {}
        got, want = (method(model).attribute(images, target=TARGET, **given) for model in (network, plain))
        # On the way from the baseline, float32's rounding may decide which of two activations is larger.
        assert normwise(got, want) < (1e-2 if images.dtype == torch.float32 else 1e-12)


def _baselines(images: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(images).uniform_(-50, 50, generator=torch.Generator().manual_seed(6))


def test_deep_lift_is_that_of_a_plain_sequence(case: Case) -> None:
    network, plain, images = case
    got, want = (
        captum.attr.DeepLift(model).attribute(images, _baselines(images), target=TARGET) for model in (network, plain)
    )
    assert normwise(got, want) < 10 * TOLERANCE[images.dtype]
    assert normwise(got, (images - _baselines(images)) * _gradient(plain, images)) > 0.1


def test_deep_lift_adds_up_without_layers_that_it_has_no_rule_for(case: Case) -> None:
    """captum has none for normalization, and that for max-pooling is wrong where windows overlap."""
    network, _, images = case
    for name, child in [*network.named_children()]:
        if "norm" in name:
            setattr(network, name, nn.Identity())
        elif isinstance(child, nn.MaxPool2d):
            setattr(network, name, nn.AvgPool2d(child.kernel_size, child.stride, 0, True))
    baselines = _baselines(images)
    with torch.no_grad():
        difference = (network(images) - network(baselines))[:, TARGET]
    given, delta = captum.attr.DeepLift(network).attribute(
        images, baselines, target=TARGET, return_convergence_delta=True
    )
    allowed = TOLERANCE[images.dtype] * float(given.detach().abs().sum())
    assert (given.flatten(1).sum(1) - difference).abs().max() < allowed
    assert delta.abs().max() < allowed


class _Times1(nn.Module):
    """Makes a new tensor: captum loses the rule of a max-pooling whose input or output another layer shares."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_deep_lift_adds_up_with_max_pooling_without_overlap(dtype: torch.dtype) -> None:
    network, images, _ = varied_network("non-overlapping", dtype)
    for name, child in [*network.named_children()]:
        if "norm" in name:
            setattr(network, name, _Times1())
        elif isinstance(child, nn.MaxPool2d):
            pool = nn.MaxPool2d(child.kernel_size, child.stride, ceil_mode=True)
            setattr(network, name, nn.Sequential(_Times1(), pool, _Times1()))
    baselines = _baselines(images)
    with torch.no_grad():
        difference = (network(images) - network(baselines))[:, TARGET]
    given = captum.attr.DeepLift(network).attribute(images, baselines, target=TARGET)
    assert (given.flatten(1).sum(1) - difference).abs().max() < 1e-3 * float(difference.abs().min())


def test_grad_cam_of_the_last_convolution(case: Case) -> None:
    network, plain, images = case
    name = [name for name, child in network.named_children() if isinstance(child, nn.Conv2d)][-1]
    number = [number for number, child in enumerate(plain) if isinstance(child, nn.Conv2d)][-1]
    layers = network.get_submodule(name), plain[number]
    for method in (captum.attr.LayerGradCam, captum.attr.LayerGradientXActivation, captum.attr.LayerActivation):
        target = {} if method is captum.attr.LayerActivation else {"target": TARGET}
        got, want = (
            method(model, layer).attribute(images, **target)
            for model, layer in zip((network, plain), layers, strict=True)
        )
        assert got.shape == want.shape and normwise(got, want) < TOLERANCE[images.dtype]
    # The class activation map is positive somewhere for some class.
    got, want = (
        sum(captum.attr.GuidedGradCam(model, layer).attribute(images, target=one) for one in range(3))
        for model, layer in zip((network, plain), layers, strict=True)
    )
    assert want.norm() > 0 and normwise(got, want) < TOLERANCE[images.dtype]


def test_activations_of_every_layer(case: Case) -> None:
    network, plain, images = case
    x = images
    for child, layer in zip(network.children(), plain, strict=True):
        x = layer(x)
        got = captum.attr.LayerActivation(network, child).attribute(images)
        assert normwise(got, x) < TOLERANCE[images.dtype]


def test_relevance_is_that_of_a_plain_sequence(case: Case) -> None:
    """captum's LRP refuses layers that it has no rule for until they are given one."""
    network, plain, images = case
    with pytest.raises(TypeError, match="no rule defined"):
        captum.attr.LRP(copy.deepcopy(network)).attribute(images, target=TARGET)
    got, want = (
        captum.attr.LRP(_with_rules(copy.deepcopy(model))).attribute(images, target=TARGET)
        for model in (network, plain)
    )
    assert normwise(got, want) < 100 * TOLERANCE[images.dtype]


def _with_rules(model: nn.Module) -> nn.Module:
    known = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.ReLU, nn.Tanh, nn.Dropout)
    for child in _leaves(model):
        if type(child) not in known:
            child.rule = IdentityRule() if "Norm" in type(child).__name__ else EpsilonRule()  # type: ignore[assignment]
    return model


def _leaves(model: nn.Module) -> Iterator[nn.Module]:
    return (child for child in model.modules() if not [*child.children()])
