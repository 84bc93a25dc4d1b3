"""A prepared data set of random images in memory, for benchmarks that measure time only."""

from pathlib import Path

import numpy as np

from alexnet.data.dataset import ClassInfo, PreparedData, Split, Statistics


def random_data(num_images: int, side: int, num_classes: int) -> PreparedData:
    """A data set without a folder: its splits `train` and `val` are the same random images."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_images, side, side, 3), dtype=np.uint8)
    labels = random.integers(0, num_classes, num_images)
    return PreparedData(
        folder=Path("random"),
        title="random images",
        generated=True,
        classes=tuple(ClassInfo(str(number), str(number)) for number in range(num_classes)),
        splits={name: Split(name, images, labels, [""] * num_images) for name in ("train", "val")},
        side=side,
        statistics=Statistics(
            mean_image=np.full((side, side, 3), 127.5, np.float32),
            covariance=np.diag([9000.0, 500.0, 50.0]),
            eigenvalues=np.array([9000.0, 500.0, 50.0]),
            eigenvectors=np.eye(3),
        ),
        checksum="",
    )
