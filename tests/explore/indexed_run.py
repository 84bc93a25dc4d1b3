"""A run with an index, for tests of what looks images up in it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.explore.vector_index import VectorIndex, build_index
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained, save_trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK

NUM_CLASSES, NUM_TRAIN, NUM_VAL = 4, 6, 3


@dataclass(frozen=True)
class IndexedRun:
    """A run whose network has random weights, and the index of its training split."""

    run: RunFolder
    data: PreparedData
    index: VectorIndex
    source: Path
    """Photographs by split and class; train/color0/1.png and val/color0/1.png are copies of train/color0/0.png."""


def make_indexed_run(folder: Path, *, store: str = "pixels") -> IndexedRun:
    """Draw photographs whose classes are colors, prepare them, and make a run and its index in `folder`."""
    random = np.random.default_rng(5)
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        for label in range(NUM_CLASSES):
            place = folder / "source" / split / f"color{label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 200, (40, 40, 3))
                pixels[..., label % 3] += 4 if label < 3 else 0  # some images are nearer to another class
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    original = (folder / "source/train/color0/0.png").read_bytes()
    for copy in ("train/color0/1.png", "val/color0/1.png"):
        (folder / "source" / copy).write_bytes(original)
    data = prepare(folder / "source", folder / "data", side=32, store=store)
    run = make_run(data, folder / "run")
    return IndexedRun(run, data, build_index(run, device="cpu", precision="float32"), folder / "source")


def make_run(data: PreparedData, path: Path, seed: int = 6) -> RunFolder:
    """A run whose network has random weights."""
    run = RunFolder.create(path, QUICK, {"data": {"folder": str(data.folder), "checksum": data.checksum}})
    network = AlexNet(data.num_classes, "quick", 0.25, generator=torch.Generator().manual_seed(seed))
    mean_image = torch.from_numpy(data.statistics.mean_image.copy())
    save_trained(
        run.weights,
        Trained(network=network, classes=data.classes, mean_image=mean_image, crop=28, title="t", generated=True),
    )
    return run
