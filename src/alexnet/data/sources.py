"""What a pile of photographs is: CIFAR-10's binary files, a folder for each class, or a tar of such folders.

Opening a source lists it and checks that it makes sense; no image is read until it is asked for.
"""

import json
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.synsets import readable_name
from alexnet.errors import RequestError

SPLIT_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Split by the name of a top folder, in any mixture of cases."""
CIFAR_TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST_FILE = "test_batch.bin"
CIFAR_NAMES_FILE = "batches.meta.txt"
CIFAR_SIDE_PX = 32
CIFAR_RECORD_BYTES = 1 + 3 * CIFAR_SIDE_PX**2
SOURCE_FILE = "SOURCE.json"
"""Optional description beside the images: `title`, `generated`, `side`."""
COMPRESSION_MARKS = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd", b"PK": "zip"}
WHAT_IS_READ = (
    "a source is a folder with one folder for each class (with or without train/ and val/ above them), "
    "an uncompressed tar of such a folder, or CIFAR-10's binary files"
)

Read = Callable[[], bytes | NDArray[np.uint8]]
"""Gives a file's bytes, or an RGB uint8 (H, W, 3) array; OSError where it cannot be read."""


@dataclass(frozen=True)
class Entry:
    """One image of a source."""

    key: str
    """Where it is, stable over machines: `train/n01440764/n01440764_10026.JPEG`."""
    class_id: str
    read: Read


@dataclass(frozen=True)
class Source:
    """A listed pile of photographs."""

    kind: str
    """`cifar-10-binary`, `folder` or `tar`."""
    title: str
    generated: bool
    """Whether a program drew the images."""
    side: int | None
    """Side at which the source suggests to store its images, pixels; None where it has no opinion."""
    splits: Mapping[str, list[Entry]]
    """By name (`train`, `val`, `test`), each sorted by key."""
    class_names: Mapping[str, str]
    """Readable name by class id."""

    @property
    def class_ids(self) -> list[str]:
        """The training split's classes, sorted: their places are the labels."""
        return sorted({entry.class_id for entry in self.splits["train"]})


def open_source(path: Path) -> Source:
    """List the photographs at `path`. A source without split has the one split `train`.

    Raises:
        RequestError: nothing is there, it is of no known kind, it has fewer than 2 classes, a class without images,
            or a class outside training that training does not know.
    """
    if not path.exists():
        raise RequestError(f"there is nothing at {path}; {WHAT_IS_READ}")
    if path.is_file():
        return _checked(_open_tar(path), path)
    if any((path / name).is_file() for name in (*CIFAR_TRAIN_FILES, CIFAR_TEST_FILE)):
        return _checked(_open_cifar(path), path)
    return _checked(_open_folder(path), path)


def with_hold_out(source: Source, fraction: float, seed: int) -> Source:
    """Move a share of the training images to a new split `val`, the same share of every class, drawn with the seed.

    Args:
        source: a source that has no `val`.
        fraction: of each class, 0 .. 1 exclusive; at least one image moves and one stays. 0 leaves the source as it is.
        seed: 0 or more; another seed, another choice.

    Raises:
        RequestError: the fraction is out of range; there is a `val` already; or there is no other split
            and the fraction is 0.
    """
    if not 0 <= fraction < 1:
        raise RequestError(f"--hold-out is {fraction}; allowed is a fraction from 0 up to, not including, 1")
    if fraction == 0:
        if set(source.splits) == {"train"}:
            raise RequestError(
                f"{source.title} has no validation split (no val/ or test/ beside train/); pass --hold-out 0.1 to hold "
                "out a tenth of each class"
            )
        return source
    if "val" in source.splits:
        raise RequestError(
            f"--hold-out is {fraction} and {source.title} has a validation split already; leave --hold-out away"
        )
    train: list[Entry] = []
    held_out: list[Entry] = []
    for number, class_id in enumerate(source.class_ids):
        entries = [entry for entry in source.splits["train"] if entry.class_id == class_id]
        key = np.array([seed, number], np.uint64)
        order = np.random.Generator(np.random.Philox(key=key)).permutation(len(entries))
        num_held_out = min(max(1, round(fraction * len(entries))), len(entries) - 1)
        held_out += [entries[place] for place in order[:num_held_out]]
        train += [entries[place] for place in order[num_held_out:]]
    splits = {**source.splits, "train": _sorted(train), "val": _sorted(held_out)}
    return replace(source, splits=splits)


def _checked(source: Source, path: Path) -> Source:
    """The source itself, once its classes make sense."""
    known = set(source.class_ids)
    if len(known) < 2:
        raise RequestError(
            f"{path} has {len(known)} class{'' if len(known) == 1 else 'es'} with images; at least 2 are needed; "
            f"{WHAT_IS_READ}"
        )
    for split, entries in source.splits.items():
        if unknown := sorted({entry.class_id for entry in entries} - known):
            raise RequestError(
                f"the {split} split of {path} has the class {unknown[0]}, which the training split does not have; "
                "remove its folder or add training images of it"
            )
    return source


def _sorted(entries: list[Entry]) -> list[Entry]:
    """By key, so that the order does not depend on the file system."""
    return sorted(entries, key=lambda entry: entry.key)


# --- CIFAR-10 in its authors' binary layout: per record one label byte, then 1024 bytes each of R, G and B.


def _open_cifar(folder: Path) -> Source:
    """List a folder of CIFAR-10 binary files."""
    names_path = folder / CIFAR_NAMES_FILE
    missing = [
        name for name in (*CIFAR_TRAIN_FILES, CIFAR_TEST_FILE, CIFAR_NAMES_FILE) if not (folder / name).is_file()
    ]
    if missing:
        raise RequestError(
            f"{folder} looks like CIFAR-10 but {missing[0]} is missing; get it whole with: alexnet fetch cifar10 DEST"
        )
    class_ids = names_path.read_text(encoding="utf-8").split()
    described = _description(
        names_path.with_name(SOURCE_FILE).read_bytes() if (folder / SOURCE_FILE).is_file() else b"{}"
    )
    splits = {
        "train": [entry for name in CIFAR_TRAIN_FILES for entry in _cifar_entries(folder / name, class_ids)],
        "test": _cifar_entries(folder / CIFAR_TEST_FILE, class_ids),
    }
    return Source(
        kind="cifar-10-binary",
        title=str(described.get("title", "CIFAR-10")),
        generated=bool(described.get("generated", False)),
        side=CIFAR_SIDE_PX,
        splits=splits,
        class_names={class_id: class_id for class_id in class_ids},
    )


def _cifar_entries(path: Path, class_ids: list[str]) -> list[Entry]:
    """The images of one binary file."""
    size_bytes = path.stat().st_size
    if size_bytes == 0 or size_bytes % CIFAR_RECORD_BYTES:
        raise RequestError(
            f"{path} is damaged: {size_bytes} bytes are no whole number of {CIFAR_RECORD_BYTES}-byte records; "
            "remove the folder and run: alexnet fetch cifar10 DEST"
        )
    records = np.memmap(path, np.uint8, mode="r").reshape(-1, CIFAR_RECORD_BYTES)
    labels = np.array(records[:, 0])
    if labels.max() >= len(class_ids):
        raise RequestError(
            f"{path} is damaged: it has the label {labels.max()} and {CIFAR_NAMES_FILE} {len(class_ids)} classes; "
            "remove the folder and run: alexnet fetch cifar10 DEST"
        )
    return [
        Entry(f"{path.stem}/{number:05d}", class_ids[label], partial(_read_cifar, records, number))
        for number, label in enumerate(labels.tolist())
    ]


def _read_cifar(records: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """One image of a binary file, uint8 (32, 32, 3)."""
    planes = records[number, 1:].reshape(3, CIFAR_SIDE_PX, CIFAR_SIDE_PX)
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


# --- A folder for each class, on disk or in a tar: both become a list of files and a set of folders.


def _open_folder(path: Path) -> Source:
    """List a folder tree."""
    files: dict[str, Read] = {}
    folders: set[str] = set()
    unreadable: list[OSError] = []
    for root, folder_names, file_names in os.walk(path, followlinks=True, onerror=unreadable.append):
        folder_names[:] = sorted(name for name in folder_names if not _is_hidden(name))
        place = Path(root).relative_to(path)
        if len(place.parts) > 8:
            raise RequestError(
                f"{root} lies more than 8 folders deep, or a link leads back to a folder above it; {WHAT_IS_READ}"
            )
        folders.update((place / name).as_posix() for name in folder_names)
        for name in file_names:
            if not _is_hidden(name):
                files[(place / name).as_posix()] = (Path(root) / name).read_bytes
    if unreadable:
        raise RequestError(
            f"cannot read the folder {unreadable[0].filename}: {unreadable[0].strerror}; "
            "allow it or name another source"
        )
    return _tree_source("folder", path, path.resolve().name, files, folders)


def _open_tar(path: Path) -> Source:
    """List a tar by the places of its files, so that each can be read at once and nothing is unpacked."""
    with path.open("rb") as file:
        start = file.read(6)
    for mark, compression in COMPRESSION_MARKS.items():
        if start.startswith(mark):
            raise RequestError(
                f"{path} is compressed ({compression}); unpack it and name the folder it makes, or the uncompressed tar"
            )
    files: dict[str, Read] = {}
    folders: set[str] = set()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                parts = [part for part in place.parts if part not in ("/", ".")]
                if not parts or ".." in parts or any(_is_hidden(part) for part in parts):
                    continue
                name = "/".join(parts)
                folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
                if member.isdir():
                    folders.add(name)
                elif member.isreg() and not member.issparse():
                    files[name] = partial(_read_tar, path, member.offset_data, member.size)
                else:
                    files[name] = partial(_refuse_member, path)
    except (tarfile.TarError, EOFError) as error:
        raise RequestError(f"{path} is no tar, or a damaged one ({error}); {WHAT_IS_READ}") from error
    return _tree_source("tar", path, path.stem, files, folders)


def _read_tar(path: Path, offset: int, size_bytes: int) -> bytes:
    """One file's bytes out of an uncompressed tar."""
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(size_bytes)
    if len(content) != size_bytes:
        raise OSError(f"{path.name} ends inside this file")
    return content


def _refuse_member(path: Path) -> bytes:
    """Stands in for a link, a device or a sparse file in a tar."""
    raise OSError(f"no plain file in {path.name}; links inside an archive are not followed")


def _is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the photographs: left by a desktop, an editor or a version control."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def _description(content: bytes) -> dict[str, Any]:
    """What a SOURCE.json says; nothing where it is none of ours."""
    try:
        described = json.loads(content)
    except ValueError:
        return {}
    return described if isinstance(described, dict) else {}


def _tree_source(kind: str, path: Path, name: str, files: dict[str, Read], folders: set[str]) -> Source:
    """Find splits, classes and images among files and folders named relative to the source's top."""
    if not files:
        raise RequestError(f"{path} is empty: no file in it; {WHAT_IS_READ}")
    tops = {folder for folder in folders if "/" not in folder}
    only = next(iter(tops), "")
    if len(tops) == 1 and only.lower() not in SPLIT_OF_FOLDER and any(folder.count("/") == 1 for folder in folders):
        files = {place.removeprefix(f"{only}/"): read for place, read in files.items() if place.startswith(f"{only}/")}
        folders = {folder.removeprefix(f"{only}/") for folder in folders if folder != only}
        tops = {folder for folder in folders if "/" not in folder}

    prefixes = _split_prefixes(tops, path)
    splits: dict[str, list[Entry]] = {}
    for split, prefix in prefixes.items():
        splits[split] = _class_entries(prefix, files, folders, path)
    described = _description(bytes_of(files[SOURCE_FILE])) if SOURCE_FILE in files else {}
    side = described.get("side")
    class_ids = {entry.class_id for entry in splits["train"]}
    return Source(
        kind=kind,
        title=str(described.get("title", name)),
        generated=bool(described.get("generated", False)),
        side=side if isinstance(side, int) else None,
        splits=splits,
        class_names={class_id: readable_name(class_id) for class_id in class_ids},
    )


def bytes_of(read: Read) -> bytes:
    """The bytes of a file that is known to be no array."""
    content = read()
    assert isinstance(content, bytes)
    return content


def _split_prefixes(tops: set[str], path: Path) -> dict[str, str]:
    """Path before the class folders, by split: `{"train": "train/", "val": "val/"}`; `{"train": ""}` if unsplit."""
    found: dict[str, str] = {}
    for top in sorted(tops):
        split = SPLIT_OF_FOLDER.get(top.lower())
        if split is None:
            continue
        if split in found:
            raise RequestError(f"{path} has both {found[split]} and {top}/ for its {split} split; keep one of them")
        found[split] = f"{top}/"
    if not found:
        return {"train": ""}
    if "train" not in found:
        raise RequestError(
            f"{path} has {next(iter(found.values()))} and no train/; name a folder that has both, or only class folders"
        )
    if "test" in found and "val" not in found:
        found["val"] = found.pop("test")
    return found


def _class_entries(prefix: str, files: dict[str, Read], folders: set[str], path: Path) -> list[Entry]:
    """The images of one split; files that lie beside the class folders belong to no class and are passed over."""
    class_ids = {
        folder.removeprefix(prefix)
        for folder in folders
        if folder.startswith(prefix) and "/" not in folder.removeprefix(prefix)
    }
    entries = []
    for place, read in files.items():
        class_id, separator, _ = place.removeprefix(prefix).partition("/")
        if place.startswith(prefix) and separator:
            entries.append(Entry(place, class_id, read))
    if empty := sorted(class_ids - {entry.class_id for entry in entries}):
        raise RequestError(
            f"the class folder {prefix}{empty[0]} of {path} has no images; add some or remove the folder"
        )
    for class_id in class_ids:
        if not class_id.isprintable():
            raise RequestError(
                f"the class folder {prefix}{class_id!r} of {path} has characters that cannot be printed; rename it"
            )
    return _sorted(entries)
