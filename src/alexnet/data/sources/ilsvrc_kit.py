"""The development kits of ILSVRC-2012 and ILSVRC-2010: the competition's classes and the labels of held-out images."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from alexnet.data.sources.matlab import read_struct_array
from alexnet.data.sources.tar_archive import members_of
from alexnet.data.synsets import distinct_names
from alexnet.errors import RequestError
from alexnet.storage.read_errors import raise_unless_damage

MAX_KIT_BYTES = 2**28
"""A development kit that unpacks to more is refused; ILSVRC-2012's archive has 2.5 MB."""
META_FILE = "meta.mat"
MAX_DIGITS = 9


@dataclass(frozen=True)
class HeldOut:
    """A set of images whose labels are in a file."""

    split: str
    tar: str
    labels: str
    """The file: the competition's class number of each image, a line each, in the order of the images' names."""
    in_kit: bool
    """Whether the labels are in the development kit; otherwise next to the archives."""
    optional: bool = False


@dataclass(frozen=True)
class Release:
    """The names of the files of a year."""

    year: int
    train_tar: str
    held_out: tuple[HeldOut, ...]
    kits: tuple[str, ...]
    kit_folder: str
    patches_tar: str | None = None
    """Corrected images, which replace images of the same names."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"ILSVRC-{self.year}"


RELEASES = (
    Release(
        2012,
        "ILSVRC2012_img_train.tar",
        (HeldOut("val", "ILSVRC2012_img_val.tar", "ILSVRC2012_validation_ground_truth.txt", in_kit=True),),
        ("ILSVRC2012_devkit_t12.tar.gz",),
        "ILSVRC2012_devkit_t12",
    ),
    # The names that other programs expect of this release. The kit exists under two names, with and without the folder
    # devkit-1.0 in it; all are allowed.
    Release(
        2010,
        "ILSVRC2010_images_train.tar",
        (
            HeldOut("val", "ILSVRC2010_images_val.tar", "ILSVRC2010_validation_ground_truth.txt", in_kit=True),
            # The only year whose test labels were published.
            HeldOut("test", "ILSVRC2010_images_test.tar", "ILSVRC2010_test_ground_truth.txt", False, optional=True),
        ),
        ("ILSVRC2010_devkit-1.0.tar.gz", "devkit-1.0.tar.gz"),
        "devkit-1.0",
        patches_tar="patch_images.tar",
    ),
)


@dataclass(frozen=True)
class Kit:
    """The contents of a development kit."""

    origin: Path
    """The archive or folder that it was read from."""
    class_of: dict[int, str]
    """WordNet ids by the competition's numbers, of the classes with images."""
    class_names: dict[str, str]
    """Distinct names by WordNet id."""
    label_files: dict[str, bytes]
    """Content by name."""

    def labels(self, text: bytes, origin: str) -> list[str]:
        """The class ids of a file of labels.

        Raises:
            RequestError: a label is not the number of a class; `origin` is the file in the message.
        """
        labels = []
        for line, label in enumerate(text.split(), start=1):
            class_id = self.class_of.get(int(label)) if label.isdigit() and len(label) <= MAX_DIGITS else None
            if class_id is None:
                raise RequestError(
                    f"label {line} of {origin} is {label[:MAX_DIGITS].decode(errors='replace')!r}; allowed are the "
                    f"numbers of the kit's {len(self.class_of)} classes; fetch it again"
                )
            labels.append(class_id)
        return labels


def read_kit(path: Path, release: Release) -> Kit:
    """Read the development kit, packed or unpacked, in a folder.

    Raises:
        RequestError: it or a file in it is missing or damaged.
    """
    names = [META_FILE, *(one.labels for one in release.held_out if one.in_kit)]
    folder = path / release.kit_folder
    archive = next((path / name for name in release.kits if (path / name).is_file()), None)
    if folder.is_dir():
        origin, files = folder, {name: read_file(folder / "data" / name, release) for name in names}
    elif archive is not None:
        origin, files = archive, _read_archive(archive, names)
    else:
        raise missing(path, f"{release.kits[0]}, nor the folder {release.kit_folder}", release)
    class_of, words = _classes(files.pop(META_FILE), f"{META_FILE} of {origin}", f"ILSVRC{release.year}_ID")
    return Kit(origin, class_of, distinct_names(words), files)


def missing(folder: Path, name: str, release: Release) -> RequestError:
    """The error for a missing file."""
    return RequestError(
        f"{folder} has no {name}; download it from image-net.org (after registration, under {release.name}) and put it "
        "there unchanged"
    )


def read_file(path: Path, release: Release) -> bytes:
    """A file of labels or of the kit; RequestError if it is missing."""
    if not path.is_file():
        raise missing(path.parent, path.name, release)
    with path.open("rb") as file:
        return file.read(MAX_KIT_BYTES)


def unpacked(file: BinaryIO, max_bytes: int) -> bytes:
    """The content of a gzip file; OSError if it is damaged or has more than `max_bytes`."""
    try:
        content = gzip.GzipFile(fileobj=file).read(max_bytes + 1)
    except (EOFError, zlib.error) as error:
        raise OSError(f"damaged gzip: {error}") from error
    if len(content) > max_bytes:
        raise OSError(f"unpacks to more than {max_bytes:,} bytes")
    return content


def _read_archive(path: Path, names: list[str]) -> dict[str, bytes]:
    """The files `data/<name>` of a packed kit."""
    found = {}
    try:
        with path.open("rb") as file:
            content = unpacked(file, MAX_KIT_BYTES)
        for _, member in members_of(lambda size, at: content[at : at + size], 0, len(content)):
            folder, _, name = member.name.rpartition("/")
            if member.is_regular and name in names and folder.rpartition("/")[2] == "data":
                found[name] = content[member.offset : member.offset + member.size_bytes]
    except (OSError, EOFError, ValueError) as error:
        raise_unless_damage(error, path)
        raise RequestError(f"{path} is not a development kit, or a damaged one ({error}); fetch it again") from error
    for name in names:
        if name not in found:
            raise RequestError(f"{path} has no data/{name} in it; fetch it again")
    return found


def _classes(meta: bytes, origin: str, number_field: str) -> tuple[dict[int, str], dict[str, str]]:
    """WordNet ids by number, and words by WordNet id, of the classes with images."""
    try:
        synsets = read_struct_array(meta, "synsets", [number_field, "WNID", "words", "num_children"])
    except ValueError as error:
        raise RequestError(f"{origin} cannot be read ({error}); fetch the development kit again") from error
    class_of: dict[int, str] = {}
    words: dict[str, str] = {}
    for synset in synsets:
        if synset["num_children"]:
            continue  # a superclass, without images
        number, class_id = synset[number_field], str(synset["WNID"])
        is_new = number not in class_of and class_id not in words
        if not isinstance(number, int | float) or not float(number).is_integer() or not is_new:
            raise RequestError(f"{origin} gives the class {class_id} the number {number}: damaged; fetch it again")
        class_of[int(number)] = class_id
        words[class_id] = str(synset["words"] or "")
    return class_of, words
