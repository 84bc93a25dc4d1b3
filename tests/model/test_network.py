"""The paper's network: its shapes, initial biases, columns and errors; test_variants.py checks the numbers."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

from alexnet import AlexNet
from alexnet.errors import RequestError
from alexnet.model.variants import VARIANTS


def test_counts_of_the_paper() -> None:
    with torch.device("meta"):
        network = AlexNet()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
    names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    assert [shapes[f"{name}.weight"] for name in names] == [
        (96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (384, 192, 3, 3), (256, 192, 3, 3),
        (4096, 9216), (4096, 4096), (1000, 4096),
    ]  # fmt: skip
    assert sum(math.prod(shape) for shape in shapes.values()) == 60_965_224
    assert sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("conv")) == 2_334_080
    assert network(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_initial_biases_are_the_papers() -> None:
    network = AlexNet(10, width=0.05)
    ones = {name for name, tensor in network.named_parameters() if name.endswith("bias") and (tensor == 1).all()}
    zeros = {name for name, tensor in network.named_parameters() if name.endswith("bias") and (tensor == 0).all()}
    assert ones == {"conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias"}
    assert zeros == {"conv1.bias", "conv3.bias", "fc8.bias"}


@pytest.mark.parametrize("other", ["one-gpu", "minus-conv4", "six-conv", "cifar-18pct"])
def test_weights_of_another_variant_are_refused_and_none_is_taken(other: str) -> None:
    network = AlexNet(10, width=0.05)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    given = AlexNet(10, other, width=0.05).state_dict()
    with pytest.raises(ValueError, match=r"not the weights of variant 'paper' of width 0.05: \S+ is"):
        network.load_state_dict(given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(ValueError, match=r"fc8.weight is \(7, 204\) and must be \(10, 204\) \(and 1 more\)"):
        network.load_state_dict(AlexNet(7, width=0.05).state_dict())
    network.load_state_dict({"conv1.weight": before["conv1.weight"]}, strict=False)
    network.load_state_dict(AlexNet(10, width=0.05).state_dict())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"takes a dictionary of tensors and got NoneType; of a network pass"),
        ("weights.pth", r"takes a dictionary of tensors and got str; of a network pass .* of a file what `torch.load"),
        ({"fc5.bias": np.zeros(2)}, r"fc5.bias is of type ndarray and must be \(10,\)"),
        ({"fc5.bias": torch.zeros(2)}, r"fc5.bias is \(2,\) and must be \(10,\)"),
    ],
)
def test_a_misfit_is_the_error_that_torch_raises(given: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=message) as caught:
        AlexNet(10, "quick", 0.1).load_state_dict(given, strict=False)
    assert isinstance(caught.value, RequestError)


def test_hooks_before_loading_may_rename() -> None:
    network, other = AlexNet(10, "quick", 0.1), AlexNet(10, "quick", 0.1)

    def rename(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
        for name in [name for name in state if name.startswith("head.")]:
            state[name.replace("head.", "fc5.")] = state.pop(name)

    renamed = {name.replace("fc5.", "head."): tensor for name, tensor in other.state_dict().items()}
    network.register_load_state_dict_pre_hook(rename)
    network.load_state_dict(renamed)
    assert all(torch.equal(one, two) for one, two in zip(network.parameters(), other.parameters(), strict=True))
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({})


def test_lazy_and_quantized_layers_are_loaded_as_torch_does() -> None:
    lazy = AlexNet(10, "quick", 0.1)
    lazy.fc5 = nn.LazyLinear(10)
    other = AlexNet(10, "quick", 0.1)
    lazy.load_state_dict(other.state_dict())
    assert torch.equal(lazy.get_parameter("fc5.weight"), other.get_parameter("fc5.weight"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and used
        quantized, same = (quantize_dynamic(one.eval(), {nn.Linear}) for one in (other, AlexNet(10, "quick", 0.1)))
        same.load_state_dict(quantized.state_dict())
    images = torch.ones(2, 3, 28, 28)
    assert torch.equal(same(images), quantized(images))


# Standard deviation of the initial weights and the initial biases of each layer, from the source's and Caffe's files.
_ORIGINAL = {
    "conv1": (0.01, 0), "conv2": (0.01, 1), "conv3": (0.03, 0), "conv4": (0.03, 1), "conv5": (0.03, 1),
    "fc6": (0.01, 1), "fc7": (0.01, 1), "fc8": (0.01, 0),
}  # fmt: skip
_CONVOLUTIONS = {"conv1": (1e-4, 0), "conv2": (0.01, 0), "conv3": (0.01, 0)}
_LOCAL = {"conv1": (1e-4, 0), "conv2": (0.01, 0), "local3": (0.04, 0), "local4": (0.04, 0), "fc5": (0.01, 0)}
_PAPER = {name: (0.01, bias) for name, (_, bias) in _ORIGINAL.items()}
FIRST = {
    "paper": _PAPER,
    "original": _ORIGINAL,
    "no-norm": _ORIGINAL,
    "non-overlapping": _ORIGINAL,
    "one-gpu": _ORIGINAL,
    "six-conv": _ORIGINAL | {"conv6": (0.03, 1)},
    "caffe": {name: (0.005 if name in ("fc6", "fc7") else 0.01, 0.1 * bias) for name, (_, bias) in _ORIGINAL.items()},
    "caffenet": {name: (0.005 if name in ("fc6", "fc7") else 0.01, bias) for name, (_, bias) in _ORIGINAL.items()},
    "cifar-80sec": _CONVOLUTIONS | {"fc4": (0.1, 0), "fc5": (0.1, 0)},
    "cifar-18pct": _CONVOLUTIONS | {"fc4": (0.01, 0)},
    "cifar-13pct": _LOCAL,
    "cifar-11pct": _LOCAL,
}


@pytest.mark.parametrize("name", FIRST)
def test_initial_weights_and_biases_are_the_sources(name: str) -> None:
    width = 0.25 if name in ("paper", "original", "caffe", "caffenet") else 0.1 if VARIANTS[name].image_px > 32 else 1.0
    network = AlexNet(10, name, width, generator=torch.Generator().manual_seed(3))
    parameters = dict(network.named_parameters())
    assert {key.split(".")[0] for key in parameters} == set(FIRST[name])
    for layer, (init_std, bias) in FIRST[name].items():
        weight = parameters[f"{layer}.weight"].detach().double()
        num = weight.numel()
        assert abs(float(weight.mean())) < 4 * init_std / num**0.5, layer
        assert abs(float(weight.std()) - init_std) < 4 * init_std / (2 * num) ** 0.5, layer
        assert (parameters[f"{layer}.bias"] == bias).all(), layer


def test_columns_do_not_see_each_other_before_conv3() -> None:
    network = AlexNet(5, width=0.1).double()
    x = torch.randn(1, 10, 27, 27, dtype=torch.float64, requires_grad=True)  # conv1 has 10 channels at this width
    out = network.get_submodule("conv2")(x)
    out[:, : out.shape[1] // 2].sum().backward()
    assert x.grad is not None
    assert x.grad[:, :5].abs().sum() > 0 and x.grad[:, 5:].abs().sum() == 0


def test_quick_takes_its_crop_and_names_its_layers() -> None:
    network = AlexNet(10, "quick", width=0.25)
    assert network(torch.zeros(3, 3, 28, 28)).shape == (3, 10)
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"conv1", "conv2", "conv3", "conv4", "fc5"}


@pytest.mark.parametrize("variant", ["quick", "cifar-11pct", "no-communication"])
def test_a_generator_of_its_own_leaves_torchs_as_it_was(variant: str) -> None:
    before = torch.get_rng_state()
    AlexNet(5, variant, 0.1, generator=torch.Generator().manual_seed(9))
    assert torch.equal(torch.get_rng_state(), before)


def test_same_seed_same_weights() -> None:
    first, second = (AlexNet(5, "quick", 0.25, generator=torch.Generator().manual_seed(9)) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(1, 3, 227, 227),
            r"takes floating point \(B, 3, 224, 224\).*got torch.float32 of shape \(1, 3, 227, 227\)",
        ),
        (torch.zeros(1, 1, 224, 224), r"shape \(1, 1, 224, 224\)"),
        (torch.zeros(3, 224, 224), r"shape \(3, 224, 224\)"),
        (torch.zeros(1, 3, 224, 224, dtype=torch.uint8), "got torch.uint8"),
    ],
)
def test_wrong_images_are_refused(images: torch.Tensor, message: str) -> None:
    with torch.device("meta"):
        network = AlexNet(2)
    with pytest.raises(ValueError, match=message):
        network(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes is 1; a network needs 2 or more"),
        ({"num_classes": "10"}, "num_classes is '10'; a network needs a whole number, 2 or more"),
        ({"num_classes": 10.0}, r"num_classes is 10\.0; a network needs a whole number"),
        ({"num_classes": None}, "num_classes is None; a network needs a whole number"),
        ({"width": "1"}, "width is '1'; allowed is a number above 0, up to 4"),
        ({"generator": 3}, "generator is of type int; allowed is a torch.Generator"),
        ({"variant": ["quick"]}, r"unknown variant \['quick'\]; known are paper, "),
        ({"dropout": 1.0, "variant": "cifar-18pct"}, "dropout is 1.0; allowed"),
        ({"dropout": "x", "variant": "cifar-18pct"}, "dropout is 'x'; allowed is a number, 0 or more, below 1"),
        ({"variant": "alex"}, "unknown variant 'alex'; known are paper, original, .*quick"),
        ({"width": 0.0}, "width is 0"),
        ({"dropout": 1.0, "width": 0.05}, "dropout is 1.0; allowed"),
    ],
)
def test_wrong_requests_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlexNet(**options)  # type: ignore[arg-type]
