"""A CSV or TSV file of paths and classes, in the folder of the images that it lists."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from alexnet.data.sources.file_ranges import read_regular_file, size_and_time
from alexnet.data.sources.listing import Content, Listing, ListingBuilder, Location, Source, build_source
from alexnet.data.sources.split_names import SPLIT_OF_FOLDER
from alexnet.errors import RequestError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""By the suffix of the file, in upper or lower case."""
COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class", "category"),
    "split": ("split", "set", "subset"),
}
"""The names a column may have, in upper or lower case; without a split column everything is training."""


def looks_like_csv(path: Path) -> bool:
    """Whether a path is a CSV or TSV file, by its name."""
    return path.suffix.lower() in DELIMITERS and path.is_file()


def open_csv(path: Path) -> Source:
    """List the images of a CSV or TSV file; paths are relative to its folder.

    An image outside that folder (by `..`, an absolute path or a link) counts as unreadable.

    Args:
        path: UTF-8 text with a line of column names, for the path, the label and optionally the split; separated by
            commas (`.csv`) or tabs (`.tsv`).

    Raises:
        RequestError: it is damaged, a column is missing or occurs twice, a line has too few or too many fields or an
            unknown split, or a split has an image twice.
        OSError: it cannot be read.
    """
    builders = {"train": ListingBuilder()}
    folder = path.parent
    try:
        for line, name, class_id, split in _rows(path):
            builder = builders.setdefault(split, ListingBuilder())
            builder.add(name, class_id, (line, *size_and_time(os.path.join(folder, name)), 0))
    except csv.Error as error:
        raise RequestError(f"{path} is damaged: {error}; quote fields as CSV does") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    root = os.path.realpath(folder)

    def read(key: str, location: Location) -> Content:
        try:
            file = os.path.realpath(os.path.join(root, key), strict=True)
        except ValueError as error:
            raise OSError(f"no path of a file ({error})") from error
        if not file.startswith(os.path.join(root, "")):
            raise OSError(f"leads out of the folder of {path.name}")
        return read_regular_file(file)

    source = build_source("csv", path.stem, str(path), builders, read)
    for split, listing in source.splits.items():
        _require_unique(path, split, listing)
    return source


def _rows(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Line number, path of the image, class and split of each line; skips empty lines."""
    delimiter = DELIMITERS.get(path.suffix.lower(), ",")
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        header = next(lines, [])
        columns = _columns(path, header)
        for fields in lines:
            if not fields:
                continue
            line = lines.line_num
            if len(fields) > len(header):
                raise RequestError(
                    f"line {line} of {path} has {len(fields)} fields and the first line {len(header)}; quote fields "
                    "that contain the separator"
                )
            found = {role: fields[column] if column < len(fields) else "" for role, column in columns.items()}
            for role, text in found.items():
                if not text.strip():
                    raise RequestError(
                        f"line {line} of {path} has no {header[columns[role]]}; fill it in or remove the line"
                    )
            split = found.get("split", "train").strip()
            if split.lower() not in SPLIT_OF_FOLDER:
                allowed = ", ".join(SPLIT_OF_FOLDER)
                raise RequestError(f"line {line} of {path} has the split {split!r}; allowed are {allowed}")
            # `./a//b.jpg` is the image `a/b.jpg`.
            name = str(PurePosixPath(found["path"]))
            yield line, name, found["label"].strip(), SPLIT_OF_FOLDER[split.lower()]


def _columns(path: Path, header: list[str]) -> dict[str, int]:
    """Number of the column by its role."""
    names = [name.strip().lower() for name in header]
    columns: dict[str, int] = {}
    for role, allowed in COLUMNS.items():
        numbers = [number for number, name in enumerate(names) if name in allowed]
        found = ", ".join(repr(name) for name in header) or "none"
        if len(numbers) > 1:
            raise RequestError(
                f"{path} has {len(numbers)} columns for the {role} ({found}); keep one of {', '.join(allowed)}"
            )
        if numbers:
            columns[role] = numbers[0]
        elif role != "split":
            raise RequestError(
                f"the first line of {path} has no column for the {role}: its columns are {found}; allowed is one of "
                f"{', '.join(allowed)}"
            )
    return columns


def _require_unique(path: Path, split: str, listing: Listing) -> None:
    """Refuse a split that has an image twice; its keys are sorted."""
    before = b""
    for index in range(len(listing)):
        key = listing.keys.encoded(index)
        if index and key == before:
            first, second = sorted(listing.locations[index - 1 : index + 1, 0].tolist())
            raise RequestError(
                f"lines {first} and {second} of {path} both have {listing.keys[index]} in the split {split}; remove one"
            )
        before = key
