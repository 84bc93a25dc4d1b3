"""Prepared images in files: an array of pixels, or JPEG files in tar shards.

Shards are for any WebDataset reader: `<number>.jpg` and `<number>.cls`. An index of offsets gives random access. The
number is the image's position in the source's sorted listing, so a refused file leaves a gap.
"""

import hashlib
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from alexnet.data.sources.file_ranges import read_range
from alexnet.storage.npy import CHANGED, ArrayFile
from alexnet.storage.read_errors import is_passing
from alexnet.system.visible_text import shell_words

DIGEST_BYTES = 16
"""Bytes stored of each image's SHA-256: enough to distinguish all images."""

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

    def __reduce__(self) -> tuple[type["UnreadableSample"], tuple[str, int]]:
        """Pickled by its arguments: other processes raise it, too."""
        return type(self), (str(self), self.image)


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
    """Images that are read one by one when indexed, as an array."""

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
            UnreadableSample: a file is missing, truncated or changed.
        """
        if isinstance(which, int | np.integer):
            return self.decode(int(which))
        chosen = np.arange(len(self))[which]
        images = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for row, image in enumerate(chosen.tolist()):
            images[row] = self.decode(image)
        return images

    def photograph(self, image: int) -> NDArray[np.uint8]:
        """What image `image` shows, uint8 (h, w, 3): without borders where those are known."""
        return self.decode(image)

    def crops(self, samples: NDArray[np.int64], corners: NDArray[np.int16], crop: int) -> NDArray[np.uint8]:
        """A crop of each of some images, see `alexnet.data.loader.read_crops`."""
        crops = np.empty((len(samples), crop, crop, 3), np.uint8)
        for index, (sample, (row, column)) in enumerate(zip(samples.tolist(), corners.tolist(), strict=True)):
            crops[index] = self.decode(sample)[row : row + crop, column : column + crop]
        return crops


class StoredFiles(LazyImages):
    """The images of a split in files; the bytes of each are verified when it is read for the first time.

    Args:
        digests: uint8 (N, 16), the beginning of the SHA-256 of each image's stored bytes.
        side: of the images, pixels.
    """

    def __init__(self, digests: NDArray[np.uint8], side: int) -> None:
        self.shape = (len(digests), side, side, 3)
        self._digests = digests
        # Threads may verify an image twice; never is one taken for verified that is not.
        self._is_verified = np.zeros(len(digests), np.bool_)

    @abstractmethod
    def path_of(self, image: int) -> Path:
        """The file that holds an image."""

    @abstractmethod
    def stored(self, image: int) -> bytes | memoryview:
        """The stored bytes of an image, unverified; errors as `decode`."""

    def is_intact(self, image: int) -> bool:
        """Whether an image can be read and its bytes are those that were written."""
        try:
            self._verify(image, self.stored(image))
        except UnreadableSample:
            return False
        return True

    def _verify(self, image: int, content: bytes | memoryview) -> None:
        if hashlib.sha256(content).digest()[:DIGEST_BYTES] != self._digests[image].tobytes():
            path = self.path_of(image)
            command = shell_words("alexnet", "inspect", path.parent, "--verify")
            reason = f"image {image} in {path} is damaged: {CHANGED} (`{command}` lists all damage)"
            raise UnreadableSample(reason, image)
        self._is_verified[image] = True

    def _raise_named(self, image: int, error: OSError) -> NoReturn:
        """Raise `UnreadableSample`; or, if it is the machine's or the drive's fault, the error with the file's name."""
        path = self.path_of(image)
        if is_passing(error):
            error.filename = error.filename or str(path)
            raise error
        raise UnreadableSample(f"image {image} cannot be read from {path}: {error.strerror or error}", image) from error


class PixelImages(StoredFiles):
    """The images of a split in one array of pixels.

    Args:
        array: uint8 (N, S, S, 3).
        digests: see `StoredFiles`.
    """

    def __init__(self, array: ArrayFile, digests: NDArray[np.uint8]) -> None:
        super().__init__(digests, array.shape[1])
        self._array = array

    def path_of(self, image: int) -> Path:
        return self._array.path

    def stored(self, image: int) -> memoryview:
        """The bytes of an image, row by row."""
        content = np.empty(self._array.row_bytes, np.uint8).data
        self._read(content, image, 0)
        return content

    def decode(self, image: int) -> NDArray[np.uint8]:
        """The pixels of an image, uint8 (S, S, 3)."""
        if not 0 <= image < len(self):
            raise IndexError(f"image {image} of {len(self)}")
        content = self.stored(image)
        if not self._is_verified[image]:
            self._verify(image, content)
        return np.frombuffer(content, np.uint8).reshape(self.shape[1:])

    def __getitem__(self, which: int | slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        if isinstance(which, int | np.integer):
            return self.decode(int(which))
        chosen = np.arange(len(self))[which]
        return self.crops(chosen, np.zeros((len(chosen), 2), np.int16), self.shape[1])

    def crops(self, samples: NDArray[np.int64], corners: NDArray[np.int16], crop: int) -> NDArray[np.uint8]:
        side = self.shape[1]
        crops = np.empty((len(samples), crop, crop, 3), np.uint8)
        if crop == side:
            pixels, num_bytes = crops.reshape(-1).data, self._array.row_bytes
            for index, sample in enumerate(samples.tolist()):
                image = pixels[index * num_bytes : (index + 1) * num_bytes]
                self._read(image, sample, 0)
                if not self._is_verified[sample]:
                    self._verify(sample, image)
            return crops
        # Only the rows of a crop are read, into memory that stays in the processor's cache.
        rows = np.empty((crop, side, 3), np.uint8)
        content, are_verified = rows.reshape(-1).data, self._is_verified[samples].tolist()
        for target, sample, (row, column), is_verified in zip(
            crops, samples.tolist(), corners.tolist(), are_verified, strict=True
        ):
            if is_verified:
                self._read(content, sample, row * side * 3)
                target[:] = rows[:, column : column + crop]
            else:
                target[:] = self.decode(sample)[row : row + crop, column : column + crop]
        return crops

    def _read(self, target: memoryview, image: int, skipped_bytes: int) -> None:
        try:
            self._array.read_into(target, image * self._array.row_bytes + skipped_bytes)
        except OSError as error:
            self._raise_named(image, error)


class JpegImages(StoredFiles):
    """The images of a split in tar shards.

    Args:
        folder: of the prepared data set.
        names: file names of the shards.
        index: int64 (N, 3): shard, offset and length in bytes of each JPEG.
        side: of the images, pixels.
        digests: see `StoredFiles`.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], index: NDArray[np.int64], side: int, digests: NDArray[np.uint8]
    ) -> None:
        super().__init__(digests, side)
        self._paths = [folder / name for name in names]
        self._index = index

    def path_of(self, image: int) -> Path:
        return self._paths[int(self._index[image, 0])]

    def stored(self, image: int) -> bytes:
        """The JPEG file of an image."""
        shard, offset, size_bytes = self._index[image].tolist()
        try:
            return read_range(self._paths[shard], offset, size_bytes)
        except OSError as error:
            self._raise_named(image, error)

    def decode(self, image: int) -> NDArray[np.uint8]:
        """The pixels of an image, uint8 (S, S, 3)."""
        content = self.stored(image)
        if not self._is_verified[image]:
            self._verify(image, content)
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
            if pixels.shape != self.shape[1:]:
                raise ValueError(f"it has shape {pixels.shape}, expected {self.shape[1:]}")
        except ValueError as error:
            raise UnreadableSample(f"image {image} in {self.path_of(image)} is damaged: {error}", image) from error
        return pixels


StoredImages = NDArray[np.uint8] | LazyImages
"""The images of a split, (N, S, S, 3): in files, or an array in memory."""
