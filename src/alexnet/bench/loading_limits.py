"""What a machine does at best of what a loader has to do: decode stored photographs, and copy crops.

A loader that keeps its cores busy with nothing else comes near the first with the JPEG store, and near the second with
the array of pixels.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from alexnet.data.dataset import PreparedData
from alexnet.data.shards import JpegImages

_MOST_BYTES = 2**30
_BATCHES = 4
"""As many are ready ahead of a consumer, or about: memory that is written again and again."""


def decoding_alone(data: PreparedData, workers: int) -> Callable[[], object]:
    """Decode every image of the training split once, in so many threads, and drop it."""
    images = data.splits["train"].images
    assert isinstance(images, JpegImages)

    def decode(first: int) -> None:
        for image in range(first, len(images), workers):
            images.decode(image)

    def once() -> None:
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(decode, range(workers)))

    return once


def copying_alone(num_images: int, crop_bytes: int, batch_size: int) -> Callable[[], object]:
    """Copy so many crops, a batch or more, one behind the other, a batch at a time in all of torch's threads."""
    num_stored = min(num_images, _MOST_BYTES // crop_bytes)
    source = torch.randint(0, 100, (num_stored, crop_bytes), dtype=torch.uint8)
    target = torch.empty(_BATCHES, batch_size, crop_bytes, dtype=torch.uint8)

    def once() -> None:
        for number, first in enumerate(range(0, num_images, batch_size)):
            start = first % (num_stored - batch_size + 1)  # so that a whole batch lies behind it
            batch = source[start : start + min(batch_size, num_images - first)]
            target[number % _BATCHES, : len(batch)].copy_(batch)

    return once
