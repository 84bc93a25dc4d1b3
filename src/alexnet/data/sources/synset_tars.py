"""One tar per synset, such as `n00004475.tar`: ImageNet's Fall 2009 and Fall 2011 releases.

The tars are in a folder, under `train/` and `val/` or not, or all in an outer tar (`fall11_whole.tar`).
"""

import os
import re
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from alexnet.data.not_images import START_BYTES
from alexnet.data.sources.listing import Content, ListingBuilder, Location, SkippedFiles, Source, build_source
from alexnet.data.sources.split_names import split_folders, splits_by_name
from alexnet.data.sources.tar_archive import (
    SAME_NAME,
    TarMember,
    member_location,
    read_member,
    read_member_start,
    tar_members,
)
from alexnet.errors import RequestError

SYNSET_TAR = re.compile(r"(n\d{8})\.tar", re.ASCII)
SYNSET = re.compile(r"n\d{8}", re.ASCII)
NUM_MEMBERS_CHECKED = 8
NO_SYNSET = "not the tar of a synset"
EXPECTED = (
    "expected is one tar per synset, such as n00004475.tar, in a folder, under train/ and val/, or in one outer tar"
)


class SynsetTar(NamedTuple):
    """The location of a synset's tar."""

    class_id: str
    path: Path
    """The tar, or the outer tar that contains it."""
    offset: int
    size_bytes: int


def open_synset_tars(path: Path) -> Source:
    """List the images of synsets' tars. Skips empty tars, which Fall 2011 has.

    Args:
        path: a folder, or a tar of tars. Without split folders everything is the split `train`.

    Raises:
        RequestError: there are no tars of synsets, all of them are empty, one is damaged, or the classes of the splits
            differ.
    """
    skipped = SkippedFiles()
    tars: list[tuple[str, SynsetTar]] = []  # each with its split folder
    if path.is_file():
        tars += [("", tar) for tar in list_inner_tars(path, skipped)]
    else:
        tars += [(folder, tar) for folder in split_folders(path) for tar in _tars_in(path / folder)]
        if not tars:
            tars += [("", tar) for tar in _tars_in(path)]
        _skip_other_files(path, tars, skipped)
    if not tars:
        raise RequestError(f"{path} has no tar of a synset; {EXPECTED}")
    split_of = splits_by_name({folder for folder, _ in tars}, path)
    paths = [tar.path for _, tar in tars]

    def read(key: str, location: Location) -> Content:
        return read_member(paths, location)

    def read_start(key: str, location: Location) -> bytes:
        return read_member_start(paths, location, START_BYTES)

    builders = {split: ListingBuilder(skipped, read_start) for split in split_of.values()}
    for number, (folder, tar) in enumerate(tars):
        prefix = f"{folder}/{tar.class_id}/" if folder else f"{tar.class_id}/"
        for name, member in list_synset_tar(tar, skipped, prefix).items():
            builders[split_of[folder]].add(prefix + name, tar.class_id, member_location(number, member))
    if not any(map(len, builders.values())):
        raise RequestError(f"all {len(tars)} tars of {path} are empty of images; fetch them again")
    title = path.stem if path.is_file() else path.resolve().name
    return build_source("synset-tars", title, str(path), builders, read, upright=False, skipped=skipped)


def looks_like_synset_tars(path: Path) -> bool:
    """Whether it is a folder with tars of synsets and without class folders, or a tar of such tars."""
    if path.is_file():
        members = islice(tar_members(path), NUM_MEMBERS_CHECKED)
        return any(member.is_regular and _class_of_tar(member.name) for member in members)
    with os.scandir(path) as entries:
        if any(SYNSET.fullmatch(entry.name) and entry.is_dir() for entry in entries):
            return False
    folders = [path, *(path / name for name in split_folders(path))]
    return any(SYNSET_TAR.fullmatch(name) for folder in folders for name in os.listdir(folder))


def list_inner_tars(path: Path, skipped: SkippedFiles) -> list[SynsetTar]:
    """The synsets' tars inside a tar, sorted by class; of two with the same name the last counts, as in unpacking.

    Other members go to `skipped`.
    """
    found: dict[str, tuple[str, SynsetTar]] = {}
    for member in tar_members(path, skipped=skipped):
        if member.is_folder or skipped.add_if_kept_by_a_system(member.name):
            continue
        class_id = _class_of_tar(member.name)
        if class_id is None or not member.is_regular:
            skipped.add(member.name, NO_SYNSET)
            continue
        if class_id in found:
            skipped.add(found[class_id][0], SAME_NAME)
        found[class_id] = member.name, SynsetTar(class_id, path, member.offset, member.size_bytes)
    return [found[class_id][1] for class_id in sorted(found)]


def list_synset_tar(tar: SynsetTar, skipped: SkippedFiles, prefix: str) -> dict[str, TarMember]:
    """The files of a synset's tar by name; of two with the same name the last counts, as in unpacking.

    What systems keep goes to `skipped`, with `prefix` before its name.
    """
    if not tar.size_bytes:
        skipped.add(f"{prefix.removesuffix('/')}.tar", "an empty tar")
        return {}
    found: dict[str, TarMember] = {}
    try:
        for member in tar_members(tar.path, tar.offset, tar.size_bytes, skipped=skipped, prefix=prefix):
            name = member.name.removeprefix(f"{tar.class_id}/")
            if member.is_folder or skipped.add_if_kept_by_a_system(prefix + name):
                continue
            if name in found:
                skipped.add(prefix + name, SAME_NAME)
            found[name] = member
        return found
    except RequestError as error:
        if tar.offset:
            raise RequestError(f"{tar.class_id}.tar inside a tar cannot be read: {error}") from error
        raise


def _class_of_tar(name: str) -> str | None:
    """The synset of a tar by its path, such as `fall11/n00004475.tar`."""
    found = SYNSET_TAR.fullmatch(name.rpartition("/")[2])
    return found[1] if found else None


def _skip_other_files(path: Path, tars: list[tuple[str, SynsetTar]], skipped: SkippedFiles) -> None:
    """Name what a folder of tars has besides them."""
    skipped.add_rest_of(path, {folder or tar.path.name for folder, tar in tars})
    for folder in sorted({folder for folder, _ in tars if folder}):
        skipped.add_rest_of(path / folder, {tar.path.name for one, tar in tars if one == folder}, f"{folder}/")


def _tars_in(folder: Path) -> list[SynsetTar]:
    """The synsets' tars in a folder, sorted by class."""
    return [
        SynsetTar(name.removesuffix(".tar"), folder / name, 0, (folder / name).stat().st_size)
        for name in sorted(os.listdir(folder))
        if SYNSET_TAR.fullmatch(name)
    ]
