"""The formats of sources: opens a source in its detected or named format."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from alexnet.data.sources.cifar_files import looks_like_cifar, open_cifar
from alexnet.data.sources.class_folders import open_folder, open_tar, open_zip
from alexnet.data.sources.csv_list import looks_like_csv, open_csv
from alexnet.data.sources.idx import looks_like_idx, open_idx
from alexnet.data.sources.ilsvrc import looks_like_ilsvrc, open_ilsvrc
from alexnet.data.sources.listing import Source
from alexnet.data.sources.parquet import looks_like_parquet, open_parquet
from alexnet.data.sources.synset_tars import looks_like_synset_tars, open_synset_tars
from alexnet.data.sources.webdataset import looks_like_webdataset, open_webdataset
from alexnet.errors import RequestError
from alexnet.storage.paths import StrPath, as_path
from alexnet.storage.read_errors import is_passing, raise_unless_damage


class SourceFormat(NamedTuple):
    """A format in which photographs with labels come."""

    looks_like: Callable[[Path], bool]
    """Whether a path is of this format; raises OSError or RequestError if it cannot be read."""
    open: Callable[[Path], Source]


def _is_zip(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _never(path: Path) -> bool:
    return False  # this format has to be named


# In the order in which they are tried. The folder comes last, since any folder looks like it.
SOURCE_FORMATS = {
    "cifar": SourceFormat(looks_like_cifar, open_cifar),
    "cifar-100-coarse": SourceFormat(_never, partial(open_cifar, coarse=True)),
    "idx": SourceFormat(looks_like_idx, open_idx),
    "ilsvrc": SourceFormat(looks_like_ilsvrc, open_ilsvrc),
    "synset-tars": SourceFormat(looks_like_synset_tars, open_synset_tars),
    "webdataset": SourceFormat(looks_like_webdataset, open_webdataset),  # shards may have tables next to them
    "parquet": SourceFormat(looks_like_parquet, open_parquet),
    "csv": SourceFormat(looks_like_csv, open_csv),
    "zip": SourceFormat(_is_zip, open_zip),
    "tar": SourceFormat(Path.is_file, open_tar),
    "folder": SourceFormat(Path.exists, open_folder),
}
"""By the name that `--source-format` takes."""
CLASS_FOLDER_FORMATS = {"folder": open_folder, "tar": open_tar, "zip": open_zip}
"""Those whose folders `--split` can name."""


def is_format(name: str, path: Path) -> bool:
    """Whether `path` looks like the format `name` of `SOURCE_FORMATS`; False if it cannot be read as such.

    Raises:
        OSError: the machine or the drive failed, which says nothing about the format.
    """
    try:
        return SOURCE_FORMATS[name].looks_like(path)
    except (OSError, RequestError) as error:
        if is_passing(error):
            raise
        return False


def open_source(
    path: StrPath, source_format: str | None = None, split_folders: Mapping[str, str] | None = None
) -> Source:
    """List the photographs at `path`. A source without splits has the single split `train`.

    Args:
        path: a file or a folder.
        source_format: a name in `SOURCE_FORMATS`; None detects it.
        split_folders: the folder of each split, for class folders on a disk, in a tar or in a zip; empty if no folder
            is a split; None recognizes them.

    Raises:
        RequestError: the path does not exist, the format is unknown, or the source is invalid.
        TemporaryError: the machine or the drive failed.
    """
    if source_format is not None and source_format not in SOURCE_FORMATS:
        raise RequestError(f"--source-format is {source_format!r}; allowed are {', '.join(SOURCE_FORMATS)}")
    path = as_path(path, "the source")
    if not path.exists():
        raise RequestError(f"{path} does not exist; name a file or a folder with photographs")
    try:
        name = source_format or next(name for name in SOURCE_FORMATS if is_format(name, path))
        if split_folders is None:
            return SOURCE_FORMATS[name].open(path)
        if name not in CLASS_FOLDER_FORMATS:
            raise RequestError(f"--split names folders, and {path} is a source of format {name}; omit it")
        return CLASS_FOLDER_FORMATS[name](path, split_folders)
    except OSError as error:
        raise_unless_damage(error, path)
        raise RequestError(
            f"cannot read {error.filename or path}: {error.strerror or error}; make it readable, or name another source"
        ) from error
