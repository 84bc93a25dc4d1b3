"""The interpreter of strangers' pickles gives the values of plain ones, and nothing but a ValueError for the rest."""

import argparse
import collections
import io
import os
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alexnet.storage.inert_unpickler import ArrayUnpickler, FileBytes, InertUnpickler, PickledArray, PickledObject

PROTOCOLS = st.integers(0, pickle.HIGHEST_PROTOCOL)
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**2000), 2**2000)
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=40)
    | st.binary(max_size=40)
)
KEYS = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.text(max_size=9) | st.binary(max_size=9)
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=6).map(tuple)
        | st.dictionaries(KEYS | st.tuples(KEYS, KEYS), inner, max_size=6)
    ),
    max_leaves=25,
)


class Latin(InertUnpickler):
    """Also knows how newer Pythons write bytes and empty bytes into old pickles."""

    def call(self, name: str, arguments: tuple[object, ...]) -> object:
        if name == "_codecs.encode" and isinstance(arguments[0], str):
            return arguments[0].encode("latin1")
        if name.endswith(".bytes"):
            return b""
        return super().call(name, arguments)


def plain(value: Any) -> Any:
    """The value with bytes instead of what is still in the file."""
    if isinstance(value, FileBytes):
        return value.read()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


def with_safe_keys(value: Any) -> Any:
    """The value without entries whose keys have hashes that a file can choose."""
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if not isinstance(key, tuple)}
        return {key: with_safe_keys(one) for key, one in kept.items() if not isinstance(key, int) or abs(key) < 2**32}
    return type(value)(map(with_safe_keys, value)) if isinstance(value, list | tuple) else value


@given(VALUES, PROTOCOLS)
@example({(1, "a"): 2, 2**32: 3, 2**32 - 1: 4, -(2**32): 5, True: 6}, 2)
@example([b"x" * 5000, b"y" * 300, ["a"] * 3], 2)
@example([1, [2, [3, ()]], (4,), {5: {}}], 0)
@example((shared := ["x"], shared, {"k": shared}), 4)
def test_plain_values_are_those_that_pickle_reads(value: object, protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    file = io.BytesIO(b"before" + content + b"after")
    file.seek(6)
    found = Latin(file).load()
    assert file.tell() == 6 + len(content)
    expected = with_safe_keys(pickle.loads(content))
    assert plain(found) == expected
    assert repr(plain(found)) == repr(expected)  # also the types of numbers, and -0.0


@given(VALUES, PROTOCOLS, st.data())
def test_a_cut_or_changed_pickle_gives_a_value_or_a_value_error(
    value: object, protocol: int, data: st.DataObject
) -> None:
    content = bytearray(pickle.dumps(value, protocol))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    try:
        ArrayUnpickler(io.BytesIO(bytes(content))).load()
    except ValueError as error:
        assert "byte" in str(error) or "without an object" in str(error)


@given(st.binary(max_size=60))
@example(b"\x80\x02((o.")
@example(b"((((1111.")
@example(b"cos\nsystem\n(S'touch x'\ntR.")
@example(b"N}b.")
@example(b"(0N.")
@example(b"\x93.")
def test_any_bytes_give_a_value_or_a_value_error(content: bytes) -> None:
    try:
        ArrayUnpickler(io.BytesIO(content)).load()
    except ValueError as error:
        assert str(error)


CALLS = {
    "reduce": b"cos\nsystem\n(U\x02idtR.",
    "reduce of a call": b"cbuiltins\ngetattr\n(cos\nfork\nU\x08__call__tR)R.",
    "new object": b"\x80\x02cos\nsystem\n(U\x02idt\x81.",
    "new object with names": b"\x80\x04cos\nsystem\n)}\x92.",
    "object": b"(cos\nsystem\nU\x02ido.",
    "instance": b"(U\x02idios\nsystem\n.",
    "state": b"cos\nsystem\n)R}U\x01xU\x01ysb.",
    "name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_become_what_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for function in ("system", "fork"):
        monkeypatch.setattr(os, function, lambda *arguments: called.append(arguments))
    found = InertUnpickler(io.BytesIO(CALLS[name])).load()
    assert isinstance(found, PickledObject) and called == []
    assert found.name == ("builtins.getattr" if name == "reduce of a call" else "os.system")
    if name == "state":
        assert found.state == {b"x": b"y"}


def test_objects_keep_their_names_arguments_and_states() -> None:
    space = argparse.Namespace(lr=0.1)
    found = InertUnpickler(io.BytesIO(pickle.dumps({"args": space, "c": collections.Counter("aa")}))).load()
    assert isinstance(found, dict)
    assert isinstance(found["args"], PickledObject) and found["args"].state == {"lr": 0.1}
    assert isinstance(found["c"], PickledObject) and found["c"].arguments == ({"a": 2},)


ARRAYS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
          np.arange(5000, dtype=">i4"), np.zeros((0, 4)), np.full((), 3.0), np.array([True, False]),
          np.arange(3, dtype=np.float16)]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_from_every_protocol(protocol: int) -> None:
    for array in ARRAYS:
        found = ArrayUnpickler(io.BytesIO(pickle.dumps([array, np.float32(2.5)], protocol))).load()
        assert isinstance(found, list) and isinstance(found[0], PickledArray) and found[1] == 2.5
        assert found[0].shape == array.shape and found[0].values.dtype == array.dtype
        assert np.array_equal(found[0].values, array)


def test_arrays_that_lie_are_refused_before_memory_is_taken() -> None:
    sound = pickle.dumps(np.arange(3, dtype=np.float32), 2)
    assert ArrayUnpickler(io.BytesIO(sound)).load()
    lies = {
        "shape": sound.replace(b"K\x03\x85", b"J" + struct.pack("<i", 2**31 - 1) + b"\x85"),
        "negative": sound.replace(b"K\x03\x85", b"J" + struct.pack("<i", -3) + b"\x85"),
        "type": sound.replace(b"f4", b"f8"),
        "object": pickle.dumps(np.array([1, None], object), 2),
    }
    for name, content in lies.items():
        assert content != sound
        with pytest.raises(ValueError, match=r"an array of shape|without content or shape|allowed are numbers"):
            ArrayUnpickler(io.BytesIO(content)).load()
            pytest.fail(name)


class Small(InertUnpickler):
    max_operations = 100
    max_text_bytes = 1000


def test_operations_and_texts_are_bounded() -> None:
    assert Small(io.BytesIO(pickle.dumps(["a" * 900, b"b" * 10**5]))).load()
    with pytest.raises(ValueError, match="more operations than allowed at byte"):
        Small(io.BytesIO(b"N0" * 60 + b"N.")).load()
    with pytest.raises(ValueError, match="a text of 2,000 bytes at byte"):
        Small(io.BytesIO(pickle.dumps("a" * 2000))).load()


def test_a_file_that_shrinks_is_said() -> None:
    file = io.BytesIO(pickle.dumps(b"x" * 9000))
    found = InertUnpickler(file).load()
    assert isinstance(found, FileBytes) and len(found) == 9000 and found.read() == b"x" * 9000
    file.truncate(5000)
    with pytest.raises(ValueError, match="truncated while it was read"):
        found.read()
