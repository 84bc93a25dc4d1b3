"""State dicts of wrapped networks are loaded, and those of other networks are named for what they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alexnet.errors import RequestError
from alexnet.model.layer_specs import sized_layers
from alexnet.model.network import AlexNet
from alexnet.model.tensor_names import (
    describe_tensors,
    matching_networks,
    networks_of_layers,
    rename_as,
    shapes_at_width_of,
)
from alexnet.model.variants import VARIANTS


def network(seed: int = 0, variant: str = "quick", width: float = 0.25, num_classes: int = 3) -> AlexNet:
    return AlexNet(num_classes, variant, width, generator=torch.Generator().manual_seed(seed))


class LikeDataParallel(nn.Module):
    """Holds the network as DistributedDataParallel does, without processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


WRAPPED: dict[str, Callable[[AlexNet], nn.Module]] = {
    "plain": lambda net: net,
    "replicated": LikeDataParallel,
    "DataParallel": nn.DataParallel,
    "compiled": compiled,
    "compiled replicated": lambda net: compiled(LikeDataParallel(net)),
    "replicated compiled": lambda net: LikeDataParallel(compiled(net)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_state_dicts_of_wrapped_networks_are_loaded(name: str) -> None:
    source, own = network(1), network(2)
    state = WRAPPED[name](source).state_dict()
    assert all(key.startswith(("module.", "_orig_mod.")) for key in state) == (name != "plain")
    own.load_state_dict(state)
    for key, tensor in source.state_dict().items():
        assert torch.equal(own.state_dict()[key], tensor), key


def test_a_network_with_a_compiled_layer_takes_plain_weights_and_gives_its_own() -> None:
    source, own = network(1), network(2)
    own.conv2 = compiled(own.conv2)
    assert "conv2._orig_mod.weight" in own.state_dict()
    own.load_state_dict(source.state_dict())
    assert torch.equal(own.state_dict()["conv2._orig_mod.weight"], source.state_dict()["conv2.weight"])
    other = network(3)
    other.load_state_dict(own.state_dict())
    assert torch.equal(other.state_dict()["conv2.weight"], source.state_dict()["conv2.weight"])


def test_a_part_of_a_wrapped_state_dict_is_loaded_if_that_is_asked_for() -> None:
    source, own = network(1), network(2)
    before = own.state_dict()["fc5.bias"].clone()
    state = {name: tensor for name, tensor in LikeDataParallel(source).state_dict().items() if "conv1" in name}
    found = own.load_state_dict(state, strict=False)
    assert torch.equal(own.state_dict()["conv1.weight"], source.state_dict()["conv1.weight"])
    assert torch.equal(own.state_dict()["fc5.bias"], before) and "fc5.bias" in found.missing_keys


def test_what_is_no_dictionary_is_refused() -> None:
    for wrong in (None, "weights.pt", network(1)):
        with pytest.raises(RequestError, match=f"a dictionary of tensors and got {type(wrong).__name__}; of a network"):
            network(2).load_state_dict(wrong)  # type: ignore[arg-type]


def test_two_tensors_for_one_name_are_refused_and_nothing_is_loaded() -> None:
    own, state = network(2), network(1).state_dict()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    both = {**state, "module.conv1.weight": state["conv1.weight"] + 1}
    with pytest.raises(RequestError, match=r"both conv1.weight and module.conv1.weight would be conv1.weight"):
        own.load_state_dict(both)
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())


@given(
    names=st.lists(st.sampled_from(["conv1.weight", "conv1.bias", "a.module", "fc8.bias"]), unique=True),
    prefixes=st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=4),
)
def test_prefixes_of_any_order_and_number_are_removed(names: list[str], prefixes: list[str]) -> None:
    given_ones = {"".join(prefixes) + name: number for number, name in enumerate(names)}
    renamed = rename_as(names, given_ones)
    assert renamed == {name: number for number, name in enumerate(names)}
    assert prefixes or renamed is given_ones


def test_weights_of_another_network_are_named_with_both() -> None:
    own = network()
    with pytest.raises(
        RequestError,
        match=r"not the weights of variant 'quick' of width 0.25: conv1.weight is .* they fit variant "
        r"'quick' of width 0.5 with 4 classes; create the network",
    ):
        own.load_state_dict(network(width=0.5, num_classes=4).state_dict())
    with pytest.raises(RequestError, match=r"they fit variant 'six-conv' of width 0.05 with 3 classes"):
        own.load_state_dict(LikeDataParallel(network(variant="six-conv", width=0.05)).state_dict())
    held = {f"model.net.{name}": tensor for name, tensor in own.state_dict().items()}
    with pytest.raises(
        RequestError, match=r"3 classes if `model.net.` is removed from their names; remove the prefix, `(.*)`$"
    ) as refused:
        own.load_state_dict(held)
    own.load_state_dict(eval(str(refused.value).split("`")[3], {"state_dict": held}))
    wrapped = {f"module.model._orig_mod.{name}": tensor for name, tensor in own.state_dict().items()}
    with pytest.raises(RequestError, match=r"remove the prefix, `(.*)`$") as refused:
        own.load_state_dict(wrapped)
    own.load_state_dict(eval(str(refused.value).split("`")[-2], {"state_dict": wrapped}))
    larger = {f"model.{name}": tensor for name, tensor in network(width=0.5).state_dict().items()}
    with pytest.raises(RequestError, match=r"if `model.` is removed from their names; create the network"):
        own.load_state_dict(larger)
    with pytest.raises(RequestError, match=r"they fit variant 'paper' \(also 'original', 'no-norm', others\) of"):
        own.load_state_dict(network(variant="tanh", width=0.05).state_dict())
    with pytest.raises(RequestError, match=r"a dictionary that holds state_dict, optimizer; pass the one of these"):
        own.load_state_dict({"state_dict": own.state_dict(), "optimizer": {}, "epoch": 3})
    with pytest.raises(RequestError, match=r"conv1.weight is missing .*they look like torchvision's AlexNet"):
        own.load_state_dict(
            {"features.0.weight": torch.empty(64, 3, 11, 11), "classifier.1.weight": torch.empty(4096, 9216)}
        )
    with pytest.raises(RequestError, match=r"they fit no variant; they are a \(1, 2\), b \(\)"):
        own.load_state_dict({"a": torch.zeros(1, 2), "b": torch.tensor(1)})
    with pytest.raises(RequestError, match="they are missing"):
        own.load_state_dict({})


@settings(max_examples=40)
@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    width=st.integers(3, 60).map(lambda number: number / 400),
    num_classes=st.integers(2, 30),
)
def test_the_network_that_tensors_belong_to_is_found(variant: str, width: float, num_classes: int) -> None:
    shapes = {name: tuple(one.shape) for name, one in network(0, variant, width, num_classes).state_dict().items()}
    found = matching_networks(shapes)
    assert found is not None and variant in found[0] and found[2] == num_classes
    for name in found[0]:
        same = AlexNet(num_classes, name, found[1]).state_dict()
        assert {key: tuple(one.shape) for key, one in same.items()} == shapes
    assert f"of width {found[1]:g}" in describe_tensors(shapes)
    changed = {**shapes, "conv1.weight": (*shapes["conv1.weight"][:-1], 2)}
    assert matching_networks(changed) is None


@settings(max_examples=40)
@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    width=st.integers(3, 60).map(lambda number: number / 400),
    num_classes=st.integers(2, 30),
)
def test_the_network_of_layers_without_names_is_found(variant: str, width: float, num_classes: int) -> None:
    sized = [one for one in sized_layers(VARIANTS[variant], num_classes, width) if one.weight_shape]
    layers = [(one.weight_shape, one.bias_shape) for one in sized]
    convolutions = [one for one in layers if len(one[0]) > 2]
    for given_ones, features_only in ((layers, False), (convolutions, True)):
        found = networks_of_layers(given_ones, features_only=features_only)
        assert variant in [one.variant for one in found]
        for match in found:
            assert match.num_classes == (None if features_only else num_classes)
            again = sized_layers(VARIANTS[match.variant], num_classes, match.width)
            shapes = [(one.weight_shape, one.bias_shape) for one in again if one.weight_shape]
            assert shapes[: len(given_ones)] == given_ones
    swapped = [*layers[1:], layers[0]]
    assert variant not in [one.variant for one in networks_of_layers(swapped)]
    assert networks_of_layers(layers[:-1]) == [] or variant not in [
        one.variant for one in networks_of_layers(layers[:-1])
    ]
    assert networks_of_layers([((), ()) for _ in layers]) == []
    width_found, closest = shapes_at_width_of(variant, [shape for shape, _ in layers])
    assert [shape for _, shape in closest] == [shape for shape, _ in layers], width_found
