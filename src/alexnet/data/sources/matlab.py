"""Arrays of MATLAB files (Level 5, "MAT-file format" of MathWorks), as far as lists of images need them.

Reads arrays of numbers, and struct arrays of single-row texts and single numbers. Every length is checked before use.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

HEADER_BYTES = 128
MAX_BYTES = 2**24
"""Of a file, and of its compressed variables together; a small file can unpack to any size. Kits have 2 MB."""
INT32, MATRIX, COMPRESSED = 5, 14, 15
STRUCT_CLASS, CHAR_CLASS = 2, 4
NUMBER_CLASSES = range(6, 16)
NUMBER_CODES = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
"""Codes of `struct` for the format's number types."""
TEXT_CODECS = {
    order: {1: "latin-1", 2: "latin-1", 4: f"utf-16-{name}", 16: "utf-8", 17: f"utf-16-{name}", 18: f"utf-32-{name}"}
    for order, name in (("<", "le"), (">", "be"))
}

Value = str | float | None
"""A text or a number; None for an empty number."""


class _Matrix(NamedTuple):
    """An array, split into its parts."""

    array_class: int
    size: int
    name: str
    parts: list[tuple[int, memoryview]]
    """Type and content of the elements after the name."""


def read_struct_array(content: bytes, variable: str, fields: list[str]) -> list[dict[str, Value]]:
    """The elements of a struct array, in MATLAB's order; skips other variables and fields.

    Args:
        content: of a file.
        variable: the array's name.
        fields: to read; each holds a single-row text or a single number.

    Raises:
        ValueError: not such a file, a damaged one, or one without this variable or one of these fields.
    """
    matrix, order = _variable(content, variable)
    return _structs(matrix, fields, order)


def read_numbers(content: bytes, variable: str) -> tuple[float, ...]:
    """The elements of an array of real numbers, in MATLAB's order, column after column; skips other variables.

    Args:
        content: of a file.
        variable: the array's name.

    Raises:
        ValueError: not such a file, a damaged one, or one without this array.
    """
    matrix, order = _variable(content, variable)
    if matrix.array_class not in NUMBER_CLASSES:
        raise ValueError(f"{variable} is an array of class {matrix.array_class}; expected are numbers")
    numbers = _numbers(matrix.parts[0], order) if matrix.parts else ()
    if len(numbers) != matrix.size:
        raise ValueError(f"{variable} has {len(numbers)} numbers; expected {matrix.size}")
    return numbers


def _variable(content: bytes, variable: str) -> tuple[_Matrix, str]:
    """A variable of a file, and the file's byte order."""
    marks = {b"IM": "<", b"MI": ">"}
    order = marks.get(content[HEADER_BYTES - 2 : HEADER_BYTES])
    if order is None:
        raise ValueError("not a MATLAB file of level 5")
    if struct.unpack_from(f"{order}H", content, HEADER_BYTES - 4)[0] != 0x0100:
        raise ValueError("a MATLAB file of another version than level 5")
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has {len(content):,} bytes; allowed are {MAX_BYTES:,}")
    left = MAX_BYTES
    for kind, part in _elements(memoryview(content)[HEADER_BYTES:], order):
        if kind == COMPRESSED:
            inflated = _inflated(part, left)
            left -= len(inflated)
            kind, part = next(_elements(inflated, order), (0, part))
        if kind == MATRIX:
            matrix = _matrix(part, order)
            if matrix.name == variable:
                return matrix, order
    raise ValueError(f"no variable {variable} in it")


def _inflated(part: memoryview, max_bytes: int) -> memoryview:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(part, max(1, max_bytes))
    except zlib.error as error:
        raise ValueError(f"its compression is damaged: {error}") from error
    if not inflater.eof:
        raise ValueError(f"a variable is truncated, or all are larger than {MAX_BYTES:,} bytes")
    return memoryview(content)


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each element of a sequence."""
    position = 0
    while position < len(content):
        if len(content) - position < 8:
            raise ValueError("it ends inside a tag")
        kind, num_bytes = struct.unpack_from(f"{order}2I", content, position)
        start, padded = position + 8, num_bytes + (-num_bytes % 8 if kind != COMPRESSED else 0)
        if kind >> 16:  # the small form: both numbers in four bytes, and the content in the other four
            kind, num_bytes = kind & 0xFFFF, kind >> 16
            start, padded = position + 4, 4
        if num_bytes > len(content) - start or num_bytes > padded:
            raise ValueError("it ends inside an element")
        yield kind, content[start : start + num_bytes]
        position = start + padded


def _matrix(content: memoryview, order: str) -> _Matrix:
    """Split an array into flags, sizes, name and the rest; an empty array has no parts."""
    parts = list(_elements(content, order))
    if not parts:
        return _Matrix(NUMBER_CLASSES[0], 0, "", [])
    if len(parts) < 3 or len(parts[0][1]) < 4:
        raise ValueError("an array lacks its header")
    flags = struct.unpack_from(f"{order}I", parts[0][1])[0]
    return _Matrix(flags & 0xFF, math.prod(_sizes(parts[1], order)), bytes(parts[2][1]).decode("latin-1"), parts[3:])


def _structs(matrix: _Matrix, fields: list[str], order: str) -> list[dict[str, Value]]:
    if matrix.array_class != STRUCT_CLASS or len(matrix.parts) < 2:
        raise ValueError(f"{matrix.name} is not a struct array")
    lengths = _sizes(matrix.parts[0], order)
    if len(lengths) != 1 or lengths[0] == 0:
        raise ValueError("the names of the fields have no length")
    text = bytes(matrix.parts[1][1])
    names = [text[at : at + lengths[0]].split(b"\0")[0].decode("latin-1") for at in range(0, len(text), lengths[0])]
    if missing := [field for field in fields if field not in names]:
        raise ValueError(f"no field {missing[0]} in {matrix.name}")
    values = matrix.parts[2:]
    if len(values) != matrix.size * len(names):
        raise ValueError(f"{matrix.name} has {len(values)} values; expected {matrix.size} x {len(names)}")
    positions = {field: names.index(field) for field in fields}
    return [
        {field: _value(values[start + position], order) for field, position in positions.items()}
        for start in range(0, len(values), len(names))
    ]


def _value(element: tuple[int, memoryview], order: str) -> Value:
    kind, content = element
    if kind != MATRIX:
        raise ValueError("a field holds no array")
    matrix = _matrix(content, order)
    if matrix.array_class == CHAR_CLASS:
        return _text(matrix.parts[0], order) if matrix.parts else ""
    if matrix.array_class not in NUMBER_CLASSES:
        raise ValueError(f"a field holds an array of class {matrix.array_class}; allowed are texts and numbers")
    numbers = _numbers(matrix.parts[0], order) if matrix.parts else ()
    if len(numbers) > 1:
        raise ValueError(f"a field holds {len(numbers)} numbers; allowed is one")
    return numbers[0] if numbers else None


def _numbers(element: tuple[int, memoryview], order: str) -> tuple[float, ...]:
    kind, content = element
    code = NUMBER_CODES.get(kind)
    if code is None or len(content) % struct.calcsize(f"={code}"):
        raise ValueError(f"{len(content)} bytes of type {kind} are not numbers")
    return struct.unpack(f"{order}{len(content) // struct.calcsize(f'={code}')}{code}", content)


def _sizes(element: tuple[int, memoryview], order: str) -> list[int]:
    """The sizes of an array, or the length of names."""
    if element[0] != INT32:
        raise ValueError(f"sizes are of type {element[0]}")
    return [max(0, int(number)) for number in _numbers(element, order)]


def _text(element: tuple[int, memoryview], order: str) -> str:
    kind, content = element
    codec = TEXT_CODECS[order].get(kind)
    if codec is None:
        raise ValueError(f"type {kind} is not a text")
    return bytes(content).decode(codec)  # a UnicodeDecodeError is a ValueError
