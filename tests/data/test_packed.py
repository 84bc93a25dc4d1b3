"""Strings packed into arrays are the strings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.data.packed import PackedStrings

# Names of files as Python gives them: any text, and bytes that are no UTF-8 as surrogates.
names = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


def pack(strings: list[str]) -> PackedStrings:
    encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
    ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
    return PackedStrings(np.frombuffer(b"".join(encoded), np.uint8), ends)


@given(st.lists(names), st.data())
def test_packed_strings_are_the_strings(strings: list[str], data: st.DataObject) -> None:
    packed = pack(strings)
    assert list(packed) == strings and len(packed) == len(strings)
    order = [strings[index].encode("utf-8", "surrogateescape") for index in packed.order()]
    assert order == sorted(order)
    if strings:
        chosen = data.draw(st.lists(st.integers(0, len(strings) - 1)))
        assert list(packed.select(np.array(chosen, np.int64))) == [strings[index] for index in chosen]


def test_equal_strings_keep_their_order() -> None:
    assert pack(["b", "a", "b", "a"]).order().tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_outside_is_an_error(index: int) -> None:
    with pytest.raises(IndexError):
        pack(["a", "b"])[index]


def test_the_digest_sees_where_strings_end() -> None:
    digests = {pack(strings).digest() for strings in (["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""])}
    assert len(digests) == 4
