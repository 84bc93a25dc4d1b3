"""Class lists in the forms that people have, and what is wrong with others."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.prepared_files import write_prepared

from alexnet.errors import RequestError
from alexnet.exchange.class_lists import imagenet_classes, read_classes

CAT_AND_DOG = [("cat", "cat"), ("dog", "dog")]
FISH = [("n01440764", "tench"), ("n01443537", "goldfish")]
LISTS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "ids and names": ("n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n", FISH),
    "numbers and names": ("0 great white shark\n1 tench", [("0", "great white shark"), ("1", "tench")]),
    "names with spaces": ("red cat\nred dog\n", [("red cat", "red cat"), ("red dog", "red dog")]),
    "single words": ("cat\ndog\n", CAT_AND_DOG),
    "ids that repeat the name": ("cat cat\nred_dog red dog\n", [("cat", "cat"), ("red_dog", "red dog")]),
    "tabs, a byte order mark, line ends of Windows": ("\ufeffa b\tAb\r\nc\tCd\r\n", [("a b", "Ab"), ("c", "Cd")]),
    "a JSON list": ('["cat", "dog"]', CAT_AND_DOG),
    "a JSON list of pairs": ('[["a", "cat"], ["b", "dog"]]', [("a", "cat"), ("b", "dog")]),
    "Hugging Face's configuration": (
        '{"model_type": "x", "id2label": {"1": "dog", "0": "cat"}, "label2id": {"cat": 0}}',
        CAT_AND_DOG,
    ),
    "Hugging Face's other mapping": ('{"dog": 1, "cat": 0}', CAT_AND_DOG),
    "timm's configuration, which has ids alone": ('{"label_names": ["n01440764", "n01443537"]}', FISH),
    "Keras's index": ('{"1": ["n01443537", "goldfish"], "0": ["n01440764", "tench"]}', FISH),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_in_many_forms(name: str, tmp_path: Path) -> None:
    text, expected = LISTS[name]
    path = tmp_path / "list"
    path.write_bytes(text.encode())
    assert [(one.id, one.name) for one in read_classes(path)] == expected


WRONG: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "the class list .* is empty; give a line for each class"),
    "an empty line": ("cat\n\ndog\n", "line 2 of the class list .* is empty; give every class a name"),
    "an empty line at the end": ("cat\ndog\n\n", "line 3 of the class list .* is empty"),
    "a class twice": (
        "cat\ndog\ncat\n",
        "line 3 of the class list .* is 'cat', as is line 1 of .*; list each",
    ),
    "an id twice": ("n1 cat\nn1 dog\n", "line 2 of the class list .* is 'n1', as is line 1 of .*; list"),
    "an entry twice": ('["a", "b", "a"]', "entry 2 of the class list .* is 'a', as is entry 0 of"),
    "a thousand names, one twice": (
        "\n".join(["crane", *map(str, range(998)), "crane"]),
        "line 1,000 .* is 'crane', as is line 1 .*; `--classes imagenet` names",
    ),
    "a number missing": (
        '{"0": "cat", "2": "dog"}',
        "is a mapping; allowed are the keys 0 to 1, each once, and it has '0' to '2'",
    ),
    "another object": ('{"model": "vgg"}', "is a mapping; allowed are the keys"),
    "numbers": ("[1, 2]", "entry 0 of the class list .* is '1'; allowed is a name"),
    "broken JSON": ('["cat"', "is not JSON"),
    "deep JSON": ("[" * 100_000, "is not JSON"),
    "a web page": ("<!DOCTYPE html>\n<html>", "is a web page"),
    "bytes": (b"\xff\xfe\x00\x01", "is not text in UTF-8"),
    "a control character": ("cat\n\x1b[31mdog\n", r"line 2 .* is '\\x1b\[31mdog', which has control characters or"),
    "a surrogate": ('["a", "\\ud800"]', "entry 1 .* which has control characters or bytes that are not UTF-8"),
    "text that runs backwards": ('["a", "b\\u202ec"]', "entry 1 .* which has control characters"),
    "a key twice": ('{"0": "cat", "0": "dog"}', "is not JSON: key '0' is in it twice"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_lists_are_refused_with_the_place(name: str, tmp_path: Path) -> None:
    content, message = WRONG[name]
    path = tmp_path / "list"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RequestError, match=message):
        read_classes(path)


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot read the class list .*No such file"):
        read_classes(tmp_path / "none")
    with pytest.raises(RequestError, match="is not a prepared data set"):
        read_classes(tmp_path)


def test_a_prepared_data_set_lists_its_classes(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data", {"train": 2}, classes=(("z", "last"), ("a", "first")))
    assert [(one.id, one.name) for one in read_classes(tmp_path / "data")] == [("z", "last"), ("a", "first")]


def test_imagenets_classes_are_sorted_by_id() -> None:
    classes = imagenet_classes()
    assert len(classes) == 1000 and [one.id for one in classes] == sorted(one.id for one in classes)
    assert (classes[217].id, classes[217].name) == ("n02102040", "English springer")


NAMES = st.lists(
    st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=9), min_size=1, unique=True
)


@given(names=NAMES)
def test_any_names_come_back(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("lists")
    written: dict[str, Any] = {"a.txt": "\n".join(names), "b.json": json.dumps(names)}
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
        assert [one.name for one in read_classes(folder / name)] == names
