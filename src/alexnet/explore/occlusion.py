"""Which parts of an image a class's probability depends on: hide a patch, and see how far the probability drops.

Zeiler and Fergus, Visualizing and understanding convolutional networks, 2013, section 4.2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet.errors import RequestError, WorkError
from alexnet.storage.arguments import is_whole
from alexnet.storage.paths import described
from alexnet.system.device import arithmetic


@dataclass(frozen=True)
class OcclusionGrid:
    """The places of a square patch that covers every pixel of a square view at least once."""

    view_px: int
    """Side of the view."""
    patch_px: int
    """Side of the patch."""
    stride_px: int
    """From one place to the next; the last one ends at the edge, and may be nearer."""

    @classmethod
    def of(cls, view_px: int, patch_px: int | None = None, stride_px: int | None = None) -> "OcclusionGrid":
        """A patch of a seventh of the view, 32 of 224 pixels, which moves by a quarter of its side, unless given.

        Raises:
            RequestError: a size that is not allowed.
        """
        if patch_px is None:
            patch_px = max(1, round(view_px / 7))
        if not is_whole(patch_px, 1, view_px):
            raise RequestError(
                f"--patch is {described(patch_px)}; allowed is 1 to {view_px} pixels, the network's view"
            )
        if stride_px is None:
            stride_px = max(1, patch_px // 4)
        if not is_whole(stride_px, 1, patch_px):
            raise RequestError(
                f"--stride is {described(stride_px)}; allowed is 1 to {patch_px} pixels, the side of the patch, so "
                "that every pixel is hidden at least once"
            )
        return cls(int(view_px), int(patch_px), int(stride_px))

    @property
    def starts(self) -> tuple[int, ...]:
        """First row, and column, of each place along one side, pixels."""
        last = self.view_px - self.patch_px
        return (*range(0, last, self.stride_px), last)

    @property
    def num_places(self) -> int:
        """Places of the patch in the view."""
        return len(self.starts) ** 2


@dataclass(frozen=True, eq=False)
class OcclusionMap:
    """How far hiding each patch lowers the probability of a class."""

    grid: OcclusionGrid
    probability: float
    """Of the class for the whole view, 0..1."""
    drops: NDArray[np.float32]
    """(P, P): its fall if the patch is at `grid.starts[row]`, `grid.starts[column]`; negative where it rises."""

    @property
    def largest(self) -> tuple[int, int]:
        """First row and column, pixels, of the patch of `largest_drop`; the first of several."""
        row, column = np.unravel_index(int(self.drops.argmax()), self.drops.shape)
        return self.grid.starts[int(row)], self.grid.starts[int(column)]

    @property
    def largest_drop(self) -> float:
        """By how much the patch that lowers the probability most does; not above 0 if none lowers it."""
        return float(self.drops.max())

    def per_pixel(self) -> NDArray[np.float32]:
        """(S, S): the mean drop of the patches that hide a pixel."""
        side, patch = self.grid.view_px, self.grid.patch_px
        sums, counts = np.zeros((side, side)), np.zeros((side, side))
        for row, top in enumerate(self.grid.starts):
            for column, left in enumerate(self.grid.starts):
                sums[top : top + patch, left : left + patch] += self.drops[row, column]
                counts[top : top + patch, left : left + patch] += 1
        return (sums / counts).astype(np.float32)


def occlusion_map(
    network: nn.Module,
    view: torch.Tensor,
    class_index: int,
    grid: OcclusionGrid,
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> OcclusionMap:
    """Hide one patch after the other: its pixels become those of the mean image, which the network reads as 0.

    Args:
        network: in evaluation mode; it computes in float32.
        view: what it reads of the image, float32 (3, S, S), the mean subtracted, on the network's device.
        class_index: the class.
        grid: the places of the patch.
        batch_size: occluded views in memory, and computed, at once; the result depends on it only by rounding.
        progress: called with the number of places done.

    Raises:
        WorkError: the network's scores are not finite.
    """
    corners = [(top, left) for top in grid.starts for left in grid.starts]
    drops = np.empty(len(corners), np.float32)
    with torch.inference_mode(), arithmetic(view.device, "float32"):
        whole = _probabilities(network, view[None])[0, class_index]
        for first in range(0, len(corners), batch_size):
            some = corners[first : first + batch_size]
            batch = view.repeat(len(some), 1, 1, 1)
            for occluded, (top, left) in zip(batch, some, strict=True):
                occluded[:, top : top + grid.patch_px, left : left + grid.patch_px] = 0
            found = _probabilities(network, batch)[:, class_index]
            drops[first : first + len(some)] = (whole - found).numpy()
            if progress is not None:
                progress(first + len(some))
    return OcclusionMap(grid, float(whole), drops.reshape(len(grid.starts), -1))


def _probabilities(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Float64 (B, K): differences of probabilities near 1 keep their digits."""
    probabilities: torch.Tensor = network(batch).float().cpu().double().softmax(dim=1)  # MPS has no float64
    if not probabilities.isfinite().all():
        raise WorkError(
            "the network's scores are not finite: its training has diverged; train again with a lower learning rate"
        )
    return probabilities
