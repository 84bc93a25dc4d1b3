"""Strings packed into two arrays: fifteen million names as Python objects would fill the memory."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


class PackedStrings(Sequence[str]):
    """A sequence of strings in one array of UTF-8 bytes.

    Bytes that are not UTF-8 become surrogates, as in Python's names of such files.

    Args:
        content: uint8 (total bytes,); all strings, concatenated.
        ends: int64 (N,); the end of each of them.
    """

    def __init__(self, content: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.content = content
        self.ends = ends

    def __len__(self) -> int:
        return len(self.ends)

    # Only this form of indexing is needed; `select` replaces slices.
    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return self.encoded(index).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def encoded(self, index: int) -> bytes:
        """String `index` as bytes."""
        if not 0 <= index < len(self.ends):
            raise IndexError(f"string {index} of {len(self.ends)}")
        start = int(self.ends[index - 1]) if index else 0
        return self.content[start : int(self.ends[index])].tobytes()

    def select(self, indices: NDArray[np.int64]) -> "PackedStrings":
        """The strings at `indices`, int64 (M,), in that order."""
        starts = np.concatenate([np.zeros(1, np.int64), self.ends])[indices]
        lengths = np.asarray(self.ends)[indices] - starts
        ends = np.cumsum(lengths, dtype=np.int64)
        # Position in the old array of each byte of the new one: `lengths` bytes from each start.
        positions = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
        return PackedStrings(np.asarray(self.content)[positions], ends)

    def order(self) -> NDArray[np.int64]:
        """int64 (N,), the indices that sort the strings by their bytes, stably."""
        return np.array(sorted(range(len(self)), key=self.encoded), np.int64)

    def digest(self) -> str:
        """SHA-256 of the strings, hexadecimal."""
        both = hashlib.sha256(np.ascontiguousarray(self.ends).astype("<i8").tobytes())
        both.update(np.ascontiguousarray(self.content).data)
        return both.hexdigest()
