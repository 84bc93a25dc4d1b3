"""Activations of a network's layers by name.

Axes: B images, C channels, H x W positions, D units.
"""

from collections.abc import Sequence

import torch

from alexnet.errors import RequestError
from alexnet.model.fusion import Op, fuse, fuse_epilogues
from alexnet.model.layer_specs import Dropout, Flatten, NetworkSpec, WeightedSpec, sized_layers
from alexnet.model.network import AlexNet


def default_layer(network: NetworkSpec) -> str:
    """The last hidden layer after ReLU and before dropout, `relu7` of `paper`: what section 6.1 compares images by."""
    weighted = [number for number, layer in enumerate(network.layers) if isinstance(layer, WeightedSpec)]
    before_scores = network.named_layers[: weighted[-1]]
    return next(layer.name for layer in reversed(before_scores) if not isinstance(layer.spec, Dropout | Flatten))


class ActivationReader:
    """Reads activations of a network's layers: what a forward hook on their modules sees.

    Layers between two that are read run as one operation where they do in the whole network.

    Args:
        network: in evaluation mode, so that dropout only scales.
        names: one or more of the network's layers.

    Raises:
        RequestError: a layer that the network's variant does not have, or one given twice.
    """

    def __init__(self, network: AlexNet, names: Sequence[str]) -> None:
        layers = network.spec.named_layers
        stops = {layer.name: number for number, layer in enumerate(layers, start=1)}
        for number, name in enumerate(names):
            if name not in stops:
                raise RequestError(f"variant {network.variant!r} has no layer {name!r}; it has {', '.join(stops)}")
            if name in names[:number]:
                raise RequestError(f"the layer {name!r} is requested twice; name each once")
        if not names:
            raise RequestError(f"no layers are requested; variant {network.variant!r} has {', '.join(stops)}")
        self.names = tuple(names)
        self._network = network
        self._stops = {name: stops[name] for name in names}
        self._parts: list[tuple[int, tuple[Op, ...]]] = []
        first = 0
        for last in sorted(set(self._stops.values())):
            self._parts.append((last, fuse_epilogues(fuse(layers[first:last]))))
            first = last

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one image's activations: (C, H, W), or (D,) of a dense layer."""
        network, stop = self._network, self._stops[name]
        # The last layer, which may be one of unknown size, does not matter to those before it.
        is_last = stop == len(network.spec.layers)
        num_classes = network.require_num_classes() if is_last else network.spec.num_classes
        layers = [*sized_layers(network.spec, num_classes, network.width)][:stop]
        channels, side = layers[-1].out_channels, layers[-1].out_side
        is_flat = any(isinstance(layer.spec, Flatten) for layer in layers)
        return (channels,) if is_flat else (channels, side, side)

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Activations by name, each (B, ...) of `shape`, in the dtype that the network computes in.

        Args:
            images: as the network reads them, (B, 3, S, S).
        """
        self._network.require_images(images)
        x = self._network.scale(images)
        found: dict[int, torch.Tensor] = {}
        for last, ops in self._parts:
            x = self._network.run(ops, x)
            found[last] = x
        return {name: found[self._stops[name]] for name in self.names}
