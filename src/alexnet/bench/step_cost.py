"""Floating point operations and bytes of a network, and the least time of a training step on a machine."""

from collections.abc import Mapping
from itertools import groupby

import torch

from alexnet.model.layer_specs import AveragePool, MaxPool, ResponseNorm, SameMapNorm, SizedLayer
from alexnet.model.network import AlexNet

_MASTER_BYTES = 4
"""Bytes of a number that stays float32: weights and velocities."""


def meta_network(variant: str = "paper", width: float = 1.0, num_classes: int = 1000) -> AlexNet:
    """A network on the meta device: shapes only."""
    with torch.device("meta"):
        return AlexNet(num_classes, variant=variant, width=width)


def step_flops(network: AlexNet) -> int:
    """Floating point operations per image of a training step: two per multiply-add, forward once and backward twice.

    The first layer goes backward once, because the images need no gradient.
    """
    with_weights = [layer for layer in network.sized_layers if layer.multiply_adds]
    return 2 * (3 * sum(layer.multiply_adds for layer in with_weights) - with_weights[0].multiply_adds)


def forward_flops(network: AlexNet, up_to: str | None = None) -> int:
    """Floating point operations per image of a forward pass, up to and including the layer of that name."""
    total = 0
    for layer in network.sized_layers:
        total += 2 * layer.multiply_adds
        if up_to is not None and layer.name == up_to:
            break
    return total


def step_bytes(network: AlexNet, batch_size: int, element_bytes: int) -> float:
    """Bytes that a training step reads and writes per image if every operation is fused as far as possible.

    A layer with weights reads its input and writes its output. Its backward pass reads the output's gradient and the
    input for the weight gradient, and reads the output's gradient again for the input's gradient, which it writes (not
    in the first layer). Normalization and pooling in a row are one operation: it reads and writes once forward and
    keeps one byte per output; backward it reads those, the gradient and its input, and writes. Average pooling alone
    needs neither its input nor those bytes to go backward. ReLU alone, other such functions and dropout cost nothing:
    they are fused with their neighbors.
    Weights are read forward and backward and their gradient is written; the update reads the gradient, reads and writes
    weights and velocities, and writes the bfloat16 copies.

    Args:
        batch_size: images that share the bytes of the weights.
        element_bytes: of an activation: 2 in bfloat16, 4 in float32.
    """
    activations = 0
    reads_images = True
    for weighted, row in groupby(network.sized_layers, lambda layer: layer.name if layer.weight_shape else ""):
        layers = [*row]  # one with weights, or all in a row that have none
        read = layers[0].in_channels * layers[0].in_side ** 2
        written = layers[-1].out_channels * layers[-1].out_side ** 2
        if weighted:
            activations += element_bytes * (2 * read + 2 * written)
            activations += 0 if reads_images else element_bytes * (read + written)
            reads_images = False
        elif _has(layers, MaxPool, ResponseNorm, SameMapNorm):
            activations += element_bytes * (3 * read + 2 * written) + 2 * written
        elif _has(layers, AveragePool):
            activations += element_bytes * (2 * read + 2 * written)
    weights = sum(parameter.numel() for parameter in network.parameters())
    bfloat16_copies = 0 if element_bytes == _MASTER_BYTES else element_bytes
    update = element_bytes + 2 * 2 * _MASTER_BYTES + bfloat16_copies
    return activations + weights * (2 * element_bytes + element_bytes + update) / batch_size


def _has(layers: list[SizedLayer], *kinds: type) -> bool:
    return any(isinstance(layer.spec, kinds) for layer in layers)


def ideal_step_s(network: AlexNet, batch_size: int, element_bytes: int, ceilings: Mapping[str, float]) -> float:
    """Seconds per image if all products and then all copies ran at the machine's ceilings.

    Products are counted as plain convolutions; the float32 step on CPUs needs fewer of them and may be faster.

    Args:
        element_bytes: of an activation: 2 in bfloat16, 4 in float32.
        ceilings: `matmul_flops` and `copy_bytes` per second.
    """
    bytes_s = step_bytes(network, batch_size, element_bytes) / ceilings["copy_bytes"]
    return step_flops(network) / ceilings["matmul_flops"] + bytes_s
