"""The named activations equal what hooks see the layers' modules write, and what plain torch computes."""

import pytest
import torch
import torch.nn.functional as F
from tests.model.varied_networks import normwise
from torch import nn

from alexnet.model.activations import ActivationReader, default_layer
from alexnet.model.layer_specs import NetworkSpec
from alexnet.model.network import AlexNet
from alexnet.model.variants import VARIANTS


def small(variant: str) -> AlexNet:
    torch.manual_seed(3)
    network = AlexNet(5, variant, 0.1).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():  # so that no activation vanishes
            if name.endswith("weight"):
                parameter.mul_(10)
    return network


def images(network: AlexNet, num: int = 2) -> torch.Tensor:
    side = network.spec.image_px
    return 50 * torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("variant", VARIANTS)
def test_activations_are_what_hooks_see(variant: str) -> None:
    network = small(variant)
    names = [layer.name for layer in network.sized_layers]
    seen: dict[str, torch.Tensor] = {}

    def keep(module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        seen[next(name for name, one in network.named_modules() if one is module)] = result

    reader, given = ActivationReader(network, names), images(network)
    with torch.inference_mode():
        found = reader(given)
        handles = [module.register_forward_hook(keep) for module in network.children()]
        scores = network(given)
        for handle in handles:
            handle.remove()
    assert names[-1] == [*seen][-1] and {*seen} - {*names} <= {"input_scale", "pad1"}
    for name in names:
        assert found[name].shape[1:] == reader.shape(name), name
        assert found[name].abs().max() > 0, name
        assert normwise(found[name], seen[name]) < 1e-4, name
    assert normwise(found[names[-1]], scores) < 1e-4


def test_dropout_scales_in_evaluation() -> None:
    network = small("paper")
    with torch.inference_mode():
        found = ActivationReader(network, ["relu7", "dropout7", "fc7"])(images(network))
    assert torch.equal(found["relu7"], found["fc7"].relu())
    assert torch.equal(found["dropout7"], 0.5 * found["relu7"])
    assert (found["fc7"] < 0).any()


def test_the_order_of_operations_in_the_first_layer() -> None:
    for variant, order in (("paper", ("relu1", "norm1", "pool1")), ("original", ("norm1", "pool1", "relu1"))):
        network = small(variant).double()
        with torch.inference_mode():
            found = ActivationReader(network, ["conv1", *order])(images(network).double())
        linear, first, second, third = (found[name] for name in ("conv1", *order))
        activated = linear.relu() if variant == "paper" else linear
        normalized = torch.cat(
            [
                # torch and the source divide alpha by the window's size; the paper does not.
                F.local_response_norm(half, 5, alpha=5e-4 if variant == "paper" else 1e-4, beta=0.75, k=2.0)
                for half in activated.chunk(2, 1)
            ],
            1,
        )
        pooled = F.max_pool2d(normalized, 3, 2, ceil_mode=True)
        expected = (activated, normalized, pooled) if variant == "paper" else (normalized, pooled, pooled.relu())
        for got, wanted in zip((first, second, third), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_only_what_is_needed_is_computed() -> None:
    network = small("paper")
    network.conv3.forward = None  # type: ignore[method-assign, assignment]
    with torch.inference_mode():
        found = ActivationReader(network, ["pool2", "norm1"])(images(network))
    assert found["pool2"].shape[2:] == (13, 13) and found["norm1"].shape[2:] == (55, 55)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["conv9"], r"no layer 'conv9'; it has conv1, relu1, norm1, pool1, conv2"),
        (["fc7", "fc7"], "requested twice"),
        ([], "no layers are requested"),
    ],
)
def test_wrong_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActivationReader(small("paper"), names)


def test_images_of_another_shape_are_refused() -> None:
    reader = ActivationReader(small("paper"), ["fc7"])
    with pytest.raises(ValueError, match="takes floating point"):
        reader(torch.zeros(1, 3, 200, 200))


@pytest.mark.parametrize(
    ("variant", "name"),
    [("paper", "relu7"), ("torchvision", "relu7"), ("minus-fc7", "relu6"), ("quick", "relu4"), ("tanh", "tanh7")],
)
def test_the_default_is_the_last_hidden_layer(variant: str, name: str) -> None:
    assert default_layer(VARIANTS[variant]) == name


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_layer_names_differ(spec: NetworkSpec) -> None:
    names = [layer.name for layer in spec.named_layers]
    assert len({*names}) == len(names) == len(spec.layers)
    assert [layer.spec for layer in spec.named_layers] == [*spec.layers]
