"""Which split a part of a source is, by the word that names its folder or its file."""

from collections.abc import Iterable
from pathlib import Path

from alexnet.errors import RequestError

SPLIT_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Split by the name of a top folder, in any mixture of cases."""


def splits_by_name(words: Iterable[str], path: Path) -> dict[str, str]:
    """Which split each part of a source is, by the word that names the part.

    Args:
        words: of `SPLIT_OF_FOLDER`, in any mixture of cases; the empty word is a source that is not split.
        path: the source, for messages.

    Raises:
        RequestError: two words name the same split, or none names the training split.
    """
    word_of: dict[str, str] = {}
    for word in sorted(words):
        split = SPLIT_OF_FOLDER[word.lower()] if word else "train"
        if split in word_of:
            raise RequestError(
                f"{path} has both {word_of[split] or 'parts without a split'} and {word} for its {split} split; keep "
                "one of them"
            )
        word_of[split] = word
    if "train" not in word_of:
        raise RequestError(f"{path} has {next(iter(word_of.values()))} and no train; name a source that has both")
    if "test" in word_of and "val" not in word_of:
        word_of["val"] = word_of.pop("test")
    return {word: split for split, word in word_of.items()}
