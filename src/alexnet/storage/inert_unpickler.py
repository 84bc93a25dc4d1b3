"""Reads pickles of strangers: an interpreter that has nothing to call.

A pickle is a program that names functions and calls them. Here a name stays a name, a call becomes a `PickledObject`
that says what would have been called with what, and a subclass turns those few that it knows into values. Large byte
strings stay in the file until they are asked for.
"""

import codecs
import pickletools
import re
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import AlexNetError

MAX_OPERATIONS = 2**21
"""CIFAR's largest file has 300,000: two for each file name, one for each label."""
_MAX_BYTES_READ = 2**12
"""Longer byte strings stay in the file."""
_FREE_BYTES = 2**16
"""What calls may make beyond as many bytes as the pickle has."""
_MAX_NAME = 250
"""Characters of the name of a class or function."""
_MAX_NUMBER_BYTES = 1000
"""Of a number that is written in digits."""
_MAX_ARGUMENTS = 100
"""Of a call."""
_MAX_KEY = 2**32
"""Integers below it have hashes of their own, since these are the integers up to 2**61."""
_WIDE_TEXT_BYTES = 2**20
"""A longer text must be bytes that are written as text, which takes no more memory than the file has bytes."""
_MAX_REASON = 200
"""Characters of the message of an error of Python's library."""
MAX_DIMS = 32
"""Of an array; NumPy's own limit before version 2."""
_MAX_SIZE = 2**62
_SHOWN_DIMS = 6
_LAST_OF_LATIN1 = 0xC3
"""First byte of UTF-8 of the last characters of Latin-1."""
_WIDE_ESCAPE = re.compile(rb"\\u(?!00)|\\U")
_SHORT_TEXT_BYTES = 2**10


class PickledGlobal:
    """The name of a class or function; nothing can be called by it."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class PickledObject:
    """What a call would have made: the name of what was to be called, its arguments, and the state set afterwards."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[object, ...]) -> None:
        self.name = name
        self.arguments = arguments
        self.state: object = None


class FileBytes:
    """A byte string that is still in the file of the pickle."""

    __slots__ = ("_file", "offset", "size")

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file = file
        self.offset = offset
        self.size = size

    def __len__(self) -> int:
        return self.size

    def read(self) -> bytes:
        """The bytes; ValueError if the file was truncated in the meantime."""
        self._file.seek(self.offset)
        content = self._file.read(self.size)
        if len(content) != self.size:
            raise ValueError("it was truncated while it was read")
        return content


class InertUnpickler:
    """Interprets the pickle at the position of a file. Subclasses decide what the names in it stand for.

    A value that the pickle holds once can be used by many operations of two bytes each, so nothing may be copied,
    compared or written into a message that is as large as the pickle makes it: `spend` counts what calls make, and
    messages name types only.

    Strings of bytes, also Python 2's, are `bytes`, long ones `FileBytes`; sets are lists; what is appended to an object
    other than a list or dictionary is dropped, and so are entries of dictionaries whose keys are neither text, bytes,
    None nor whole numbers below 2**32.

    Args:
        file: seekable; it stays open as long as the `FileBytes` are used.
    """

    max_operations: ClassVar[int] = MAX_OPERATIONS
    max_text_bytes: ClassVar[int] = 2**28
    """Of one piece of text, which takes up to four times its bytes in the file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        position = file.tell()
        self._size = file.seek(0, 2)
        file.seek(position)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._free_bytes = self._size - position + _FREE_BYTES

    def spend(self, num_bytes: int) -> None:
        """Count bytes that are about to be made of values that the pickle can use again and again.

        Raises:
            ValueError: they are more than the file has.
        """
        self._free_bytes -= num_bytes
        if self._free_bytes < 0:
            raise ValueError("calls that make more bytes than the file has")

    def require_allowed(self, name: str) -> None:
        """Raise if a pickle must not name this class or function."""

    def call(self, name: str, arguments: tuple[object, ...]) -> object:
        """What a call stands for."""
        return PickledObject(name, arguments)

    def set_state(self, target: object, state: object) -> None:
        """Give an object its state. Attributes of dictionaries and of names are dropped."""
        if isinstance(target, PickledObject):
            target.state = state
        elif not isinstance(target, dict | PickledGlobal):
            raise ValueError(f"a state of a {type(target).__name__}")

    def persistent(self, key: object) -> object:
        """The object outside of the pickle that has this name."""
        raise ValueError("an object that is outside of it")

    def load(self) -> object:
        """The object; the file is then at the end of the pickle.

        Raises:
            ValueError: it is not a pickle, is cut off, or has operations that no pickle of plain values needs, which
                take more memory or time than the file has bytes.
        """
        self._stack, self._marks, self._memo = [], [], {}
        offset = self.file.tell()
        for _ in range(self.max_operations):
            offset = self.file.tell()
            code = self.file.read(1)
            if code == b".":
                if not self._stack:
                    raise ValueError("it ends without an object")
                return self._stack.pop()
            try:
                operation = _OPERATIONS[code]
            except KeyError:
                raise ValueError(f"{_describe_operation(code)} at byte {offset:,}") from None
            try:
                operation(self)
            except AlexNetError:
                raise
            except (IndexError, TypeError, struct.error, UnicodeError) as error:
                raise ValueError(f"it is damaged at byte {offset:,} ({str(error)[:_MAX_REASON]})") from error
            except ValueError as error:
                raise ValueError(f"{str(error)[:_MAX_REASON]} at byte {offset:,}") from error
        raise ValueError(f"more operations than allowed at byte {offset:,}")

    # Reading arguments.

    def _read(self, size: int) -> bytes:
        if not 0 <= size <= self._size - self.file.tell():
            raise ValueError(f"it ends before {size:,} more bytes")
        return self.file.read(size)

    def _unpack(self, form: str) -> Any:
        return struct.unpack(form, self._read(struct.calcsize(form)))[0]

    def _line(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise ValueError("it ends inside a line")
        return line[:-1]

    def _digits(self) -> bytes:
        """A line with a number."""
        line = self._line()
        if len(line) > _MAX_NUMBER_BYTES:
            raise ValueError(f"a number of {len(line):,} digits")
        return line

    def _bytes(self, size: int) -> bytes | FileBytes:
        if size <= _MAX_BYTES_READ:
            return self._read(size)
        start = self.file.tell()
        if size > self._size - start:
            raise ValueError(f"it ends before {size:,} more bytes")
        self.file.seek(start + size)
        return FileBytes(self.file, start, size)

    def _text(self, size: int) -> str:
        if size > self.max_text_bytes:
            raise ValueError(f"a text of {size:,} bytes")
        content = self._read(size)
        if size > _WIDE_TEXT_BYTES and np.frombuffer(content, np.uint8).max() > _LAST_OF_LATIN1:
            raise ValueError(f"a text of {size:,} bytes that is not one of bytes")
        text = content.decode("utf-8", "surrogatepass")
        self._spend_width(text, size)
        return text

    def _line_text(self) -> str:
        line = self._line()
        if len(line) > self.max_text_bytes or (len(line) > _WIDE_TEXT_BYTES and _WIDE_ESCAPE.search(line)):
            raise ValueError(f"a text of {len(line):,} bytes")
        text = line.decode("raw-unicode-escape")
        self._spend_width(text, len(line))
        return text

    def _spend_width(self, text: str, num_bytes: int) -> None:
        """One character beyond Latin-1 makes all of a text take two or four bytes each."""
        if num_bytes > _SHORT_TEXT_BYTES:
            self.spend(max(0, sys.getsizeof(text) - num_bytes))

    # The stack.

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if self._marks and self._marks[-1] >= len(self._stack):
            raise ValueError("a missing value")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _drop_to_mark(self) -> None:
        self._pop_to_mark()

    def _pop_or_unmark(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    # Containers.

    def _tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self._push(tuple(reversed(items)))

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, PickledObject):
            raise ValueError(f"an item of a {type(target).__name__}")

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            if len(items) % 2:
                raise ValueError("a key without a value")
            pairs = zip(items[::2], items[1::2], strict=True)
            target.update((key, value) for key, value in pairs if _is_safe_key(key))
        elif not isinstance(target, PickledObject):
            raise ValueError(f"an entry of a {type(target).__name__}")

    def _dictionary(self) -> None:
        items = self._pop_to_mark()
        self._push({})
        self._set_items(items)

    # The memo.

    def _keep(self, number: int) -> None:
        # As many operations as this came before it, in every pickle that a program wrote.
        if not 0 <= number <= max(len(self._memo), self.file.tell()):
            raise ValueError(f"an entry under the number {number:,}")
        self._memo[number] = self._stack[-1]

    def _fetch(self, number: int) -> None:
        if number not in self._memo:
            raise ValueError(f"the unknown entry {number:,}")
        self._push(self._memo[number])

    # Names and calls.

    def _global(self, module: object, name: object) -> PickledGlobal:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is not text")
        if len(module) + len(name) > _MAX_NAME or not (module + name).isprintable():
            raise ValueError("a name that no function has")
        whole = f"{module}.{name}"
        self.spend(len(whole))
        self.require_allowed(whole)
        return PickledGlobal(whole)

    def _line_global(self) -> PickledGlobal:
        module, name = self._line().decode(), self._line().decode()
        return self._global(module, name)

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._push(self._global(module, name))

    def _called(self, function: object, arguments: object) -> object:
        if not isinstance(function, PickledGlobal | PickledObject) or not isinstance(arguments, tuple):
            raise ValueError("a call of something else than a function")
        if len(arguments) > _MAX_ARGUMENTS:
            raise ValueError(f"a call with {len(arguments):,} arguments")
        return self.call(function.name, arguments)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        self._push(self._called(function, arguments))

    def _new_object_with_names(self) -> None:
        names, arguments, function = self._pop(), self._pop(), self._pop()
        if not isinstance(names, dict) or not isinstance(arguments, tuple):
            raise ValueError("a call of something else than a function")
        self.spend(8 * len(arguments))
        self._push(self._called(function, (*arguments, names)))

    def _object(self) -> None:
        function, *arguments = self._pop_to_mark() or [None]
        self._push(self._called(function, tuple(arguments)))

    def _instance(self) -> None:
        function = self._line_global()
        self._push(self._called(function, tuple(self._pop_to_mark())))

    def _build(self) -> None:
        state = self._pop()
        self.set_state(self._stack[-1], state)


def _is_safe_key(key: object) -> bool:
    """Whether a key is hashed at once, to a value that the pickle cannot choose to be that of thousands of other keys.

    With such keys a dictionary takes the square of its entries in time. Python salts the hashes of text and bytes, but
    not those of numbers, and hashes a tuple again whenever it is used.
    """
    return isinstance(key, str | bytes | bool | type(None)) or (isinstance(key, int) and abs(key) < _MAX_KEY)


def _describe_operation(code: bytes) -> str:
    if not code:
        return "it is cut off"
    known = pickletools.code2op.get(code.decode("latin-1"))  # type: ignore[attr-defined]
    return f"the operation {known.name}" if known else f"the unknown operation {code!r}"


def _whole_number(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}.get(line) if line in (b"00", b"01") else int(line)  # type: ignore[return-value]


def _quoted(line: bytes) -> bytes:
    line = line.strip()
    if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
        raise ValueError("a string without quotes")
    return codecs.escape_decode(line[1:-1])[0]


def _long(content: bytes) -> int:
    return int.from_bytes(content, "little", signed=True)


Operation = Callable[[InertUnpickler], None]


def _pushes(read: Callable[[InertUnpickler], object]) -> Operation:
    return lambda self: self._push(read(self))


_OPERATIONS: dict[bytes, Operation] = {
    b"\x80": lambda self: self._unpack("<B"),  # PROTO
    b"\x95": lambda self: self._unpack("<Q"),  # FRAME: where a reader may stop to fetch more
    b"(": lambda self: self._marks.append(len(self._stack)),
    b"0": lambda self: self._pop_or_unmark(),
    b"1": lambda self: self._drop_to_mark(),
    b"N": _pushes(lambda self: None),
    b"\x88": _pushes(lambda self: True),
    b"\x89": _pushes(lambda self: False),
    b"I": _pushes(lambda self: _whole_number(self._digits())),
    b"L": _pushes(lambda self: int(self._digits().rstrip(b"L"))),
    b"J": _pushes(lambda self: self._unpack("<i")),
    b"K": _pushes(lambda self: self._unpack("<B")),
    b"M": _pushes(lambda self: self._unpack("<H")),
    b"\x8a": _pushes(lambda self: _long(self._read(self._unpack("<B")))),
    b"F": _pushes(lambda self: float(self._digits())),
    b"G": _pushes(lambda self: self._unpack(">d")),
    b"S": _pushes(lambda self: _quoted(self._line())),
    b"T": _pushes(lambda self: self._bytes(self._unpack("<i"))),
    b"U": _pushes(lambda self: self._bytes(self._unpack("<B"))),
    b"B": _pushes(lambda self: self._bytes(self._unpack("<I"))),
    b"C": _pushes(lambda self: self._bytes(self._unpack("<B"))),
    b"\x8e": _pushes(lambda self: self._bytes(self._unpack("<Q"))),
    b"\x96": _pushes(lambda self: self._bytes(self._unpack("<Q"))),
    b"V": _pushes(lambda self: self._line_text()),
    b"X": _pushes(lambda self: self._text(self._unpack("<I"))),
    b"\x8c": _pushes(lambda self: self._text(self._unpack("<B"))),
    b"\x8d": _pushes(lambda self: self._text(self._unpack("<Q"))),
    b")": _pushes(lambda self: ()),
    b"t": _pushes(lambda self: tuple(self._pop_to_mark())),
    b"\x85": lambda self: self._tuple(1),
    b"\x86": lambda self: self._tuple(2),
    b"\x87": lambda self: self._tuple(3),
    b"]": _pushes(lambda self: []),
    b"l": _pushes(lambda self: self._pop_to_mark()),
    b"a": lambda self: self._append([self._pop()]),
    b"e": lambda self: self._append(self._pop_to_mark()),
    b"}": _pushes(lambda self: {}),
    b"d": lambda self: self._dictionary(),
    b"s": lambda self: self._set_items([self._pop(), self._pop()][::-1]),
    b"u": lambda self: self._set_items(self._pop_to_mark()),
    b"\x8f": _pushes(lambda self: []),  # a set
    b"\x90": lambda self: self._append(self._pop_to_mark()),
    b"\x91": _pushes(lambda self: self._pop_to_mark()),
    b"p": lambda self: self._keep(int(self._digits())),
    b"q": lambda self: self._keep(self._unpack("<B")),
    b"r": lambda self: self._keep(self._unpack("<I")),
    b"\x94": lambda self: self._keep(len(self._memo)),
    b"g": lambda self: self._fetch(int(self._digits())),
    b"h": lambda self: self._fetch(self._unpack("<B")),
    b"j": lambda self: self._fetch(self._unpack("<I")),
    b"c": _pushes(lambda self: self._line_global()),
    b"\x93": lambda self: self._stack_global(),
    b"R": lambda self: self._reduce(),
    b"\x81": lambda self: self._reduce(),  # NEWOBJ
    b"\x92": lambda self: self._new_object_with_names(),
    b"o": lambda self: self._object(),
    b"i": lambda self: self._instance(),
    b"b": lambda self: self._build(),
    b"P": _pushes(lambda self: self.persistent(self._line().decode())),
    b"Q": _pushes(lambda self: self.persistent(self._pop())),
}
"""By their codes. Missing are those that copy (DUP), take numbers of any length, or reach out of the pickle."""


_MAX_CODE = 16
"""Characters of the code of a NumPy data type; those of numbers have two or three."""


class _DataType:
    """Replaces a NumPy data type: only its code and byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: object) -> None:
        if not isinstance(code, str | bytes) or len(code) > _MAX_CODE:
            raise ValueError("arrays of a type without a code")
        text = code.decode("latin1") if isinstance(code, bytes) else code
        self.order = ">" if text.startswith(">") else "<"
        self.code = text.lstrip("|<=>")

    def set_state(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("|", "<", "=", ">", b"|", b"<", b"=", b">"):
            raise ValueError("arrays of another byte order")
        self.order = ">" if order in (">", b">") else "<"


_BYTES = _DataType("u1")


def _num_elements(shape: tuple[object, ...]) -> int | None:
    """Of an array of this shape; None if no array in memory can have it."""
    if len(shape) > MAX_DIMS:
        return None
    count = 1
    for size in shape:
        if type(size) is not int or not 0 <= size < _MAX_SIZE:
            return None
        count *= max(size, 1)
        if count >= _MAX_SIZE:
            return None
    return 0 if 0 in shape else count


def _shown_shape(shape: tuple[object, ...]) -> str:
    """A shape of at most `MAX_DIMS` whole numbers, short enough for a message."""
    more = f", and {len(shape) - _SHOWN_DIMS} more" if len(shape) > _SHOWN_DIMS else ""
    return f"{shape[:_SHOWN_DIMS]}{more}"


class PickledArray:
    """Replaces a NumPy array; its values stay in the file until they are asked for."""

    __slots__ = ("_content", "_kind", "_order", "_types", "shape")

    def __init__(self, types: tuple[str, ...]) -> None:
        self._types = types
        self._kind = _BYTES
        self._content: bytes | FileBytes = b""
        self._order = "C"
        self.shape: tuple[int, ...] = (0,)

    def fill(
        self, content: object, kind: object, shape: object, order: object, spend: Callable[[int], None]
    ) -> "PickledArray":
        """Set what the array is of; ValueError if it does not fit.

        Args:
            spend: told how many bytes are made, see `InertUnpickler.spend`.
        """
        if not isinstance(kind, _DataType) or kind.code not in self._types:
            code = kind.code if isinstance(kind, _DataType) else "?"
            names = "integers" if self._types == INTEGER_TYPES else "numbers"
            raise ValueError(f"arrays of the type {code!r}; allowed are {names}")
        sizes = shape if isinstance(shape, tuple) else (shape,)
        count = _num_elements(sizes)
        if not isinstance(content, str | bytes | FileBytes) or count is None:
            raise ValueError("an array without content or shape")
        if len(content) != count * np.dtype(kind.code).itemsize:
            raise ValueError(f"an array of shape {_shown_shape(sizes)} with {len(content):,} bytes")
        if isinstance(content, str):
            spend(len(content))
            content = content.encode("latin1")  # Python 2's, in a pickle that Python 3 wrote again
        self._content, self._kind, self.shape = content, kind, sizes
        self._order = "F" if order == "F" else "C"
        return self

    @property
    def is_float(self) -> bool:
        """Whether its numbers have a fraction."""
        return self._kind.code.startswith("f")

    @property
    def num_bytes(self) -> int:
        """Of all values."""
        return len(self._content)

    @property
    def values(self) -> NDArray[Any]:
        """The values, as views of the bytes, which are read from the file now if there are many."""
        content = self._content.read() if isinstance(self._content, FileBytes) else self._content
        flat = np.frombuffer(content, f"{self._kind.order}{self._kind.code}")
        return flat.reshape(self.shape, order="F" if self._order == "F" else "C")


INTEGER_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")
NUMBER_TYPES = (*INTEGER_TYPES, "b1", "f2", "f4", "f8")


ARRAY_NAMES = frozenset(
    f"numpy.{name}"
    for name in (
        "ndarray",
        "dtype",
        "core.multiarray._reconstruct",
        "core.multiarray.scalar",
        "core.numeric._frombuffer",
    )
) | {"_codecs.encode", "__builtin__.bytes"}
"""What pickles of arrays name, under older NumPy's names."""


class ArrayUnpickler(InertUnpickler):
    """Knows NumPy's arrays, of any version of NumPy and Python."""

    array_types: ClassVar[tuple[str, ...]] = NUMBER_TYPES

    def call(self, name: str, arguments: tuple[object, ...]) -> object:
        match name.replace("numpy._core.", "numpy.core."), arguments:
            case "numpy.dtype", (code, *_):
                return _DataType(code)
            case "numpy.core.multiarray._reconstruct", _:
                return PickledArray(self.array_types)
            case "numpy.core.numeric._frombuffer", (content, kind, shape, order):
                return PickledArray(self.array_types).fill(content, kind, shape, order, self.spend)
            case "numpy.core.multiarray.scalar", (kind, content):
                return PickledArray(self.array_types).fill(content, kind, (), "C", self.spend).values.item()
            case "_codecs.encode", (str() as text, "latin1" | b"latin1"):
                self.spend(len(text))
                return text.encode("latin1")  # how newer Pythons write bytes into old pickles
            case "__builtin__.bytes", ():
                return b""
            case "_codecs.encode", _:
                raise ValueError("text in another encoding than latin1")
        return super().call(name, arguments)

    def set_state(self, target: object, state: object) -> None:
        if isinstance(target, _DataType):
            target.set_state(state)
        elif isinstance(target, PickledArray):
            if not isinstance(state, tuple) or len(state) != 5:
                raise ValueError("an array without content")
            _, shape, kind, is_fortran, content = state
            target.fill(content, kind, shape, "F" if is_fortran else "C", self.spend)
        else:
            super().set_state(target, state)
