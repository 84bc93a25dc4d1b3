"""Images as a data set stores them: for comparing pictures with those of a split, byte for byte and by their pixels."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import PreparedData, Split
from alexnet.data.decode import decode_image
from alexnet.data.shards import DIGEST_BYTES, UnreadableSample, encode_stored
from alexnet.explore.nearest import ABSENT
from alexnet.system.machine import num_cores

MIDDLE = 128
"""Subtracted from pixels: it changes no distance, and numbers near zero lose fewer digits."""


class PixelRows:
    """The pixels of a split's images as vectors, int8 (N, S S 3), -128..127; read from the disk when indexed.

    Args:
        split: the images.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self.shape = (len(split), int(np.prod(split.images.shape[1:])))

    def __getitem__(self, which: Any) -> NDArray[np.int8]:
        """Some rows: those of a slice, or of an int64 array.

        Raises:
            UnreadableSample: an image cannot be read.
        """
        chosen = np.arange(self.shape[0])[which]
        rows = np.empty((len(chosen), self.shape[1]), np.uint8)

        def read(part: NDArray[np.int64]) -> None:
            images = self._split.images[chosen[part]]
            # The same bits as those of the pixel less `MIDDLE` in int8.
            np.bitwise_xor(images.reshape(len(part), -1), np.uint8(MIDDLE), out=rows[part[0] : part[-1] + 1])

        parts = [part for part in np.array_split(np.arange(len(chosen)), num_cores()) if len(part)]
        try:
            with ThreadPoolExecutor(max(1, len(parts))) as threads:  # decoding releases Python's lock
                list(threads.map(read, parts))
        except UnreadableSample as error:
            raise self._split.with_key(error) from error
        return rows.view(np.int8)


def pixel_rows(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images, uint8 (N, S, S, 3), as `PixelRows` has them, but in float32."""
    return images.reshape(len(images), -1).astype(np.float32) - MIDDLE


def as_stored(image: NDArray[np.uint8], data: PreparedData) -> NDArray[np.uint8]:
    """A square photograph after it was stored in a data set: where that stores JPEG files, their pixels."""
    if set(data.store.split(" + ")) != {"jpeg"}:
        return image
    return decode_image(encode_stored(image), apply_orientation=False)


class StoredDigests:
    """The digests of a split's images, by which equal ones are found.

    Args:
        data: one data set, or several that were concatenated.
        split: its split.
    """

    def __init__(self, data: PreparedData, split: str) -> None:
        parts: Sequence[PreparedData] = [data]
        if "concatenated" in data.description:
            names = [Path(one["folder"]) for one in data.description["concatenated"] if split in one["splits"]]
            parts = [PreparedData.open(name) for name in names]
        digests = [np.asarray(part.digests(split)) for part in parts]
        self._checksum, self._split = data.checksum, split
        self._digests = np.concatenate(digests)
        stores = [part.store for part in parts]
        self._is_jpeg = np.repeat([store == "jpeg" for store in stores], [len(one) for one in digests])

    def rows_like(self, photograph: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The rows that hold what is stored of a square photograph, uint8 (S, S, 3), when it is prepared."""
        as_pixels = self._rows(False, _digest(photograph.tobytes()))
        as_jpeg = self._rows(True, _digest(encode_stored(photograph)))
        return np.sort(np.concatenate([as_pixels, as_jpeg]))

    def rows_equal(self, others: "StoredDigests", row: int) -> NDArray[np.int64]:
        """The rows that hold the same bytes as a row of another split."""
        return self._rows(bool(others._is_jpeg[row]), others._digests[row])

    def own_rows(self, others: "StoredDigests") -> NDArray[np.int64]:
        """The row that is each image of another split itself, int64 (len(others),): see `own_row`."""
        if self._is_same_split(others):
            return np.arange(len(others._digests))
        stored, first = np.unique(self._keys(), return_index=True)
        wanted = others._keys()
        places = np.minimum(np.searchsorted(stored, wanted), len(stored) - 1)
        return np.where(stored[places] == wanted, first[places], ABSENT)

    def own_row(self, others: "StoredDigests", row: int) -> int:
        """The row that is an image of another split itself, or `ABSENT`.

        That is one which holds the same bytes: of the same split of the same data set that very row, else the first.
        """
        if self._is_same_split(others):
            return row
        return first_row(self.rows_equal(others, row))

    def _is_same_split(self, others: "StoredDigests") -> bool:
        return (self._checksum, self._split) == (others._checksum, others._split)

    def _keys(self) -> NDArray[np.void]:
        """What is stored of each image, as one value, (N,)."""
        keys = np.concatenate([self._digests, self._is_jpeg[:, None].astype(np.uint8)], 1)
        return keys.view(f"V{keys.shape[1]}")[:, 0]

    def _rows(self, is_jpeg: bool, digest: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.flatnonzero((self._is_jpeg == is_jpeg) & (self._digests == digest).all(1))


def first_row(rows: NDArray[np.int64]) -> int:
    """The row that is an image itself, of those that hold its bytes, ascending; `ABSENT` if there is none."""
    return int(rows[0]) if len(rows) else ABSENT


def _digest(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(content).digest()[:DIGEST_BYTES], np.uint8)
