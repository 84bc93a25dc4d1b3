"""Inference leaves the network of the caller as it is: weights, modes, and other threads that call it."""

import threading

import pytest
import torch
from tests.model.varied_networks import VARIED, varied_network
from torch import nn

from alexnet.model import kernels
from alexnet.model.inference import inference_network
from alexnet.model.kernels import reference_ops
from alexnet.model.network import AlexNet
from alexnet.system.device import Precision, arithmetic

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIED)
def test_the_network_stays_as_it_is(variant: str, precision: Precision) -> None:
    network, images, _ = varied_network(variant)
    before = network(images).detach()
    network.train()
    network.get_submodule("conv1").eval()
    modes = {name: module.training for name, module in network.named_modules()}
    with torch.inference_mode(), inference_network(network, CPU, precision) as ready, arithmetic(CPU, precision):
        assert ready is not network and not any(module.training for module in ready.modules())
        scores = ready(images)
        assert {name: module.training for name, module in network.named_modules()} == modes
        assert all(one.dtype == torch.float32 and one.requires_grad for one in network.parameters())
    assert ((scores - before).norm() / before.norm()).item() < (1e-6 if precision == "float32" else 0.05)
    own = {one.data_ptr() for one in network.parameters()}
    shared = {one.data_ptr() for one in ready.parameters()}
    assert shared == own if precision == "float32" else not shared & own


@pytest.mark.parametrize(
    "change",
    [
        lambda network: setattr(network, "norm1", nn.BatchNorm2d(network.conv1.out_channels)),
        lambda network: network.relu1.register_forward_hook(lambda *given: None),
        lambda network: network.register_forward_pre_hook(lambda *given: None),
        lambda network: setattr(network.relu2, "forward", torch.tanh),
        lambda network: nn.utils.parametrizations.weight_norm(network.conv2),
        lambda network: network.add_module("head", nn.Linear(2, 2)),
        lambda network: network.compile(backend="eager"),
        lambda network: network.relu2.compile(backend="eager"),
    ],
)
def test_a_changed_network_is_used_itself_and_restored(change: object) -> None:
    network, images, _ = varied_network("paper")
    assert callable(change)
    change(network)
    wanted = network.eval()(images).detach()
    network.train()
    network.get_submodule("dropout6").eval()
    modes = {name: module.training for name, module in network.named_modules()}
    with inference_network(network, CPU, "bfloat16") as ready:
        assert ready is network and not any(module.training for module in network.modules())
        with torch.inference_mode(), arithmetic(CPU, "bfloat16"):
            assert ((ready(images).float() - wanted).norm() / wanted.norm()).item() < 0.05
    assert {name: module.training for name, module in network.named_modules()} == modes


def test_threads_share_a_network() -> None:
    """Each in its own precision, while another one trains it."""
    network, images, _ = varied_network("cifar-11pct")
    wanted = network(images).detach()
    stop, wrong = threading.Event(), []

    def predict(precision: Precision) -> None:
        while not stop.is_set():
            ready = inference_network(network, CPU, precision)
            with torch.inference_mode(), ready as own, arithmetic(CPU, precision):
                scores = own(images).float()
            if ((scores - wanted).norm() / wanted.norm()).item() > 0.05:
                wrong.append(precision)

    threads = [threading.Thread(target=predict, args=(one,)) for one in ("float32", "bfloat16", "bfloat16")]
    for thread in threads:
        thread.start()
    for _ in range(20):
        network.train()(images).sum().backward()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and all(one.grad is not None for one in network.parameters())


def test_float32_is_float32_also_within_autocast() -> None:
    network, images, _ = varied_network("cifar-18pct")
    with torch.inference_mode(), inference_network(network, CPU, "float32") as ready:
        with arithmetic(CPU, "float32"):
            wanted = ready(images)
        with torch.autocast("cpu", torch.bfloat16), arithmetic(CPU, "float32"):
            assert torch.equal(ready(images), wanted)


def test_reference_ops_of_several_threads_may_end_in_any_order() -> None:
    x = torch.zeros(1, 4, 2, 2)
    usual = kernels.supports_fused(x)
    first, second, third = reference_ops(), reference_ops(), reference_ops(convolutions_only=True)
    first.__enter__()
    second.__enter__()
    third.__enter__()
    first.__exit__(None, None, None)
    assert not kernels.supports_fused(x)
    second.__exit__(None, None, None)
    assert kernels.supports_fused(x) == usual and not kernels.supports_winograd(x)
    third.__exit__(None, None, None)
    assert kernels.supports_winograd(x) == usual


def test_a_network_as_built_is_untouched() -> None:
    assert AlexNet(5, "quick", 0.1).is_untouched() and AlexNet(5, "torchvision", 0.05).is_untouched()
