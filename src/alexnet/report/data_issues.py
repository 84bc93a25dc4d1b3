"""What a preparation wrote down of refused files and of pictures stored twice, brought into a few lines.

Both files may have millions of lines: they are read once, and only examples are kept.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet.data.dataset import DUPLICATES_FILE, REFUSED_FILE
from alexnet.errors import RequestError

NUM_EXAMPLES = 5
"""Of files refused for one reason."""
NUM_GROUPS = 12
"""Of pictures stored more than once."""
NUM_PLACES = 6
"""Of one such picture."""
DIFFERENT = "…"
"""Stands for what differs between reasons of one kind."""

# What makes one reason two: quoted text, paths, numbers.
_PARTICULAR = re.compile(r"""b?'[^']*'|b?"[^"]*"|(?<![\w/])/[^\s,;:]+|\d[\d,]*(?:\.\d+)?""")


@dataclass
class _Reason:
    """Files refused for reasons that differ only in what is particular to each."""

    between: list[str]
    """The text around the particulars, one piece more than these."""
    particulars: list[str]
    """Of the first file; `DIFFERENT` where another file has another."""
    num_images: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, particulars: list[str], path: str) -> None:
        """Count one more file."""
        pairs = zip(self.particulars, particulars, strict=True)
        self.particulars = [mine if mine == other else DIFFERENT for mine, other in pairs]
        self.num_images += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append(path)

    def facts(self) -> dict[str, Any]:
        """The reason with what its files have in common."""
        text = "".join(one + other for one, other in zip(self.between, [*self.particulars, ""], strict=True))
        return {"reason": text, "images": self.num_images, "examples": self.examples}


def summarize_refused(folder: Path) -> dict[str, Any]:
    """The refused files of the data set in `folder` by reason, the most frequent first.

    Returns:
        `images`: how many; `reasons`: for each kind its `reason`, `images` and the paths of up to five, `examples`.

    Raises:
        RequestError: the list is missing or damaged.
    """
    reasons: dict[tuple[str, ...], _Reason] = {}
    for line in _lines(folder, REFUSED_FILE, ("reason", "path")):
        between = _PARTICULAR.split(line["reason"])
        particulars = _PARTICULAR.findall(line["reason"])
        reasons.setdefault(tuple(between), _Reason(between, particulars)).add(particulars, line["path"])
    # Sorting keeps the order of the files among equals.
    found = sorted(reasons.values(), key=lambda one: -one.num_images)
    return {"images": sum(one.num_images for one in found), "reasons": [one.facts() for one in found]}


def summarize_duplicates(folder: Path, counts: Mapping[str, int]) -> dict[str, Any]:
    """Pictures stored more than once in the data set in `folder`: leaks first, then those of more than one class.

    Args:
        counts: what `dataset.json` says of them.

    Returns:
        `counts`, and `groups`: up to twelve, each with `leak`, `other_label`, the number of its `places` and up to six
        of them, `images`, with `split`, `path` and `class` (its id).

    Raises:
        RequestError: the list is missing or damaged.
    """
    groups: dict[tuple[bool, bool], list[dict[str, Any]]] = {}
    for line in _lines(folder, DUPLICATES_FILE, ("leak", "other_label", "images")):
        of_kind = groups.setdefault((not line["leak"], not line["other_label"]), [])
        if len(of_kind) < NUM_GROUPS:
            of_kind.append(
                {
                    "leak": line["leak"],
                    "other_label": line["other_label"],
                    "places": len(line["images"]),
                    "images": _telling(line["images"]),
                }
            )
    ordered = [group for kind in sorted(groups) for group in groups[kind]]
    return {**counts, "groups": ordered[:NUM_GROUPS]}


def _telling(images: list[dict[str, str]]) -> list[dict[str, str]]:
    """A few places of one picture, first one of every split and class among them: they say what is wrong."""
    seen: set[tuple[str, str]] = set()
    first: list[dict[str, str]] = []
    others: list[dict[str, str]] = []
    for image in images:
        kind = (image["split"], image["class"])
        (others if kind in seen else first).append(image)
        seen.add(kind)
    return [*first, *others][:NUM_PLACES]


def _lines(folder: Path, name: str, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, a line each."""
    try:
        with (folder / name).open(encoding="utf-8") as file:
            for line in file:
                content = json.loads(line)
                if not all(key in content for key in needed):
                    raise ValueError(f"a line without {' or '.join(needed)}")
                yield content
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(
            f"{folder} is damaged ({name}: {error}); remove it and prepare it again: alexnet prepare SOURCE {folder}"
        ) from error
