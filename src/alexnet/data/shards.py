"""Prepared images as JPEG files in tar shards for any WebDataset reader: `<number>.jpg` and `<number>.cls`.

An index of offsets gives random access. The number is the image's position in the source's sorted listing, so a
refused file leaves a gap.
"""

import tarfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from alexnet.data.sources.file_ranges import read_range
from alexnet.storage.read_errors import is_passing

JPEG_QUALITY = 95
"""As in the author's later code for 256-pixel images."""
JPEG_SUBSAMPLING = "420"
TAR_BLOCK_BYTES = 512
END_OF_TAR = bytes(2 * TAR_BLOCK_BYTES)
"""Two empty blocks end a tar."""
NUMBER_DIGITS = 9
"""Of a member's name: enough for a billion images."""


class UnreadableSample(OSError):
    """A stored image cannot be read: its shard is missing, truncated or changed; the text names it.

    Attributes:
        image: its index in the split.
    """

    def __init__(self, text: str, image: int) -> None:
        super().__init__(text)
        self.image = image


def encode_stored(image: NDArray[np.uint8]) -> bytes:
    """The JPEG file to store for uint8 (S, S, 3), RGB: quality 95, color at half resolution."""
    content: bytes = simplejpeg.encode_jpeg(image, JPEG_QUALITY, "RGB", JPEG_SUBSAMPLING)
    return content


def shard_name(split: str, number: int) -> str:
    """File name of shard `number` of a split, such as `train-000012.tar`."""
    return f"{split}-{number:06d}.tar"


def sample_members(number: int, jpeg: bytes, label: int) -> tuple[bytes, ...]:
    """An image and its label as two members of a tar, in parts; the JPEG's bytes begin at `TAR_BLOCK_BYTES`."""
    name = b"%0*d" % (NUMBER_DIGITS, number)
    return *_member(name + b".jpg", jpeg), *_member(name + b".cls", b"%d" % label)


def _member(name: bytes, content: bytes) -> tuple[bytes, bytes, bytes]:
    """A file of a tar: header, content, and zeros up to a whole block.

    POSIX.1-1988 (ustar), as `tarfile` writes it. Only name, size and checksum of the header are filled in here, since
    `tarfile` takes as long for a header as reading a photograph does.
    """
    size = b"%011o" % len(content)
    header = bytearray(_HEADER)
    header[: len(name)] = name
    header[124:135] = size
    # The sum of all bytes, with blanks for the checksum itself.
    header[148:154] = b"%06o" % (_HEADER_SUM + sum(name) + sum(size))
    return bytes(header), content, bytes(-len(content) % TAR_BLOCK_BYTES)


def _empty_header() -> bytes:
    header = bytearray(tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT))
    header[124:135] = bytes(11)
    return bytes(header)


_HEADER = _empty_header()
_HEADER_SUM = sum(_HEADER[:148]) + 8 * ord(" ") + sum(_HEADER[156:])


class LazyImages(ABC):
    """Images that are decoded one by one when indexed, as an array."""

    dtype = np.dtype(np.uint8)
    shape: tuple[int, ...]
    """(N, S, S, 3)."""

    @abstractmethod
    def decode(self, image: int) -> NDArray[np.uint8]:
        """The pixels of image `image`, 0 .. N-1, uint8 (S, S, 3)."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: int | slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """One image, uint8 (S, S, 3), or several, uint8 (n, S, S, 3).

        Raises:
            UnreadableSample: a shard is missing, truncated or changed.
        """
        if isinstance(which, int | np.integer):
            return self.decode(int(which))
        chosen = np.arange(len(self))[which]
        images = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for row, image in enumerate(chosen.tolist()):
            images[row] = self.decode(image)
        return images


class JpegImages(LazyImages):
    """The images of a split in tar shards.

    Args:
        folder: of the prepared data set.
        names: file names of the shards.
        index: int64 (N, 3): shard, offset and length in bytes of each JPEG.
        side: of the images, pixels.
    """

    def __init__(self, folder: Path, names: Sequence[str], index: NDArray[np.int64], side: int) -> None:
        self._paths = [folder / name for name in names]
        self._index = index
        self.shape = (len(index), side, side, 3)

    def stored(self, image: int) -> bytes:
        """The JPEG file of an image."""
        shard, offset, size_bytes = self._index[image].tolist()
        path = self._paths[shard]
        try:
            return read_range(path, offset, size_bytes)
        except OSError as error:
            if is_passing(error):
                raise  # not the image's fault
            reason = f"image {image} cannot be read from {path}: {error.strerror or error}"
            raise UnreadableSample(reason, image) from error

    def decode(self, image: int) -> NDArray[np.uint8]:
        """The pixels of an image, uint8 (S, S, 3)."""
        content = self.stored(image)
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
            if pixels.shape != self.shape[1:]:
                raise ValueError(f"it has shape {pixels.shape}, expected {self.shape[1:]}")
        except ValueError as error:
            path = self._paths[int(self._index[image, 0])]
            raise UnreadableSample(f"image {image} in {path} is damaged: {error}", image) from error
        return pixels


class StoredImages(Protocol):
    """The images of a split: a memory-mapped array, or `LazyImages` (which raise `UnreadableSample`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, S, S, 3)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, which: int | slice | NDArray[np.int64], /) -> Any:
        """One image, uint8 (S, S, 3), RGB, or several, uint8 (n, S, S, 3)."""
