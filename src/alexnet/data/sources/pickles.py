"""Reads untrusted pickles of arrays, lists, numbers and text without running anything in them.

A pickle names the functions to call. Here it may name only those of pickled NumPy arrays, each of which is replaced by
a stand-in.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError

MAX_PICKLE_BYTES = 2**28
"""A larger file is refused; CIFAR's largest has 155 MB."""
MAX_OPERATIONS = 2**21
"""CIFAR's largest file has 300,000: two for each file name, one for each label."""
KEEPING = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
FETCHING = {"GET", "BINGET", "LONG_BINGET"}
ALLOWED_OPERATIONS = {
    *KEEPING,
    *FETCHING,
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
}
INTEGER_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")


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
        file = io.BytesIO(stored.read(MAX_PICKLE_BYTES + 1))
    if len(file.getbuffer()) > MAX_PICKLE_BYTES:
        raise ValueError(f"it has more than {MAX_PICKLE_BYTES:,} bytes")
    try:
        _require_harmless(file)
        file.seek(0)
        content = _ArrayUnpickler(file, path).load()
    except RequestError:
        raise
    except Exception as error:  # a damaged pickle raises errors of many classes
        raise ValueError(f"it is not a pickle of arrays and lists ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} instead of a dictionary")
    # Python 2 wrote the names as bytes.
    return {name.decode("latin1") if isinstance(name, bytes) else str(name): one for name, one in content.items()}


def _require_harmless(file: IO[bytes]) -> None:
    """Refuse what pickles of arrays and lists do not need and what takes more memory or time than it has bytes.

    An entry may be put under any number, and the memory for all smaller ones is taken. Tuples that hold a tuple
    several times, over and over, take for ever to be hashed.

    Raises:
        ValueError: naming the offset.
    """
    kept: set[int] = set()
    tuples: set[int] = set()
    last = ""
    for count, (operation, argument, offset) in enumerate(pickletools.genops(file)):
        name = operation.name
        if name not in ALLOWED_OPERATIONS or count >= MAX_OPERATIONS:
            problem = "more operations than allowed" if count >= MAX_OPERATIONS else f"the operation {name}"
            raise ValueError(f"{problem} at byte {offset:,}")
        if name in KEEPING:
            number = len(kept) if name == "MEMOIZE" else int(argument or 0)
            if number > count:
                raise ValueError(f"an entry under the number {number:,} at byte {offset:,}")
            (tuples.add if "TUPLE" in last else tuples.discard)(number)
            kept.add(number)
        elif name in FETCHING and int(argument or 0) in tuples:
            raise ValueError(f"a tuple used twice at byte {offset:,}")
        last = name


class _DataType:
    """Replaces a NumPy data type: only its code, and only integers."""

    __slots__ = ("code",)

    def __init__(self, code: object, *_: object) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else code if isinstance(code, str) else ""
        if text.lstrip("|<=") not in INTEGER_TYPES:
            raise ValueError(f"arrays of the type {text!r}; allowed are integers")
        self.code = text.lstrip("|<=")

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] not in ("|", "<", "=", b"|", b"<", b"="):
            raise ValueError("arrays of another byte order")


class PickledArray:
    """Replaces a NumPy array."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: NDArray[Any] = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _DataType, bool, bytes]) -> None:
        _, shape, kind, is_fortran, content = state
        self.fill(content, kind, shape, "F" if is_fortran else "C")

    def fill(self, content: bytes, kind: object, shape: tuple[int, ...], order: object) -> "PickledArray":
        """Set the values from bytes; ValueError if they do not fit."""
        if not isinstance(kind, _DataType):
            raise ValueError("arrays of an unknown type; allowed are integers")
        flat = np.frombuffer(content, f"<{kind.code}")
        self.values = flat.reshape(shape, order="F" if order == "F" else "C")
        return self


class _ArrayUnpickler(pickle.Unpickler):
    """Resolves only the globals of pickled arrays, to stand-ins."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file, encoding="bytes")  # as Python 2 wrote them
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        # New ones each time: a pickle can modify what it names.
        stand_ins = {
            "numpy.ndarray": lambda *_: None,
            "numpy.dtype": lambda *arguments: _DataType(*arguments),
            "numpy.core.multiarray._reconstruct": lambda *_: PickledArray(),
            "numpy.core.numeric._frombuffer": lambda *arguments: PickledArray().fill(*arguments),
            "_codecs.encode": lambda *arguments: _latin1_bytes(*arguments),
        }
        if whole not in stand_ins:
            raise RequestError(
                f"{self.path} refers to {f'{module}.{name}'!r}, which no array needs; it was not run. Get the data set "
                "from its authors"
            )
        return stand_ins[whole]


def _latin1_bytes(text: object, encoding: object) -> bytes:
    """How newer Pythons write bytes into old pickles."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise ValueError("text in another encoding than latin1")
    return text.encode("latin1")
