"""Gradients of class scores, against finite differences, against the formula and against captum; nothing remains."""

import threading
from collections.abc import Callable

import captum.attr
import numpy as np
import pytest
import torch
from tests.model.varied_networks import normwise, varied_network
from torch import nn

from alexnet import AlexNet
from alexnet.errors import RequestError
from alexnet.explore.attribution import guided_gradients, score_gradients, unguided_reason
from alexnet.model.inference import inference_network

VARIANTS = [
    pytest.param("paper", marks=pytest.mark.slow),
    "cifar-11pct",
    "quick",
]  # both normalizations, columns, local layers, pooling before ReLU
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")
CLASSES = torch.tensor([3, 5])


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_finite_differences(variant: str) -> None:
    network, images, _ = varied_network(variant, torch.float64)
    gradients = score_gradients(network, images, CLASSES)
    generator = torch.Generator().manual_seed(3)
    step = 1e-5
    with torch.no_grad():
        for _ in range(3):
            direction = torch.randn(images.shape, dtype=torch.float64, generator=generator)
            scores = [network(images + sign * step * direction)[range(2), CLASSES] for sign in (1, -1)]
            want = (scores[0] - scores[1]) / (2 * step)
            got = (gradients * direction).flatten(1).sum(1)
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6 * float(gradients.norm()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_captums(variant: str) -> None:
    network, images, _ = varied_network(variant, torch.float64)
    plain = captum.attr.Saliency(network).attribute(images, target=CLASSES, abs=False)
    guided = captum.attr.GuidedBackprop(network).attribute(images, target=CLASSES)
    assert normwise(score_gradients(network, images, CLASSES), plain) < 1e-12
    assert normwise(guided_gradients(network, images, CLASSES), guided) < 1e-12
    assert normwise(guided, plain) > 0.1


def test_guided_gradient_by_its_formula() -> None:
    """Of W2 relu(W1 x): passed where both the input of the ReLU and the gradient that comes back are positive."""
    generator = np.random.default_rng(1)
    first, second, x = generator.normal(size=(9, 6)), generator.normal(size=(4, 9)), generator.normal(size=6)
    network = nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 4, bias=False)).double()
    network[0].weight.data, network[2].weight.data = torch.from_numpy(first), torch.from_numpy(second)
    for target in range(4):
        back = second[target] * (second[target] > 0) * (first @ x > 0)
        got = guided_gradients(network, torch.from_numpy(x)[None], torch.tensor([target]))
        np.testing.assert_allclose(got[0].numpy(), back @ first, rtol=1e-12)


def test_modules_inside_of_replaced_layers_are_guided_too() -> None:
    network, images, _ = varied_network("quick", torch.float64)
    network.fc5 = nn.Sequential(nn.Linear(network.get_parameter("fc5.weight").shape[1], 8), nn.ReLU(), nn.Linear(8, 7))
    network.double()
    want = captum.attr.GuidedBackprop(network).attribute(images, target=CLASSES)
    assert normwise(guided_gradients(network, images, CLASSES), want) < 1e-12


@pytest.mark.parametrize("function", [score_gradients, guided_gradients])
def test_nothing_is_left_on_the_network(function: Callable[..., torch.Tensor]) -> None:
    network, images, _ = varied_network("quick")
    modules, hooks = dict(network.named_modules()), [len(one._backward_hooks) for one in network.modules()]
    images.requires_grad_()
    with torch.inference_mode():  # as within other computations
        first = function(network, images.detach(), CLASSES)
    assert dict(network.named_modules()) == modules
    assert [len(one._backward_hooks) for one in network.modules()] == hooks and network.is_untouched()
    assert images.grad is None and all(one.grad is None for one in network.parameters())
    assert all(one.requires_grad for one in network.parameters())
    # An image's gradient does not depend on the others.
    alone = function(network, images[1:], CLASSES[1:])
    assert normwise(first[1:], alone) < 1e-5
    with inference_network(network, torch.device("cpu"), "float32") as copy:
        assert torch.equal(function(copy, images, CLASSES), first)


def test_threads_do_not_see_each_other() -> None:
    network, images, _ = varied_network("quick")
    want = {one: one(network, images, CLASSES) for one in (score_gradients, guided_gradients)}
    wrong: list[str] = []

    def work(function: Callable[..., torch.Tensor]) -> None:
        for _ in range(8):
            if not torch.equal(function(network, images, CLASSES), want[function]):
                wrong.append(function.__name__)

    threads = [threading.Thread(target=work, args=(one,)) for one in (*want, *want)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def test_networks_without_a_guided_gradient() -> None:
    tanh = AlexNet(4, "tanh", 0.02)
    assert unguided_reason(tanh) == "the guided gradient changes how ReLU passes gradients, and tanh has no ReLU"
    with pytest.raises(RequestError, match="tanh has no ReLU"):
        guided_gradients(tanh, torch.zeros(1, 3, 224, 224), torch.tensor([0]))
    network = AlexNet(4, "quick", 0.1)
    assert unguided_reason(network) is None
    compiled = torch.compile(network, backend="eager")
    assert unguided_reason(compiled) is not None  # type: ignore[arg-type]
    network.relu1.forward = torch.nn.functional.relu
    with pytest.raises(RequestError, match="needs a network of plain modules"):
        guided_gradients(network, torch.zeros(1, 3, 28, 28), torch.tensor([0]))
