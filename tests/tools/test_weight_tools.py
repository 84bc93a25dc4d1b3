"""Tools that change, average, copy or train the weights of any module."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.model.varied_networks import VARIED, normwise, varied_network
from tests.tools.plain_network import plain_network
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from alexnet import AlexNet


class _Symmetric(nn.Module):
    """A parametrization: weights averaged with their mirror image."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return (weight + weight.flip(-1)) / 2


def _doubled(module: nn.Module) -> None:
    """Weights twice as large, through the norms that are their parameters now."""
    with torch.no_grad():
        module.parametrizations.weight.original0.mul_(2)  # type: ignore[operator, union-attr]


TOOLS: dict[str, Callable[[nn.Module], Any]] = {
    "prune": lambda module: prune.l1_unstructured(module, "weight", 0.5),
    "prune_structured": lambda module: prune.ln_structured(module, "weight", 0.5, n=2, dim=0),
    "prune_bias": lambda module: prune.random_unstructured(module, "bias", 0.99),
    "parametrize": lambda module: parametrize.register_parametrization(module, "weight", _Symmetric()),
    "spectral_norm": lambda module: parametrizations.spectral_norm(module),
    "weight_norm": lambda module: _doubled(parametrizations.weight_norm(module)),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("variant", VARIED)
def test_weights_computed_by_a_tool_are_used(variant: str, tool: str) -> None:
    network, images, direction = varied_network(variant, torch.float64)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(8))
    models = network, plain_network(network)
    before = network(images)
    grads = []
    for model in models:
        torch.manual_seed(3)
        for child in [*model.children()]:
            if isinstance(child, nn.Conv2d | nn.Linear):
                TOOLS[tool](child)
        model.eval()
        scores = model(images)
        (scores * direction).sum().backward()
        grads.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert normwise(models[0](images), models[1](images)) < 1e-12
    assert normwise(models[0](images), before) > 1e-6
    assert len(grads[0]) == len(grads[1]) > 0
    network.float()
    assert normwise(network(images.float()), models[1](images)) < 1e-4  # the fused operations


def _zeros_and_weights(layer: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    return int((layer.weight == 0).sum()), layer.weight.numel()


@pytest.mark.parametrize("variant", VARIED)
def test_pruning_is_made_permanent_and_saved(variant: str) -> None:
    network, images, _ = varied_network(variant)
    layers = [child for child in network.children() if isinstance(child, nn.Conv2d | nn.Linear)]
    prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=0.8)
    pruned = network(images)
    for layer in layers:
        prune.remove(layer, "weight")
    assert torch.equal(network(images), pruned)
    assert sum(int((layer.weight == 0).sum()) for layer in layers) == round(
        0.8 * sum(one.weight.numel() for one in layers)
    )
    again = AlexNet(7, variant, network.width)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(images), pruned)


@pytest.mark.parametrize("variant", [*VARIED, "quick", "torchvision"])
def test_copies_compute_the_same(variant: str) -> None:
    network, images, _ = varied_network(variant)
    scores = network(images)
    whole, weights = io.BytesIO(), io.BytesIO()
    torch.save(network, whole)
    torch.save(network.state_dict(), weights)
    whole.seek(0)
    weights.seek(0)
    loaded = AlexNet(7, variant, network.width).eval()
    loaded.load_state_dict(torch.load(weights, weights_only=True))
    copies = (
        copy.deepcopy(network), pickle.loads(pickle.dumps(network)), torch.load(whole, weights_only=False), loaded
    )  # fmt: skip
    for one in copies:
        assert torch.equal(one(images), scores)
        assert one.state_dict().keys() == network.state_dict().keys()
    # A hook of a copy, and another module in it, are not the original's.
    name = next(name for name, child in copies[0].named_children() if isinstance(child, nn.ReLU))
    setattr(copies[0], name, nn.Identity())
    assert torch.equal(network(images), scores) and not torch.equal(copies[0](images), scores)


@pytest.mark.parametrize("variant", VARIED)
def test_averages_of_weights(variant: str) -> None:
    network, images, _ = varied_network(variant)
    mean = AveragedModel(network)
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    first = [parameter.detach().clone() for parameter in network.parameters()]
    for model in (mean, ema):
        model.update_parameters(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    for model in (mean, ema):
        model.update_parameters(network)
    for start, averaged, moving in zip(first, mean.parameters(), ema.parameters(), strict=True):
        torch.testing.assert_close(averaged, 2 * start)
        torch.testing.assert_close(moving, 1.5 * start)
    wanted = copy.deepcopy(network)
    with torch.no_grad():
        for parameter, start in zip(wanted.parameters(), first, strict=True):
            parameter.copy_(2 * start)
    assert normwise(mean(images), wanted(images)) < 1e-5


def _train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int = 3) -> list[float]:
    """As a trainer of any module does: `zero_grad`, loss, `backward`, clipping, a step; hooks come and go between."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)
    losses = []
    model.train()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


@pytest.mark.parametrize("variant", [*VARIED, "no-communication", "quick"])
def test_trained_as_any_module_is(variant: str) -> None:
    network, images, _ = varied_network(variant, torch.float64)
    for child in network.children():
        if hasattr(child, "p"):
            child.p = 0.0  # no dropout: the sequence's would draw other masks
    network.dropout = 0.0
    plain = plain_network(network)
    labels = torch.tensor([2, 5])
    losses = _train(network, images, labels)
    assert losses == pytest.approx(_train(plain, images, labels), rel=1e-10)
    for got, want in zip(network.parameters(), plain.parameters(), strict=True):
        assert normwise(got, want) < 1e-10
    assert losses[-1] < losses[0]


def test_trained_with_hooks_on_every_layer() -> None:
    """Trainers that log activations and gradients leave the training as it is."""
    results = []
    for hooked in (False, True):
        network, images, _ = varied_network("original", torch.float64)
        images.requires_grad_()
        seen: list[nn.Module] = []
        see = partial(_append, seen)
        for child in network.children() if hooked else ():
            child.register_forward_hook(see)
            child.register_full_backward_hook(see)
        torch.manual_seed(7)
        _train(network, images, torch.tensor([2, 5]))
        assert len(seen) == (3 * 2 * len([*network.children()]) if hooked else 0)
        results.append([parameter.detach() for parameter in network.parameters()])
    for got, want in zip(*results, strict=True):
        assert normwise(got, want) < 1e-10


@pytest.fixture
def one_process_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("variant", VARIED)
@pytest.mark.usefixtures("one_process_group")
def test_distributed_data_parallel(variant: str) -> None:
    network, images, direction = varied_network(variant)
    wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(network))
    for model in (network, wrapped):
        (model(images) * direction).sum().backward()
    for got, want in zip(wrapped.parameters(), network.parameters(), strict=True):
        assert got.grad is not None and want.grad is not None and torch.equal(got.grad, want.grad)
    network.load_state_dict(wrapped.state_dict())


def _append(seen: list[nn.Module], module: nn.Module, *_: object) -> None:
    seen.append(module)


def test_wrapped_by_other_modules() -> None:
    """Wrappers that give a state dict other names, and keys that load without them."""
    network, images, _ = varied_network("cifar-11pct")
    wrapped = nn.Sequential(nn.Identity(), network, nn.Softmax(1))
    assert torch.allclose(wrapped(images).sum(1), torch.ones(2))
    assert {name.removeprefix("1.") for name in wrapped.state_dict()} == set(network.state_dict())
    frozen = copy.deepcopy(wrapped).requires_grad_(False)
    assert torch.equal(frozen(images), wrapped(images))
    with torch.device("meta"):
        empty = AlexNet(7, "cifar-11pct", 0.2)
    empty.load_state_dict(network.state_dict(), assign=True)
    assert torch.equal(empty.eval()(images), network(images))
