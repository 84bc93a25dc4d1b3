"""The archives of ILSVRC-2012 and ILSVRC-2010 as downloaded from image-net.org; nothing is unpacked.

Labels follow the sorted WordNet ids, as is usual since Caffe; the competition's own numbers are `class_numbers`.
"""

import io
import re
from pathlib import Path

from alexnet.data.not_images import START_BYTES
from alexnet.data.sources.ilsvrc_kit import RELEASES, HeldOut, Kit, Release, missing, read_file, read_kit, unpacked
from alexnet.data.sources.listing import Content, ListingBuilder, Location, SkippedFiles, Source, build_source
from alexnet.data.sources.synset_tars import list_inner_tars, list_synset_tar
from alexnet.data.sources.tar_archive import SAME_NAME, member_location, read_member, read_member_start, tar_members
from alexnet.errors import RequestError

MAX_IMAGE_BYTES = 2**26
GZIP_MARK = b"\x1f\x8b"


class Patches:
    """Corrected images, which replace images of the same split and name.

    Args:
        path: of their tar; None if there is none.
        locations: by split and name.
    """

    def __init__(self, path: Path | None, locations: dict[tuple[str, str], Location]) -> None:
        self._path = path
        self._locations = locations
        self._used: set[tuple[str, str]] = set()

    def replace(self, split: str, key: str, location: Location, skipped: SkippedFiles) -> Location:
        """The location of an image: that of its correction, if there is one; the original then is skipped."""
        place = (split, key.rpartition("/")[2])
        if place not in self._locations:
            return location
        assert self._path is not None
        self._used.add(place)
        skipped.add(key, f"replaced by the corrected image in {self._path.name}")
        return self._locations[place]

    def skip_unused(self, skipped: SkippedFiles) -> None:
        """Name the corrections of images that there are not."""
        for split, name in sorted(self._locations.keys() - self._used):
            assert self._path is not None
            skipped.add(f"{self._path.name}/{split}/{name}", "the correction of an image that is in no archive")


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
    skipped = SkippedFiles()
    patches = Patches(None, {})
    if release.patches_tar and (path / release.patches_tar).is_file():
        patches = _list_patches(path / release.patches_tar, len(files), skipped)
        files.append(path / release.patches_tar)
    label_files = [path / one.labels for one in held_out if not one.in_kit]
    skipped.add_rest_of(path, {one.name for one in (*files, *label_files, kit.origin)})

    def read(key: str, location: Location) -> Content:
        content = read_member(files, location)
        # Some images in the archives of ILSVRC-2010 are gzipped.
        return unpacked(io.BytesIO(content), MAX_IMAGE_BYTES) if content.startswith(GZIP_MARK) else content

    def read_start(key: str, location: Location) -> bytes:
        return read_member_start(files, location, START_BYTES)

    builders = {"train": ListingBuilder(skipped, read_start)}
    _list_train(builders["train"], files[0], kit, patches, skipped)
    for file_number, one in enumerate(held_out, start=1):
        text = kit.label_files[one.labels] if one.in_kit else read_file(path / one.labels, release)
        labels = kit.labels(text, f"{one.labels} of {kit.origin if one.in_kit else path}")
        start = f"ILSVRC{release.year}_{one.split}_"
        locations = _list_held_out(files[file_number], file_number, start, patches, one, skipped)
        if len(locations) != len(labels):
            raise RequestError(
                f"{files[file_number]} has {len(locations)} images and {one.labels} {len(labels)} labels; "
                "fetch both again"
            )
        builders[one.split] = ListingBuilder()
        for (name, location), class_id in zip(locations, labels, strict=True):
            builders[one.split].add(f"{one.split}/{name}", class_id, location)
    patches.skip_unused(skipped)
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
        skipped=skipped,
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


def _list_patches(path: Path, file_number: int, skipped: SkippedFiles) -> Patches:
    """Locations of the corrected images; their names are `<folder>/<split>/<image>`."""
    prefix = f"{path.name}/"
    locations: dict[tuple[str, str], Location] = {}
    for member in tar_members(path, skipped=skipped, prefix=prefix):
        if member.is_folder or skipped.add_if_kept_by_a_system(prefix + member.name):
            continue
        folders, _, name = member.name.rpartition("/")
        place = (folders.rpartition("/")[2], name)
        if place in locations:
            skipped.add(prefix + member.name, SAME_NAME)
        locations[place] = member_location(file_number, member)
    return Patches(path, locations)


def _list_train(builder: ListingBuilder, path: Path, kit: Kit, patches: Patches, skipped: SkippedFiles) -> None:
    """The training images: a tar per class inside a tar."""
    known = set(kit.class_of.values())
    for tar in list_inner_tars(path, skipped):
        if tar.class_id not in known:
            raise RequestError(f"{path} has {tar.class_id}.tar, a class that {kit.origin} lacks; fetch both again")
        prefix = f"train/{tar.class_id}/"
        for name, member in list_synset_tar(tar, skipped, prefix).items():
            location = patches.replace("train", prefix + name, member_location(0, member), skipped)
            builder.add(prefix + name, tar.class_id, location)


def _list_held_out(
    path: Path, file_number: int, start: str, patches: Patches, held_out: HeldOut, skipped: SkippedFiles
) -> list[tuple[str, Location]]:
    """Names and locations of held-out images in the order of their numbers, which is that of their labels."""
    pattern = re.compile(rf"{start}\d{{8}}\.JPEG", re.ASCII)
    locations: dict[str, Location] = {}
    prefix = f"{path.name}/"
    for member in tar_members(path, skipped=skipped, prefix=prefix):
        if member.is_folder or skipped.add_if_kept_by_a_system(prefix + member.name):
            continue
        name = member.name.rpartition("/")[2]  # in ILSVRC-2010 they are in a folder
        if not pattern.fullmatch(name):
            skipped.add(prefix + member.name, f"not named as an image of the {held_out.split} split")
            continue
        if name in locations:
            skipped.add(prefix + member.name, SAME_NAME)
        locations[name] = member_location(file_number, member)
    names = sorted(locations)
    for number, name in enumerate(names, start=1):
        if name != f"{start}{number:08d}.JPEG":
            raise RequestError(f"{path} has no {start}{number:08d}.JPEG but has {name}; fetch it again")
    split = held_out.split
    return [(name, patches.replace(split, f"{split}/{name}", locations[name], skipped)) for name in names]
