"""WebDataset shards: tars in which an image and its label share a key, as `00017.jpg` and `00017.cls`.

The key is the path up to the first dot of the file's name; where an image and a label agree up to the last dot, as
`2023.05.04.jpg` and `2023.05.04.cls` do, up to that one. Labels are read while listing. Members that are neither image
nor label are skipped by name.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from alexnet.data.not_images import OTHER_IMAGE_ENDINGS, READ_ENDINGS, START_BYTES, file_ending, not_an_image
from alexnet.data.sources.file_ranges import read_open_range
from alexnet.data.sources.listing import Content, ListingBuilder, Location, SkippedFiles, Source, build_source
from alexnet.data.sources.split_names import SPLIT_OF_FOLDER, split_folders, splits_by_name
from alexnet.data.sources.tar_archive import (
    SAME_NAME,
    TarMember,
    member_location,
    read_member,
    read_member_start,
    tar_members,
)
from alexnet.errors import RequestError
from alexnet.storage.typed_files import read_bounded

LABEL_SUFFIXES = {"cls": 2**10, "json": 2**16}
"""Suffixes of labels in order of precedence, and their maximum size in bytes."""
LABEL_KEYS = ("label", "class", "cls")
"""Keys of the label in a JSON file, in order of precedence."""
NUMBER = re.compile(r"\d{1,18}", re.ASCII)
CLASSES_FILE = "classes.txt"
MAX_CLASSES_BYTES = 2**24
NUM_MEMBERS_CHECKED = 32
LABEL_ALONE = "a label without an image"
EXPECTED = "expected are .tar files with <key>.jpg and <key>.cls in them"


@dataclass
class _Sample:
    """An image of a shard."""

    key: str
    image: TarMember
    labels: dict[str, TarMember]
    """By suffix."""


def open_webdataset(path: Path) -> Source:
    """List the images of a shard or of a folder of shards.

    Splits come from subfolders (`train/`, `val/`) or from the shards' names (`imagenet-train-000000.tar`). The label is
    in `<key>.cls`, as a number or a class name, or else in `label`, `class` or `cls` of `<key>.json`. An optional
    `classes.txt` next to the shards has one class per line, in the order of the numbers; without it the numbers are the
    class ids.

    Raises:
        RequestError: there are no shards, one is damaged, an image has no label or an invalid one, a key has several
            images, or the splits are inconsistent.
    """
    shards = _shards(path)
    if not shards:
        raise RequestError(f"{path} has no .tar file; {EXPECTED}")
    split_of = splits_by_name({word for word, _ in shards}, path)
    classes_file = (path if path.is_dir() else path.parent) / CLASSES_FILE
    class_ids = _read_classes(classes_file) if classes_file.is_file() else []
    files = [shard for _, shard in shards]

    def read(key: str, location: Location) -> Content:
        return read_member(files, location)

    def read_start(key: str, location: Location) -> bytes:
        return read_member_start(files, location, START_BYTES)

    skipped = SkippedFiles()
    _skip_other_files(path, shards, skipped)
    builders = {split: ListingBuilder(skipped, read_start) for split in split_of.values()}
    # A label is a class or its number; if class names are numbers, the label is a position in the file.
    class_of = {class_id: class_id for class_id in class_ids}
    class_of |= {str(number): class_id for number, class_id in enumerate(class_ids)}
    for number, (word, shard) in enumerate(shards):
        _list_shard(shard, number, builders[split_of[word]], class_of or None, skipped)
    if not class_ids:
        found = builders["train"].class_ids
        class_ids = sorted(found, key=int) if all(map(NUMBER.fullmatch, found)) else found
    title = path.resolve().name if path.is_dir() else path.stem
    return build_source("webdataset", title, str(path), builders, read, class_ids=class_ids, skipped=skipped)


def looks_like_webdataset(path: Path) -> bool:
    """Whether the first members of the first tar are an image and a label with the same key."""
    if path.is_dir() and _has_class_folders(path):
        return False
    shards = [path] if path.is_file() else [shard for _, shard in _shards(path)]
    if not shards or shards[0].suffix.lower() != ".tar":
        return False
    found: dict[str, set[str]] = {}
    for member in islice(tar_members(shards[0]), NUM_MEMBERS_CHECKED):
        key, _, suffix = member.name.rpartition(".")  # a key may have dots
        # Class folders may have JSON files next to the images.
        if member.is_regular and not (suffix.lower() == "json" and "/" in key):
            found.setdefault(key, set()).add(suffix.lower())
    return any(suffixes & READ_ENDINGS and suffixes & LABEL_SUFFIXES.keys() for suffixes in found.values())


def _shards(path: Path) -> list[tuple[str, Path]]:
    """Split name (may be empty) and file of each shard, sorted; those in split folders if there are any."""
    if path.is_file():
        return [("", path)]
    below = [(folder, shard) for folder in split_folders(path) for shard in _tars_in(path / folder)]
    if below:
        return sorted(below)
    shards = [(_split_word(shard.name), shard) for shard in _tars_in(path)]
    words = {word for word, _ in shards}
    if "" in words and len(words) > 1:
        unsplit = next(shard for word, shard in shards if not word)
        raise RequestError(
            f"the name of {unsplit} has no split, and those of others do; rename it (as in train-000000.tar) or "
            "remove it"
        )
    return shards


def _skip_other_files(path: Path, shards: list[tuple[str, Path]], skipped: SkippedFiles) -> None:
    """Name what a folder of shards has besides them."""
    if path.is_file():
        return
    used = {shard.relative_to(path).parts[0] for _, shard in shards} | {CLASSES_FILE}
    skipped.add_rest_of(path, used)
    for folder in sorted({shard.parent for _, shard in shards} - {path}):
        skipped.add_rest_of(folder, {shard.name for _, shard in shards if shard.parent == folder}, f"{folder.name}/")


def _tars_in(folder: Path) -> list[Path]:
    names = [name for name in os.listdir(folder) if name.lower().endswith(".tar") and not not_an_image(name)]
    return [folder / name for name in sorted(names)]


def _has_class_folders(path: Path) -> bool:
    """Whether a folder, or a split folder in it, has folders that may be classes."""
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not not_an_image(entry.name)]
    return any(name.lower() not in SPLIT_OF_FOLDER or _has_class_folders(path / name) for name in names)


def _split_word(name: str) -> str:
    """The split in a shard's name, such as `validation`; empty if there is none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((word for word in words if word in SPLIT_OF_FOLDER), "")


def _split_name(name: str) -> tuple[str, str]:
    """The key and the lowercase suffix of a member."""
    folder, separator, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}{separator}{stem}", suffix.lower()


def _read_classes(path: Path) -> list[str]:
    try:
        content = read_bounded(path, MAX_CLASSES_BYTES).decode("utf-8-sig")
    except ValueError as error:
        raise RequestError(f"{path} is not a list of classes ({error}); write one per line, in label order") from error
    class_ids = [line.strip() for line in content.rstrip().splitlines()]
    line_of: dict[str, int] = {}
    for line_number, class_id in enumerate(class_ids, start=1):
        if not class_id:
            raise RequestError(f"line {line_number} of {path} is empty; write one class per line, in label order")
        if class_id in line_of:
            raise RequestError(
                f"lines {line_of[class_id]} and {line_number} of {path} are both {class_id!r}; class names must differ"
            )
        line_of[class_id] = line_number
    return class_ids


def _list_shard(
    path: Path, number: int, builder: ListingBuilder, class_of: Mapping[str, str] | None, skipped: SkippedFiles
) -> None:
    prefix = f"{path.name}/"
    with path.open("rb", buffering=0) as file:
        for sample in _samples(path, skipped):
            origin = f"the key {sample.key} of {path}"
            class_id = _class_id(_label(file.fileno(), sample.labels, origin), class_of, origin)
            if not builder.add(prefix + sample.image.name, class_id, member_location(number, sample.image)):
                for label in sample.labels.values():
                    skipped.add(prefix + label.name, LABEL_ALONE)


def _samples(path: Path, skipped: SkippedFiles) -> Iterator[_Sample]:
    """The images of a shard with their labels; all other members go to `skipped`."""
    prefix = f"{path.name}/"
    by_key: dict[str, dict[str, TarMember]] = {}
    for member in tar_members(path, skipped=skipped, prefix=prefix):
        if member.is_folder or skipped.add_if_kept_by_a_system(prefix + member.name):
            continue
        key, suffix = _split_name(member.name)
        by_suffix = by_key.setdefault(key, {})
        if not member.is_regular and file_ending(member.name) in LABEL_SUFFIXES:
            skipped.add(prefix + member.name, "a link, which is not followed")
            continue
        if before := by_suffix.get(suffix):
            if suffix in READ_ENDINGS and before.name != member.name:
                raise _two_images(path, key, before, member)
            skipped.add(prefix + before.name, SAME_NAME)
        by_suffix[suffix] = member
    # Pictures beside an image, such as `00017.mask.png` beside `00017.jpg`, are not images where theirs is missing.
    beside = {suffix for one in by_key.values() if READ_ENDINGS & one.keys() for suffix in one if "." in suffix}
    for key, by_suffix in by_key.items():
        yield from _dotted_samples(path, key, by_suffix)
        labels = {suffix: by_suffix.pop(suffix) for suffix in LABEL_SUFFIXES if suffix in by_suffix}
        image = _image_suffix(path, key, {one: member for one, member in by_suffix.items() if "." not in one})
        if not labels and image not in READ_ENDINGS:
            image = None  # a list of classes, for example
        if image is None and labels:
            pictures = [one for one in by_suffix if file_ending(one) in READ_ENDINGS and one not in beside]
            image = pictures[0] if len(pictures) == 1 else None  # such as `00017.image.jpg`
        if image is not None:
            yield _Sample(key, by_suffix.pop(image), labels)
        else:
            for member in labels.values():
                skipped.add(prefix + member.name, LABEL_ALONE)
        for member in by_suffix.values():
            skipped.add(prefix + member.name, "not the image of its key")


def _dotted_samples(path: Path, key: str, by_suffix: dict[str, TarMember]) -> Iterator[_Sample]:
    """Takes images whose keys have dots from the members of a key, such as `2023.05.04.jpg` with `2023.05.04.cls`."""
    by_stem: dict[str, dict[str, TarMember]] = {}
    for suffix, member in by_suffix.items():
        stem, _, ending = suffix.rpartition(".")
        if stem:
            by_stem.setdefault(stem, {})[ending] = member
    for stem, by_ending in by_stem.items():
        labels = {ending: by_ending.pop(ending) for ending in LABEL_SUFFIXES if ending in by_ending}
        image = _image_suffix(path, f"{key}.{stem}", by_ending) if labels else None
        if image is not None:
            yield _Sample(f"{key}.{stem}", by_ending[image], labels)
            for ending in (image, *labels):
                del by_suffix[f"{stem}.{ending}"]


def _image_suffix(path: Path, key: str, members: Mapping[str, TarMember]) -> str | None:
    """The suffix of the image among the members of a key without its labels, by suffix; None if there is none."""
    images = [suffix for suffix in members if suffix in READ_ENDINGS]
    if len(images) > 1:
        raise _two_images(path, key, members[images[0]], members[images[1]])
    images = images or [suffix for suffix in members if suffix in OTHER_IMAGE_ENDINGS] or list(members)
    # A file without an image's name may be one; its content decides.
    return images[0] if len(images) == 1 else None


def _two_images(path: Path, key: str, first: TarMember, second: TarMember) -> RequestError:
    return RequestError(f"the key {key} of {path} has two images, {first.name} and {second.name}; remove one of them")


def _label(descriptor: int, members: dict[str, TarMember], origin: str) -> str:
    """The label of an image: a number or a class name."""
    suffix = next((suffix for suffix in LABEL_SUFFIXES if suffix in members), None)
    if suffix is None:
        raise RequestError(f"{origin} has an image and no label; put <key>.cls or <key>.json next to it")
    member = members[suffix]
    if member.size_bytes > LABEL_SUFFIXES[suffix]:
        raise RequestError(
            f"the label {member.name} of {origin} has {member.size_bytes:,} bytes; allowed are "
            f"{LABEL_SUFFIXES[suffix]:,}; shorten it"
        )
    content = read_open_range(descriptor, member.offset, member.size_bytes, member.name)
    try:
        label = _json_label(content) if suffix == "json" else content.decode().strip()
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"the label {member.name} of {origin} cannot be read: {error}; fix it, or put the label into <key>.cls"
        ) from error
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        raise RequestError(
            f"the label {member.name} of {origin} is {label!r}; allowed is a number from 0 or a class name, in JSON as "
            f"one of {', '.join(LABEL_KEYS)}"
        )
    return str(label)


def _json_label(content: bytes) -> Any:
    described = json.loads(content)
    for key in LABEL_KEYS:
        if isinstance(described, dict) and key in described:
            return described[key]
    raise ValueError(f"it has none of the keys {', '.join(LABEL_KEYS)}")


def _class_id(label: str, class_of: Mapping[str, str] | None, origin: str) -> str:
    if re.fullmatch(r"-\d+", label):
        raise RequestError(f"{origin} has the label {label}; allowed are numbers from 0 and class names")
    plain = str(int(label)) if NUMBER.fullmatch(label) else label
    if class_of is None:
        return plain
    if plain not in class_of:
        raise RequestError(
            f"{origin} has the label {label!r}; allowed are the names in {CLASSES_FILE} and their numbers, from 0"
        )
    return class_of[plain]
