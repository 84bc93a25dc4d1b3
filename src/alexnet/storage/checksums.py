"""Checksums of files."""

import hashlib
import zlib
from pathlib import Path

from alexnet.errors import WorkError

_CHUNK_BYTES = 1 << 24


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of the file's bytes, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def file_crc32(path: Path, offset: int = 0, size_bytes: int | None = None) -> int:
    """CRC-32 of a file, or of `size_bytes` of it from `offset` on, read in chunks."""
    crc, remaining = 0, size_bytes
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK_BYTES if remaining is None else min(remaining, _CHUNK_BYTES)):
            crc = zlib.crc32(chunk, crc)
            remaining = None if remaining is None else remaining - len(chunk)
    return crc


def require_digest(path: Path, expected: str, algorithm: str = "sha256") -> None:
    """Refuse a file with another digest than expected.

    Raises:
        WorkError: the digest differs; both are named.
    """
    digest = file_digest(path, algorithm)
    if digest != expected:
        raise WorkError(
            f"{path.name} is corrupt or another version: its {algorithm} is {digest}, expected {expected}; "
            "remove it and fetch it again"
        )
