"""A network that tells red from green from blue, as a file of another program, and photographs for it."""

from pathlib import Path

import numpy as np
import torch

from alexnet.data.preparation.prepare import prepare

NAMES = ("conv1", "conv2", "conv3", "fc4")
WIDTH = 0.125


def color_weights(color_order: str = "rgb") -> dict[str, torch.Tensor]:
    """Weights of variant cifar-four-layer: each convolution passes on three channels, the last layer sums each."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"conv1": (4, 3, 5, 5), "conv2": (4, 4, 5, 5), "conv3": (8, 4, 5, 5), "fc4": (3, 8 * 4 * 4)}
    tensors = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator) * 1e-3
        for channel in range(3):
            if name == "fc4":
                weight[channel, 16 * channel : 16 * channel + 16] += 0.01
            else:
                source = 2 - channel if name == "conv1" and color_order == "bgr" else channel
                weight[channel, source, 2, 2] += 1
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight, torch.zeros(shape[0])
    return tensors


def write_network(path: Path, color_order: str = "rgb", names: tuple[str, ...] = NAMES) -> Path:
    """A file of torch.save with layers named as in none of our variants."""
    tensors = color_weights(color_order)
    renamed = {
        f"net.{NAMES.index(name)}.{kind}": tensors[f"{name}.{kind}"] for name in names for kind in ("weight", "bias")
    }
    torch.save(renamed, path)
    return path


def write_photographs(root: Path, *, num_val: int = 40, num_train: int = 8) -> Path:
    """A prepared data set of 32 pixels with the classes red, green and blue, in that order."""
    from PIL import Image

    random = np.random.default_rng(5)
    for split, count in (("train", num_train), ("val", num_val)):
        for color, name in enumerate(("a-red", "b-green", "c-blue")):
            folder = root / "source" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 80, (40, 40, 3))
                pixels[..., color] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    prepare(root / "source", root / "data", side=32)
    return root / "data"
