"""The work of a preparation in pieces: a stretch of one split, decoded by threads, written in order by one.

A piece is a shard of the finished data set, or a stretch of its array.
"""

import contextlib
import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet.data.decode import UnreadableImage, decode_image, resize_and_crop
from alexnet.data.prepared import DIGEST_BYTES, split_file
from alexnet.data.shards import ShardWriter, encode_stored, shard_name
from alexnet.data.sources.listing import Listing, Source
from alexnet.data.stage import Stage, truncate
from alexnet.data.statistics import ColourSums
from alexnet.errors import WorkError
from alexnet.storage.atomic import PARTIAL

GROUP_BYTES = 2**20
"""Pixels that one task of a thread makes: large enough to hide its overhead, small enough to share out."""


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
    """Cut the splits into pieces of `num_images` files; the last of a split may be smaller."""
    return [
        Piece(split, number, first, min(first + num_images, len(listing)))
        for split, listing in source.splits.items()
        for number, first in enumerate(range(0, len(listing), num_images))
    ]


@dataclass(frozen=True, eq=False)
class _Group:
    """What a thread made of some neighbouring files."""

    numbers: list[int]
    """Places in the listing of the files that were read."""
    stored: list[bytes] | NDArray[np.uint8]
    """Of these, the JPEG files, or uint8 (n, S, S, 3)."""
    digests: list[bytes]
    sizes: list[tuple[int, int]]
    """Height and width of the originals, pixels."""
    sums: ColourSums | None
    refused: list[tuple[int, str]]
    """Place in the listing, and reason."""

    @property
    def num_files(self) -> int:
        return len(self.numbers) + len(self.refused)


class _Writer(Protocol):
    """Takes the groups of one piece in order."""

    def add(self, group: _Group) -> None:
        """Write the images of a group."""

    def finish(self) -> dict[str, NDArray[Any]]:
        """Bring everything to the disk; returns what the part should say of it."""

    def close(self) -> None:
        """Close the file, finished or not."""


class PieceWork:
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

    def run(
        self, pieces: list[Piece], first: int, pool: Executor, workers: int, count: Callable[[int], None]
    ) -> Iterator[tuple[int, ColourSums]]:
        """Do pieces `first` and on; yields the number of each that is on the disk, and its training images' sums.

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
        for number in range(first, len(pieces)):
            piece = pieces[number]
            parts: list[_Group] = []
            sums = ColourSums.none(self.side)
            num_missing = len(piece)
            with contextlib.closing(self._writer(pieces, number)) as writer:
                while num_missing:
                    group = next(groups)
                    if group.refused and self._stop_at_bad:
                        place, reason = group.refused[0]
                        key = self._source.splits[piece.split].keys[place]
                        raise WorkError(f"{key}: {reason}; mend or remove it, or leave --on-bad stop away")
                    writer.add(group)
                    if group.sums is not None:
                        sums = sums + group.sums
                    num_missing -= group.num_files
                    parts.append(replace(group, stored=[], sums=None))  # the images are written
                    count(group.num_files)
                written = writer.finish()
            self._stage.save_part(number, {**_part_arrays(parts), **written})
            yield number, sums

    def _writer(self, pieces: list[Piece], number: int) -> _Writer:
        piece = pieces[number]
        listing = self._source.splits[piece.split]
        if self._store == "jpeg":
            return _ShardPiece(self._stage.folder / shard_name(piece.split, piece.number), piece.number, listing)
        earlier = range(number - piece.number, number)
        num_rows = sum(len(self._stage.part(one)["numbers"]) for one in earlier)
        path = self._stage.folder / split_file(piece.split, "images")
        return _PixelsPiece(path, num_rows, self.side)

    def _groups(self, pieces: list[Piece], pool: Executor, workers: int) -> Iterator[_Group]:
        """What the threads make, in order, a few groups worked on ahead; a group never crosses from piece to piece."""
        group_size = max(1, GROUP_BYTES // (self.side**2 * 3))
        waiting: deque[Future[_Group]] = deque()
        for piece in pieces:
            listing = self._source.splits[piece.split]
            for start in range(piece.first, piece.last, group_size):
                stop = min(start + group_size, piece.last)
                waiting.append(pool.submit(self._make, listing, start, stop, piece.split == "train"))
                if len(waiting) > 2 * workers + 1:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _make(self, listing: Listing, start: int, stop: int, is_training: bool) -> _Group:
        """Read, decode, crop and encode some files: a thread's task."""
        images = np.empty((stop - start, self.side, self.side, 3), np.uint8)
        numbers: list[int] = []
        sizes: list[tuple[int, int]] = []
        refused: list[tuple[int, str]] = []
        for number in range(start, stop):
            try:
                content = listing.read(number)
                image = (
                    decode_image(content, apply_orientation=self._upright) if isinstance(content, bytes) else content
                )
                images[len(numbers)] = resize_and_crop(image, self.side)
            except UnreadableImage as error:
                refused.append((number, str(error)))
            except OSError as error:
                refused.append((number, f"cannot be read: {error.strerror or error}"))
            except MemoryError:
                refused.append((number, "needs more memory than this machine has free"))
            else:
                numbers.append(number)
                sizes.append((image.shape[0], image.shape[1]))
        images = images[: len(numbers)]
        stored = images if self._store == "pixels" else [encode_stored(image) for image in images]
        bytes_of = [one.data if isinstance(one, np.ndarray) else one for one in stored]
        digests = [hashlib.sha256(one).digest()[:DIGEST_BYTES] for one in bytes_of]
        return _Group(numbers, stored, digests, sizes, ColourSums.of(images) if is_training else None, refused)


def _part_arrays(groups: list[_Group]) -> dict[str, NDArray[Any]]:
    """What is kept of a piece's images until the end."""
    reasons = [reason for group in groups for _, reason in group.refused]
    return {
        "numbers": np.array([number for group in groups for number in group.numbers], np.int64),
        "digests": np.frombuffer(b"".join(one for group in groups for one in group.digests), np.uint8).reshape(
            -1, DIGEST_BYTES
        ),
        "sizes": np.array([size for group in groups for size in group.sizes], np.int32).reshape(-1, 2),
        "refused": np.array([number for group in groups for number, _ in group.refused], np.int64),
        "reasons": np.frombuffer(json.dumps(reasons).encode(), np.uint8),
    }


class _ShardPiece:
    """A tar shard; it takes its name when it is whole."""

    def __init__(self, path: Path, number: int, listing: Listing) -> None:
        self._path = path
        self._number = number
        self._listing = listing
        self._partial = path.with_name(f".{path.name}{PARTIAL}")
        self._file: BinaryIO = self._partial.open("wb")
        self._shard = ShardWriter(self._file)
        self._extents: list[tuple[int, int, int]] = []

    def add(self, group: _Group) -> None:
        for number, jpeg in zip(group.numbers, group.stored, strict=True):
            assert isinstance(jpeg, bytes)
            offset = self._shard.add(number, jpeg, int(self._listing.labels[number]))
            self._extents.append((self._number, offset, len(jpeg)))

    def finish(self) -> dict[str, NDArray[Any]]:
        self._shard.finish()
        self._partial.replace(self._path)
        return {
            "index": np.array(self._extents, np.int64).reshape(-1, 3),
            "shard_bytes": np.array(self._shard.position, np.int64),
            "shard_sha256": np.array(self._shard.digest.hexdigest()),
        }

    def close(self) -> None:
        self._file.close()


class _PixelsPiece:
    """A stretch of a split's array, behind what the earlier pieces wrote."""

    def __init__(self, path: Path, num_rows: int, side: int) -> None:
        header = images_header(0, side)
        if num_rows == 0:
            path.write_bytes(header)  # mended at the end, when the number of images is known
        truncate(path, len(header) + num_rows * side**2 * 3)
        self._file: BinaryIO = path.open("ab")

    def add(self, group: _Group) -> None:
        assert isinstance(group.stored, np.ndarray)
        self._file.write(group.stored.data)

    def finish(self) -> dict[str, NDArray[Any]]:
        self._file.flush()
        os.fsync(self._file.fileno())
        return {}

    def close(self) -> None:
        self._file.close()


def images_header(num_images: int, side: int) -> bytes:
    """The .npy header of uint8 (N, S, S, 3); NumPy makes it equally long for any N."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (num_images, side, side, 3)}
    )
    return header.getvalue()
