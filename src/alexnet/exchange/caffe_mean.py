"""Caffe's mean images: `mean.binaryproto`, one array in Caffe's own format, and the same as `.npy`.

Both hold (3, H, W), blue, green, red, 0..255. A `.npy` may also hold (H, W, 3), red, green, blue.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.exchange.caffe_layers import blob_chunks, read_blob, shape_text
from alexnet.exchange.protobuf import WireError, mapped_message
from alexnet.model.foreign_files import DOWNLOAD
from alexnet.storage.npy import read_npy
from alexnet.storage.typed_files import damaged

_NPY = b"\x93NUMPY"
_EXPECTED = "give a mean image of Caffe, .binaryproto or .npy of (3, side, side), or a .npy of (side, side, 3)"


def read_mean_image(path: Path) -> NDArray[np.float32]:
    """A mean image in either format: float32 (side, side, 3), red, green, blue, 0..255.

    Raises:
        RequestError: it is another file, or not square, or its colors are not 0..255.
        WorkError: it is damaged or cut short.
    """
    start = bytes(mapped_message(path, _EXPECTED).content[: len(_NPY)])
    return _read_npy(path) if start == _NPY else read_binaryproto(path)


def read_binaryproto(path: Path) -> NDArray[np.float32]:
    """A `mean.binaryproto` as float32 (side, side, 3), red, green, blue, 0..255.

    Raises:
        RequestError: it is another file, or not square, or its colors are not 0..255.
        WorkError: it is damaged or cut short.
    """
    message = mapped_message(path, _EXPECTED)
    try:
        has_numbers = any(len(chunk) for chunk in blob_chunks(message))
    except WireError as error:
        raise RequestError(f"{path} is not a mean image ({error}); {_EXPECTED}") from error
    if not has_numbers:
        raise RequestError(f"{path} is not a mean image; {_EXPECTED}")
    try:
        return _image(path, read_blob(message))
    except WireError as error:
        raise damaged(path, f"or cut short: {error}", DOWNLOAD) from error


def _read_npy(path: Path) -> NDArray[np.float32]:
    problem: ValueError | None = None
    for dtype in (np.float64, np.float32):  # Caffe's own is the first
        try:
            return _image(path, read_npy(path, dtype, (3, None, None)))
        except RequestError:
            raise
        except ValueError as error:
            problem = problem or error
        with contextlib.suppress(ValueError):  # as this package has it: height, width, and red, green, blue
            return _image(path, read_npy(path, dtype, (None, None, 3)).transpose(2, 0, 1)[::-1])
    raise RequestError(f"{path} is not a mean image: {problem}; {_EXPECTED}") from problem


def _image(path: Path, array: NDArray[Any]) -> NDArray[np.float32]:
    """An array of a file in our layout.

    Raises:
        RequestError: it is not a mean image.
    """
    planes = array[0] if array.ndim == 4 and len(array) == 1 else array
    if planes.ndim != 3 or len(planes) != 3 or planes.shape[1] != planes.shape[2] or not planes.size:
        raise RequestError(f"{path} holds an array of {shape_text(array.shape)}; expected is 3 x side x side")
    if not (planes.min() >= -1 and planes.max() <= 256):  # also if it has NaN
        raise RequestError(
            f"{path} has colors from {planes.min():g} to {planes.max():g}; expected is the mean of images of 0..255"
        )
    return np.ascontiguousarray(planes[::-1].transpose(1, 2, 0), np.float32)
