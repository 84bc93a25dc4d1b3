"""One folder per class, under `train/` and `val/` or not: on a disk, in a tar or in a zip."""

import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, TypedDict

from msgspec import Meta

from alexnet.data.dataset import UNLABELED
from alexnet.data.dataset_files import MAX_SIDE_PX, MIN_SIDE_PX
from alexnet.data.not_images import START_BYTES, may_be_image, not_an_image
from alexnet.data.sources.file_ranges import raise_error, read_file_start, read_regular_file, size_and_time
from alexnet.data.sources.folder_layout import EXPECTED, Folder, build_tree, find_layout, list_names
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
from alexnet.data.sources.tar_archive import SAME_NAME, member_location, read_member, read_member_start, tar_members
from alexnet.data.sources.zip_archive import read_zip_member, read_zip_member_start, zip_members
from alexnet.errors import RequestError
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.typed_files import DamagedFile, damaged, parse_json

SOURCE_FILE = "SOURCE.json"
"""Optional description next to the images: `title`, `generated`, `side`."""
NO_CONTROLS = r"\A[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*\Z"
"""Text without control characters and surrogates."""
MAX_DEPTH = 8
"""Folders below SOURCE; a link that leads back to a folder above it has no end."""
MAX_MEMBER_DEPTH = 64
"""Parts of a name in an archive: each is a folder, and a name may have a million of them."""

_logger = logging.getLogger(__name__)


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
            if len(parts) > MAX_MEMBER_DEPTH:
                self.skipped.add(name, f"in more than {MAX_MEMBER_DEPTH - 1} folders")
                continue
            self.folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
            if location is None:
                self.folders.add(name)
            else:
                self.add(name, location)

    def tree(self) -> Folder:
        """The tree of the folders."""
        with_files: set[str] = set()
        with_images: set[str] = set()
        for path in self._number_of:
            folder, _, name = path.rpartition("/")
            if folder not in with_images:  # of most folders only the first file is looked at
                with_files.add(folder)
                if may_be_image(name):
                    with_images.add(folder)
        return build_tree(self.folders, with_files, with_images)

    def __iter__(self) -> Iterator[tuple[str, Location]]:
        for name, index in self._number_of.items():
            first, second, third, fourth = self._locations[4 * index : 4 * index + 4]
            yield name, (first, second, third, fourth)


def open_folder(path: Path, split_folders: Mapping[str, str] | None = None) -> Source:
    """List a folder; follows links.

    Args:
        split_folders: see `find_layout`.

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

    return _build_source("folder", path, path.resolve().name, files, read, read_start, split_folders)


def open_tar(path: Path, split_folders: Mapping[str, str] | None = None) -> Source:
    """List a tar of class folders.

    Args:
        split_folders: see `find_layout`.

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

    return _build_source("tar", path, path.stem, files, read, read_start, split_folders)


def open_zip(path: Path, split_folders: Mapping[str, str] | None = None) -> Source:
    """List a zip of class folders.

    Args:
        split_folders: see `find_layout`.

    Raises:
        RequestError: it is damaged or encrypted, or the classes are invalid.
    """
    files = _Files()
    files.add_members(zip_members(path, files.skipped))

    def read(key: str, location: Location) -> Content:
        return read_zip_member(path, location)

    def read_start(key: str, location: Location) -> bytes:
        return read_zip_member_start(path, location, START_BYTES)

    return _build_source("zip", path, path.stem, files, read, read_start, split_folders)


class SourceDescription(TypedDict, total=False):
    """The content of a SOURCE.json."""

    title: Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_CONTROLS)]
    generated: bool
    side: Annotated[int, Meta(ge=MIN_SIDE_PX, le=MAX_SIDE_PX)]


def parse_description(content: bytes, path: Path) -> SourceDescription:
    """The content of a SOURCE.json; other keys are kept.

    Args:
        content: of the file, or its first `START_BYTES`.
        path: of the file, for the message.

    Raises:
        RequestError: it is something else.
    """
    advice = (
        "fix or remove it; allowed are a title (1 to 200 characters, no control characters), generated (true or false) "
        f"and side ({MIN_SIDE_PX} to {MAX_SIDE_PX} pixels)"
    )
    try:
        if len(content) >= START_BYTES:
            raise damaged(path, f"it has {START_BYTES:,} bytes or more", advice)
        return parse_json(content, SourceDescription, path, advice)
    except DamagedFile as error:
        raise RequestError(str(error)) from error


def _read_description(
    path: Path, name: str, location: Location, read: ReadImage, read_start: ReadStart
) -> SourceDescription:
    """The SOURCE.json `name` of the source `path`; RequestError if it cannot be read or is something else."""
    try:
        start = read_start(name, location)
        content = read(name, location) if len(start) < START_BYTES else start  # which verifies it in a zip
    except OSError as error:
        raise_unless_damage(error, path / name)
        raise RequestError(f"{path / name} cannot be read ({error}); fix or remove it") from error
    assert isinstance(content, bytes)
    return parse_description(content, path / name)


def _build_source(
    kind: str,
    path: Path,
    name: str,
    files: _Files,
    read: ReadImage,
    read_start: ReadStart,
    split_folders: Mapping[str, str] | None,
) -> Source:
    """Find the splits, classes and images among files and folders."""
    if not len(files):
        raise RequestError(f"{path} has no files; {EXPECTED}")
    layout = find_layout(files.tree(), path, split_folders)
    base = layout.base
    if layout.warning:
        _logger.warning(f"{path}: {layout.warning}")

    def read_from_base(key: str, location: Location) -> Content:
        return read(base + key, location)

    def read_start_from_base(key: str, location: Location) -> bytes:
        return read_start(base + key, location)

    builders = {
        split: ListingBuilder(files.skipped, read_start_from_base, base)
        for split in (*layout.split_of.values(), UNLABELED)
    }
    num_unlabeled: Counter[str] = Counter()  # by folder
    description: SourceDescription = {}
    places: dict[str, tuple[str, str | None] | None] = {}
    for full_name, location in files:
        if full_name == base + SOURCE_FILE:
            description = _read_description(path, full_name, location, read, read_start)
            continue
        folder = full_name.rpartition("/")[0]
        if folder not in places:
            places[folder] = layout.place(folder)
        place = places[folder]
        if place is None:
            files.skipped.add(full_name, "outside of the folders that --split names")
        elif not full_name.startswith(base):
            files.skipped.add(full_name, "outside of the class folders and not named like an image")
        else:
            split, class_id = place
            is_image = builders[split].add(full_name.removeprefix(base), class_id, location)
            if is_image and class_id is None:
                num_unlabeled[folder] += 1
    if not len(builders["train"]):
        raise RequestError(f"{path} has files but no class folder with images; {EXPECTED}")
    classes = {place[1] for folder in files.folders if (place := layout.place(folder)) and place[0] == "train"}
    if without := {class_id for class_id in classes if class_id is not None} - set(builders["train"].class_ids):
        what = "has no images and is no class" if len(without) == 1 else "have no images and are no classes"
        _logger.warning(f"{path}: {list_names(without)} {what}")
    if num := num_unlabeled.total():
        where = ", ".join(
            f"{count:,} in {folder or 'the top folder'}" for folder, count in num_unlabeled.most_common(3)
        )
        _logger.warning(
            f"{path}: {num:,} image{'' if num == 1 else 's'} in no class folder ({where}); stored as the split "
            f"{UNLABELED!r}, which predict and features can use"
        )
    return build_source(
        kind,
        description.get("title", name),
        str(path),
        builders,
        read_from_base,
        generated=description.get("generated", False),
        side=description.get("side"),
        skipped=files.skipped,
    )
