"""Weights of one trained network as the first weights of another, layer by layer, by name."""

import torch

from alexnet.errors import RequestError
from alexnet.model.network import AlexNet


@torch.no_grad()
def transfer(source: AlexNet, network: AlexNet) -> list[str]:
    """Copy every layer that both networks have under the same name, but not the last of `network`.

    The last layer scores the classes, and those are others: the source's authors copied "all but fc1000".
    Layers that `source` does not have keep their first weights.

    Returns:
        Names of the layers copied, in order.

    Raises:
        RequestError: a layer of the same name has another shape, or there is nothing to copy.
    """
    weighted = [place for place in network.placed if place.weight_shape]
    own, other = dict(network.named_parameters()), dict(source.named_parameters())
    copied = []
    for place in weighted[:-1]:
        name = getattr(place.layer, "name")  # noqa: B009 (only layers with weights are left, and they have names)
        if f"{name}.weight" not in other:
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
