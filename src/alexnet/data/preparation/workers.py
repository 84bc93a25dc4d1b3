"""The worker threads of a preparation, which read, decode, resize, crop and encode images by groups of files."""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alexnet.data.decode import Fit, UnreadableImage, decode_image, make_square
from alexnet.data.not_images import RAW_ENDINGS, file_ending
from alexnet.data.pixel_layouts import MAX_UPPER_BITS, has_16_bits
from alexnet.data.preparation.color_sums import ColorAccumulator
from alexnet.data.shards import DIGEST_BYTES, TAR_BLOCK_BYTES, encode_stored, sample_members
from alexnet.data.sources.listing import Source
from alexnet.storage.read_errors import is_passing, passing_error
from alexnet.system.prefetch import prefetch

GROUP_BYTES = 3 * 2**19
"""Pixels of one task for a thread: enough to hide its overhead, few enough to keep all threads busy."""
READY_GROUPS = 17
"""Besides two per thread, this many groups may wait to be written: writing can pause while a shard is flushed."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive files of a split, `first` .. `last`-1, that are written and committed together."""

    split: str
    number: int
    """Within its split."""
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


def split_into_chunks(source: Source, num_files: int) -> list[Chunk]:
    """The chunks of all splits, of `num_files` files each; the last of a split may be smaller."""
    return [
        Chunk(split, number, first, min(first + num_files, len(listing)))
        for split, listing in source.splits.items()
        for number, first in enumerate(range(0, len(listing), num_files))
    ]


@dataclass(frozen=True, eq=False)
class ImageGroup:
    """The prepared images of some consecutive files of a chunk."""

    colors: ColorAccumulator
    """Sums over the chunk's training images, complete with the last group of the chunk."""
    numbers: list[int] = field(default_factory=list)
    """Positions in the source's listing of the files that were read."""
    digests: list[bytes] = field(default_factory=list)
    """Of their stored bytes."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Height and width of the originals, pixels."""
    refused: list[tuple[int, str]] = field(default_factory=list)
    """Position in the listing, and reason, of each file that cannot be used."""
    content: list[bytes | memoryview] = field(default_factory=list)
    """The bytes to store, in parts: members of a tar, or pixels."""
    extents: list[tuple[int, int]] = field(default_factory=list)
    """Offset in `content` and length of each JPEG file, bytes; empty for pixels."""
    deep: list[bool] = field(default_factory=list)
    """For each file with 16 bits per channel, whether its values need 12 bits at most."""


@dataclass(frozen=True, eq=False)
class ImageWorkers:
    """Threads that prepare the images of a source."""

    source: Source
    side: int
    """Of the stored images, pixels."""
    store: str
    """`pixels` or `jpeg`."""
    upright: bool
    """Whether to turn pictures as their EXIF data say."""
    fit: Fit
    """How pictures become square."""
    num_threads: int

    def groups(self, chunks: Sequence[Chunk]) -> Generator[ImageGroup, None, None]:
        """The images of these chunks in order; a few groups are prepared ahead. No group spans two chunks."""
        return prefetch(
            self._prepare,
            self._tasks(chunks),
            workers=self.num_threads,
            ahead=2 * self.num_threads + READY_GROUPS,
            name="alexnet-prepare",
        )

    def _tasks(self, chunks: Sequence[Chunk]) -> Iterator[tuple[str, range, ColorAccumulator]]:
        """Split and files of each group, and the sums of its chunk."""
        group_size = max(1, GROUP_BYTES // (self.side**2 * 3))
        for chunk in chunks:
            colors = ColorAccumulator(self.side)
            for first in range(chunk.first, chunk.last, group_size):
                yield chunk.split, range(first, min(first + group_size, chunk.last)), colors

    def _prepare(self, task: tuple[str, range, ColorAccumulator]) -> ImageGroup:
        split, numbers, colors = task
        listing = self.source.splits[split]
        group = ImageGroup(colors)
        position = 0
        for number in numbers:
            try:
                size, image = self._read(split, number, group)
            except UnreadableImage as error:
                group.refused.append((number, str(error)))
                continue
            except OSError as error:
                if is_passing(error):
                    then = "rerun the same command to continue"
                    raise passing_error(f"cannot read {listing.keys[number]}", error, then) from error
                group.refused.append((number, f"cannot be read: {error.strerror or error}"))
                continue
            except MemoryError:
                group.refused.append((number, "needs more memory than this machine has free"))
                continue
            # All steps of an image follow each other while it is in the processor's caches.
            if split == "train":
                colors.add(image)
            stored = encode_stored(image) if self.store == "jpeg" else image.data.cast("B")
            group.numbers.append(number)
            group.sizes.append(size)
            group.digests.append(hashlib.sha256(stored).digest()[:DIGEST_BYTES])
            if isinstance(stored, bytes):
                group.extents.append((position + TAR_BLOCK_BYTES, len(stored)))
                members = sample_members(number, stored, int(listing.labels[number]))
                group.content.extend(members)
                position += sum(map(len, members))
            else:
                group.content.append(stored)
        if self.store == "jpeg":
            group.content[:] = [b"".join(group.content)]
        return group

    def _read(self, split: str, number: int, group: ImageGroup) -> tuple[tuple[int, int], NDArray[np.uint8]]:
        """Height and width of a file's image, and its square, uint8 (S, S, 3)."""
        listing = self.source.splits[split]
        if (ending := file_ending(listing.keys[number])) in RAW_ENDINGS:
            raise UnreadableImage(
                f"a camera's raw file (.{ending}), of which only a thumbnail could be read; convert it to JPEG or PNG"
            )
        content = listing.read(number)
        image = decode_image(content, apply_orientation=self.upright) if isinstance(content, bytes) else content
        square = make_square(image, self.side, self.fit)
        if isinstance(content, bytes) and has_16_bits(content):
            group.deep.append(int(image.max()) < MAX_UPPER_BITS)
        return (image.shape[0], image.shape[1]), square
