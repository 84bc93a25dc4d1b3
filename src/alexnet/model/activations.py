"""Activations of a network's layers by name.

Axes: B images, C channels, H x W positions, D units.
"""

from collections.abc import Sequence

import torch

from alexnet.errors import RequestError
from alexnet.model import layer_specs
from alexnet.model.fusion import ConvEpilogue, Fused, fuse, fuse_epilogues
from alexnet.model.layer_specs import Dropout, Flatten, LayerSpec, NetworkSpec, WeightedSpec
from alexnet.model.network import AlexNet

_OPERATIONS: dict[type[LayerSpec], str] = {
    layer_specs.ReLU: "relu",
    layer_specs.Tanh: "tanh",
    layer_specs.Sigmoid: "sigmoid",
    layer_specs.ResponseNorm: "norm",
    layer_specs.SameMapNorm: "same-map-norm",
    layer_specs.MaxPool: "pool",
    layer_specs.AveragePool: "pool",
    Dropout: "drop",
}
"""Names of the operations without weights."""


def activation_points(network: NetworkSpec) -> dict[str, int]:
    """Points at which activations can be read: by name, the number of layers before the point.

    `conv1` is the input of the next layer with weights, before dropout: `conv1` of `paper` is after ReLU, normalization
    and pooling, `fc7` the last hidden layer after ReLU, `fc8` the class scores. `conv1.linear` is before all of these,
    and `conv1.relu`, `.tanh`, `.sigmoid`, `.norm`, `.same-map-norm`, `.pool`, `.drop` are after that operation, in the
    variant's order; a second pooling is `.pool2`.
    """
    points: dict[str, int] = {}
    name = ""
    for number, layer in enumerate(network.layers, start=1):
        if isinstance(layer, WeightedSpec):
            name = layer.name
            points[name] = points[f"{name}.linear"] = number
        elif name and not isinstance(layer, Flatten):
            operation = f"{name}.{_OPERATIONS[type(layer)]}"
            earlier = sum(one.startswith(operation) for one in points)
            points[f"{operation}{earlier + 1}" if earlier else operation] = number
            if not isinstance(layer, Dropout):
                points[name] = number
    return points


class ActivationReader:
    """Reads activations of a network at named points.

    Args:
        network: in evaluation mode, so that dropout only scales.
        names: one or more of `activation_points`.

    Raises:
        RequestError: a name that the network's variant does not have, or one given twice.
    """

    def __init__(self, network: AlexNet, names: Sequence[str]) -> None:
        points = activation_points(network.spec)
        for number, name in enumerate(names):
            if name not in points:
                raise RequestError(
                    f"variant {network.variant!r} has no activations called {name!r}; it has {', '.join(points)}"
                )
            if name in names[:number]:
                raise RequestError(f"the activations {name!r} are requested twice; name each once")
        if not names:
            raise RequestError(f"no activations are requested; variant {network.variant!r} has {', '.join(points)}")
        self.names = tuple(names)
        self._network = network
        self._points = {name: points[name] for name in names}
        # The layers between two points are fused like those of a whole network.
        self._parts: list[tuple[int, tuple[LayerSpec | Fused | ConvEpilogue, ...]]] = []
        first = 0
        for last in sorted(set(self._points.values())):
            self._parts.append((last, fuse_epilogues(fuse(network.spec.layers[first:last]))))
            first = last

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one image's activations: (C, H, W), or (D,) of a dense layer."""
        layers = self._network.sized_layers[: self._points[name]]
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
            for op in ops:
                x = self._network.compute(op, x)
            found[last] = x
        return {name: found[self._points[name]] for name in self.names}
