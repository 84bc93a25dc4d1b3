"""Narrow networks with everything that an export needs, and images for them."""

import numpy as np
import torch
from numpy.typing import NDArray
from tests.model.varied_networks import varied_network

from alexnet import ClassInfo, Trained
from alexnet.data.decode import Fit

FITS: tuple[Fit, ...] = ("crop", "pad", "squash")
ELONGATION = 100
"""Of a picture that `alexnet.preprocess` takes at most."""
REFUSED_SIZES = ((0, 5), (5, 0), (1, 101), (3, 3000), (500, 3))
"""Height and width of pictures that it refuses."""
CLASS_NAMES = [f"Größe {index}" for index in range(7)]


def trained_network(variant: str, side: int | None = None, fit: Fit = "crop") -> Trained:
    """A network with a mean image that differs everywhere."""
    network, _, _ = varied_network(variant)
    crop = network.spec.image_px
    side = crop + crop // 7 if side is None else side
    return Trained(
        network=network,
        classes=tuple(ClassInfo(id=f"n{index}", name=name) for index, name in enumerate(CLASS_NAMES)),
        mean_image=torch.rand(side, side, 3, generator=torch.Generator().manual_seed(1)) * 255,
        crop=crop,
        title="test images",
        generated=True,
        fit=fit,
    )


def random_images(num: int, height: int, width: int, seed: int = 3) -> NDArray[np.uint8]:
    """uint8 (num, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (num, height, width, 3), dtype=np.uint8)
