"""Arrays to a safetensors file piece by piece, with the checksum of what was written.

The library's own writer first makes a copy of every tensor in memory; for the state of a large network that is half a
gigabyte, with Python's lock held. Here each array goes to the file as it lies. Any safetensors reader reads the result.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.storage.atomic import write_chunks

_TYPES = {"float64": "F64", "float32": "F32", "int64": "I64", "uint8": "U8"}
# Python's lock is released for each piece; a signal is seen between two.
_PIECE_BYTES = 1 << 24


def write_tensors(path: Path, arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> str:
    """Write arrays and metadata atomically.

    Args:
        arrays: C-contiguous, of float64, float32, int64 or uint8.
        metadata: strings kept in the file's head.

    Returns:
        SHA-256 of the file, hexadecimal.

    Raises:
        OSError: the folder is missing, unwritable or full; nothing is left behind.
    """
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes | memoryview]:
        for piece in _pieces(arrays, metadata):
            digest.update(piece)
            yield piece

    write_chunks(path, pieces())
    return digest.hexdigest()


def _pieces(arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    head: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, array in arrays.items():
        assert array.flags.c_contiguous, f"{name} is not contiguous"
        head[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data on a multiple of eight
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        content = array.reshape(-1).view(np.uint8).data
        for first in range(0, len(content), _PIECE_BYTES):
            yield content[first : first + _PIECE_BYTES]
