"""The work of a preparation in pieces: a stretch of one split, decoded by threads, written in order by one.

A piece is a shard of the finished data set, or a stretch of its array.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import DIGEST_BYTES, split_file
from alexnet.data.decode import UnreadableImage, decode_image, resize_and_crop
from alexnet.data.preparation.color_sums import Tally
from alexnet.data.preparation.staging import Stage
from alexnet.data.preparation.statistics import ColorSums
from alexnet.data.preparation.writers import ChunkFile, PixelsChunk, ShardChunk
from alexnet.data.shards import BLOCK_BYTES, encode_stored, sample_members, shard_name
from alexnet.data.sources.listing import Listing, Source
from alexnet.errors import WorkError

GROUP_BYTES = 3 * 2**19
"""Pixels that one task of a thread makes: large enough to hide its overhead, small enough to share out."""
AHEAD_GROUPS = 16
"""Besides two for each thread, so many may wait to be written: a write can stand still while a shard is flushed."""


@dataclass(frozen=True)
class Piece:
    """Files `first` .. `last`-1 of a split."""

    split: str
    number: int
    """Within its split."""
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


def pieces_of(source: Source, num_images: int) -> list[Piece]:
    """Batching the splits into pieces of `num_images` files; the last of a split may be smaller."""
    return [
        Piece(split, number, first, min(first + num_images, len(listing)))
        for split, listing in source.splits.items()
        for number, first in enumerate(range(0, len(listing), num_images))
    ]


@dataclass(frozen=True, eq=False)
class _Facts:
    """What is kept of some neighboring files beside their images."""

    numbers: list[int]
    """Places in the listing of the files that were read."""
    digests: list[bytes]
    sizes: list[tuple[int, int]]
    """Height and width of the originals, pixels."""
    refused: list[tuple[int, str]]
    """Place in the listing, and reason."""

    @property
    def num_files(self) -> int:
        return len(self.numbers) + len(self.refused)


@dataclass(frozen=True, eq=False)
class _Group:
    """What a thread made of some neighboring files."""

    facts: _Facts
    content: Sequence[bytes | memoryview]
    """What is stored, in parts: members of a tar, or the images' pixels."""
    extents: list[tuple[int, int]]
    """Where in the members each JPEG file begins, and its length, bytes."""


@dataclass(frozen=True, eq=False)
class WrittenChunk:
    """A piece whose images have been handed to the system; it is on the disk once `keep` returns."""

    number: int
    file: ChunkFile
    facts: list[_Facts]
    tally: Tally
    """Of its training images."""

    def keep(self, stage: Stage) -> ColorSums:
        """Bring it to the disk with what is to be said of it; returns its training images' sums."""
        try:
            stage.save_part(self.number, {**_part_arrays(self.facts), **self.file.keep()})
        finally:
            self.file.close()
        return self.tally.sums()


class ChunkWork:
    """The work of `prepare` on one opened source.

    Args:
        source: the listed photographs.
        stage: where the results go.
        side: of the stored images, pixels.
        store: `pixels` or `jpeg`.
        upright: turn pictures as their EXIF data say.
        stop_at_bad: end at the first file that cannot be used.
    """

    def __init__(
        self, source: Source, stage: Stage, side: int, store: str, upright: bool, *, stop_at_bad: bool
    ) -> None:
        self.side = side
        self._source = source
        self._stage = stage
        self._store = store
        self._upright = upright
        self._stop_at_bad = stop_at_bad
        self._group_size = max(1, GROUP_BYTES // (side**2 * 3))

    def run(
        self, pieces: list[Piece], first: int, pool: Executor, workers: int, count: Callable[[int], None]
    ) -> Iterator[WrittenChunk]:
        """Do pieces `first` and on, in order; while the caller keeps one, the next is under way.

        Args:
            pieces: all of them.
            first: the first that is not done yet.
            pool: threads.
            workers: how many.
            count: is given the number of files done since it was last called.

        Raises:
            WorkError: a file is bad and `stop_at_bad` is set.
        """
        groups = self._groups(pieces[first:], pool, workers)
        num_rows = 0
        for number in range(first, len(pieces)):
            piece = pieces[number]
            if piece.number == 0 or number == first:
                earlier = range(number - piece.number, number)
                num_rows = sum(len(self._stage.part(one)["numbers"]) for one in earlier)
            written: list[_Facts] = []
            tally = Tally(self.side)
            num_missing = len(piece)
            file = self._file(piece, num_rows)
            try:
                while num_missing:
                    group, tally = next(groups)
                    facts = group.facts
                    if facts.refused and self._stop_at_bad:
                        place, reason = facts.refused[0]
                        key = self._source.splits[piece.split].keys[place]
                        raise WorkError(f"{key}: {reason}; mend or remove it, or leave --on-bad stop away")
                    file.add(group.content, group.extents)
                    num_missing -= facts.num_files
                    num_rows += len(facts.numbers)
                    written.append(facts)
                    count(facts.num_files)
                file.end()
            except BaseException:
                file.close()
                raise
            yield WrittenChunk(number, file, written, tally)

    def _file(self, piece: Piece, num_rows: int) -> ChunkFile:
        """Where a piece goes; `num_rows` images of its split stand before it."""
        if self._store == "jpeg":
            return ShardChunk(self._stage.folder / shard_name(piece.split, piece.number), piece.number)
        return PixelsChunk(self._stage.folder / split_file(piece.split, "images"), num_rows, self.side)

    def _groups(self, pieces: list[Piece], pool: Executor, workers: int) -> Iterator[tuple[_Group, Tally]]:
        """What the threads make, in order, and the tally of its piece; a few groups are worked on ahead.

        A group never crosses from piece to piece.
        """
        waiting: deque[tuple[Future[_Group], Tally]] = deque()
        for piece in pieces:
            listing = self._source.splits[piece.split]
            tally = Tally(self.side)
            for start in range(piece.first, piece.last, self._group_size):
                stop = min(start + self._group_size, piece.last)
                counted_in = tally if piece.split == "train" else None
                waiting.append((pool.submit(self._make, listing, start, stop, counted_in), tally))
                if len(waiting) > 2 * workers + AHEAD_GROUPS:
                    future, of_piece = waiting.popleft()
                    yield future.result(), of_piece
        while waiting:
            future, of_piece = waiting.popleft()
            yield future.result(), of_piece

    def _make(self, listing: Listing, start: int, stop: int, tally: Tally | None) -> _Group:
        """Read, decode, crop and encode some files: a thread's task."""
        facts = _Facts([], [], [], [])
        parts: list[bytes | memoryview] = []
        extents: list[tuple[int, int]] = []
        position = 0
        for number in range(start, stop):
            try:
                size, image = self._cropped(listing, number)
            except UnreadableImage as error:
                facts.refused.append((number, str(error)))
                continue
            except OSError as error:
                facts.refused.append((number, f"cannot be read: {error.strerror or error}"))
                continue
            except MemoryError:
                facts.refused.append((number, "needs more memory than this machine has free"))
                continue
            # All that is done with an image is done at once, while it is in the processor's caches.
            if tally is not None:
                tally.add(image)
            stored = encode_stored(image) if self._store == "jpeg" else image.data.cast("B")
            facts.numbers.append(number)
            facts.sizes.append(size)
            facts.digests.append(hashlib.sha256(stored).digest()[:DIGEST_BYTES])
            if isinstance(stored, bytes):
                extents.append((position + BLOCK_BYTES, len(stored)))
                members = sample_members(number, stored, int(listing.labels[number]))
                parts.extend(members)
                position += sum(map(len, members))
            else:
                parts.append(stored)
        return _Group(facts, [b"".join(parts)] if self._store == "jpeg" else parts, extents)

    def _cropped(self, listing: Listing, number: int) -> tuple[tuple[int, int], NDArray[np.uint8]]:
        """Height and width of a file's image, and its square, uint8 (S, S, 3)."""
        content = listing.read(number)
        image = decode_image(content, apply_orientation=self._upright) if isinstance(content, bytes) else content
        return (image.shape[0], image.shape[1]), resize_and_crop(image, self.side)


def _part_arrays(facts: list[_Facts]) -> dict[str, NDArray[Any]]:
    """What is kept of a piece's images until the end."""
    reasons = [reason for one in facts for _, reason in one.refused]
    return {
        "numbers": np.array([number for one in facts for number in one.numbers], np.int64),
        "digests": np.frombuffer(b"".join(digest for one in facts for digest in one.digests), np.uint8).reshape(
            -1, DIGEST_BYTES
        ),
        "sizes": np.array([size for one in facts for size in one.sizes], np.int32).reshape(-1, 2),
        "refused": np.array([number for one in facts for number, _ in one.refused], np.int64),
        "reasons": np.frombuffer(json.dumps(reasons).encode(), np.uint8),
    }
