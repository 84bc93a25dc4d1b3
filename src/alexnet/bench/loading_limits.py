"""Upper bounds of loading speed on a machine: decoding stored photographs only, and copying crops only.

The first bounds a loader of the JPEG store, the second a loader of the array of pixels.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from alexnet.data.dataset import PreparedData
from alexnet.data.shards import JpegImages

_MAX_SOURCE_BYTES = 2**30
_BATCHES = 4
"""About as many as a loader's queue holds; their memory is reused."""


def decoding_only(data: PreparedData, workers: int) -> Callable[[], object]:
    """A method that decodes every image of the training split once, in `workers` threads, and drops it."""
    images = data.splits["train"].images
    assert isinstance(images, JpegImages)

    def decode(first: int) -> None:
        for image in range(first, len(images), workers):
            images.decode(image)

    def once() -> None:
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(decode, range(workers)))

    return once


def copying_only(num_images: int, crop_bytes: int, batch_size: int) -> Callable[[], object]:
    """A method that copies `num_images` crops (a batch or more) of `crop_bytes`, by batches, with torch's threads."""
    num_stored = min(num_images, _MAX_SOURCE_BYTES // crop_bytes)
    source = torch.randint(0, 100, (num_stored, crop_bytes), dtype=torch.uint8)
    target = torch.empty(_BATCHES, batch_size, crop_bytes, dtype=torch.uint8)

    def once() -> None:
        for number, first in enumerate(range(0, num_images, batch_size)):
            start = first % (num_stored - batch_size + 1)  # a whole batch follows
            batch = source[start : start + min(batch_size, num_images - first)]
            target[number % _BATCHES, : len(batch)].copy_(batch)

    return once
