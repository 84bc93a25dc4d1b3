"""Every layer is a child module that is used when somebody looks, and fused with its neighbors when nobody does."""

import copy
import inspect
import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx
from tests.model.varied_networks import normwise
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from alexnet.errors import RequestError
from alexnet.model import kernels
from alexnet.model import network as network_module
from alexnet.model.activations import ActivationReader
from alexnet.model.layer_specs import MaxPool
from alexnet.model.layers import SeededDropout
from alexnet.model.network import AlexNet
from alexnet.model.variants import VARIANTS
from alexnet.system.triton_probe import reference_ops_requested

needs_kernels = pytest.mark.skipif(
    reference_ops_requested() is not None or kernels.fallback_reason("cpu") is not None, reason="no fused operations"
)


def small(variant: str, dtype: torch.dtype = torch.float32) -> tuple[AlexNet, torch.Tensor]:
    network = AlexNet(5, variant, 0.1, generator=torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():  # so that no activation vanishes
            parameter.mul_(5) if name.endswith("weight") else parameter.add_(0.1)
    side = network.spec.image_px
    images = 50 * torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    return network.to(dtype), images.to(dtype)


@contextmanager
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Counts the operations that ran in place of several modules."""
    calls: list[str] = []
    norm_pool = network_module.norm_pool

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append("norm_pool")
        return norm_pool(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(network_module, "norm_pool", counted)
        yield calls


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_children_in_order_are_the_network(variant: str) -> None:
    network, images = small(variant, torch.float64)
    assert torch.equal(nn.Sequential(*network.children())(images), network(images))
    network, images = small(variant)
    assert normwise(nn.Sequential(*network.children())(images), network(images)) < 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_module_but_those_with_weights_has_a_state(variant: str) -> None:
    network, _ = small(variant)
    assert [name for name, _ in network.named_children() if name not in ("pad1", "input_scale")] == [
        layer.name for layer in network.sized_layers
    ]
    assert {name.rpartition(".")[0] for name in network.state_dict()} == {
        layer.name for layer in network.sized_layers if layer.weight_shape
    }


def test_the_names_of_the_paper() -> None:
    features = "pad1 conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5"
    classifier = "flatten fc6 relu6 dropout6 fc7 relu7 dropout7 fc8"
    names = [name for name, _ in AlexNet(10, width=0.05).named_children()]
    assert " ".join(names) == f"{features} {classifier}"


@needs_kernels
@pytest.mark.parametrize("variant", ["paper", "original", "cifar-11pct", "quick"])
def test_nobody_looks_so_layers_are_fused(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = small(variant)
    pools = sum(isinstance(one, MaxPool) for one in network.spec.layers)
    saved = io.BytesIO()
    torch.save(network, saved)
    saved.seek(0)
    for same in (network, copy.deepcopy(network), torch.load(saved, weights_only=False)):
        with fused_calls(monkeypatch) as calls:
            scores = same(images)
        assert len(calls) >= pools > 0
        assert torch.equal(scores, network(images))


HOOKS: dict[str, Callable[[nn.Module, list[str]], Any]] = {
    "forward": lambda module, seen: module.register_forward_hook(lambda *_: seen.append("seen")),
    "forward_pre": lambda module, seen: module.register_forward_pre_hook(lambda *_: seen.append("seen")),
    "full_backward": lambda module, seen: module.register_full_backward_hook(lambda *_: seen.append("seen")),
    "full_backward_pre": lambda module, seen: module.register_full_backward_pre_hook(lambda *_: seen.append("seen")),
}


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("variant", ["paper", "original", "cifar-18pct", "quick"])
def test_every_module_calls_its_hooks(variant: str, kind: str) -> None:
    network, images = small(variant)
    wanted = network(images)
    for name, module in network.named_children():
        seen: list[str] = []
        handle = HOOKS[kind](module, seen)
        scores = network(images.requires_grad_())
        scores.sum().backward()
        handle.remove()
        assert seen == ["seen"], name
        assert normwise(scores, wanted) < 1e-4


def test_a_hook_may_change_an_activation() -> None:
    network, images = small("paper")
    handle = network.relu5.register_forward_hook(lambda module, given, result: 0 * result)
    silenced = network(images)
    handle.remove()
    assert not torch.allclose(silenced, network(images))
    after = [*network.children()][[name for name, _ in network.named_children()].index("flatten") :]
    # Its biases alone are left.
    torch.testing.assert_close(silenced, nn.Sequential(*after)(torch.zeros(2, 26, 6, 6)))


def test_global_hooks_see_every_module() -> None:
    network, images = small("paper")
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, result: seen.append(module))
    try:
        network(images)
    finally:
        handle.remove()
    assert seen == [*network.children(), network]


@pytest.mark.parametrize("name", [name for name, _ in AlexNet(5, width=0.05).named_children()])
def test_a_replaced_module_is_used(name: str) -> None:
    network, images = small("paper")
    wanted = network(images)
    used: list[str] = []

    class Watched(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            used.append(name)
            result: torch.Tensor = self.inner(x)
            return result

    setattr(network, name, Watched(network.get_submodule(name)))
    scores = network(images)
    assert used == [name]
    assert normwise(scores, wanted) < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        lambda network: setattr(network, "relu5", nn.Identity()),
        lambda network: setattr(network, "relu2", nn.LeakyReLU(0.3)),
        lambda network: setattr(network, "pool5", nn.AvgPool2d(3, 2)),
        lambda network: setattr(network, "pad1", nn.ReplicationPad2d((0, 3, 0, 3))),
        lambda network: setattr(network, "norm1", nn.LocalResponseNorm(5)),
        lambda network: setattr(network.pool2, "padding", 1),
        lambda network: setattr(network.conv3, "padding_mode", "reflect"),
        lambda network: setattr(network.relu1, "forward", torch.tanh),
        lambda network: prune.random_unstructured(network.conv2, "weight", 0.5),
        lambda network: nn.utils.parametrizations.weight_norm(network.conv2),
    ],
)
def test_changes_are_computed(change: Callable[[AlexNet], object]) -> None:
    network, images = small("paper", torch.float64)
    before = network(images)
    torch.manual_seed(0)
    change(network)
    if network.conv3.padding_mode == "reflect":
        network.conv3._reversed_padding_repeated_twice = [1, 1, 1, 1]
    try:
        wanted = nn.Sequential(*network.children())(images)
    except RuntimeError:  # other sizes than the dense layers read
        with pytest.raises(RuntimeError):
            network(images)
        return
    assert torch.equal(network(images), wanted)
    assert "conv2" in str(change.__code__.co_names) or not torch.allclose(wanted, before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_symbolic_trace_computes_the_same(variant: str) -> None:
    network, images = small(variant, torch.float64)
    traced = torch.fx.symbolic_trace(network)
    assert torch.equal(traced(images), network(images))
    targets = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert {"conv1", "flatten"} <= {*targets}
    network.train()
    trained = torch.fx.symbolic_trace(network)
    assert trained(images).shape == (2, 5)


def test_a_traced_network_drops_units_in_training() -> None:
    network, images = small("paper", torch.float64)
    traced = torch.fx.symbolic_trace(network.train())
    torch.manual_seed(5)
    first = traced(images)
    assert not torch.equal(first, traced(images))
    torch.manual_seed(5)
    assert torch.equal(first, traced(images))


def test_the_flop_counter_sees_every_product() -> None:
    network, images = small("paper")
    with FlopCounterMode(display=False) as counter:
        network(images)
    assert counter.get_total_flops() == 2 * len(images) * sum(layer.multiply_adds for layer in network.sized_layers)


def test_other_last_layers_change_the_number_of_classes() -> None:
    network, images = small("paper")
    features = network.get_submodule("fc8").in_features
    network.fc8 = nn.Linear(features, 7)
    assert network.num_classes == 7 and network(images).shape == (2, 7)
    assert network.sized_layers[-1].out_channels == 7
    network.fc8 = nn.Sequential(nn.Dropout(0.2), nn.Linear(features, 3))
    assert network.num_classes == 3 and network(images).shape == (2, 3)
    network.fc8 = nn.Identity()
    assert not hasattr(network, "num_classes") and not hasattr(network, "sized_layers")  # as for any attribute
    assert "num_classes" not in dict(inspect.getmembers(network))
    with pytest.raises(RequestError, match="last layer is Identity"):
        network.require_num_classes()
    reader = ActivationReader(network, ["relu4", "fc8"])
    assert reader.shape("relu4") == tuple(reader(images)["relu4"].shape[1:])
    with pytest.raises(RequestError, match="last layer is Identity"):
        reader.shape("fc8")
    with pytest.raises(RequestError, match=r"cannot be set; replace the last layer, such as `network.fc8 = nn.Linear"):
        network.num_classes = 5
    assert "num_classes=None" in repr(network) and network(images).shape == (2, features)


@pytest.mark.parametrize("variant", ["paper", "caffe", "quick"])
def test_dropout_follows_its_probability_and_is_not_removed(variant: str) -> None:
    network, images = small(variant)
    (name, module), *_ = (found for found in network.named_children() if isinstance(found[1], SeededDropout))
    assert module.p == network.dropout == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the import's own
        from torch.fx.experimental.optimization import remove_dropout
    # torch's function removes what is an `nn.Dropout`.
    torch.testing.assert_close(remove_dropout(network)(images), network(images), rtol=1e-3, atol=1e-3)
    x = torch.full((400, 50), 2.0)
    for p in (0.25, 1.0):
        module.p = p
        with torch.no_grad():
            kept = module.train()(x)
            assert (kept == 0).float().mean() == pytest.approx(p, abs=0.02), name
            scale = 1 / (1 - p) if module.inverted and p < 1 else 1
            assert torch.equal(kept[kept != 0], torch.full_like(kept[kept != 0], 2 * scale))
            assert torch.equal(module.eval()(x), x if module.inverted else x * (1 - p))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_torch_script_is_refused_with_advice() -> None:
    network, _ = small("quick")
    with pytest.raises(RequestError, match=r"torch\.jit\.trace"):
        torch.jit.script(network)


@needs_kernels
def test_a_saved_program_needs_only_the_import(tmp_path: Path) -> None:
    """Also where this package is imported before torch, without which its operators cannot be registered."""
    network, images = small("quick")
    program = torch.export.export(network, (images,))
    assert "alexnet.norm_pool" in str(program.graph)
    torch.export.save(program, tmp_path / "network.pt2")
    torch.save((images, network(images)), tmp_path / "wanted.pt")
    code = """import sys, alexnet
assert "torch" not in sys.modules, "the help of the command would wait for it"
import importlib.util
assert importlib.util.find_spec("torch")  # as libraries ask that work with and without torch
assert "torch" not in sys.modules
import torch
images, wanted = torch.load("wanted.pt")
torch.testing.assert_close(torch.export.load("network.pt2").module()(images), wanted)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_repr_shows_every_layer_and_its_settings() -> None:
    text = repr(AlexNet(10, "original", 0.1))
    assert text.startswith("AlexNet(\n  variant=original, num_classes=10, width=0.1")
    for line in ("(pad1): ZeroPad2d((0, 3, 0, 3))", "(relu1): ReLU()", "same_map_norm2", "columns=2", "(flatten)"):
        assert line in text
