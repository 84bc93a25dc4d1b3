"""Names of folders and files that mean a split."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from alexnet.errors import RequestError

SPLIT_OF_FOLDER = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Split by the name of a folder, in upper or lower case."""


def split_in_name(name: str) -> str | None:
    """The split that a folder's name contains as a word, as in `seg_train` or `TestImages`; None if none or several."""
    words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    splits = {SPLIT_OF_FOLDER[word] for word in words if word in SPLIT_OF_FOLDER}
    return splits.pop() if len(splits) == 1 else None


def split_folders(path: Path) -> list[str]:
    """Names of the subfolders of a folder that mean a split, sorted."""
    return sorted(name for name in os.listdir(path) if name.lower() in SPLIT_OF_FOLDER and (path / name).is_dir())


def splits_by_name(names: Iterable[str], path: Path) -> dict[str, str]:
    """The split that each name means; `test` without `val` becomes `val`.

    Args:
        names: keys of `SPLIT_OF_FOLDER`, in upper or lower case; the empty name is a part outside of splits.
        path: the source, for messages.

    Raises:
        RequestError: two names mean the same split, or none means the training split.
    """
    name_of: dict[str, str] = {}
    for name in sorted(names):
        split = SPLIT_OF_FOLDER[name.lower()] if name else "train"
        if split in name_of:
            raise RequestError(
                f"{path} has both {name_of[split] or 'parts outside of splits'} and {name} for its {split} split; keep "
                "one of them"
            )
        name_of[split] = name
    if "train" not in name_of:
        raise RequestError(f"{path} has {next(iter(name_of.values()))} and no train; name a source that has both")
    if "test" in name_of and "val" not in name_of:
        name_of["val"] = name_of.pop("test")
    return {name: split for split, name in name_of.items()}
