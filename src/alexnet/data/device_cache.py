"""The images of a split, all of them on the device: what a training cuts its crops from where they fit."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.dataset import Split
from alexnet.data.loader import Batch, cut_crops
from alexnet.data.shards import UnreadableSample
from alexnet.system.prefetch import prefetch

_CHUNK = 256
SHARE_OF_FREE_MEMORY = 0.5
"""Of the device's free memory, the most that images are given unasked: the rest is the network's."""


class DeviceImageCache:
    """The images of some samples of a split as one tensor on a device.

    Args:
        split: from which they are read.
        samples: int64 (M,), ascending: which ones.
        device: where they lie.
        blocks: whether they lie there as blocks (`data/bc1.py`), in a sixth of the memory, slightly changed.
        workers: threads that read, and encode, 1 or more.
        progress: called with (images done, images in all).

    Attributes:
        images: uint8 (M, side, side, 3), in the order of `samples`; or their blocks, int32 (M, R, R, 2).

    Raises:
        UnreadableSample: one cannot be read.
    """

    def __init__(
        self,
        split: Split,
        samples: NDArray[np.int64],
        device: torch.device,
        *,
        blocks: bool = False,
        workers: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._samples = samples
        side = int(split.images.shape[1])
        if blocks:
            from alexnet.data.bc1 import encode, num_block_rows  # loads Numba, for which nobody else need wait

            rows = num_block_rows(side)
            self.images = torch.empty(len(samples), rows, rows, 2, dtype=torch.int32, device=device)
        else:
            self.images = torch.empty(len(samples), side, side, 3, dtype=torch.uint8, device=device)
        whole = np.zeros((_CHUNK, 2), np.int16)

        def read(first: int) -> NDArray[np.uint8] | NDArray[np.int32]:
            chosen = samples[first : first + _CHUNK]
            try:
                images = cut_crops(split.images, chosen, whole[: len(chosen)], side)
            except UnreadableSample as error:
                raise split.named(error) from error
            return encode(images) if blocks else images

        done = 0
        firsts = range(0, len(samples), _CHUNK)
        # A few chunks ahead and no more: the reader may be faster than the way to the device.
        chunks = prefetch(read, firsts, workers=workers, ahead=workers + 2, name="alexnet-resident")
        with closing(chunks):
            for chunk in chunks:
                self.images[done : done + len(chunk)] = torch.from_numpy(chunk).to(device)
                done += len(chunk)
                if progress is not None:
                    progress(done, len(samples))

    def placed(self, batch: Batch) -> Batch:
        """The batch with its `samples` counted among the images held."""
        return replace(batch, samples=self.rows(batch.samples))

    def rows(self, samples: torch.Tensor) -> torch.Tensor:
        """Where the images of these samples, int64 (B,), stand; each must be one of those held."""
        return torch.from_numpy(np.searchsorted(self._samples, samples.numpy()))


def bytes_of(num_images: int, side: int, *, blocks: bool = False) -> int:
    """What so many images take on a device."""
    if not blocks:
        return num_images * side * side * 3
    from alexnet.data.bc1 import BLOCK_BYTES, num_block_rows

    return num_images * num_block_rows(side) ** 2 * BLOCK_BYTES


def free_bytes(device: torch.device) -> int | None:
    """What is free on a GPU; None where that is not known."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # what an earlier training has left is free
    free, _ = torch.cuda.mem_get_info(device)
    return free
