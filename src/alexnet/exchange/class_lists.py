"""Names of classes from a file: lines of text, a JSON list or mapping, or the dataset.json of a prepared data set."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.data.dataset import ClassInfo, class_problem, require_prepared
from alexnet.data.dataset_files import DESCRIPTION_FILE
from alexnet.data.synsets import distinct_names, readable_name, synset_words
from alexnet.errors import RequestError
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.typed_files import read_bounded

IMAGENET = "imagenet"
"""Names the 1,000 classes of ILSVRC-2012, sorted by id, instead of a file."""
_MAX_BYTES = 16 << 20
_SYNSET = re.compile(r"n\d{8}")
_LISTS = ("id2label", "label_names", "classes", "class_names", "labels")
"""Keys under which a configuration has its classes: Hugging Face's, timm's, dataset.json's and others."""


def imagenet_classes() -> tuple[ClassInfo, ...]:
    """The classes of ILSVRC-2012, sorted by id, as Caffe's and torchvision's published networks score them."""
    return tuple(ClassInfo(one, readable_name(one)) for one in synset_words())


def numbered_classes(number: int) -> tuple[ClassInfo, ...]:
    """Classes without names: `class 0`, `class 1`, ..."""
    return tuple(ClassInfo(f"class {one}", f"class {one}") for one in range(number))


def read_classes(path: Path) -> tuple[ClassInfo, ...]:
    """The classes that a file lists, in the order of the network's scores.

    Lines of text are `id name`, where all lines begin with an id: a word with a digit, such as `n01440764 tench`, or
    the name itself, as in `tench tench`; otherwise a line is a name, which is the id too. A tab always separates id and
    name.
    JSON is a list of names, of pairs (id, name) or of objects with `id` and `name`, or a mapping from numbers to these,
    also under a key such as `id2label` of a model's config.json. A prepared data set lists its own classes.

    Raises:
        RequestError: the file cannot be read or lists no classes, a line is empty, or a class is listed twice.
    """
    if path.is_dir():
        if not (path / DESCRIPTION_FILE).is_file():
            require_prepared(path)
        path = path / DESCRIPTION_FILE
    try:
        text = read_bounded(path, _MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise_unless_damage(error, path)
        raise RequestError(f"cannot read the class list {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise RequestError(f"the class list {path} is not text in UTF-8 of up to {_MAX_BYTES >> 20} MiB") from error
    if not text.strip():
        raise RequestError(f"the class list {path} is empty; give a line for each class")
    if text.lstrip()[:1] in ("{", "["):
        pairs, place = _json_pairs(text, path), "entry"
    else:
        pairs, place = _line_pairs(text, path), "line"
    require_classes(pairs, f"{place} {{:,}} of the class list {path}", 1 if place == "line" else 0)
    names = dict(pairs)
    if all(_SYNSET.fullmatch(one) for one in names):
        known = synset_words()  # for lists of ids alone
        names |= distinct_names({one: known.get(one, one) if name == one else name for one, name in names.items()})
    return tuple(ClassInfo(class_id, names[class_id]) for class_id, _ in pairs)


def require_classes(pairs: Sequence[tuple[str, str]], place: str, first: int = 0) -> None:
    """Refuse ids and names that cannot be those of the classes of a network.

    Args:
        pairs: id and name of each class.
        place: where one is, with `{}` for its number, for messages.
        first: number of the first.

    Raises:
        RequestError: there are none, one is empty or no text in one line, or an id is listed twice.
    """
    seen: dict[str, int] = {}
    for number, (class_id, name) in enumerate(pairs, first):
        if problem := class_problem(ClassInfo(class_id, name)):
            raise RequestError(f"{place.format(number)} {problem}; give every class a name")
        if class_id in seen:
            advice = f"; `--classes {IMAGENET}` names ImageNet's classes by their ids" if len(pairs) == 1000 else ""
            raise RequestError(
                f"{place.format(number)} is {class_id!r}, as is {place.format(seen[class_id])}; list each class once"
                f"{advice}"
            )
        seen[class_id] = number


def _line_pairs(text: str, path: Path) -> list[tuple[str, str]]:
    lines = [line.rstrip() for line in text.removesuffix("\n").split("\n")]
    if lines[0].lstrip().startswith("<"):
        raise RequestError(f"the class list {path} is a web page; download the list itself")
    if "\t" in text:
        split = [line.partition("\t") for line in lines]
        return [(one.strip(), name.strip() or one.strip()) for one, _, name in split]
    split = [line.strip().partition(" ") for line in lines]
    if all((re.search(r"\d", one) and name) or one.replace("_", " ") == name for one, _, name in split):
        return [(one, name.strip()) for one, _, name in split]
    return [(line.strip(), line.strip()) for line in lines]


def _json_pairs(text: str, path: Path) -> list[tuple[str, str]]:
    try:
        found: Any = json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the class list {path} is not JSON: {' '.join(str(error).split())}") from error
    if isinstance(found, Mapping):
        found = next((found[key] for key in _LISTS if isinstance(found.get(key), Mapping | Sequence)), found)
    if isinstance(found, Mapping):
        found = _numbered(found, path)
    if not isinstance(found, list):
        raise RequestError(f"the class list {path} has no list of classes")
    return [_pair(one, number, path) for number, one in enumerate(found)]


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError if a key is in it twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is in it twice")
    return found


def _numbered(found: Mapping[str, Any], path: Path) -> list[Any]:
    """The values in the order of their numbers, which are the keys, or, the other way round, the values."""
    if found and all(type(value) is int for value in found.values()):  # Hugging Face's label2id
        found = {str(value): name for name, value in found.items()}
    numbers = sorted(int(key) for key in found if re.fullmatch(r"\d{1,9}", key))
    if numbers != list(range(len(found))):
        raise RequestError(
            f"the class list {path} is a mapping; allowed are the keys 0 to {len(found) - 1:,}, each once, and it has "
            f"{_some(found)}"
        )
    by_number = {int(key): value for key, value in found.items()}
    return [by_number[number] for number in numbers]


def _some(found: Mapping[str, Any]) -> str:
    """The first and the last key of a mapping."""
    keys = [repr(key)[:40] for key in found]
    return " to ".join(dict.fromkeys((keys[0], keys[-1]))) if keys else "none"


def _pair(one: Any, number: int, path: Path) -> tuple[str, str]:
    if isinstance(one, str):
        return one, one
    if isinstance(one, Mapping):
        one = [one.get("id"), one.get("name", one.get("id"))]
    if isinstance(one, list) and len(one) == 2 and all(isinstance(part, str) for part in one):
        return one[0], one[1]
    raise RequestError(
        f"entry {number:,} of the class list {path} is {str(one)[:60]!r}; allowed is a name, [id, name], or an object "
        "with `id` and `name`"
    )
