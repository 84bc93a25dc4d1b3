"""Parquet and Arrow data sets of the Hugging Face hub: a column of image files and a column of labels."""

import itertools
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from alexnet.data.dataset import UNLABELED
from alexnet.data.not_images import not_an_image
from alexnet.data.sources.arrow_files import Columns, DataFile, ImageReader, pyarrow_module
from alexnet.data.sources.file_ranges import raise_error
from alexnet.data.sources.listing import ListingBuilder, SkippedFiles, Source, build_source
from alexnet.data.sources.split_names import SPLIT_OF_FOLDER
from alexnet.errors import RequestError
from alexnet.storage.read_errors import raise_unless_damage

ENDINGS = (".parquet", ".arrow")
MAX_DEPTH = 4
"""Depth of subfolders that are searched for files."""
LABEL_COLUMNS = ("label", "fine_label", "labels")
"""In the order of preference."""
NO_LABEL = -1
"""The hub's label of a test image without label."""
MAX_ENTRIES_CHECKED = 2000
"""By `looks_like_parquet`; a folder of photographs may have millions."""
BYTES_TYPES = ("binary", "large_binary", "binary_view")
TEXT_TYPES = ("string", "large_string", "string_view")


def looks_like_parquet(path: Path) -> bool:
    """Whether a path is a Parquet or Arrow file, or a folder with such files up to two folders deep."""
    if path.is_file():
        return path.suffix.lower() in ENDINGS
    folders = [path]
    num_left = MAX_ENTRIES_CHECKED
    for _ in range(3):
        below: list[Path] = []
        for folder in folders:
            with os.scandir(folder) as entries:
                for entry in itertools.islice(entries, num_left):
                    num_left -= 1
                    if not_an_image(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        below.append(Path(entry.path))
                    elif _is_data_file(entry.name) and entry.is_file():
                        return True
        folders = below
    return False


def open_parquet(path: Path) -> Source:
    """List Parquet or Arrow files; reads only the labels.

    Images are a column of records `{bytes, path}` or of bytes; labels are numbers or text in the column `label`, else
    `fine_label`, `labels` or the only column that the hub's metadata calls a ClassLabel. The metadata also have the
    names of numbers; without them the number is the class id. The images of a split without labels belong to the split
    `UNLABELED`. Each reading thread keeps a file open and up to 64 MiB of uncompressed images of a Parquet row group
    (at least one image and one page), or one record batch of an Arrow file, which takes memory only if it is
    compressed.

    Args:
        path: a file of training images; or a folder, whose files belong to the split that the beginning of their name
            (`train-00000-of-00005.parquet`) or their folder names, and all to training if there are no such names.

    Raises:
        RequestError: pyarrow is not installed; a file cannot be read, has other columns or class names than the first,
            or belongs to no split while others do; a training image has no label.
    """
    skipped = SkippedFiles()
    names, split_of = _files(path, skipped)
    paths = [path / name if name else path for name in names]
    first = next((number for number, split in enumerate(split_of) if split == "train"), None)
    if first is None:
        raise RequestError(
            f"{path} has no training files (such as train-00000-of-00001.parquet); name one that has some"
        )
    builders = {"train": ListingBuilder(), UNLABELED: ListingBuilder()}
    num_unlabeled: dict[str, int] = {}
    columns: Columns | None = None
    # Training first: the other files must have the columns of its first file.
    for number in sorted(range(len(paths)), key=lambda number: (split_of[number] != "train", number)):
        split = split_of[number]
        builder = builders.setdefault(split, ListingBuilder())
        try:
            file = DataFile(paths[number])
            if columns is None:
                columns = _columns(paths[number], file.schema, None)
                is_alike = True
            elif split != "train" and columns.label not in file.schema.names:
                is_alike = _image_column(paths[number], file.schema) == (columns.image, columns.is_struct)
            else:
                is_alike = _columns(paths[number], file.schema, columns.label) == columns
            if not is_alike:
                raise RequestError(
                    f"{paths[number]} has other columns, types or class names than {paths[first]}; keep files of one "
                    "data set together"
                )
            name = names[number] or path.name
            num = _add_file(builder, builders[UNLABELED], file, number, name, columns)
            num_unlabeled[split] = num_unlabeled.get(split, 0) + num
        except RequestError:
            raise
        except (pyarrow_module().ArrowException, ValueError, OSError) as error:
            raise_unless_damage(error, paths[number])
            raise RequestError(
                f"{paths[number]} is not a Parquet or Arrow file, or a damaged one ({error}); fetch it again"
            ) from error
    assert columns is not None
    for split, num in num_unlabeled.items():
        if num and (split == "train" or len(builders[split])):
            raise RequestError(
                f"{num} images in the {split} split of {path} have no {columns.label}; remove them or add their labels"
            )
    class_ids, class_names = _classes(columns, builders["train"].class_ids)
    return build_source(
        "parquet",
        path.resolve().name if path.is_dir() else path.stem,
        str(path),
        builders,
        ImageReader(paths, columns).read,
        class_ids=class_ids,
        class_names=class_names,
        skipped=skipped,
    )


def _is_data_file(name: str) -> bool:
    """Whether a file is part of a data set; intermediate results of `datasets` begin with `cache-`."""
    return name.lower().endswith(ENDINGS) and not not_an_image(name) and not name.startswith("cache-")


def _files(path: Path, skipped: SkippedFiles) -> tuple[list[str], list[str]]:
    """Names of the files in a folder, sorted, and their splits; an empty name for a single file.

    All other files go to `skipped`.
    """
    if path.is_file():
        return [""], ["train"]
    names: list[str] = []
    for root, folder_names, file_names in os.walk(path, onerror=raise_error):
        folder = Path(root).relative_to(path)
        above = "".join(f"{part}/" for part in folder.parts)
        entered = {name for name in folder_names if not not_an_image(name) and len(folder.parts) < MAX_DEPTH}
        found = {name for name in file_names if _is_data_file(name)}
        skipped.add_rest_of(Path(root), entered | found, above)
        folder_names[:] = entered
        names += [above + name for name in found]
    if not names:
        raise RequestError(f"{path} has no Parquet or Arrow files; name a file or folder of them")
    names.sort()
    data_sets = sorted({_data_set(name) for name in names})
    if len(data_sets) > 1:
        raise RequestError(
            f"{path} has the files of {len(data_sets)} data sets, in {', '.join(data_sets)}; name the folder of one"
        )
    splits = [_split(name) for name in names]
    if set(splits) == {None}:
        return names, ["train"] * len(names)
    for name, split in zip(names, splits, strict=True):
        if split is None:
            raise RequestError(
                f"{name} of {path} belongs to no split by its name, and others do; names may begin with "
                f"{', '.join(SPLIT_OF_FOLDER)}; rename or remove it"
            )
    return names, [split for split in splits if split is not None]


def _data_set(name: str) -> str:
    """The folders of a file without those of splits."""
    folders = [part for part in PurePosixPath(name).parts[:-1] if part.lower() not in SPLIT_OF_FOLDER]
    return "/".join(folders) or "."


def _split(name: str) -> str | None:
    """The split that a file's name begins with, else that of its innermost split folder."""
    *folders, file = PurePosixPath(name).parts
    # In `train_small-00000-of-00002` the split is everything before the numbers.
    match = re.match(r"(.+)-\d+-of-\d+\.", file) or re.match(r"([A-Za-z]+)", file)
    words = [match[1] if match else "", *reversed(folders)]
    return next((SPLIT_OF_FOLDER[word.lower()] for word in words if word.lower() in SPLIT_OF_FOLDER), None)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """The hub's metadata of each column; empty without metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _listed(schema: Any) -> str:
    return ", ".join(f"{field.name} ({str(field.type)[:60]})" for field in schema)


def _kinds(schema: Any) -> dict[str, Any]:
    """What the hub's metadata call the columns, such as ClassLabel."""
    return {name: feature.get("_type") for name, feature in _features(schema).items()}


def _image_column(path: Path, schema: Any) -> tuple[str, bool]:
    """The column of images of a file, and whether they are records."""
    kinds = _kinds(schema)
    structs = {field.name for field in schema if _has_bytes(field.type)}
    plain = [field.name for field in schema if str(field.type) in BYTES_TYPES]
    images = [name for name in schema.names if kinds.get(name, "Image") == "Image" and name in structs]
    images += [name for name in plain if kinds.get(name) == "Image"]
    images.sort(key=schema.names.index)
    images += [name for name in plain if name not in kinds]
    if not images:
        raise RequestError(
            f"{path} has no column of images, which are bytes or records of bytes and path; its columns are "
            f"{_listed(schema)}"
        )
    return images[0], images[0] in structs


def _columns(path: Path, schema: Any, label: str | None) -> Columns:
    """The columns to read of a file; `label` is the label column, if known."""
    image, is_struct = _image_column(path, schema)
    features, kinds, listed = _features(schema), _kinds(schema), _listed(schema)
    if label is None:
        labels = [name for name in LABEL_COLUMNS if name in schema.names][:1]
        labels = labels or [name for name in schema.names if kinds.get(name) == "ClassLabel"]
        if len(labels) != 1:
            raise RequestError(
                f"{path} has {len(labels)} columns that could be the label; allowed is one of "
                f"{', '.join(LABEL_COLUMNS)}; its columns are {listed}"
            )
        label = labels[0]
    if label not in schema.names:
        raise RequestError(f"{path} has no column {label}; its columns are {listed}")
    kind = schema.field(schema.names.index(label)).type
    kind = getattr(kind, "value_type", kind) if str(kind).startswith("dictionary") else kind
    is_number = re.fullmatch(r"u?int\d+", str(kind)) is not None
    if not is_number and str(kind) not in TEXT_TYPES:
        raise RequestError(f"the column {label} of {path} has the type {kind}; allowed are whole numbers and text")
    names = features.get(label, {}).get("names")
    are_names = is_number and isinstance(names, list) and all(isinstance(name, str) for name in names)
    return Columns(image, is_struct, label, is_number, tuple(names) if are_names and names else ())


def _has_bytes(kind: Any) -> bool:
    if not str(kind).startswith("struct"):
        return False
    return any(field.name == "bytes" and str(field.type) in BYTES_TYPES for field in kind)


def _add_file(
    builder: ListingBuilder, unlabeled: ListingBuilder, file: DataFile, number: int, name: str, columns: Columns
) -> int:
    """Add the images of a file, to `unlabeled` those without a label; returns the number of these."""
    num_unlabeled = row_in_file = 0
    class_ids = columns.class_ids
    for group, labels in enumerate(file.labels(columns.label)):
        for row, label in enumerate(labels):
            if label is None or label == NO_LABEL:
                num_unlabeled += 1
                unlabeled.add(f"{name}/{row_in_file + row:07d}", None, (number, group, row, 0))
            elif class_ids and not 0 <= label < len(class_ids):
                raise RequestError(
                    f"row {row_in_file + row} of {file.path} has the label {label} and there are {len(class_ids)} "
                    "classes; fetch the file again"
                )
            else:
                class_id = class_ids[label] if class_ids else str(label)
                builder.add(f"{name}/{row_in_file + row:07d}", class_id, (number, group, row, 0))
        row_in_file += len(labels)
    return num_unlabeled


def _classes(columns: Columns, found: list[str]) -> tuple[list[str] | None, dict[str, str]]:
    """Class ids in label order, None for text; and the names of numbers."""
    if columns.names:
        names = dict(zip(columns.class_ids, columns.names, strict=True))
        # Where the id is the name, ImageNet's readable name is looked up later.
        return columns.class_ids, {class_id: name for class_id, name in names.items() if name != class_id}
    return (sorted(found, key=int), {}) if columns.is_number else (None, {})
