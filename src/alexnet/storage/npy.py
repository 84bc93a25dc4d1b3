"""Reads and writes .npy files whose dtype and shape are known, for arrays in C order.

NumPy's own reader evaluates the header as a Python expression and believes what it says; a memory-mapped array ends the
process if its file is cut meanwhile. Here the header must be the one of the expected array, and files are read.
"""

import hashlib
import io
import math
import os
import re
import weakref
import zlib
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int | None, ...]
"""None stands for any length."""

CHANGED = "it is not what was written, its checksum differs"

_PREFIX = b"\x93NUMPY\x01\x00"
_LENGTH_BYTES = 2
_MAX_HEADER_BYTES = 512
_HEADER = re.compile(rb"\{'descr': '([<|]\w\d+)', 'fortran_order': False, 'shape': \(([\d, ]*)\), \} *\n")
_MAX_READ_BYTES = 1 << 30
"""Of one call: Linux reads at most 2 GiB."""


def npy_header(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    """The .npy header (version 1.0) of an array in C order; NumPy makes it equally long for any number of rows."""
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def read_npy_header(
    file: BinaryIO, size_bytes: int, dtype: np.dtype[Any], shape: Shape
) -> tuple[bytes, tuple[int, ...]]:
    """The header's bytes, and the array's shape, of a file of `size_bytes` from its beginning.

    Raises:
        ValueError: the file is not an array of this dtype and shape, or longer or shorter than its header says.
    """
    start = file.read(len(_PREFIX) + _LENGTH_BYTES)
    length = int.from_bytes(start[len(_PREFIX) :], "little")
    if not start.startswith(_PREFIX) or length > _MAX_HEADER_BYTES:
        raise ValueError("it does not begin as an array")
    header = file.read(length)
    match = _HEADER.fullmatch(header)
    if match is None:
        raise ValueError("its header is not that of an array")
    found_dtype, lengths = match[1].decode(), [word.strip() for word in match[2].decode().split(",") if word.strip()]
    if any(len(word) > 18 or " " in word for word in lengths):
        raise ValueError("its header is not that of an array")
    found = tuple(map(int, lengths))
    fits = len(found) == len(shape) and all(want in (None, have) for want, have in zip(shape, found, strict=True))
    if found_dtype != np.lib.format.dtype_to_descr(dtype) or not fits:
        expected = str(tuple("N" if want is None else want for want in shape)).replace("'", "")
        raise ValueError(f"it is {found_dtype} {found}, expected {dtype.str} {expected}")
    array_bytes, header_bytes = math.prod(found) * dtype.itemsize, len(start) + length
    if size_bytes != header_bytes + array_bytes:
        raise ValueError(f"it has {size_bytes:,} bytes, expected {header_bytes + array_bytes:,}")
    return start + header, found


def read_npy(path: Path, dtype: type[np.generic], shape: Shape, sha256: str | None = None) -> NDArray[Any]:
    """An array, read whole.

    Args:
        sha256: of the whole file, to be verified; None if it is not known.

    Raises:
        ValueError: the file is not an array of this dtype and shape, or not the one of this checksum.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        header, found = read_npy_header(file, size_bytes, np.dtype(dtype), shape)
        array = np.empty(found, dtype)
        content = array.reshape(-1).view(np.uint8).data
        digest = hashlib.sha256(header)
        for first in range(0, len(content), _MAX_READ_BYTES):
            part = content[first : first + _MAX_READ_BYTES]
            if file.readinto(part) != len(part):
                raise ValueError("it was truncated while it was read")
            if sha256 is not None:
                digest.update(part)
    if sha256 is not None and digest.hexdigest() != sha256:
        raise ValueError(CHANGED)
    return array


def read_npz(content: bytes, arrays: dict[str, tuple[type[np.generic], tuple[int, ...]]]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, uncompressed as `numpy.savez` writes it.

    Args:
        arrays: dtype and shape of each, by name: the file must hold these and no others.

    Raises:
        ValueError: the file is something else.
    """
    read = read_npz_members(content)
    if sorted(read) != sorted(arrays):
        raise ValueError(f"it holds {', '.join(read) or 'nothing'}; expected {', '.join(arrays)}")
    found: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in arrays.items():
        try:
            header, _ = read_npy_header(io.BytesIO(read[name]), len(read[name]), np.dtype(dtype), shape)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        found[name] = np.frombuffer(read[name], dtype, offset=len(header)).reshape(shape).copy()
    return found


def read_npz_members(content: bytes) -> dict[str, bytes]:
    """The .npy files in an .npz file by the names of their arrays, after the checksum of each was verified.

    Raises:
        ValueError: the file is damaged, or it is compressed: a small file could then claim any amount of memory.
    """
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sum(one.file_size for one in members) > len(content):
                raise ValueError("it is compressed")
            found = {one.filename.removesuffix(".npy"): archive.read(one) for one in members}
    except (BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ValueError(str(error)) from error
    if len(found) < len(members):
        raise ValueError("it holds two arrays of the same name")
    return found


class ArrayFile:
    """An array in C order in an open file, of which parts are read when asked for.

    Unlike in a memory-mapped array, a file that was cut, or that the disk cannot read, raises an OSError.

    Args:
        path: the file.
        dtype: of the array.
        shape: of the array.
        offset: of its first byte in the file.

    Attributes:
        row_bytes: bytes of a row.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> None:
        self.path = path
        self.dtype = dtype
        self.shape = shape
        self._offset = offset
        self.row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Some rows, in the order of `which`."""
        first, stop, step = which.indices(len(self)) if isinstance(which, slice) else (0, 0, 0)
        if step == 1:
            rows = np.empty((max(0, stop - first), *self.shape[1:]), self.dtype)
            self.read_into(rows.reshape(-1).view(np.uint8).data, first * self.row_bytes)
            return rows
        numbers = np.arange(len(self))[which].tolist()
        rows = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        content = rows.reshape(-1).view(np.uint8).data
        for place, number in enumerate(numbers):
            begin = place * self.row_bytes
            self.read_into(content[begin : begin + self.row_bytes], number * self.row_bytes)
        return rows

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target`, bytes, with those of the array from byte `offset` on.

        Raises:
            OSError: the file ends before, or cannot be read.
        """
        position, num_bytes = self._offset + offset, len(target)
        done = os.preadv(self._descriptor, (target,), position)
        while done < num_bytes:
            num_read = os.preadv(self._descriptor, (target[done:],), position + done)
            if num_read == 0:
                raise OSError(f"{self.path.name} was truncated while it was read")
            done += num_read
