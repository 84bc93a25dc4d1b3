"""What the layers of a network answer to images: every state between two operations has a name.

Axes: B images, C maps, H W places, D units.
"""

from collections.abc import Sequence

import torch

from alexnet.errors import RequestError
from alexnet.model.fusion import ConvEpilogue, Fused, fused, with_epilogues
from alexnet.model.layer_specs import (
    Drop,
    Flatten,
    Layer,
    NetworkSpec,
    Pool,
    ReLU,
    ResponseNorm,
    SameMapNorm,
    SizedLayer,
    Squash,
    Weighted,
)
from alexnet.model.network import AlexNet


def activation_points(variant: NetworkSpec) -> dict[str, int]:
    """Where activations can be read: by name, the number of layers that have been computed there.

    `conv1` is what layer conv1 hands on to the next one with weights, before dropout: `fc7` the rectified units of the
    last hidden layer, `conv1` of `paper` the rectified, normalized and pooled maps, `fc8` the class scores.
    `conv1.linear` is the sum alone, and `conv1.relu`, `.tanh`, `.sigmoid`, `.norm`, `.same-map-norm`, `.pool`, `.drop`
    what it is after that operation, in whatever order the variant has them; a second pooling is `.pool2`.
    """
    points: dict[str, int] = {}
    name = ""
    for number, layer in enumerate(variant.layers, start=1):
        if isinstance(layer, Weighted):
            name = layer.name
            points[name] = points[f"{name}.linear"] = number
        elif name and not isinstance(layer, Flatten):
            operation = f"{name}.{_operation(layer)}"
            earlier = sum(one.startswith(operation) for one in points)
            points[f"{operation}{earlier + 1}" if earlier else operation] = number
            if not isinstance(layer, Drop):
                points[name] = number
    return points


def _operation(layer: Layer) -> str:
    match layer:
        case ReLU():
            return "relu"
        case Squash(function=function):
            return function
        case ResponseNorm():
            return "norm"
        case SameMapNorm():
            return "same-map-norm"
        case Pool():
            return "pool"
        case Drop():
            return "drop"
        case _:
            raise AssertionError(f"{layer} stands behind no layer with weights")


class ActivationReader:
    """Reads activations of a network at named points.

    Args:
        network: in evaluation mode, so that dropout only scales.
        names: of points, one or more, see `activation_points`.

    Raises:
        RequestError: a name that the network's variant does not have, or one that is there twice.
    """

    def __init__(self, network: AlexNet, names: Sequence[str]) -> None:
        points = activation_points(network.description)
        for number, name in enumerate(names):
            if name not in points:
                raise RequestError(
                    f"variant {network.variant!r} has no activations called {name!r}; it has {', '.join(points)}"
                )
            if name in names[:number]:
                raise RequestError(f"the activations {name!r} are asked for twice; name each once")
        if not names:
            raise RequestError(f"no activations are named; variant {network.variant!r} has {', '.join(points)}")
        self.names = tuple(names)
        self._network = network
        self._points = {name: points[name] for name in names}
        # What lies between two points is computed in as few passes as a whole network is.
        self._parts: list[tuple[int, tuple[Layer | Fused | ConvEpilogue, ...]]] = []
        first = 0
        for last in sorted(set(self._points.values())):
            self._parts.append((last, with_epilogues(fused(network.description.layers[first:last]))))
            first = last

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the activations to one image: (C, H, W) of maps, (D,) of units."""
        place: SizedLayer = self._network.sized_layers[self._points[name] - 1]
        maps, side = place.writes
        is_flat = any(isinstance(layer, Flatten) for layer in self._network.description.layers[: self._points[name]])
        return (maps,) if is_flat else (maps, side, side)

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Activations by name, each (B, ...) of `shape`, of the dtype that the network computes in.

        Args:
            images: as the network reads them, (B, 3, S, S).
        """
        self._network.require_images(images)
        x = self._network.scale(images)
        found: dict[int, torch.Tensor] = {}
        for last, stages in self._parts:
            for stage in stages:
                x = self._network.compute(stage, x)
            found[last] = x
        return {name: found[self._points[name]] for name in self.names}
