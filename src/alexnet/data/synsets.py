"""Readable names of WordNet ids.

The ids and words are facts of ImageNet's synset list, as the development kit of ILSVRC-2012 gives them for its 1000
classes; the ids are places of nouns in WordNet 3.0. `synset_words.txt` has one class a line, sorted by id.
"""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

WORDS_FILE = "synset_words.txt"


def readable_name(class_id: str) -> str:
    """The name people read: the synset's first where it is one of ILSVRC-2012, else the id itself.

    No two classes of ILSVRC-2012 share a name; see `distinct_names`.
    """
    return _ilsvrc2012_names().get(class_id, class_id)


def distinct_names(words: Mapping[str, str]) -> dict[str, str]:
    """The first name of each synset, and more of it where two synsets begin alike.

    Args:
        words: names by class id, separated by commas: `maillot, tank suit`.

    Returns:
        Name by class id: `tench`, but `maillot (tank suit)` and `crane (n02012849)`. An id without words is left out.
    """
    forms: dict[str, list[str]] = {}
    for class_id, text in words.items():
        first, *others = (name.strip() for name in text.split(","))
        if first:
            seconds = [f"{first} ({other})" for other in others[:1]]
            forms[class_id] = [first, *seconds, f"{first} ({class_id})"]
    for _ in range(2):  # from the first form to the second, and on to the third
        counts = Counter(ways[0] for ways in forms.values())
        forms = {
            class_id: ways[1:] if counts[ways[0]] > 1 and len(ways) > 1 else ways for class_id, ways in forms.items()
        }
    return {class_id: ways[0] for class_id, ways in forms.items()}


@cache
def synset_words() -> Mapping[str, str]:
    """The words of each class of ILSVRC-2012 by its id, sorted by id; read when first asked for."""
    lines = files("alexnet.data").joinpath(WORDS_FILE).read_text(encoding="utf-8").splitlines()
    return {class_id: words for class_id, _, words in (line.partition(" ") for line in lines)}


@cache
def _ilsvrc2012_names() -> Mapping[str, str]:
    """Distinct names by class id."""
    return distinct_names(synset_words())
