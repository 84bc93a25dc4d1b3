"""Compute the activations of a trained network, batch by batch."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.augment import crop_view, views
from alexnet.errors import RequestError, WorkError
from alexnet.explore.image_source import ReadImages, RefusedImages
from alexnet.model.activations import ActivationReader
from alexnet.model.inference import inference_network
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained
from alexnet.storage.arguments import is_whole
from alexnet.storage.paths import described
from alexnet.system.device import Precision, arithmetic, evaluation_batch_size
from alexnet.system.prefetch import prefetch


@dataclass(frozen=True, eq=False)
class ActivationBatch:
    """The activations for a batch of images."""

    stop: int
    """Index of the first image after the batch."""
    activations: dict[str, NDArray[np.float32]]
    """By layer, (B, ...), of the images that could be read."""
    refused: RefusedImages


def activation_batches(
    trained: Trained,
    reader: ActivationReader,
    read: ReadImages,
    start: int,
    stop: int,
    batch_size: int | None,
    device: torch.device,
    precision: Precision,
) -> Generator[ActivationBatch, None, None]:
    """Activations batch by batch; another thread reads the next batch meanwhile.

    Args:
        start: index of the first image.
        stop: index after the last image.
        batch_size: images per batch; None suits the device.

    Raises:
        RequestError: a batch size below 1.
        WorkError: activations that are not finite.
    """
    if batch_size is None:
        batch_size = evaluation_batch_size(device, trained.side)
    if not is_whole(batch_size, 1):
        raise RequestError(f"--batch-size is {described(batch_size)}; allowed is 1 or more")
    (view,) = views(1, trained.side, trained.crop)
    starts = range(start, stop, batch_size)

    def read_batch(first: int) -> tuple[NDArray[np.uint8], RefusedImages]:
        return read(first, min(first + batch_size, stop))

    batches = prefetch(read_batch, starts, workers=1, ahead=2, name="alexnet-features")
    ready = inference_network(trained.network, device, precision)
    with closing(batches), torch.inference_mode(), ready as network:
        assert isinstance(network, AlexNet)
        read_layers = ActivationReader(network, reader.names)
        for first, (images, refused) in zip(starts, batches, strict=True):  # (B, S, S, 3)
            batch_stop = min(first + batch_size, stop)
            if not len(images):
                yield ActivationBatch(batch_stop, {}, refused)
                continue
            batch = torch.from_numpy(images).to(device)
            with arithmetic(device, precision):
                activations = read_layers(crop_view(batch, view, trained.crop, trained.mean_image, trained.mean_at))
            arrays = {name: values.float().contiguous().cpu().numpy() for name, values in activations.items()}
            for name, values in arrays.items():
                if not np.isfinite(values).all():
                    raise WorkError(
                        f"the activations {name} for images {first} to {batch_stop - 1} are not finite: the training "
                        "has diverged; train again with a lower learning rate"
                    )
            yield ActivationBatch(batch_stop, arrays, refused)
