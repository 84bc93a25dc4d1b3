"""Asking a trained network for its activations, batch by batch."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.augment import crop_view, views
from alexnet.errors import RequestError, WorkError
from alexnet.explore.image_source import ReadImages, RefusedImages
from alexnet.model.activations import ActivationReader
from alexnet.model.weights import Trained
from alexnet.system.device import Precision, arithmetic, images_at_a_time, rounded_weights
from alexnet.system.prefetch import prefetch


@dataclass(frozen=True, eq=False)
class ActivationBatch:
    """The activations to a batch."""

    last: int
    """The image behind the batch's last one."""
    activations: dict[str, NDArray[np.float32]]
    """By point, (B, ...), of the images that could be read."""
    refused: RefusedImages


def activation_batches(
    trained: Trained,
    reader: ActivationReader,
    read: ReadImages,
    start: int,
    num: int,
    batch_size: int | None,
    device: torch.device,
    precision: Precision,
) -> Iterator[ActivationBatch]:
    """Activations batch by batch; the next batch is read meanwhile, on another thread.

    Until it is over, or closed, the network is this function's: its weights may be rounded (`rounded_weights`).

    Args:
        start: the first image.
        num: the image behind the last one.
        batch_size: images at a time; None is what suits the device.

    Raises:
        RequestError: a batch size below 1.
        WorkError: activations that are not finite.
    """
    if batch_size is None:
        batch_size = images_at_a_time(device, trained.side)
    if batch_size < 1:
        raise RequestError(f"--batch-size is {batch_size}; allowed is 1 or more")
    trained.network.to(device)
    (view,) = views(1, trained.side, trained.crop)
    starts = range(start, num, batch_size)

    def read_from(first: int) -> tuple[NDArray[np.uint8], RefusedImages]:
        return read(first, min(first + batch_size, num))

    coming = prefetch(read_from, starts, workers=1, ahead=2, name="alexnet-features")
    with closing(coming), torch.inference_mode(), rounded_weights(trained.network, precision):
        for first, (images, refused) in zip(starts, coming, strict=True):  # (B, S, S, 3)
            last = min(first + batch_size, num)
            if not len(images):
                yield ActivationBatch(last, {}, refused)
                continue
            batch = torch.from_numpy(images).to(device)
            with arithmetic(device, precision):
                activations = reader(crop_view(batch, view, trained.crop, trained.mean_image, trained.mean_at))
            found = {name: values.float().contiguous().cpu().numpy() for name, values in activations.items()}
            for name, values in found.items():
                if not np.isfinite(values).all():
                    raise WorkError(
                        f"the activations {name} to images {first} to {last - 1} are not finite: the training "
                        "has diverged; train again with a lower rate"
                    )
            yield ActivationBatch(last, found, refused)
