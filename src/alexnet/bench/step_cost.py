"""The least time that a training step of the paper's network can take on a machine: its bytes and its products."""

from collections.abc import Mapping

import torch

from alexnet.model.fusion import Fused
from alexnet.model.network import AlexNet

_MASTER = 4
"""Bytes of a number that stays float32: weights and velocities."""


def papers_network() -> AlexNet:
    """The network that the benches measure, its sizes alone: it has no memory."""
    with torch.device("meta"):
        return AlexNet()


def step_flops(network: AlexNet) -> int:
    """Floating point operations of one image's step: two a multiply-add, forward and twice backward.

    The gradient of the images themselves is nobody's: the first layer goes backward once.
    """
    placed = [one for one in network.sized_layers if one.multiply_adds]
    return 2 * (3 * sum(one.multiply_adds for one in placed) - placed[0].multiply_adds)


def forward_flops(network: AlexNet, up_to: str | None = None) -> int:
    """Floating point operations of one image's forward pass, up to the layer of that name or to the end."""
    total = 0
    for one in network.sized_layers:
        total += 2 * one.multiply_adds
        if up_to is not None and one.name == up_to:
            break
    return total


def step_bytes(network: AlexNet, batch_size: int, number: int) -> float:
    """Bytes that one image's step reads and writes where every pass is fused as far as it can be.

    A layer with weights reads its input and writes its result; going backward it reads the result's gradient for the
    weights', with its input, and once more for the input's, which it writes (the first layer has none). A pass that
    pools reads and writes once forward and notes a byte a result; backward it reads those, the gradient and its input,
    and writes. Rectifying alone and dropout cost nothing beside their neighbors. Weights are read forward and
    backward, their gradient is written, and the update reads it, reads and writes weights and velocities, and writes
    the rounded ones.

    Args:
        batch_size: images over which the weights' bytes are spread.
        number: bytes of a activation: 2 in bfloat16, 4 in float32.
    """
    activations = 0
    places = iter(network.sized_layers)
    images = True
    for stage in network.fused_ops:
        placed = [next(places) for _ in (stage.layers if isinstance(stage, Fused) else (stage,))]
        read, written = (
            placed[0].in_channels * placed[0].in_side ** 2,
            placed[-1].out_channels * placed[-1].out_side ** 2,
        )
        if placed[0].weight_shape:
            activations += number * (2 * read + 2 * written) + (0 if images else number * (read + written))
            images = False
        elif isinstance(stage, Fused):
            activations += number * (3 * read + 2 * written) + 2 * written
    weights = sum(parameter.numel() for parameter in network.parameters())
    rounded = 0 if number == _MASTER else number
    update = number + 2 * 2 * _MASTER + rounded
    return activations + weights * (2 * number + number + update) / batch_size


def step_floor_s(batch_size: int, number: int, ceilings: Mapping[str, float]) -> float:
    """Seconds an image that products and copies at a machine's best would take, one after the other.

    Products are those of plain convolutions; a step in float32 on a processor takes fewer and may be faster.

    Args:
        ceilings: `matmul_flops` and `copy_bytes` a second.
    """
    network = papers_network()
    bytes_s = step_bytes(network, batch_size, number) / ceilings["copy_bytes"]
    return step_flops(network) / ceilings["matmul_flops"] + bytes_s
