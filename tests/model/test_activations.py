"""The named activations equal what hooks see the layers' modules read and write, and what plain torch computes."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alexnet.model.activations import ActivationReader, activation_points
from alexnet.model.layer_specs import Flatten, WeightedSpec
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
def test_points_are_what_the_modules_read_and_write(variant: str) -> None:
    network = small(variant)
    points = activation_points(network.spec)
    weighted = [layer.name for layer in network.spec.layers if isinstance(layer, WeightedSpec)]
    assert set(weighted) <= set(points) and {f"{name}.linear" for name in weighted} <= set(points)
    written: dict[str, torch.Tensor] = {}
    read: dict[str, torch.Tensor] = {}

    def keep(module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        name = next(name for name, one in network.named_modules() if one is module)
        read[name], written[name] = given[0], result

    for module in network.children():
        module.register_forward_hook(keep)
    given = images(network)
    with torch.inference_mode():
        scores = network(given)
        found = ActivationReader(network, list(points))(given)
    reader = ActivationReader(network, list(points))
    for name in points:
        assert found[name].shape[1:] == reader.shape(name), name
        assert found[name].abs().max() > 0, name
    for name in weighted:
        torch.testing.assert_close(found[f"{name}.linear"], written[name], rtol=1e-5, atol=1e-5)
    for name, behind in itertools.pairwise(weighted):
        # The output of a layer is the input of the next one, apart from dropout between them.
        handed = found.get(f"{name}.drop", found[name])
        torch.testing.assert_close(handed.reshape(read[behind].shape), read[behind], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[weighted[-1]], scores, rtol=1e-5, atol=1e-5)


def test_a_layer_name_is_before_dropout() -> None:
    network = small("paper")
    with torch.inference_mode():
        found = ActivationReader(network, ["fc7", "fc7.relu", "fc7.drop", "fc7.linear"])(images(network))
    assert torch.equal(found["fc7"], found["fc7.relu"])
    assert torch.equal(found["fc7"], found["fc7.linear"].relu())
    assert torch.equal(found["fc7.drop"], 0.5 * found["fc7"])
    assert (found["fc7.linear"] < 0).any()


def test_the_order_of_operations_in_the_first_layer() -> None:
    for variant, order in (("paper", ("relu", "norm", "pool")), ("original", ("norm", "pool", "relu"))):
        network = small(variant).double()
        names = [f"conv1.{operation}" for operation in ("linear", *order)]
        with torch.inference_mode():
            found = ActivationReader(network, [*names, "conv1"])(images(network).double())
        linear, first, second, third = (found[name] for name in names)
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
        assert torch.equal(found["conv1"], third)


def test_only_what_is_needed_is_computed() -> None:
    network = small("paper")
    network.conv3.forward = None  # type: ignore[method-assign, assignment]
    with torch.inference_mode():
        found = ActivationReader(network, ["conv2", "conv1.norm"])(images(network))
    assert found["conv2"].shape[2:] == (13, 13) and found["conv1.norm"].shape[2:] == (55, 55)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["conv9"], r"no activations called 'conv9'; it has conv1, conv1\.linear, conv1\.relu"),
        (["fc7", "fc7"], "requested twice"),
        ([], "no activations are requested"),
    ],
)
def test_wrong_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActivationReader(small("paper"), names)


def test_images_of_another_shape_are_refused() -> None:
    reader = ActivationReader(small("paper"), ["fc7"])
    with pytest.raises(ValueError, match="takes floating point"):
        reader(torch.zeros(1, 3, 200, 200))


def test_every_operation_after_a_weighted_layer_has_one_name() -> None:
    for variant in VARIANTS.values():
        layers = variant.layers
        first = next(number for number, layer in enumerate(layers) if isinstance(layer, WeightedSpec))
        named = [layer for layer in layers[first:] if not isinstance(layer, Flatten)]
        bare = sum(isinstance(layer, WeightedSpec) for layer in layers)
        assert len(activation_points(variant)) == len(named) + bare
