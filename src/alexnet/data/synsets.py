"""Readable names of WordNet ids.

The ids and words are those of ImageNet's synset list in the development kit of ILSVRC-2012, for its 1000 classes; the
ids are offsets of nouns in WordNet 3.0. `synset_words.txt` has one class per line, sorted by id.
"""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

WORDS_FILE = "synset_words.txt"


def readable_name(class_id: str) -> str:
    """The readable name of a class: its first word for a synset of ILSVRC-2012, else the id itself.

    No two classes of ILSVRC-2012 share a name; see `distinct_names`.
    """
    return _ilsvrc2012_names().get(class_id, class_id)


def distinct_names(words: Mapping[str, str]) -> dict[str, str]:
    """The first name of each synset, and more of its names where two synsets share the first.

    Args:
        words: names by class id, separated by commas: `maillot, tank suit`.

    Returns:
        Names by class id: `tench`, but `maillot (tank suit)` and `crane (n02012849)`. Ids without words are omitted.
    """
    forms: dict[str, list[str]] = {}
    for class_id, text in words.items():
        first, *others = (name.strip() for name in text.split(","))
        if first:
            seconds = [f"{first} ({other})" for other in others[:1]]
            forms[class_id] = [first, *seconds, f"{first} ({class_id})"]
    for _ in range(2):  # from the first form to the second, then to the third
        counts = Counter(alternatives[0] for alternatives in forms.values())
        forms = {
            class_id: alternatives[1:] if counts[alternatives[0]] > 1 and len(alternatives) > 1 else alternatives
            for class_id, alternatives in forms.items()
        }
    return {class_id: alternatives[0] for class_id, alternatives in forms.items()}


@cache
def synset_words() -> Mapping[str, str]:
    """The words of each class of ILSVRC-2012 by id, sorted by id; loaded on first use."""
    lines = files("alexnet.data").joinpath(WORDS_FILE).read_text(encoding="utf-8").splitlines()
    return {class_id: words for class_id, _, words in (line.partition(" ") for line in lines)}


@cache
def _ilsvrc2012_names() -> Mapping[str, str]:
    return distinct_names(synset_words())
