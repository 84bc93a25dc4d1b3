"""One folder per class, under `train/` and `val/` or not: on a disk, in a tar or in a zip."""

import json
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alexnet.data.not_images import START_BYTES, not_an_image
from alexnet.data.sources.file_ranges import raise_error, read_file_start, read_regular_file, size_and_time
from alexnet.data.sources.listing import (
    Content,
    ListingBuilder,
    Location,
    ReadImage,
    ReadStart,
    SkippedFiles,
    Source,
    build_source,
)
from alexnet.data.sources.split_names import SPLIT_OF_FOLDER, splits_by_name
from alexnet.data.sources.tar_archive import SAME_NAME, member_location, read_member, read_member_start, tar_members
from alexnet.data.sources.zip_archive import read_zip_member, zip_members
from alexnet.errors import RequestError

SOURCE_FILE = "SOURCE.json"
"""Optional description next to the images: `title`, `generated`, `side`."""
MAX_DEPTH = 8
EXPECTED = "expected is one folder per class, with or without train/ and val/ above them"


class _Files:
    """Names and locations of files, and names of folders, relative to the top folder.

    An archive can have two files of the same name; the last one counts, as in unpacking.

    Attributes:
        skipped: what is neither.
    """

    def __init__(self) -> None:
        self.folders: set[str] = set()
        self.skipped = SkippedFiles()
        self._number_of: dict[str, int] = {}
        self._locations = array("q")

    def __len__(self) -> int:
        return len(self._number_of)

    def add(self, name: str, location: Location) -> None:
        number = self._number_of.setdefault(name, len(self._number_of))
        if 4 * number < len(self._locations):
            self.skipped.add(name, SAME_NAME)
        self._locations[4 * number : 4 * number + 4] = array("q", location)

    def add_members(self, members: Iterable[tuple[str, Location | None]]) -> None:
        """Add the members of an archive by their names and locations; a folder has no location."""
        for name, location in members:
            if self.skipped.add_if_kept_by_a_system(f"{name}/" if location is None else name):
                continue
            parts = name.split("/")
            self.folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
            if location is None:
                self.folders.add(name)
            else:
                self.add(name, location)

    def __iter__(self) -> Iterator[tuple[str, Location]]:
        for name, index in self._number_of.items():
            first, second, third, fourth = self._locations[4 * index : 4 * index + 4]
            yield name, (first, second, third, fourth)


def open_folder(path: Path) -> Source:
    """List a folder; follows links.

    Raises:
        RequestError: the classes are invalid, or a link leads to a folder above it.
        OSError: a folder cannot be read.
    """
    files = _Files()
    for root, folder_names, file_names in os.walk(path, followlinks=True, onerror=raise_error):
        # Joins names as text: a path object per file takes longer than finding the file.
        relative_root = Path(root).relative_to(path)
        above = "".join(f"{name}/" for name in relative_root.parts)
        if len(relative_root.parts) > MAX_DEPTH:
            raise RequestError(
                f"{root} is more than {MAX_DEPTH} folders deep, or a link leads back to a folder above it; {EXPECTED}"
            )
        # Each name is checked alone, since those above it were checked before.
        for name in sorted(folder_names):
            if reason := not_an_image(name):
                files.skipped.add(f"{above}{name}/", reason)
                folder_names.remove(name)
        files.folders.update(above + name for name in folder_names)
        for name in file_names:
            if reason := not_an_image(name):
                files.skipped.add(above + name, reason)
            else:
                files.add(above + name, (0, *size_and_time(os.path.join(root, name)), 0))
        folder_names.sort()

    def read(key: str, location: Location) -> Content:
        return read_regular_file(os.path.join(path, key))

    def read_start(key: str, location: Location) -> bytes:
        return read_file_start(os.path.join(path, key), START_BYTES)

    return _build_source("folder", path, path.resolve().name, files, read, read_start)


def open_tar(path: Path) -> Source:
    """List a tar of class folders.

    Raises:
        RequestError: it is compressed or damaged, or the classes are invalid.
    """
    files = _Files()
    members = tar_members(path, skipped=files.skipped)
    files.add_members((one.name, None if one.is_folder else member_location(0, one)) for one in members)

    def read(key: str, location: Location) -> Content:
        return read_member([path], location)

    def read_start(key: str, location: Location) -> bytes:
        return read_member_start([path], location, START_BYTES)

    return _build_source("tar", path, path.stem, files, read, read_start)


def open_zip(path: Path) -> Source:
    """List a zip of class folders.

    Raises:
        RequestError: it is damaged or encrypted, or the classes are invalid.
    """
    files = _Files()
    files.add_members(zip_members(path, files.skipped))

    def read(key: str, location: Location) -> bytes:
        return read_zip_member(path, location)

    return _build_source("zip", path, path.stem, files, read, read)


def parse_description(content: Content) -> dict[str, Any]:
    """The content of a SOURCE.json; empty if it has another format."""
    try:
        described = json.loads(content) if isinstance(content, bytes) else {}
    except ValueError:
        return {}
    return described if isinstance(described, dict) else {}


def _build_source(kind: str, path: Path, name: str, files: _Files, read: ReadImage, read_start: ReadStart) -> Source:
    """Find the splits, classes and images among files and folders."""
    if not len(files):
        raise RequestError(f"{path} has no files; {EXPECTED}")
    base = _only_folder(files.folders)
    tops = {folder.removeprefix(base) for folder in files.folders if folder.startswith(base)}
    words = {top for top in tops if top.lower() in SPLIT_OF_FOLDER} or {""}
    split_of = {f"{word}/" if word else "": split for word, split in splits_by_name(words, path).items()}

    def read_start_from_base(key: str, location: Location) -> bytes:
        return read_start(base + key, location)

    builders = {split: ListingBuilder(files.skipped, read_start_from_base) for split in split_of.values()}
    described: dict[str, Any] = {}
    for full_name, location in files:
        if not full_name.startswith(base):
            continue
        relative = full_name.removeprefix(base)
        if relative == SOURCE_FILE:
            described = parse_description(read(full_name, location))
        for prefix, split in split_of.items():
            class_id, separator, _ = relative.removeprefix(prefix).partition("/")
            # Files outside of class folders are skipped.
            if relative.startswith(prefix) and separator:
                builders[split].add(relative, class_id, location)
    for prefix, split in split_of.items():
        _require_files(prefix, tops, builders[split], path)
    if not len(builders["train"]):
        raise RequestError(f"{path} has files but no class folder with files; {EXPECTED}")
    side = described.get("side")

    def read_from_base(key: str, location: Location) -> Content:
        return read(base + key, location)

    return build_source(
        kind,
        str(described.get("title", name)),
        str(path),
        builders,
        read_from_base,
        generated=bool(described.get("generated", False)),
        side=side if isinstance(side, int) else None,
        skipped=files.skipped,
    )


def _only_folder(folders: set[str]) -> str:
    """`photographs/` if that single folder contains all splits or classes; else the empty string."""
    tops = {folder for folder in folders if "/" not in folder}
    only = next(iter(tops), "")
    has_folders_below = any(folder.count("/") == 1 for folder in folders)
    return f"{only}/" if len(tops) == 1 and only.lower() not in SPLIT_OF_FOLDER and has_folders_below else ""


def _require_files(prefix: str, folders: set[str], builder: ListingBuilder, path: Path) -> None:
    """Refuse a class folder without files."""
    class_ids = {
        folder.removeprefix(prefix)
        for folder in folders
        if folder.startswith(prefix) and folder != prefix and "/" not in folder.removeprefix(prefix)
    }
    if empty := sorted(class_ids - set(builder.class_ids)):
        raise RequestError(
            f"the class folder {prefix}{empty[0]} of {path} has no images; add some or remove the folder"
        )
