"""Tools that count a network's multiply-adds, against those that follow from the sizes of its layers."""

import copy
import importlib
import io
import math
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
import torchinfo
from ptflops import get_model_complexity_info
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from alexnet import AlexNet
from alexnet.model.layer_specs import AveragePool, Convolution, LocallyConnected, MaxPool, ReLU, Tanh
from alexnet.model.layers import LocallyConnected2d
from alexnet.model.variants import VARIANTS

PAPER = 724_406_816
# Without layers that a tool cannot know: locally connected ones, and columns of dense layers.
KNOWN_TO_EVERY_TOOL = ("paper", "original", "caffe", "torchvision", "tanh", "minus-conv2", "cifar-18pct", "quick")


def _network(variant: str) -> tuple[AlexNet, torch.Tensor, int]:
    """A narrow network in evaluation, an image for it, and its multiply-adds."""
    network = AlexNet(10, variant, 1 if "cifar" in variant else 0.25).eval()
    side = network.spec.image_px
    return network, torch.zeros(1, 3, side, side), sum(layer.multiply_adds for layer in network.sized_layers)


def _thop() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its version check uses distutils
        return importlib.import_module("thop")


def test_the_papers_network_has_724_million() -> None:
    """55 x 55 x 96 x 363 + 27 x 27 x 256 x 1200 + ..., the paper's sizes."""
    sizes = [
        (55, 96, 3 * 11**2),
        (27, 256, 48 * 5**2),
        (13, 384, 256 * 3**2),
        (13, 384, 192 * 3**2),
        (13, 256, 192 * 3**2),
    ]
    dense = 9216 * 4096 + 4096 * 4096 + 4096 * 1000
    assert sum(side * side * channels * window for side, channels, window in sizes) + dense == PAPER
    with torch.device("meta"):
        network = AlexNet().eval()
        images = torch.zeros(1, 3, 224, 224)
    assert sum(layer.multiply_adds for layer in network.sized_layers) == PAPER
    with FlopCounterMode(display=False) as counter:
        network(images)
    assert counter.get_total_flops() == 2 * PAPER
    assert _thop().profile(network, (images,), verbose=False)[0] == PAPER


@pytest.mark.parametrize("variant", VARIANTS)
def test_torchs_counter(variant: str) -> None:
    network, images, known = _network(variant)
    with FlopCounterMode(display=False, depth=2) as counter:
        network(images)
    assert counter.get_total_flops() == 2 * known
    by_layer = {name.split(".")[-1]: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    assert {name: by_layer.get(name, 0) for name in by_layer if name not in ("Global", "AlexNet")} == {
        layer.name: 2 * layer.multiply_adds for layer in network.sized_layers if layer.multiply_adds
    }


class _Recorder(TorchDispatchMode):
    """A mode that counts torch's operations by name, as counters and tracers of them do."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", ["paper", "original", "cifar-13pct", "quick", "tanh"])
def test_a_dispatch_mode_sees_the_operation_of_every_layer(variant: str) -> None:
    network, images, _ = _network(variant)
    with _Recorder() as recorder, torch.no_grad():
        network(images)
    layers = Counter(type(layer.spec) for layer in network.sized_layers)
    assert recorder.counts["aten.convolution"] == layers[Convolution]
    assert recorder.counts["aten.relu"] == layers[ReLU] and recorder.counts["aten.tanh"] == layers[Tanh]
    assert recorder.counts["aten.max_pool2d_with_indices"] == layers[MaxPool]
    assert not [name for name in recorder.counts if not name.startswith("aten.")]


@pytest.mark.parametrize("variant", KNOWN_TO_EVERY_TOOL)
def test_thop(variant: str) -> None:
    network, images, known = _network(variant)
    profiled = copy.deepcopy(network)  # it leaves buffers in modules that it has no rule for
    multiply_adds, parameters = _thop().profile(profiled, (images,), verbose=False)
    averages = [layer for layer in network.sized_layers if isinstance(layer.spec, AveragePool)]
    average_pools = sum(layer.out_channels * layer.out_side**2 for layer in averages)
    assert known <= multiply_adds <= known + average_pools
    assert parameters == sum(parameter.numel() for parameter in network.parameters())


def test_thop_leaves_out_layers_of_unknown_kinds_and_leaves_buffers_behind() -> None:
    network, images, known = _network("cifar-13pct")
    local = sum(layer.multiply_adds for layer in network.sized_layers if isinstance(layer.spec, LocallyConnected))
    profiled = copy.deepcopy(network)
    assert _thop().profile(profiled, (images,), verbose=False)[0] == known - local < known
    assert {"total_ops", "local3.total_ops"} <= profiled.state_dict().keys()
    custom = {LocallyConnected2d: _count_local}
    assert _thop().profile(copy.deepcopy(network), (images,), custom_ops=custom, verbose=False)[0] == known


def _count_local(module: Any, inputs: object, output: object) -> None:
    module.total_ops += module.weight.numel()


@pytest.mark.parametrize("backend", ["pytorch", "aten"])
@pytest.mark.parametrize("variant", KNOWN_TO_EVERY_TOOL)
def test_ptflops(variant: str, backend: str) -> None:
    network, images, known = _network(variant)
    multiply_adds, parameters = get_model_complexity_info(
        network, tuple(images.shape[1:]), as_strings=False, print_per_layer_stat=False, backend=backend
    )
    # It adds biases, and one operation for each activation that a layer without weights computes.
    others = sum(
        layer.out_channels * layer.out_side**2 + layer.in_channels * layer.in_side**2 for layer in network.sized_layers
    )
    assert known <= multiply_adds <= known + others
    assert multiply_adds < 1.1 * known
    assert any(child._forward_hooks for child in network.children()) == (backend == "aten")  # so count a copy
    assert parameters == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_torchinfo_shows_every_layer_with_its_shape(variant: str) -> None:
    network, images, known = _network(variant)
    summary = torchinfo.summary(network, input_data=images, verbose=0)
    rows = {one.var_name: one for one in summary.summary_list}
    for layer in network.sized_layers:
        shape = [1, layer.out_channels, layer.out_side, layer.out_side]
        is_flat = network.get_submodule(layer.name) in [*network.children()][_flatten_number(network) :]
        assert list(rows[layer.name].output_size) == (shape[:2] if is_flat else shape)
    assert set(rows) == {"AlexNet", *(name for name, _ in network.named_children())}
    if variant in KNOWN_TO_EVERY_TOOL:  # it adds biases
        biases = sum(layer.neurons for layer in network.sized_layers)
        assert known <= summary.total_mult_adds <= known + biases
    assert summary.total_params == sum(parameter.numel() for parameter in network.parameters())


def _flatten_number(network: AlexNet) -> int:
    return [name for name, _ in network.named_children()].index("flatten")


def test_counting_leaves_the_network_as_it_was() -> None:
    network, images, _ = _network("original")
    images = images + torch.arange(224)
    before, state = network(images), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    get_model_complexity_info(network, (3, 224, 224), print_per_layer_stat=True, ost=io.StringIO())
    torchinfo.summary(network, input_data=images, verbose=0)
    assert torch.equal(network(images), before)
    assert network.state_dict().keys() == state.keys()
    assert math.isfinite(float(before.detach().norm()))
