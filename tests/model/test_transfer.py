"""Layers are copied from one network to another by name, except the last."""

import pytest
import torch

from alexnet import AlexNet
from alexnet.errors import RequestError
from alexnet.model.transfer import transfer


def test_a_sixth_convolution_starts_from_five() -> None:
    source, network = AlexNet(5, "original", 0.05), AlexNet(7, "six-conv", 0.05)
    conv6 = network.get_submodule("conv6").weight.detach().clone()  # type: ignore[union-attr, operator]
    copied = transfer(source, network)
    assert copied == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    before, after = dict(source.named_parameters()), dict(network.named_parameters())
    for name in copied:
        assert torch.equal(before[f"{name}.weight"], after[f"{name}.weight"])
        assert torch.equal(before[f"{name}.bias"], after[f"{name}.bias"])
    assert torch.equal(network.get_submodule("conv6").weight, conv6)  # type: ignore[arg-type]
    assert after["fc8.weight"].shape == (7, before["fc8.weight"].shape[1])


def test_the_head_for_many_classes_is_not_copied() -> None:
    source, network = AlexNet(50, "six-conv-22k", 0.05), AlexNet(7, "six-conv", 0.05)
    assert transfer(source, network) == [f"conv{number}" for number in range(1, 7)] + ["fc6", "fc7"]


def test_pre_training_copies_the_convolutions() -> None:
    for variant, want in (("six-conv", 6), ("original", 5)):
        source, network = AlexNet(5, variant, 0.05), AlexNet(9, "six-conv-22k", 0.05)
        convolutions = [f"conv{number}" for number in range(1, want + 1)]
        # fc8 is the last layer there and the linear one of 2,048 units here: they only share the name.
        assert transfer(source, network) == [*convolutions, "fc6", "fc7"]
        assert transfer(source, network, "convolutions") == convolutions


def test_networks_of_other_shapes_are_refused() -> None:
    with pytest.raises(RequestError, match=r"conv1.weight is .* in variant 'paper' of width 0.1 and .* of width 0.05"):
        transfer(AlexNet(5, "paper", 0.1), AlexNet(5, "paper", 0.05))
    with pytest.raises(RequestError, match=r"conv4.weight is"):
        transfer(AlexNet(5, "paper", 0.1), AlexNet(5, "minus-conv3", 0.1))
