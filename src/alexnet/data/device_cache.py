"""All images of a split on the device, from which training takes its crops if they fit."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.augment import Batch
from alexnet.data.dataset import Split
from alexnet.data.loader import read_crops
from alexnet.data.shards import UnreadableSample
from alexnet.system.prefetch import prefetch

_CHUNK = 256
MAX_FREE_MEMORY_FRACTION = 0.5
"""Largest fraction of the device's free memory that the images take by default; the network needs the rest."""


class DeviceImageCache:
    """The images of some samples of a split as one tensor on a device.

    Args:
        split: to read them from.
        samples: int64 (M,), ascending: which images.
        device: that holds them.
        bc1: whether to hold them in BC1 (`data/bc1.py`), in a sixth of the memory and slightly changed.
        workers: threads that read and encode, 1 or more.
        progress: called with the numbers of images done and of all images.

    Attributes:
        images: uint8 (M, side, side, 3), in the order of `samples`; in BC1 int32 (M, R, R, 2).

    Raises:
        UnreadableSample: one cannot be read.
    """

    def __init__(
        self,
        split: Split,
        samples: NDArray[np.int64],
        device: torch.device,
        *,
        bc1: bool = False,
        workers: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._samples = samples
        side = int(split.images.shape[1])
        if bc1:
            from alexnet.data.bc1 import encode, num_block_rows  # imports Numba, which takes most of a second

            rows = num_block_rows(side)
            self.images = torch.empty(len(samples), rows, rows, 2, dtype=torch.int32, device=device)
        else:
            self.images = torch.empty(len(samples), side, side, 3, dtype=torch.uint8, device=device)
        whole = np.zeros((_CHUNK, 2), np.int16)

        def read(first: int) -> NDArray[np.uint8] | NDArray[np.int32]:
            chosen = samples[first : first + _CHUNK]
            try:
                images = read_crops(split.images, chosen, whole[: len(chosen)], side)
            except UnreadableSample as error:
                raise split.with_key(error) from error
            return encode(images) if bc1 else images

        done = 0
        firsts = range(0, len(samples), _CHUNK)
        # Only a few chunks ahead: reading may be faster than copying to the device.
        chunks = prefetch(read, firsts, workers=workers, ahead=workers + 2, name="alexnet-device-cache")
        with closing(chunks):
            for chunk in chunks:
                self.images[done : done + len(chunk)] = torch.from_numpy(chunk).to(device)
                done += len(chunk)
                if progress is not None:
                    progress(done, len(samples))

    def with_cache_rows(self, batch: Batch) -> Batch:
        """The batch with `samples` as indices into the cached images; all of its samples must be cached."""
        rows = np.searchsorted(self._samples, batch.samples.numpy())
        return replace(batch, samples=torch.from_numpy(rows))


def cache_bytes(num_images: int, side: int, *, bc1: bool = False) -> int:
    """Device memory for this many images."""
    if not bc1:
        return num_images * side * side * 3
    from alexnet.data.bc1 import BLOCK_BYTES, num_block_rows

    return num_images * num_block_rows(side) ** 2 * BLOCK_BYTES


def free_gpu_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU; None for other devices."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # memory that an earlier training left cached is free
    free, _ = torch.cuda.mem_get_info(device)
    return free
