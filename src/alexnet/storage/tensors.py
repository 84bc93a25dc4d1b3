"""Writes safetensors files without copying the arrays, with checksums, and reads them.

The library's own writer first copies every tensor in memory, which for the state of a large network takes half a
gigabyte, and holds Python's global lock while it does.

A sealed file holds, under the metadata key `content_sha256`, the SHA-256 of its header without that key (as
`json.dumps(header, sort_keys=True)`) followed by the bytes of its tensors. Readers verify it where it is there.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
from numpy.typing import NDArray

from alexnet.errors import AlexNetError, WorkError
from alexnet.storage.atomic import write_chunks
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.typed_files import SEAL, damaged, parse_json

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


def write_sealed_tensors(path: Path, arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> None:
    """As `write_tensors`, with the checksum of header and tensors in the metadata."""
    header = _header(arrays, metadata)
    seal = _seal(header, _data_chunks(arrays))
    write_chunks(path, _with_header(_header(arrays, {**metadata, SEAL: seal}), _data_chunks(arrays)))


def seal_tensors(content: bytes) -> list[bytes | memoryview]:
    """The bytes of a safetensors file with its checksum in the metadata, as chunks to write."""
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), [memoryview(content)[8 + size :]]
    seal = _seal(header, data)
    return list(_with_header({**header, "__metadata__": {**header.get("__metadata__", {}), SEAL: seal}}, data))


@contextlib.contextmanager
def open_tensors(path: Path, framework: Literal["numpy", "pt"]) -> Iterator[Any]:
    """A safetensors file, opened by the library, which itself refuses a path that is not UTF-8."""
    if os.fsencode(path) == str(path).encode("utf-8", "replace"):
        with safetensors.safe_open(path, framework=framework) as content:
            yield content
    else:
        with path.open("rb") as file, safetensors.safe_open(f"/dev/fd/{file.fileno()}", framework=framework) as content:
            yield content


def read_tensors(
    path: Path,
    framework: Literal["numpy", "pt"],
    advice: str,
    *,
    skip_seal: Callable[[Mapping[str, Any]], bool] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a safetensors file by name, as arrays or as torch tensors, and its metadata.

    Args:
        advice: what to do where the file is damaged.
        skip_seal: says of the tensors that another program wrote them, so that a checksum in the metadata is of
            the file from which they were read.

    Raises:
        DamagedFile: the file is damaged, or was changed after it was sealed.
        WorkError: the system cannot read it.
    """
    try:
        with open_tensors(path, framework) as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no mapping)
        if (seal := metadata.pop(SEAL, None)) is not None and not (skip_seal and skip_seal(tensors)):
            _require_seal(path, seal, advice)
    except AlexNetError:
        raise
    except (safetensors.SafetensorError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise_unless_damage(error, path)
        # The last two: a type of numbers that NumPy or this version of the library does not have.
        raise damaged(path, str(error), advice) from error
    except OSError as error:
        raise_unless_damage(error, path)
        raise WorkError(
            f"cannot read {path}: {error.strerror or error}; make it readable and rerun the command"
        ) from error
    return tensors, metadata


def require_array(arrays: Mapping[str, Any], name: str, dtype: type[np.generic], dims: int) -> NDArray[Any]:
    """The array of that name.

    Raises:
        ValueError: it is missing, or has another dtype or number of dimensions.
    """
    array = arrays.get(name)
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != dims:
        found = "missing" if array is None else f"{array.dtype} {array.shape}"
        raise ValueError(f"{name}: expected {dtype.__name__} of {dims} dimensions, got {found}")
    return array


def _require_seal(path: Path, seal: str, advice: str) -> None:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(size), dict[str, Any], path, advice)
        del header["__metadata__"][SEAL]
        if _seal(header, iter(lambda: file.read(_CHUNK_BYTES), b"")) != seal:
            raise damaged(
                path,
                f"it was changed after it was written: {SEAL} does not match",
                f"{advice}; if a program changed it on purpose, remove {SEAL} from its metadata",
            )


def _seal(header: Mapping[str, Any], data: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for chunk in data:
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    return _with_header(_header(arrays, metadata), _data_chunks(arrays))


def _with_header(header: Mapping[str, Any], data: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to eight bytes
    yield len(text).to_bytes(8, "little") + text
    yield from data


def _header(arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, array in arrays.items():
        assert array.flags.c_contiguous, f"{name} is not contiguous"
        header[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    return header


def _data_chunks(arrays: Mapping[str, NDArray[np.generic]]) -> Iterator[bytes | memoryview]:
    for array in arrays.values():
        content = array.reshape(-1).view(np.uint8).data
        for first in range(0, len(content), _CHUNK_BYTES):
            yield content[first : first + _CHUNK_BYTES]
