"""The archives of ILSVRC-2012 and ILSVRC-2010 as downloaded from image-net.org; nothing is unpacked.

Labels follow the sorted WordNet ids, as is usual since Caffe; the competition's own numbers are `class_numbers`.
"""

import io
import re
from pathlib import Path

from alexnet.data.sources.ilsvrc_kit import RELEASES, HeldOut, Kit, Release, missing, read_file, read_kit, unpacked
from alexnet.data.sources.listing import Content, ListingBuilder, Location, Source, build_source
from alexnet.data.sources.synset_tars import list_inner_tars, list_synset_tar
from alexnet.data.sources.tar_archive import member_location, read_member, tar_members
from alexnet.errors import RequestError

MAX_IMAGE_BYTES = 2**26
GZIP_MARK = b"\x1f\x8b"

Patches = dict[tuple[str, str], Location]
"""Locations of corrected images, by split and name."""


def open_ilsvrc(path: Path) -> Source:
    """List a folder of archives.

    Args:
        path: has the training images, the validation images, and the development kit, packed or unpacked. For
            ILSVRC-2010 it may also have the test images with their labels, and the corrected images.

    Raises:
        RequestError: a file is missing or damaged, the numbers of images and labels differ, or the kit lacks a label
            or a class.
    """
    release = _release_in(path)
    kit = read_kit(path, release)
    held_out = [one for one in release.held_out if not one.optional or (path / one.tar).is_file()]
    files = [path / name for name in (release.train_tar, *(one.tar for one in held_out))]
    patches: Patches = {}
    if release.patches_tar and (path / release.patches_tar).is_file():
        patches = _list_patches(path / release.patches_tar, len(files))
        files.append(path / release.patches_tar)
    builders = {"train": _list_train(files[0], kit, patches)}
    for file_number, one in enumerate(held_out, start=1):
        text = kit.label_files[one.labels] if one.in_kit else read_file(path / one.labels, release)
        labels = kit.labels(text, f"{one.labels} of {kit.origin if one.in_kit else path}")
        locations = _list_held_out(files[file_number], file_number, f"ILSVRC{release.year}_{one.split}_", patches, one)
        if len(locations) != len(labels):
            raise RequestError(
                f"{files[file_number]} has {len(locations)} images and {one.labels} {len(labels)} labels; "
                "fetch both again"
            )
        builders[one.split] = ListingBuilder()
        for (name, location), class_id in zip(locations, labels, strict=True):
            builders[one.split].add(f"{one.split}/{name}", class_id, location)

    def read(key: str, location: Location) -> Content:
        content = read_member(files, location)
        # Some images in the archives of ILSVRC-2010 are gzipped.
        return unpacked(io.BytesIO(content), MAX_IMAGE_BYTES) if content.startswith(GZIP_MARK) else content

    return build_source(
        "ilsvrc",
        release.name,
        str(path),
        builders,
        read,
        class_ids=sorted(kit.class_of.values()),
        class_names=kit.class_names,
        class_numbers={class_id: number for number, class_id in kit.class_of.items()},
        upright=False,
    )


def looks_like_ilsvrc(path: Path) -> bool:
    """Whether it is a folder with the archives of training or validation images, and without an unpacked `train/`."""
    names = [name for release in RELEASES for name in (release.train_tar, *(one.tar for one in release.held_out))]
    return any((path / name).is_file() for name in names) and not (path / "train").is_dir()


def _release_in(path: Path) -> Release:
    """The release whose files are in a folder; refuses an incomplete one."""
    if not path.is_dir():
        raise RequestError(f"{path} is not a folder; name the folder with ILSVRC's archives as downloaded")
    parts = {
        release: [release.train_tar, *(one.tar for one in release.held_out if not one.optional)] for release in RELEASES
    }
    found = {release: [name for name in names if (path / name).is_file()] for release, names in parts.items()}
    years = [release for release in RELEASES if found[release]]
    if len(years) > 1:
        first, second = (found[release][0] for release in years)
        raise RequestError(f"{path} has {first} and {second}; put each year into a separate folder")
    release = years[0] if years else RELEASES[0]
    for name in parts[release]:
        if name not in found[release]:
            raise missing(path, name, release)
    return release


def _list_patches(path: Path, file_number: int) -> Patches:
    """Locations of the corrected images; their names are `<folder>/<split>/<image>`."""
    return {
        (split.rpartition("/")[2], name): member_location(file_number, member)
        for member in tar_members(path)
        if not member.is_folder
        for split, _, name in [member.name.rpartition("/")]
    }


def _list_train(path: Path, kit: Kit, patches: Patches) -> ListingBuilder:
    """The training images: a tar per class inside a tar."""
    builder = ListingBuilder()
    known = set(kit.class_of.values())
    for tar in list_inner_tars(path):
        if tar.class_id not in known:
            raise RequestError(f"{path} has {tar.class_id}.tar, a class that {kit.origin} lacks; fetch both again")
        for name, member in list_synset_tar(tar).items():
            location = patches.get(("train", name), member_location(0, member))
            builder.add(f"train/{tar.class_id}/{name}", tar.class_id, location)
    return builder


def _list_held_out(
    path: Path, file_number: int, start: str, patches: Patches, held_out: HeldOut
) -> list[tuple[str, Location]]:
    """Names and locations of held-out images in the order of their numbers, which is that of their labels."""
    pattern = re.compile(rf"{start}\d{{8}}\.JPEG", re.ASCII)
    locations: dict[str, Location] = {}
    for member in tar_members(path):
        name = member.name.rpartition("/")[2]  # in ILSVRC-2010 they are in a folder
        if not member.is_folder and pattern.fullmatch(name):
            locations[name] = patches.get((held_out.split, name), member_location(file_number, member))
    names = sorted(locations)
    for number, name in enumerate(names, start=1):
        if name != f"{start}{number:08d}.JPEG":
            raise RequestError(f"{path} has no {start}{number:08d}.JPEG but has {name}; fetch it again")
    return [(name, locations[name]) for name in names]
