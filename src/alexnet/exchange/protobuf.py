"""Reads and writes the wire format of protocol buffers, as far as files of weights need it.

The reader trusts no length: each is compared with the message that contains it before anything is taken. Nothing is
copied but unpacked arrays, and nothing is nested by itself: a caller asks for the fields of one message at a time, so
that the depth is that of the caller's code.

Wire format: https://protobuf.dev/programming-guides/encoding
"""

import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.model.foreign_files import DOWNLOAD
from alexnet.storage.read_errors import raise_unless_damage

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types. 3 and 4, the ends of groups, are refused; 6 and 7 do not exist."""
MAX_VARINT_BYTES = 10
MAX_FIELDS = 1 << 16
"""Of one message; fields of floating-point numbers in a row count as one."""
MAX_RUN = 1 << 18
"""Fields of floating-point numbers that are taken together, which copies them."""
_WIDTHS = {FIXED64: 8, FIXED32: 4}


class WireError(ValueError):
    """Bytes that are not a message; the text says what is wrong, and at which byte of the file."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message."""

    number: int
    wire_type: int
    value: int | memoryview
    """An integer without sign (VARINT); bytes (LENGTH); or little-endian numbers of 8 (FIXED64) or 4 bytes (FIXED32),
    those of fields with the same tag in a row together."""
    offset: int
    """Of the value in the file."""

    @property
    def content(self) -> memoryview:
        """The bytes of the field; none of an integer."""
        return memoryview(b"") if isinstance(self.value, int) else self.value

    @property
    def message(self) -> "Message":
        """The bytes of the field as those of a message."""
        return Message(self.content, self.offset)

    @property
    def signed(self) -> int:
        """The field as an int64 or an int32; 0 if it is not an integer."""
        value = self.value if isinstance(self.value, int) else 0
        return value - (1 << 64) if value >= 1 << 63 else value


@dataclass(frozen=True, slots=True)
class Message:
    """The bytes of a message, and where they are in the file."""

    content: memoryview
    offset: int = 0

    def __iter__(self) -> Iterator[Field]:
        """The fields in order.

        Raises:
            WireError: these bytes are not a message.
        """
        content, end, at = self.content, len(self.content), 0
        for _ in range(MAX_FIELDS):
            if at == end:
                return
            begin = at
            tag, at = self.varint(at)
            number, wire_type = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise WireError(f"byte {self.offset + begin:,} begins a field of number {number}")
            if wire_type == VARINT:
                value, end_of_value = self.varint(at)
                yield Field(number, wire_type, value, self.offset + at)
                at = end_of_value
            elif wire_type == LENGTH:
                length, at = self.varint(at)
                self._require(length, at)
                yield Field(number, wire_type, content[at : at + length], self.offset + at)
                at += length
            elif wire_type in _WIDTHS:
                width = _WIDTHS[wire_type]
                self._require(width, at)
                num = _run_length(content, begin, at, width)
                size = at - begin + width
                run = content[begin : begin + num * size]
                yield Field(number, wire_type, _unpacked(run, num, width), self.offset + at)
                at = begin + num * size
            else:
                kind = "a group" if wire_type in (3, 4) else f"a field of wire type {wire_type}"
                raise WireError(f"byte {self.offset + begin:,} begins {kind}, which no such file has")
        if at < end:
            raise WireError(f"the message at byte {self.offset:,} has more than {MAX_FIELDS:,} fields")

    def varint(self, at: int) -> tuple[int, int]:
        """The integer that begins at this byte of the message, and the byte after it.

        Raises:
            WireError: there is none.
        """
        value = 0
        for position in range(at, min(at + MAX_VARINT_BYTES, len(self.content))):
            byte = self.content[position]
            value |= (byte & 0x7F) << 7 * (position - at)
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value, position + 1
        else:
            if at + MAX_VARINT_BYTES > len(self.content):
                raise WireError(f"the message at byte {self.offset:,} ends within an integer")
        raise WireError(f"the integer at byte {self.offset + at:,} is longer than 64 bits")

    def _require(self, length: int, at: int) -> None:
        left = len(self.content) - at
        if length > left:
            raise WireError(f"byte {self.offset + at:,} begins a field of {length:,} bytes, where {left:,} are left")


def _run_length(content: memoryview, begin: int, at: int, width: int) -> int:
    """How many fields with the tag in `content[begin:at]` and a number of `width` bytes follow each other."""
    size = at - begin + width
    if content[begin + size : begin + size + at - begin] != content[begin:at]:
        return 1
    most = min((len(content) - begin) // size, MAX_RUN)
    rows = np.frombuffer(content, np.uint8, most * size, begin).reshape(most, size)
    step = 4096
    for first in range(0, most, step):
        equal = (rows[first : first + step, : at - begin] == rows[0, : at - begin]).all(1)
        if not equal.all():
            return first + int(equal.argmin())
    return most


def _unpacked(run: memoryview, num: int, width: int) -> memoryview:
    """The numbers of fields in a row, without their tags."""
    if num == 1:
        return run[-width:]
    rows = np.frombuffer(run, np.uint8).reshape(num, -1)
    return np.ascontiguousarray(rows[:, -width:]).reshape(-1).data


def mapped_message(path: Path, advice: str) -> Message:
    """A file as one message. Its bytes are read from the disk as they are used.

    Args:
        advice: what to give where there is no such file.

    Raises:
        RequestError: the file is missing, not a regular file, or empty.
        TemporaryError: the machine or the drive failed.
    """
    if not path.is_file():
        raise RequestError(f"{path} {'is not a regular file' if path.exists() else 'does not exist'}; {advice}")
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise RequestError(f"{path} is empty; {DOWNLOAD}")
            return Message(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except OSError as error:
        raise_unless_damage(error, path)
        raise RequestError(f"cannot read {path}: {error.strerror or error}; {advice}") from error


def varints(field: Field) -> Iterator[int]:
    """The integers of a repeated field, packed or not.

    Raises:
        WireError: the packed bytes are not integers.
    """
    if isinstance(field.value, int):
        yield field.value
    elif field.wire_type == LENGTH:
        message, at = field.message, 0
        while at < len(field.value):
            value, at = message.varint(at)
            yield value


def numbers(field: Field, dtype: type[np.float32] | type[np.float64]) -> NDArray[Any]:
    """The floating-point numbers of a repeated field, packed or not; a view of its bytes.

    Raises:
        WireError: the field holds something else.
    """
    width = np.dtype(dtype).itemsize
    if field.wire_type not in (LENGTH, FIXED64 if width == 8 else FIXED32) or len(field.content) % width:
        raise WireError(
            f"byte {field.offset:,} begins {len(field.content):,} bytes that are not numbers of {width} bytes"
        )
    return np.frombuffer(field.content, np.dtype(dtype).newbyteorder("<"))


def encoded_varint(value: int) -> bytes:
    """An integer, 0 or more, on the wire."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def integer_field(number: int, value: int) -> bytes:
    """A field of an integer, 0 or more."""
    return encoded_varint(number << 3 | VARINT) + encoded_varint(value)


def float_field(number: int, value: float) -> bytes:
    """A field of a float32."""
    return encoded_varint(number << 3 | FIXED32) + np.array(value, "<f4").tobytes()


def text_field(number: int, text: str) -> bytes:
    """A field of text."""
    return b"".join(message_field(number, [text.encode("utf-8", "replace")]))


def floats_field(number: int, values: NDArray[np.float32]) -> list[bytes | memoryview]:
    """A field of packed float32 in C order, which are not copied where they are in that order already."""
    content = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8).data
    return message_field(number, [content])


def message_field(number: int, parts: Iterable[bytes | memoryview]) -> list[bytes | memoryview]:
    """A field of a message, in chunks to write one after another."""
    chunks = [*parts]
    return [encoded_varint(number << 3 | LENGTH) + encoded_varint(sum(map(len, chunks))), *chunks]
