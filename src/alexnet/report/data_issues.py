"""Summarize the refused and skipped files and the duplicate images that a preparation recorded.

Their files may have millions of lines: they are read once, and only examples are kept.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

from msgspec import Meta

from alexnet.data.dataset import DUPLICATES_FILE, REFUSED_FILE, SKIPPED_FILE
from alexnet.storage.typed_files import read_json_lines

NUM_EXAMPLES = 5
"""Of the files refused for one reason."""
NUM_GROUPS = 12
"""Of images stored more than once."""
NUM_COPIES = 6
"""Of one such image."""
DIFFERENT = "…"
"""Replaces what differs between reasons of one kind."""

# What differs between reasons of one kind: quoted text, paths, numbers.
_VARIABLE = re.compile(r"""b?'[^']*'|b?"[^"]*"|(?<![\w/])/[^\s,;:]+|\d[\d,]*(?:\.\d+)?""")

T = TypeVar("T")


class _Unused(TypedDict):
    path: str
    reason: str


_Copy = TypedDict("_Copy", {"split": str, "path": str, "class": str | None})


class _Copies(TypedDict):
    leak: bool
    other_label: bool
    images: Annotated[list[_Copy], Meta(min_length=2)]


@dataclass
class _Reason:
    """Files refused for reasons that differ only in quoted text, paths and numbers."""

    between: list[str]
    """The text around the variable parts, one more than these."""
    variables: list[str]
    """The variable parts of the first file's reason; `DIFFERENT` where another file's differs."""
    num_images: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, variables: list[str], path: str) -> None:
        """Count one more file."""
        pairs = zip(self.variables, variables, strict=True)
        self.variables = [mine if mine == other else DIFFERENT for mine, other in pairs]
        self.num_images += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append(path)

    def to_dict(self) -> dict[str, Any]:
        """The reason, with the parts that all its files share."""
        text = "".join(one + other for one, other in zip(self.between, [*self.variables, ""], strict=True))
        return {"reason": text, "images": self.num_images, "examples": self.examples}


def summarize_refused(folder: Path) -> dict[str, Any]:
    """The refused files of the data set in `folder` by reason, most frequent first.

    Returns:
        `images`: their number; `reasons`: for each kind `reason`, `images` and up to five paths, `examples`.

    Raises:
        DamagedFile: the list is missing or damaged.
    """
    return _summarize_reasons(folder, REFUSED_FILE)


def summarize_skipped(folder: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """What else the source of the data set in `folder` contained, by reason, most frequent first.

    Args:
        description: the content of `dataset.json`; a data set that has no count of these files has no list of them.

    Returns:
        `files`: their number; `reasons`: for each kind `reason`, `images` (their number) and up to five paths,
        `examples`.

    Raises:
        DamagedFile: the list is missing or damaged.
    """
    found = _summarize_reasons(folder, SKIPPED_FILE) if "num_skipped" in description else {"images": 0, "reasons": []}
    return {"files": found["images"], "reasons": found["reasons"]}


def _summarize_reasons(folder: Path, name: str) -> dict[str, Any]:
    reasons: dict[tuple[str, ...], _Reason] = {}
    for line in _lines(folder, name, _Unused):
        between = _VARIABLE.split(line["reason"])
        variables = _VARIABLE.findall(line["reason"])
        reasons.setdefault(tuple(between), _Reason(between, variables)).add(variables, line["path"])
    # The sort is stable: equally frequent reasons stay in the order of the files.
    found = sorted(reasons.values(), key=lambda one: -one.num_images)
    return {"images": sum(one.num_images for one in found), "reasons": [one.to_dict() for one in found]}


def summarize_duplicates(folder: Path, counts: Mapping[str, int]) -> dict[str, Any]:
    """Images stored more than once in the data set in `folder`: leaks first, then those with more than one class.

    Args:
        counts: their counts in `dataset.json`.

    Returns:
        `counts`, and `groups`: up to twelve, each with `leak`, `other_label`, `copies` (their number) and up to six of
        them as `images`, with `split`, `path` and `class` (its id).

    Raises:
        DamagedFile: the list is missing or damaged.
    """
    groups: dict[tuple[bool, bool], list[dict[str, Any]]] = {}
    for line in _lines(folder, DUPLICATES_FILE, _Copies):
        of_kind = groups.setdefault((not line["leak"], not line["other_label"]), [])
        if len(of_kind) < NUM_GROUPS:
            of_kind.append(
                {
                    "leak": line["leak"],
                    "other_label": line["other_label"],
                    "copies": len(line["images"]),
                    "images": _representative(line["images"]),
                }
            )
    ordered = [group for kind in sorted(groups) for group in groups[kind]]
    return {**counts, "groups": ordered[:NUM_GROUPS]}


def _representative(images: list[_Copy]) -> list[_Copy]:
    """A few copies of one image, first one of each split and class: those show what is wrong."""
    seen: set[tuple[str, str | None]] = set()
    first: list[_Copy] = []
    others: list[_Copy] = []
    for image in images:
        kind = (image["split"], image["class"])
        (others if kind in seen else first).append(image)
        seen.add(kind)
    return [*first, *others][:NUM_COPIES]


def _lines(folder: Path, name: str, schema: type[T]) -> Iterator[T]:
    """The JSON objects of a file, one per line."""
    advice = f"delete {folder} and prepare it again: alexnet prepare SOURCE {folder}"
    return read_json_lines(folder / name, schema, advice)
