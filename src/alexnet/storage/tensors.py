"""Writes safetensors files without copying the arrays, and returns their checksum.

The library's own writer first copies every tensor in memory, which for the state of a large network takes half a
gigabyte, and holds Python's global lock while it does.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.storage.atomic import write_chunks

_TYPES = {"float64": "F64", "float32": "F32", "int64": "I64", "uint8": "U8"}
# Python's global lock is released during each chunk, and signals are handled between chunks.
_CHUNK_BYTES = 1 << 24


def write_tensors(path: Path, arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> str:
    """Write arrays and metadata atomically.

    Args:
        arrays: C-contiguous, of float64, float32, int64 or uint8.
        metadata: strings in the file's header.

    Returns:
        SHA-256 of the file, hexadecimal.

    Raises:
        OSError: the folder is missing, unwritable or full; nothing is left behind.
    """
    digest = hashlib.sha256()

    def digested_chunks() -> Iterator[bytes | memoryview]:
        for chunk in _chunks(arrays, metadata):
            digest.update(chunk)
            yield chunk

    write_chunks(path, digested_chunks())
    return digest.hexdigest()


def _chunks(arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, array in arrays.items():
        assert array.flags.c_contiguous, f"{name} is not contiguous"
        header[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to eight bytes
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        content = array.reshape(-1).view(np.uint8).data
        for first in range(0, len(content), _CHUNK_BYTES):
            yield content[first : first + _CHUNK_BYTES]
