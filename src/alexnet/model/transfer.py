"""Weights of one trained network as the first weights of another, layer by layer, by name."""

from typing import Literal

import torch

from alexnet.errors import RequestError
from alexnet.model.layer_specs import Convolution, SizedLayer
from alexnet.model.network import AlexNet


@torch.no_grad()
def transfer(source: AlexNet, network: AlexNet, layers: Literal["all", "convolutions"] = "all") -> list[str]:
    """Copy every layer that both networks have under the same name, but not the last of either.

    The last layer scores the classes, and those are others: the source's authors copied "all but fc1000".
    Layers that `source` does not have keep their first weights.

    Args:
        source: not changed.
        network: gets the weights.
        layers: `convolutions` leaves the dense layers as they are.

    Returns:
        Names of the layers copied, in order.

    Raises:
        RequestError: a layer of the same name has another shape, or there is nothing to copy.
    """
    own, other = dict(network.named_parameters()), dict(source.named_parameters())
    theirs = {place.name for place in _weighted(source)[:-1]}
    copied = []
    for place in _weighted(network)[:-1]:
        name = place.name
        if name not in theirs or (layers == "convolutions" and not isinstance(place.layer, Convolution)):
            continue
        for parameter in (f"{name}.weight", f"{name}.bias"):
            if own[parameter].shape != other[parameter].shape:
                raise RequestError(
                    f"{parameter} is {tuple(other[parameter].shape)} in variant {source.variant!r} of width "
                    f"{source.width} and {tuple(own[parameter].shape)} in {network.variant!r} of width "
                    f"{network.width}; allowed is a network whose layers of the same name have the same shape"
                )
            own[parameter].copy_(other[parameter])
        copied.append(name)
    if not copied:
        raise RequestError(f"variant {source.variant!r} has no layer that {network.variant!r} could start from")
    return copied


def _weighted(network: AlexNet) -> list[SizedLayer]:
    return [place for place in network.sized_layers if place.weight_shape]
