"""A small network that is trained in seconds on drawn images, whose classes differ in color, slant and position."""

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained

NUM_CLASSES = 8
SIDE, CROP = 32, 28


def draw(label: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """An image of a class: a slanted grating that fades along one axis, in one of two colors, with noise."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    angle = np.pi * (0.15 + 0.25 * (label % 2))
    wave = np.sin((rows * np.cos(angle) + columns * np.sin(angle)) * 0.9 + generator.uniform(0, 6))
    fade = (rows if label // 4 else SIDE - rows) / SIDE
    color = np.array([1.0, 0.4, 0.0] if label // 2 % 2 else [0.0, 0.4, 1.0])
    image = 110 + 70 * (wave * fade)[..., None] * 0.8 + 90 * (color - 0.4) + generator.normal(0, 25, (SIDE, SIDE, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def drawn_data(folder: Path, num_train: int = 30, num_val: int = 40) -> PreparedData:
    """A prepared data set of drawn images."""
    generator = np.random.default_rng(0)
    for split, number in (("train", num_train), ("val", num_val)):
        for label in range(NUM_CLASSES):
            place = folder / "source" / split / f"class{label}"
            place.mkdir(parents=True)
            for index in range(number):
                PIL.Image.fromarray(draw(label, generator)).save(place / f"{index}.png")
    return prepare(folder / "source", folder / "data", side=SIDE)


def train_network(data: PreparedData, *, steps: int = 150, variant: str = "quick") -> Trained:
    """Train on the data set's training images, in plain torch, with random crops."""
    torch.manual_seed(0)
    network = AlexNet(NUM_CLASSES, variant, 0.5, generator=torch.Generator().manual_seed(0))
    mean = torch.from_numpy(np.asarray(data.statistics.mean_image).copy())
    split = data.splits["train"]
    images = torch.from_numpy(np.stack([split.images[one] for one in range(len(split))]))
    labels = torch.from_numpy(np.asarray(split.labels).copy())
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    network.train()
    for _ in range(steps):
        chosen = torch.randint(len(labels), (32,))
        row, column = torch.randint(SIDE - CROP + 1, (2,)).tolist()
        window = (slice(row, row + CROP), slice(column, column + CROP))
        batch = images[chosen][:, window[0], window[1]].float() - mean[window]
        loss = torch.nn.functional.cross_entropy(network(batch.permute(0, 3, 1, 2).contiguous()), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Trained(
        network=network.eval(),
        classes=tuple(data.classes),
        mean_image=mean,
        crop=CROP,
        title=data.title,
        generated=True,
    )
