"""Reads untrusted pickles of arrays, lists, numbers and text without running anything in them.

A pickle names the functions to call. Here it may name only those of pickled NumPy arrays.
"""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

from alexnet.errors import RequestError
from alexnet.storage.inert_unpickler import ARRAY_NAMES, INTEGER_TYPES, ArrayUnpickler

MAX_PICKLE_BYTES = 2**28
"""A larger file is refused; CIFAR's largest has 155 MB."""


def read_pickled_entries(path: Path) -> dict[str, Any]:
    """The entries of a pickled dictionary by name; bytes stay bytes, and arrays are `PickledArray`.

    Args:
        path: written by Python 2 or 3, with any protocol.

    Raises:
        RequestError: it refers to anything but arrays.
        ValueError: it is too large, damaged, or not a dictionary.
        OSError: it cannot be read.
    """
    with path.open("rb") as stored:
        size_bytes = os.fstat(stored.fileno()).st_size
        if size_bytes > MAX_PICKLE_BYTES:
            raise ValueError(f"it has more than {MAX_PICKLE_BYTES:,} bytes")
        file = io.BytesIO(stored.read(size_bytes))
    try:
        content = _IntegerArrays(file, path).load()
    except RequestError:
        raise
    except ValueError as error:
        raise ValueError(f"it is not a pickle of arrays and lists ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} instead of a dictionary")
    # Python 2 wrote the names as bytes.
    return {name.decode("latin1") if isinstance(name, bytes) else str(name): one for name, one in content.items()}


class _IntegerArrays(ArrayUnpickler):
    """Refuses all names but those of arrays."""

    array_types = INTEGER_TYPES

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def require_allowed(self, name: str) -> None:
        if name.replace("numpy._core.", "numpy.core.") not in ARRAY_NAMES:
            raise RequestError(
                f"{self.path} refers to {name!r}, which no array needs; it was not run. Get the data set from its "
                "authors"
            )
