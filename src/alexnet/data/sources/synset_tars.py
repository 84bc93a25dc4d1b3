"""One tar per synset, such as `n00004475.tar`: ImageNet's Fall 2009 and Fall 2011 releases.

The tars are in a folder, under `train/` and `val/` or not, or all in an outer tar (`fall11_whole.tar`).
"""

import os
import re
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from alexnet.data.not_images import not_an_image
from alexnet.data.sources.listing import Content, ListingBuilder, Location, Source, build_source
from alexnet.data.sources.split_names import split_folders, splits_by_name
from alexnet.data.sources.tar_archive import TarMember, member_location, read_member, tar_members
from alexnet.errors import RequestError

SYNSET_TAR = re.compile(r"(n\d{8})\.tar", re.ASCII)
SYNSET = re.compile(r"n\d{8}", re.ASCII)
NUM_MEMBERS_CHECKED = 8
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
    tars: list[tuple[str, SynsetTar]] = []  # each with its split folder
    if path.is_file():
        tars += [("", tar) for tar in list_inner_tars(path)]
    else:
        tars += [(folder, tar) for folder in split_folders(path) for tar in _tars_in(path / folder)]
        if not tars:
            tars += [("", tar) for tar in _tars_in(path)]
    if not tars:
        raise RequestError(f"{path} has no tar of a synset; {EXPECTED}")
    split_of = splits_by_name({folder for folder, _ in tars}, path)
    builders = {split: ListingBuilder() for split in split_of.values()}
    for number, (folder, tar) in enumerate(tars):
        prefix = f"{folder}/{tar.class_id}" if folder else tar.class_id
        for name, member in list_synset_tar(tar).items():
            builders[split_of[folder]].add(f"{prefix}/{name}", tar.class_id, member_location(number, member))
    if not any(map(len, builders.values())):
        raise RequestError(f"all {len(tars)} tars of {path} are empty; fetch them again")
    paths = [tar.path for _, tar in tars]

    def read(key: str, location: Location) -> Content:
        return read_member(paths, location)

    title = path.stem if path.is_file() else path.resolve().name
    return build_source("synset-tars", title, str(path), builders, read, upright=False)


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


def list_inner_tars(path: Path) -> list[SynsetTar]:
    """The synsets' tars inside a tar, sorted by class; of two with the same name the last counts, as in unpacking."""
    found = {
        class_id: SynsetTar(class_id, path, member.offset, member.size_bytes)
        for member in tar_members(path)
        if member.is_regular and (class_id := _class_of_tar(member.name))
    }
    return [found[class_id] for class_id in sorted(found)]


def list_synset_tar(tar: SynsetTar) -> dict[str, TarMember]:
    """The files of a synset's tar by name; of two with the same name the last counts, as in unpacking."""
    if not tar.size_bytes:
        return {}
    try:
        return {
            member.name.removeprefix(f"{tar.class_id}/"): member
            for member in tar_members(tar.path, tar.offset, tar.size_bytes)
            if not member.is_folder and not any(not_an_image(part) for part in member.name.split("/"))
        }
    except RequestError as error:
        if tar.offset:
            raise RequestError(f"{tar.class_id}.tar inside a tar cannot be read: {error}") from error
        raise


def _class_of_tar(name: str) -> str | None:
    """The synset of a tar by its path, such as `fall11/n00004475.tar`."""
    found = SYNSET_TAR.fullmatch(name.rpartition("/")[2])
    return found[1] if found else None


def _tars_in(folder: Path) -> list[SynsetTar]:
    """The synsets' tars in a folder, sorted by class."""
    return [
        SynsetTar(name.removesuffix(".tar"), folder / name, 0, (folder / name).stat().st_size)
        for name in sorted(os.listdir(folder))
        if SYNSET_TAR.fullmatch(name)
    ]
