"""Bytes that the processes of a training send each other, from the network's description alone."""

import math
from collections.abc import Sequence

from alexnet.model.layer_specs import Dense, SizedLayer
from alexnet.parallel.layout import ColumnLayers

SCORES = "scores"


def expected_exchange(
    placed: Sequence[SizedLayer], num_classes: int, column_layers: ColumnLayers, element_bytes: int
) -> dict[tuple[str, str], int]:
    """Bytes of activations and their gradients that one of two columns sends the other for each image of the batch.

    From the description alone: a layer that reads both columns is sent half of its inputs, and its gradient back. The
    images themselves are in both processes; where only dense layers are in columns, the first of them is sent the
    whole inputs of half of the images. Each process needs all scores for the loss, and derives it on its own.

    Args:
        placed: the network's layers.
        num_classes: K, an even number.
        column_layers: which layers are in columns.
        element_bytes: of a activation.
    """
    found = {}
    below_in_columns = False
    for place in placed:
        if not place.weight_shape:
            continue
        is_dense = isinstance(place.spec, Dense)
        first_of_dense = column_layers == "dense" and is_dense and not below_in_columns
        if first_of_dense or (below_in_columns and place.columns == 1):
            half = place.in_channels * place.in_side**2 // 2
            found[place.name, "forward"] = found[place.name, "backward"] = half * element_bytes
        below_in_columns = below_in_columns or is_dense or column_layers == "every-layer"
    found[SCORES, "forward"] = num_classes // 2 * element_bytes
    return found


def gradient_bytes(placed: Sequence[SizedLayer], element_bytes: int = 4) -> dict[str, int]:
    """Bytes of the gradients of each layer that has weights."""
    return {
        place.name: element_bytes * (math.prod(place.weight_shape) + math.prod(place.bias_shape))
        for place in placed
        if place.weight_shape
    }


def ring_bytes(num_bytes: int, num: int) -> float:
    """Bytes that each of `num` processes sends so that all have the sum of `num_bytes`, in a ring."""
    return num_bytes * 2 * (num - 1) / num


def equal_batch(gradients: float, per_image: float, per_step: float = 0.0) -> float:
    """The batch size at which columns send as much as replicas; below it they send less.

    Args:
        gradients: bytes of a step of the replicas.
        per_image: bytes that a column sends for an image.
        per_step: bytes that it sends in a step whatever the batch.
    """
    return (gradients - per_step) / per_image
