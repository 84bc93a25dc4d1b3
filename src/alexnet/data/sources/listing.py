"""A source of photographs after listing: keys, classes and where to read each image.

Listings are arrays, not objects: ImageNet's Fall 2011 release has 15 million images.
"""

import bisect
import hashlib
import os
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset_files import NO_LABEL
from alexnet.data.not_images import RAW_ENDINGS, READ_ENDINGS, file_ending, has_image_name, not_an_image
from alexnet.data.packed import PackedStrings
from alexnet.data.synsets import readable_name
from alexnet.errors import RequestError
from alexnet.storage.paths import described
from alexnet.storage.read_errors import is_passing

Content = bytes | NDArray[np.uint8]
"""A file's bytes, or RGB pixels, uint8 (H, W, 3)."""
Location = tuple[int, int, int, int]
"""Four numbers that locate an image, such as (file, offset, bytes, 0); only the format's reader interprets them."""
NOT_A_FILE: Location = (-1, 0, 0, 0)
"""Location of a link, a device or a sparse file in an archive; these are not read."""
ReadImage = Callable[[str, Location], Content]
"""Reads the image of a key and a location; raises OSError if it cannot be read, `UnreadableImage` if it is damaged.
Called from several threads."""
ReadStart = Callable[[str, Location], bytes]
"""Reads at least the first `START_BYTES` of a file, or all of it; raises OSError."""


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of one split, sorted by key."""

    keys: PackedStrings
    """(N,), the path of each image in the source, such as `train/n01440764/n01440764_10026.JPEG`."""
    labels: NDArray[np.int32]
    """(N,), index into the source's class ids; `NO_LABEL` in the split `UNLABELED`."""
    locations: NDArray[np.int64]
    """(N, 4), a `Location` each, for `reader`."""
    reader: ReadImage

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Content:
        """The content of image `index`; see `ReadImage` for its errors."""
        first, second, third, fourth = self.locations[index].tolist()
        location = (first, second, third, fourth)
        if location == NOT_A_FILE:
            raise OSError("not a regular file; links inside an archive are not followed")
        return self.reader(self.keys[index], location)

    def select(self, indices: NDArray[np.int64]) -> "Listing":
        """The images at `indices`, int64 (M,), in that order."""
        return Listing(self.keys.select(indices), self.labels[indices], self.locations[indices], self.reader)


class SkippedFiles:
    """Names of files and other entries of a source that listing passes over, each with the reason."""

    def __init__(self) -> None:
        self._names = bytearray()
        self._ends = array("q")
        self._reasons = array("i")
        self._number_of: dict[str, int] = {}
        self._folders: set[str] = set()

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Name and reason of each, sorted by name; a folder lists its files in any order."""
        names = PackedStrings(np.frombuffer(bytes(self._names), np.uint8), np.array(self._ends, np.int64))
        reasons = list(self._number_of)
        for index in names.order().tolist():
            yield names[index], reasons[self._reasons[index]]

    def reasons(self) -> Counter[str]:
        """How many there are for each reason."""
        counts = Counter(self._reasons)
        return Counter({reason: counts[number] for reason, number in self._number_of.items()})

    def add(self, name: str, reason: str) -> None:
        """Add one; `reason` is one of few texts, which do not name the file."""
        self._names += name.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._names))
        self._reasons.append(self._number_of.setdefault(reason, len(self._number_of)))

    def add_rest_of(self, folder: Path, used: Collection[str], prefix: str = "") -> None:
        """Add whatever is in a folder besides the names `used`.

        Args:
            prefix: of the names, such as `train/`.
        """
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                name = prefix + entry.name + "/" * entry.is_dir()
                if entry.name not in used and not self.add_if_kept_by_a_system(name):
                    self.add(name, "no part of the data set, by its name and place")

    def add_if_kept_by_a_system(self, name: str) -> bool:
        """Add a file or folder that a system stores next to photographs, by its name; whether it was one.

        Args:
            name: path in the source; a folder's ends with `/`. Of the files in such a folder only the folder is added.
        """
        parts = name.split("/")
        for depth, part in enumerate(parts, start=1):
            if part and (reason := not_an_image(part)):
                if depth == len(parts):
                    self.add(name, reason)
                elif (folder := "/".join(parts[:depth]) + "/") not in self._folders:
                    self._folders.add(folder)
                    self.add(folder, reason)
                return True
        return False


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Labeled photographs, listed."""

    format: str
    """Name of its format."""
    title: str
    class_ids: Sequence[str]
    """In the order of the labels."""
    splits: Mapping[str, Listing]
    """By name: `train`, `val`, `test` and `UNLABELED`, those that have images."""
    class_names: Mapping[str, str]
    """Readable name by class id."""
    class_numbers: Mapping[str, int] = field(default_factory=dict)
    """Numbers, from 1, that a competition's development kit gives the classes, by class id; empty without a kit."""
    generated: bool = False
    """Whether a program drew the images."""
    side: int | None = None
    """Side, pixels, at which to store its images by default; None is the default for all sources."""
    upright: bool = True
    """Whether to turn its pictures as their EXIF data say; the paper took ImageNet's as stored."""
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    """Whatever it contains besides the images of its splits."""

    def digest(self) -> str:
        """SHA-256, hexadecimal, over format, classes, keys, labels and locations."""
        whole = hashlib.sha256("\n".join([self.format, *self.class_ids]).encode("utf-8", "surrogateescape"))
        for name, listing in sorted(self.splits.items()):
            whole.update(f"\n{name} {len(listing)} {listing.keys.digest()} ".encode())
            whole.update(np.ascontiguousarray(listing.labels).astype("<i4").tobytes())
            whole.update(np.ascontiguousarray(listing.locations).astype("<i8").tobytes())
        return whole.hexdigest()


class ListingBuilder:
    """Collects the images of one split, in any order.

    Args:
        skipped: what `add` is given that is not an image by its name and content; None takes everything as images, for
            formats whose keys are no names of files.
        read_start: reads the start of a file whose name is not an image's; needed with `skipped`.
        prefix: before the names of the skipped, where the keys leave it out.
    """

    def __init__(
        self, skipped: SkippedFiles | None = None, read_start: ReadStart | None = None, prefix: str = ""
    ) -> None:
        self._skipped = skipped
        self._read_start = read_start
        self._prefix = prefix
        self._has_raw_files = False
        self._keys = bytearray()
        self._ends = array("q")
        self._locations = array("q")
        self._classes = array("i")
        self._number_of: dict[str | None, int] = {}

    def __len__(self) -> int:
        return len(self._classes)

    @property
    def class_ids(self) -> list[str]:
        """The classes of the images added so far, sorted."""
        return sorted(class_id for class_id in self._number_of if class_id is not None)

    def add(self, key: str, class_id: str | None, location: Location) -> bool:
        """Add one image; or, if it is none, name it among the skipped. Returns whether it is one.

        Its class is None in the split `UNLABELED`, and only there.
        """
        if self._skipped is not None and (reason := self._why_skipped(key, location)):
            self._skipped.add(self._prefix + key, reason)
            return False
        self._has_raw_files = self._has_raw_files or file_ending(key) in RAW_ENDINGS
        self._keys += key.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._keys))
        self._locations.extend(location)
        self._classes.append(self._number_of.setdefault(class_id, len(self._number_of)))
        return True

    def _why_skipped(self, key: str, location: Location) -> str | None:
        if has_image_name(key):
            return None
        assert self._read_start is not None
        try:
            return not_an_image(key, None if location == NOT_A_FILE else self._read_start(key, location))
        except OSError as error:
            if is_passing(error):
                raise
            return None  # refused when its image is read, with the reason

    def build(self, class_ids: Sequence[str], reader: ReadImage) -> Listing:
        """The listing, sorted by key; `class_ids` must contain every class."""
        label_of: dict[str | None, int] = {class_id: label for label, class_id in enumerate(class_ids)}
        label_of[None] = NO_LABEL
        labels = np.array([label_of[class_id] for class_id in self._number_of], np.int32)
        keys = PackedStrings(np.frombuffer(bytes(self._keys), np.uint8), np.array(self._ends, np.int64))
        listing = Listing(
            keys,
            labels[np.array(self._classes, np.int64)],
            np.array(self._locations, np.int64).reshape(-1, 4),
            reader,
        )
        listing = listing.select(keys.order())
        if self._skipped is None or not self._has_raw_files:
            return listing
        is_used = np.ones(len(listing), np.bool_)
        for index in range(len(listing)):
            if beside := _developed(listing.keys, index):
                is_used[index] = False
                reason = f"a camera's raw file next to an image of the same name ({beside})"
                self._skipped.add(self._prefix + listing.keys[index], reason)
        return listing.select(np.flatnonzero(is_used))


def _developed(keys: PackedStrings, index: int) -> str:
    """The ending of the image that a camera stored next to its raw file `index`; empty if there is none.

    Args:
        keys: sorted.
    """
    key = keys[index]
    ending = file_ending(key)
    if ending not in RAW_ENDINGS:
        return ""
    stem = key[: -len(ending)]
    first = bisect.bisect_left(range(len(keys)), stem.encode("utf-8", "surrogateescape"), key=keys.encoded)
    for other in range(first, len(keys)):
        if not keys[other].startswith(stem):
            break
        if keys[other][len(stem) :].lower() in READ_ENDINGS:
            return "." + keys[other][len(stem) :].lower()
    return ""


def build_source(
    source_format: str,
    title: str,
    origin: str,
    splits: Mapping[str, ListingBuilder],
    reader: ReadImage,
    *,
    class_ids: Sequence[str] | None = None,
    class_names: Mapping[str, str] | None = None,
    class_numbers: Mapping[str, int] | None = None,
    generated: bool = False,
    side: int | None = None,
    upright: bool = True,
    skipped: SkippedFiles | None = None,
) -> Source:
    """Check the classes, number them and build the listings.

    Args:
        source_format: its name.
        title: of the source.
        origin: the source in messages, such as its path.
        splits: by name; `train` is required. Images in `UNLABELED` have no class.
        reader: of the images.
        class_ids: in label order, for formats that number classes; None is those of the training split, sorted.
        class_names: readable names by class id; by default ImageNet's, or the id itself.
        class_numbers, generated, side, upright, skipped: see `Source`; every file of the source must be an image of
            a split, a description that was read, or among the skipped.

    Raises:
        RequestError: no training images, fewer than 2 classes, a class without training images, or a class outside
            training that training does not know.
    """
    if not len(splits["train"]):
        raise RequestError(f"{origin} has no training images; name a {source_format} source with training images")
    known = splits["train"].class_ids
    ids = list(known if class_ids is None else class_ids)
    if len(ids) < 2:
        raise RequestError(
            f"{origin} has {len(ids)} class{'' if len(ids) == 1 else 'es'} with images; at least 2 are needed"
        )
    if unlisted := sorted(set(known) - set(ids)):
        raise RequestError(
            f"the training split of {origin} has the class {unlisted[0]}, which its list of classes lacks; fix the list"
        )
    if without := sorted(set(ids) - set(known)):
        raise RequestError(
            f"the class {without[0]} of {origin} has no training images; add some, or remove the class from its list"
        )
    for split, builder in splits.items():
        if unknown := sorted(set(builder.class_ids) - set(known)):
            forms = {unicodedata.normalize("NFC", name) for name in known}
            alike = unicodedata.normalize("NFC", unknown[0]) in forms
            raise RequestError(
                f"the {split} split of {origin} has the class {unknown[0]}, which the training split lacks; "
                + (
                    "there the accents are encoded in another way, as on macOS; rename it"
                    if alike
                    else "remove it, or add training images of it"
                )
            )
    names = class_names or {}
    for name in (*ids, *filter(None, names.values())):
        if fault := _fault_of_class_name(name):
            raise RequestError(f"the class name {name!r} of {origin} {fault}; rename it")
    return Source(
        format=source_format,
        title=title,
        class_ids=ids,
        splits={name: builder.build(ids, reader) for name, builder in splits.items() if len(builder)},
        class_names={class_id: names.get(class_id) or readable_name(class_id) for class_id in ids},
        class_numbers=class_numbers or {},
        generated=generated,
        side=side,
        upright=upright,
        skipped=SkippedFiles() if skipped is None else skipped,
    )


def _fault_of_class_name(name: str) -> str:
    """Why this cannot be the name of a class; empty if it can. All scripts, joiners, spaces and emoji can."""
    if not name.strip():
        return "is blank"
    kinds = {unicodedata.category(letter) for letter in name}
    return "has a control character" if "Cc" in kinds else "is not UTF-8" if "Cs" in kinds else ""


def with_hold_out(source: Source, fraction: float, seed: int) -> Source:
    """Move a fraction of the training images of each class, drawn with the seed, to a new split `val`.

    Args:
        source: one with a `val` is returned as it is.
        fraction: of each class, 0 .. 1 exclusive; at least one image of each class moves, and at least one stays. 0
            leaves the source unchanged.
        seed: 0 or more.

    Raises:
        RequestError: the fraction is out of range.
    """
    if not isinstance(fraction, int | float) or not 0 <= fraction < 1:
        raise RequestError(f"--hold-out is {described(fraction)}; allowed is a fraction of at least 0 and below 1")
    if fraction == 0 or "val" in source.splits:
        return source
    train = source.splits["train"]
    is_held_out = np.zeros(len(train), np.bool_)
    by_class = np.argsort(train.labels, kind="stable")
    starts = np.searchsorted(train.labels[by_class], np.arange(len(source.class_ids) + 1))
    for label in range(len(source.class_ids)):
        members = by_class[starts[label] : starts[label + 1]]
        key = np.array([seed, label], np.uint64)
        order = np.random.Generator(np.random.Philox(key=key)).permutation(len(members))
        num_held_out = min(max(1, round(fraction * len(members))), len(members) - 1)
        is_held_out[members[order[:num_held_out]]] = True
    splits = {
        **source.splits,
        "train": train.select(np.flatnonzero(~is_held_out)),
        "val": train.select(np.flatnonzero(is_held_out)),
    }
    return replace(source, splits=splits)
