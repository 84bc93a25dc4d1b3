"""Initialize a network with the weights of a trained one, layer by layer, by name."""

from collections.abc import Collection
from typing import Literal

import torch

from alexnet.errors import RequestError
from alexnet.model.layer_specs import Convolution, SizedLayer
from alexnet.model.network import AlexNet


@torch.no_grad()
def transfer(
    source: AlexNet,
    network: AlexNet,
    layers: Literal["all", "convolutions"] = "all",
    untrained: Collection[str] = (),
) -> list[str]:
    """Copy every layer that both networks have under the same name, except the last of either.

    The last layer scores the classes, which differ: the source's authors copied "all but fc1000". Layers that `source`
    does not have keep their initial weights.

    Args:
        source: not changed.
        network: receives the weights.
        layers: `convolutions` does not copy the dense layers.
        untrained: layers of `source` that are not worth copying.

    Returns:
        Names of the copied layers, in order.

    Raises:
        RequestError: a layer of the same name has another shape, or no layer can be copied.
    """
    own, other = dict(network.named_parameters()), dict(source.named_parameters())
    source_names = {layer.name for layer in _weighted(source)[:-1]} - set(untrained)
    copied = []
    for layer in _weighted(network)[:-1]:
        name = layer.name
        if name not in source_names or (layers == "convolutions" and not isinstance(layer.spec, Convolution)):
            continue
        for parameter in (f"{name}.weight", f"{name}.bias"):
            if own[parameter].shape != other[parameter].shape:
                raise RequestError(
                    f"{parameter} is {tuple(other[parameter].shape)} in variant {source.variant!r} of width "
                    f"{source.width} and {tuple(own[parameter].shape)} in {network.variant!r} of width "
                    f"{network.width}; layers of the same name must have the same shape"
                )
            own[parameter].copy_(other[parameter])
        copied.append(name)
    if not copied:
        raise RequestError(f"variant {source.variant!r} has no layer to initialize {network.variant!r} with")
    return copied


def _weighted(network: AlexNet) -> list[SizedLayer]:
    return [layer for layer in network.sized_layers if layer.weight_shape]
