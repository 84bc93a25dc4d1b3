"""Tools that count a network's multiply-adds, against those that follow from the sizes of its layers."""

import copy
import importlib
import io
import math
import warnings
from typing import Any

import pytest
import torch
import torchinfo
from ptflops import get_model_complexity_info
from torch.utils.flop_counter import FlopCounterMode

from alexnet import AlexNet
from alexnet.model.layer_specs import AveragePool
from alexnet.model.variants import VARIANTS

PAPER = 724_406_816
# Without layers that a tool cannot know: locally connected ones, and columns of dense layers.
KNOWN_TO_EVERY_TOOL = [
    name
    for name, spec in VARIANTS.items()
    if not name.startswith(("cifar-11", "cifar-13")) and name != "no-communication"
]


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


@pytest.mark.parametrize("variant", KNOWN_TO_EVERY_TOOL)
def test_thop(variant: str) -> None:
    network, images, known = _network(variant)
    profiled = copy.deepcopy(network)  # it leaves buffers in modules that it has no rule for
    multiply_adds, parameters = _thop().profile(profiled, (images,), verbose=False)
    averages = [layer for layer in network.sized_layers if isinstance(layer.spec, AveragePool)]
    average_pools = sum(layer.out_channels * layer.out_side**2 for layer in averages)
    assert known <= multiply_adds <= known + average_pools
    assert parameters == sum(parameter.numel() for parameter in network.parameters())


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
