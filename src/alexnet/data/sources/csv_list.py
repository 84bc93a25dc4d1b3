"""A CSV or TSV file of paths and classes, in the folder of the images that it lists."""

import csv
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TextIO

from alexnet.data.not_images import START_BYTES, file_ending
from alexnet.data.sources.file_ranges import read_file_start, read_regular_file, size_and_time
from alexnet.data.sources.listing import Content, Listing, ListingBuilder, Location, SkippedFiles, Source, build_source
from alexnet.data.sources.split_names import SPLIT_OF_FOLDER
from alexnet.errors import RequestError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""By the suffix of the file, in upper or lower case."""
OTHER_DELIMITERS = (",", ";", "\t", "|")
"""Tried in this order where the usual one finds no columns: spreadsheets write semicolons in much of Europe."""
COLUMNS = {
    "path": (
        ("path", "paths", "file", "files", "filename", "filenames", "file_name", "filepath", "filepaths", "file_path",
         "image", "images", "img", "image_path", "img_path", "image_file", "image_name", "img_name", "imagename"),
        ("image_id", "imageid", "img_id", "id_code", "id"),
    ),
    "label": (
        ("label", "labels", "class", "classes", "category", "target", "class_name", "classname", "label_name",
         "category_name"),
        ("class_id", "classid", "label_id", "category_id", "target_id"),
    ),
    "split": (("split", "set", "subset", "data_set", "dataset", "partition"),),
}  # fmt: skip
"""The names a column may have, in upper or lower case, with `_`, `-` or a space. The second group counts only where
there is none of the first. Without a split column everything is training."""
USUAL_NAMES = {"path": "path, file_name, filename, image", "label": "label, class, category, target"}
"""For messages."""
ENDINGS = (".jpg", ".png", ".jpeg", ".JPG", ".JPEG", ".PNG", ".tif", ".tiff", ".webp", ".bmp", ".gif")
"""Tried in this order for paths without an ending, such as the ids of images."""
MAX_LINE_CHARACTERS = 2**20
"""A file that was never written, or no table, may be a single line of any length."""
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def looks_like_csv(path: Path) -> bool:
    """Whether a path is a CSV or TSV file, by its name."""
    return path.suffix.lower() in DELIMITERS and path.is_file()


def open_csv(path: Path) -> Source:
    r"""List the images of a CSV or TSV file; paths are relative to its folder.

    An image outside that folder (by `..`, an absolute path or a link) counts as unreadable. If there is no such file,
    `a\b.jpg` means `a/b.jpg`, and a name without an ending the file that has one.

    Args:
        path: UTF-8 or UTF-16 text with a line of column names, for the path, the label and optionally the split;
            separated by commas, semicolons, tabs or bars.

    Raises:
        RequestError: it is damaged, a column is missing or occurs twice, a line has too few or too many fields or an
            unknown split, a split has an image twice, or none of the files exists.
        OSError: it cannot be read.
    """
    folder = path.parent
    root = os.path.realpath(folder)

    def real_path(key: str) -> str:
        if WINDOWS_DRIVE.match(key):
            raise OSError(f"a path of another computer; write it relative to the folder of {path.name}")
        try:
            file = os.path.realpath(os.path.join(root, key), strict=True)
        except ValueError as error:
            raise OSError(f"no path of a file ({error})") from error
        if not file.startswith(os.path.join(root, "")):
            raise OSError(f"leads out of the folder of {path.name}")
        return file

    def read(key: str, location: Location) -> Content:
        return read_regular_file(real_path(key))

    def read_start(key: str, location: Location) -> bytes:
        return read_file_start(real_path(key), START_BYTES)

    skipped = SkippedFiles()
    builders = {"train": ListingBuilder(skipped, read_start)}
    files = _ListedFiles(folder)
    try:
        for line, listed, class_id, split in _rows(path):
            builder = builders.setdefault(split, ListingBuilder(skipped, read_start))
            name, size_bytes, time_ns = files.find(listed)
            builder.add(name, class_id, (line, size_bytes, time_ns, 0))
    except csv.Error as error:
        raise RequestError(f"{path} is not a table, or a damaged one ({error}); quote fields as CSV does") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    if files.first_missing is not None and not files.num_found:
        raise RequestError(
            f"none of the files that {path} lists exists, such as {files.first_missing!r}; write their paths relative "
            f"to {folder}"
        )
    source = build_source("csv", path.stem, str(path), builders, read, skipped=skipped)
    for split, listing in source.splits.items():
        _require_unique(path, split, listing)
    return source


class _ListedFiles:
    """Finds the files that a table lists.

    Attributes:
        num_found: files that exist.
        first_missing: the first path without a file.

    Args:
        folder: that the paths are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ending = ENDINGS[0]
        self.num_found = 0
        self.first_missing: str | None = None

    def find(self, listed: str) -> tuple[str, int, int]:
        """Name of the file of a listed path, its size and its time; zeros if there is none."""
        names = [str(PurePosixPath(listed))]  # `./a//b.jpg` is the image `a/b.jpg`
        if "\\" in listed:
            names.append(str(PurePosixPath(listed.replace("\\", "/"))))
        # Mostly all files of a table have the same ending.
        endings = [""] if file_ending(listed) else ["", self._ending, *ENDINGS]
        for ending in endings:
            for name in names:
                size_bytes, time_ns = size_and_time(os.path.join(self._folder, name + ending))
                if time_ns:
                    self._ending = ending or self._ending
                    self.num_found += 1
                    return name + ending, size_bytes, time_ns
        self.first_missing = self.first_missing or listed
        return names[0], 0, 0


def _encoding(path: Path) -> str:
    """UTF-8 or UTF-16, with or without a mark of it."""
    start = read_file_start(str(path), START_BYTES)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(start) > 1 and not (any(start[::2]) and any(start[1::2])):
        return "utf-16-be" if any(start[1::2]) else "utf-16-le"
    return "utf-8-sig"


def _bounded_lines(file: TextIO) -> Iterator[str]:
    """The lines of a table; csv.Error if one is longer than that of any table."""
    while line := file.readline(MAX_LINE_CHARACTERS):
        if len(line) == MAX_LINE_CHARACTERS and not line.endswith("\n"):
            raise csv.Error(f"a line has more than {MAX_LINE_CHARACTERS:,} characters")
        yield line


@dataclass(frozen=True)
class _Format:
    """How a table is written."""

    encoding: str
    delimiter: str
    num_lines_before: int
    """Lines before that of the column names."""
    header: list[str]
    columns: dict[str, int]
    """Number of the column by its role."""

    def lines(self, file: TextIO) -> Iterator[tuple[int, list[str]]]:
        """Number and fields of each line after the column names; skips empty lines."""
        lines = csv.reader(_bounded_lines(file), delimiter=self.delimiter, skipinitialspace=True, strict=True)
        for number, fields in enumerate(lines):
            if number > self.num_lines_before and fields:
                yield lines.line_num, fields


def _format(path: Path) -> _Format:
    """The format in which the first line has columns for path and label; the usual separator is tried first."""
    encoding = _encoding(path)
    usual, num_before = DELIMITERS.get(path.suffix.lower(), ","), 0
    with path.open(encoding=encoding, newline="") as file:
        if named := re.fullmatch(r"sep=(.)\r?\n?", file.readline(16)):  # written by Excel, before the names
            usual, num_before = named[1], 1
    errors: list[RequestError | csv.Error] = []
    for delimiter in dict.fromkeys((usual, *OTHER_DELIMITERS)):
        with path.open(encoding=encoding, newline="") as file:
            lines = csv.reader(_bounded_lines(file), delimiter=delimiter, skipinitialspace=True, strict=True)
            try:
                header = next(itertools.islice(lines, num_before, None), [])
                return _Format(encoding, delimiter, num_before, header, _columns(path, header))
            except (RequestError, csv.Error) as error:  # names in quotes are malformed with another separator
                errors.append(error)
    raise errors[0]


def _rows(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Line number, path of the image, class and split of each line."""
    table = _format(path)
    with path.open(encoding=table.encoding, newline="") as file:
        for line, fields in table.lines(file):
            if len(fields) > len(table.header):
                raise RequestError(
                    f"line {line} of {path} has {len(fields)} fields and the first line {len(table.header)}; quote "
                    "fields that contain the separator"
                )
            found = {role: fields[column] if column < len(fields) else "" for role, column in table.columns.items()}
            for role, text in found.items():
                if not text.strip():
                    name = table.header[table.columns[role]]
                    raise RequestError(f"line {line} of {path} has no {name}; fill it in or remove the line")
            split = found.get("split", "train").strip()
            if split.lower() not in SPLIT_OF_FOLDER:
                allowed = ", ".join(SPLIT_OF_FOLDER)
                raise RequestError(f"line {line} of {path} has the split {split!r}; allowed are {allowed}")
            yield line, found["path"], found["label"].strip(), SPLIT_OF_FOLDER[split.lower()]


def _columns(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Number of the column by its role."""
    names = [re.sub("[ -]", "_", name.strip().lower()) for name in header]
    columns: dict[str, int] = {}
    found = ", ".join(repr(name) for name in header) or "none"
    for role, groups in COLUMNS.items():
        numbers: list[int] = []
        for allowed in groups:
            numbers = numbers or [number for number, name in enumerate(names) if name in allowed]
        if len(numbers) > 1:
            raise RequestError(
                f"{path} has {len(numbers)} columns for the {role} ({found}); keep one of them, or rename the others"
            )
        if numbers:
            columns[role] = numbers[0]
        elif role != "split":
            raise RequestError(
                f"the first line of {path} has no column for the {role}: its columns are {found}; name one such as "
                f"{USUAL_NAMES[role]}, and separate columns by commas, semicolons or tabs"
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
