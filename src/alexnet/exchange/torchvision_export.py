"""A state dict for torchvision's AlexNet: `features.0.weight` to `classifier.6.bias`."""

import io
from pathlib import Path

import torch

from alexnet.errors import RequestError
from alexnet.exchange.foreign_network import IMAGENET_STD_COLOR
from alexnet.exchange.forms import FOR_EVERY_VARIANT
from alexnet.model.weights import Trained
from alexnet.storage.atomic import write_bytes

VARIANT = "torchvision"
TORCHVISION_LAYERS = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}
"""Names in torchvision's AlexNet of the variant's layers with weights."""


def write_torchvision(trained: Trained, path: Path) -> None:
    """Write the weights to a `.pth` file that `torch.load(path, weights_only=True)` reads, atomically.

    Nothing is computed: the network's first factor is that of torchvision's transforms, `1 / (255 * std)`.

    Raises:
        RequestError: the network is of another variant.
        OSError: the file cannot be written; nothing is left behind.
    """
    variant = trained.network.variant
    if variant != VARIANT:
        raise RequestError(
            f"variant {variant!r} is not the network of torchvision.models.alexnet, whose layers have other sizes and "
            f"no normalization; export it to {FOR_EVERY_VARIANT}, which take every variant"
        )
    tensors = trained.network.state_dict()
    # Copies: torch.save writes the whole storage of a view.
    state = {
        f"{theirs}.{kind}": tensors[f"{own}.{kind}"].detach().cpu().float().clone()
        for own, theirs in TORCHVISION_LAYERS.items()
        for kind in ("weight", "bias")
    }
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(path, content.getvalue())


def color_statistics(trained: Trained) -> tuple[list[float], list[float], float]:
    """What torchvision's `Normalize` takes in place of the run's mean image: mean and std of colors 0..1.

    Returns:
        mean color of the central crop; standard deviations; and how far the crop's mean image is from that color at
        most, in gray levels of 0..255: 0 if subtracting the color is the same.
    """
    first = (trained.side - trained.crop) // 2
    crop = trained.mean_image[first : first + trained.crop, first : first + trained.crop].double()
    color = crop.mean(dim=(0, 1))
    distance = float((crop - color).abs().max())
    return (color / 255).tolist(), list(IMAGENET_STD_COLOR), distance
