"""Checksums of files."""

import hashlib
from pathlib import Path

from alexnet.errors import WorkError


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of the file's bytes, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


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
