"""The layers as child modules: their order, hooks on them, what replaces them.

Known answers come from `plain_network`, the same layers as a sequence of torch's own modules.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.model.varied_networks import VARIED, normwise, varied_network
from tests.tools.plain_network import DISTINCT, plain_network
from torch import nn

from alexnet import AlexNet
from alexnet.model.layer_specs import Flatten
from alexnet.model.variants import VARIANTS

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}
Case = tuple[AlexNet, nn.Sequential, torch.Tensor]
NAMES = {
    "paper": (
        "pad1 conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 flatten "
        "fc6 relu6 dropout6 fc7 relu7 dropout7 fc8"
    ),
    "original": (
        "pad1 conv1 norm1 pool1 relu1 conv2 relu2 norm2 same_map_norm2 pool2 conv3 relu3 conv4 relu4 conv5 pool5 relu5 "
        "flatten fc6 relu6 dropout6 fc7 relu7 dropout7 fc8"
    ),
    "torchvision": (
        "input_scale conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 flatten "
        "dropout6 fc6 relu6 dropout7 fc7 relu7 fc8"
    ),
    "tanh": (
        "pad1 conv1 tanh1 norm1 pool1 conv2 tanh2 norm2 pool2 conv3 tanh3 conv4 tanh4 conv5 tanh5 pool5 flatten "
        "fc6 tanh6 dropout6 fc7 tanh7 dropout7 fc8"
    ),
    "minus-conv2": (
        "pad1 conv1 relu1 norm1 pool1 pool1_2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 flatten "
        "fc6 relu6 dropout6 fc7 relu7 dropout7 fc8"
    ),
    "cifar-13pct": "conv1 relu1 pool1 conv2 relu2 pool2 local3 relu3 local4 relu4 flatten fc5",
    "quick": (
        "input_scale conv1 pool1 relu1 norm1 conv2 pool2 relu2 norm2 conv3 pool3 relu3 conv4 relu4 flatten dropout5 fc5"
    ),
}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=DISTINCT)
def case(request: pytest.FixtureRequest, dtype: torch.dtype) -> Case:
    return _case(request.param, dtype)


def _case(variant: str, dtype: torch.dtype) -> Case:
    network, images, _ = varied_network(variant, dtype)
    if variant in ("tanh", "sigmoid"):  # activations that saturate are equal, up to rounding
        images /= 100
    return network, plain_network(network), images


@pytest.mark.parametrize("variant", NAMES)
def test_children_are_the_layers_by_name_in_order(variant: str) -> None:
    network, _, _ = varied_network(variant)
    assert [name for name, _ in network.named_children()] == NAMES[variant].split()
    shown = [line.split(":")[0].strip(" ()") for line in repr(network).splitlines() if line.startswith("  (")]
    assert shown == NAMES[variant].split()


def test_children_are_torchs_own_classes() -> None:
    """Tools that count, quantize or explain look for exactly these."""
    for variant in VARIANTS:
        network, _, _ = varied_network(variant)
        for child, plain in zip(network.children(), plain_network(network), strict=True):
            if type(plain).__module__.startswith("torch.nn") and not isinstance(plain, nn.Identity):
                assert type(child) is type(plain)
            elif isinstance(plain, nn.MaxPool2d):
                assert isinstance(child, nn.MaxPool2d)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sequence_of_the_children_is_the_network(variant: str, dtype: torch.dtype) -> None:
    network, plain, images = _case(variant, dtype)
    want, tolerance = plain(images), TOLERANCE[images.dtype]
    assert normwise(network(images), want) < tolerance
    assert normwise(nn.Sequential(*network.children())(images), want) < tolerance


def test_layers_up_to_a_name_are_run_by_a_getter(case: Case) -> None:
    """torchvision's IntermediateLayerGetter: it runs the children in order and keeps what some of them return."""
    network, plain, images = case
    kept = [name for name, _ in network.named_children() if name.startswith(("conv", "pool"))]
    found: dict[str, torch.Tensor] = {}
    x = y = images
    for (name, child), layer in zip(network.named_children(), plain, strict=True):
        x, y = child(x), layer(y)
        if name in kept:
            found[name] = x
            assert x.shape == y.shape and normwise(x, y) < TOLERANCE[x.dtype]
    assert list(found) == kept


def test_hooks_see_what_each_layer_computes(case: Case) -> None:
    network, plain, images = case
    before, tolerance = network(images), TOLERANCE[images.dtype]
    wanted = [images]
    for layer in plain:
        wanted.append(layer(wanted[-1]))
    seen: list[torch.Tensor] = []

    def see_input(module: nn.Module, given: tuple[torch.Tensor]) -> None:
        seen.append(given[0])

    def see_output(module: nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen.append(output)

    pre_handles = [child.register_forward_pre_hook(see_input) for child in network.children()]
    assert normwise(network(images), wanted[-1]) < tolerance
    for got, want in zip(seen, wanted[:-1], strict=True):
        assert got.shape == want.shape and normwise(got, want) < tolerance
    for handle in pre_handles:
        handle.remove()
    seen.clear()
    handles = [child.register_forward_hook(see_output) for child in network.children()]
    assert normwise(network(images), wanted[-1]) < tolerance
    for got, want in zip(seen, wanted[1:], strict=True):
        assert got.shape == want.shape and normwise(got, want) < tolerance
    for handle in handles:
        handle.remove()
    seen.clear()
    assert torch.equal(network(images), before) and not seen


@pytest.mark.parametrize("variant", ["original", "cifar-11pct"])
def test_a_hook_on_one_layer_leaves_the_scores_and_sees_it(variant: str, dtype: torch.dtype) -> None:
    network, images, _ = varied_network(variant, dtype)
    before = network(images)
    x = images
    for child, layer in zip(network.children(), plain_network(network), strict=True):
        x = layer(x)
        seen: list[torch.Tensor] = []
        with child.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output)):
            assert normwise(network(images), before) < TOLERANCE[dtype]
        assert len(seen) == 1 and normwise(seen[0], x) < TOLERANCE[dtype]
    assert torch.equal(network(images), before)


def test_hooks_change_what_layers_return(case: Case) -> None:
    network, plain, images = case

    def halve(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output * 0.5

    for model in (network, plain):
        for child in model.children():
            child.register_forward_hook(halve)
    assert normwise(network(images), plain(images)) < TOLERANCE[images.dtype]


def test_global_hooks_see_every_layer(case: Case) -> None:
    network, _, images = case
    seen: list[nn.Module] = []
    with nn.modules.module.register_module_forward_hook(lambda module, _, __: seen.append(module)):
        network(images)
    assert seen == [*network.children(), network]
    seen.clear()
    with nn.modules.module.register_module_full_backward_hook(lambda module, _, __: seen.append(module)):
        network(images.requires_grad_()).sum().backward()
    assert set(seen) == {*network.children(), network}


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [*((variant, torch.float64) for variant in DISTINCT), *((variant, torch.float32) for variant in VARIED)],
)
def test_backward_hooks_see_the_gradient_at_each_layer(variant: str, dtype: torch.dtype) -> None:
    network, plain, images = _case(variant, dtype)
    inputs, outputs = (_gradients_by_layer(model, images) for model in (network, plain))
    assert len(inputs) == len(outputs) == len(plain)
    for got, want in zip(inputs, outputs, strict=True):
        assert normwise(got, want) < 10 * TOLERANCE[images.dtype]


def _gradients_by_layer(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    found: dict[nn.Module, torch.Tensor] = {}
    for child in model.children():
        child.register_full_backward_hook(lambda module, _, outputs: found.__setitem__(module, outputs[0]))
    model(images.clone().requires_grad_()).square().sum().backward()
    return [found[child] for child in model.children()]


def _doubled(module: nn.Module) -> nn.Module:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.inner(x)  # type: ignore[no-any-return]

    return Doubled()


REPLACEMENTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "leaky": lambda module: nn.LeakyReLU(0.2) if isinstance(module, nn.ReLU) else module,
    "average": lambda module: (
        nn.AvgPool2d(module.kernel_size, module.stride, 0, True) if isinstance(module, nn.MaxPool2d) else module
    ),
    "inner": _doubled,
}


@pytest.mark.parametrize(("kind", "through"), [("leaky", "setattr"), ("average", "_modules"), ("inner", "setattr")])
def test_modules_in_place_of_others_are_used(case: Case, kind: str, through: str) -> None:
    network, plain, images = case
    for model in (network, plain):
        for name, child in [*model.named_children()]:
            new = REPLACEMENTS[kind](child)
            if through == "setattr":
                setattr(model, name, new)
            else:  # as grad-cam does
                model._modules[name] = new
    assert normwise(network(images), plain(images)) < 10 * TOLERANCE[images.dtype]


@pytest.mark.parametrize("variant", ["original", "cifar-11pct", "quick"])
def test_each_layer_without_weights_can_be_left_out(variant: str, dtype: torch.dtype) -> None:
    network, images, _ = varied_network(variant, dtype)
    plain = plain_network(network)
    left_out = 0
    for (name, child), (number, layer) in zip([*network.named_children()], [*plain.named_children()], strict=True):
        if [*child.parameters()] or name == "flatten" or "pool" in name or "pad" in name:  # others need the shape
            continue
        left_out += 1
        setattr(network, name, nn.Identity())
        setattr(plain, number, nn.Identity())
        assert normwise(network(images), plain(images)) < TOLERANCE[dtype]
        setattr(network, name, child)
        setattr(plain, number, layer)
    assert left_out > 1 and normwise(network(images), plain(images)) < TOLERANCE[dtype]


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_other_classes_by_another_last_layer(variant: str) -> None:
    network, images, _ = varied_network(variant)
    name, last = [*network.named_children()][-1]
    assert network.num_classes == 7
    features = last.in_features if isinstance(last, nn.Linear) else network(images).shape[1]
    setattr(network, name, nn.Linear(features, 5))
    assert network.num_classes == 5 and network(images).shape == (2, 5)
    again = AlexNet(5, variant, network.width)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(images), network(images))


CHANGES: list[tuple[type[nn.Module], str, Any]] = [
    (nn.ZeroPad2d, "padding", (1, 2, 3, 0)),
    (nn.Conv2d, "dilation", (2, 2)),
    (nn.Conv2d, "padding", (3, 3)),
    (nn.Conv2d, "stride", (2, 2)),
    (nn.MaxPool2d, "kernel_size", 4),
    (nn.MaxPool2d, "stride", 1),
    (nn.MaxPool2d, "padding", 1),
    (nn.MaxPool2d, "dilation", 2),
    (nn.MaxPool2d, "ceil_mode", False),
    (nn.AvgPool2d, "divisor_override", 5),
    (nn.AvgPool2d, "ceil_mode", False),
]


@pytest.mark.parametrize(("kind", "setting", "value"), CHANGES)
@pytest.mark.parametrize("variant", ["quick", "cifar-80sec", pytest.param("paper", marks=pytest.mark.slow)])
def test_layers_whose_settings_are_changed_compute_with_them(
    variant: str, kind: type[nn.Module], setting: str, value: Any, dtype: torch.dtype
) -> None:
    network, plain, images = _case(variant, dtype)
    side = next(layer.in_side for layer in network.sized_layers if isinstance(layer.spec, Flatten))
    for model in (network, plain):  # the dense layers read images of one size, whatever the layers before them do
        name = next(name for name, child in model.named_children() if isinstance(child, nn.Flatten))
        setattr(model, name, nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten()))
    before = network(images)
    changes = []
    for mine, other in zip(network.children(), plain, strict=True):
        # Not the source's pooling: it is a class of this project.
        if type(mine) is kind:
            kept = getattr(mine, setting)
            for module in (mine, other):
                setattr(module, setting, value)
            scores = network(images)
            assert normwise(scores, plain(images)) < TOLERANCE[dtype]
            changes.append(normwise(scores, before))
            for module in (mine, other):
                setattr(module, setting, kept)
    assert normwise(network(images), before) < TOLERANCE[dtype]
    # Windows of the paper end at the edge: nothing is clipped.
    assert not changes or max(changes) > 1e-4 or (variant, setting) == ("paper", "ceil_mode")


def test_fast_convolutions_notice_changed_settings() -> None:
    """Those of many images; the smaller networks above run torch's."""
    network = AlexNet(7, "torchvision", generator=torch.Generator().manual_seed(2)).eval()
    plain = plain_network(network)
    images = torch.empty(8, 3, 224, 224).uniform_(-120, 130, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for layer in (network.get_submodule("conv2"), plain[4]):
            assert isinstance(layer, nn.Conv2d) and layer.kernel_size == (5, 5)
            layer.dilation, layer.padding = (2, 2), (4, 4)
        assert normwise(network(images), plain(images)) < 1e-5


def test_dropout_of_a_copy_with_hooks_draws_the_same_masks(dtype: torch.dtype) -> None:
    network, images, _ = varied_network("paper", dtype)
    network.train()
    hooked = copy.deepcopy(network)
    for child in hooked.children():
        child.register_forward_hook(lambda *_: None)
    torch.manual_seed(4)
    want = network(images)
    torch.manual_seed(4)
    assert normwise(hooked(images), want) < TOLERANCE[dtype]
    torch.manual_seed(5)
    assert normwise(hooked(images), want) > 1e-3
