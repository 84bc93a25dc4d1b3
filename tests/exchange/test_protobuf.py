"""The wire format of protocol buffers, read and written, next to Google's library."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.exchange.caffe_files import classes

from alexnet.exchange.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH,
    MAX_FIELDS,
    VARINT,
    Message,
    WireError,
    encoded_varint,
    float_field,
    floats_field,
    integer_field,
    message_field,
    numbers,
    text_field,
    varints,
)

FIELDS = (
    "repeated uint64 a 1, repeated packed int64 b 15, repeated bytes c 16, repeated float d 2047, repeated double e "
    "2048, repeated packed float f 3, repeated packed double g 536870911, repeated Inner h 4"
)
CLASSES = classes({"Inner": "int64 x 1, string y 2", "All": FIELDS})
SINGLE, DOUBLE = st.floats(width=32, allow_nan=False), st.floats(allow_nan=False)
SIGNED = st.integers(-(1 << 63), (1 << 63) - 1)
CONTENTS = st.fixed_dictionaries({
    "a": st.lists(st.integers(0, (1 << 64) - 1), max_size=5),
    "b": st.lists(SIGNED, max_size=5),
    "c": st.lists(st.binary(max_size=300), max_size=4),
    "d": st.lists(SINGLE, max_size=6),
    "e": st.lists(DOUBLE, max_size=6),
    "f": st.lists(SINGLE, max_size=40),
    "g": st.lists(DOUBLE, max_size=40),
    "h": st.lists(st.tuples(SIGNED, st.text(max_size=10)), max_size=3),
})  # fmt: skip


def google(content: dict[str, Any]) -> Any:
    """The message in Google's library."""
    message = CLASSES["All"](**{name: value for name, value in content.items() if name != "h"})
    for x, y in content["h"]:
        message.h.add(x=x, y=y)
    return message


def read(content: bytes) -> dict[str, Any]:
    """The message as our reader finds it."""
    found: dict[str, Any] = {name: [] for name in "abcdefgh"}
    for field in Message(memoryview(content)):
        match field.number:
            case 1:
                found["a"] += varints(field)
            case 15:
                found["b"] += [value - (1 << 64) if value >= 1 << 63 else value for value in varints(field)]
            case 16:
                found["c"].append(bytes(field.content))
            case 2047 | 3:
                found["d" if field.number == 2047 else "f"] += numbers(field, np.float32).tolist()
            case 2048 | 536870911:
                found["e" if field.number == 2048 else "g"] += numbers(field, np.float64).tolist()
            case 4:
                inner = {one.number: one for one in field.message}
                x, y = (inner.get(number) for number in (1, 2))
                found["h"].append((x.signed if x else 0, bytes(y.content).decode() if y else ""))
    return found


@given(CONTENTS)
def test_what_googles_library_writes_is_read(content: dict[str, Any]) -> None:
    assert read(google(content).SerializeToString()) == content


@given(CONTENTS, st.data())
def test_a_message_that_is_cut_is_refused_or_a_shorter_one(content: dict[str, Any], data: st.DataObject) -> None:
    whole = google(content).SerializeToString()
    part = whole[: data.draw(st.integers(0, len(whole)))]
    try:
        found = read(part)
    except WireError:
        return
    assert read(part + whole[len(part) :]) == content
    assert all(content[name][: len(values)] == values for name, values in found.items())


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_an_error(content: bytes) -> None:
    try:
        fields = list(Message(memoryview(content)))
    except WireError as error:
        assert "byte" in str(error)
        return
    assert sum(len(one.content) for one in fields) <= len(content)
    for one in fields:
        assert one.wire_type in (VARINT, LENGTH, FIXED32, FIXED64) and 0 < one.number < 1 << 29
        assert one.offset <= len(content)
        if one.wire_type == LENGTH:
            assert content[one.offset : one.offset + len(one.content)] == bytes(one.content)


@given(CONTENTS)
def test_googles_library_reads_what_is_written(content: dict[str, Any]) -> None:
    chunks = [integer_field(1, value) for value in content["a"]]
    if content["b"]:
        chunks += message_field(15, [encoded_varint(value % (1 << 64)) for value in content["b"]])
    for value in content["c"]:
        chunks += message_field(16, [value[:7], memoryview(value)[7:]])
    chunks += [float_field(2047, value) for value in content["d"]]
    chunks += floats_field(3, np.array(content["f"], np.float32))
    for x, y in content["h"]:
        chunks += message_field(4, [integer_field(1, x % (1 << 64)), text_field(2, y)])
    found = CLASSES["All"].FromString(b"".join(chunks))
    assert found == google(content | {"e": [], "g": []})


@pytest.mark.parametrize("number", [1, 4095, 4096, 4097, 300_000])
@pytest.mark.parametrize("name", ["d", "e"])
def test_long_runs_of_unpacked_numbers_are_read(name: str, number: int) -> None:
    values = np.arange(number, dtype=np.float64)
    content = CLASSES["All"](**{name: values.tolist()}, c=[b"x"]).SerializeToString()
    assert read(content) == {key: [] for key in "abdefgh"} | {name: values.tolist(), "c": [b"x"]}
    with pytest.raises(WireError, match=r"a field of [48] bytes, where [37] are left"):
        read(content[:-1])


def test_numbers_are_views_of_the_file_if_they_are_packed() -> None:
    content = bytearray(CLASSES["All"](f=[1.0, 2.0]).SerializeToString())
    (field,) = Message(memoryview(content))
    array = numbers(field, np.float32)
    content[-8:] = bytes(8)
    assert array.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x0b\x0c", "byte 0 begins a group"),
        (b"\x08\x01\x0c", "byte 2 begins a group"),
        (b"\x0e", "byte 0 begins a field of wire type 6"),
        (b"\x00\x01", "byte 0 begins a field of number 0"),
        (b"\x80\x80\x80\x80\x10\x01", "byte 0 begins a field of number 536870912"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "the integer at byte 1 is longer than 64 bits"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "the integer at byte 1 is longer than 64 bits"),
        (b"\x08" + b"\xff" * 9, "ends within an integer"),
        (b"\x0a\x05abcd", "byte 2 begins a field of 5 bytes, where 4 are left"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "18,446,744,073,709,551,615 bytes, where 0 are left"),
        (b"\x0d\x00\x00\x00", "field of 4 bytes, where 3 are left"),
        (b"\x09" + bytes(7), "field of 8 bytes, where 7 are left"),
        (b"\x08\x01" * (MAX_FIELDS + 1), "the message at byte 0 has more than 65,536 fields"),
    ],
)
def test_what_is_not_a_message_says_where(content: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        list(Message(memoryview(content)))


def test_largest_integers_and_numbers_of_other_types() -> None:
    (field,) = Message(memoryview(b"\x08" + b"\xff" * 9 + b"\x01"))
    assert (field.value, field.signed) == ((1 << 64) - 1, -1)
    with pytest.raises(WireError, match="not numbers of 4 bytes"):
        numbers(field, np.float32)
    for content, dtype in (
        (b"\x0a\x03abc", np.float32),
        (b"\x0d" + bytes(4), np.float64),
        (b"\x09" + bytes(8), np.float32),
    ):
        (field,) = Message(memoryview(content))
        with pytest.raises(WireError, match="that are not numbers of"):
            numbers(field, dtype)
