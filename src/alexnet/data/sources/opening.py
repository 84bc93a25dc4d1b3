"""From a path to a listed source: its kind is recognized, or said."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from alexnet.data.sources.cifar import looks_like_cifar, open_cifar
from alexnet.data.sources.csv_list import looks_like_table, open_table
from alexnet.data.sources.idx import looks_like_idx, open_idx
from alexnet.data.sources.ilsvrc import looks_like_ilsvrc, open_ilsvrc
from alexnet.data.sources.listing import Source
from alexnet.data.sources.parquet import looks_like_parquet, open_parquet
from alexnet.data.sources.synset_tars import looks_like_synset_tars, open_synset_tars
from alexnet.data.sources.tree import open_folder, open_tar, open_zip
from alexnet.data.sources.webdataset import looks_like_webdataset, open_webdataset
from alexnet.errors import RequestError


def open_cifar_coarse(path: Path) -> Source:
    """CIFAR-100 with its 20 superclasses."""
    return open_cifar(path, coarse=True)


class Kind(NamedTuple):
    """A kind of source."""

    looks_like: Callable[[Path], bool]
    open: Callable[[Path], Source]
    what: str


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


# In the order in which they are tried: the plain tree comes last, it would take anything.
KINDS = {
    "cifar": Kind(looks_like_cifar, open_cifar, "CIFAR-10 or CIFAR-100, binary or Python version"),
    "cifar-100-coarse": Kind(lambda path: False, open_cifar_coarse, "CIFAR-100 with its 20 superclasses"),
    "idx": Kind(looks_like_idx, open_idx, "IDX files, as MNIST has them"),
    "ilsvrc": Kind(looks_like_ilsvrc, open_ilsvrc, "a folder of ILSVRC-2012's or ILSVRC-2010's archives"),
    "synset-tars": Kind(looks_like_synset_tars, open_synset_tars, "a folder with one tar for each synset"),
    "parquet": Kind(looks_like_parquet, open_parquet, "Parquet or Arrow files, as the Hugging Face hub has them"),
    "csv": Kind(looks_like_table, open_table, "a CSV or TSV file of path,label[,split]"),
    "webdataset": Kind(looks_like_webdataset, open_webdataset, "WebDataset shards"),
    "zip": Kind(lambda path: path.is_file() and _is_zip(path), open_zip, "a zip with one folder for each class"),
    "tar": Kind(lambda path: path.is_file(), open_tar, "an uncompressed tar with one folder for each class"),
    "folder": Kind(
        lambda path: True, open_folder, "a folder with one folder for each class, under train/ and val/ or not"
    ),
}
"""What a source can be, by the name that `--kind` takes."""


def open_source(path: Path, kind: str | None = None) -> Source:
    """List the photographs at `path`. A source without split has the one split `train`.

    Args:
        path: a file or a folder.
        kind: one of `KINDS`; None recognizes it.

    Raises:
        RequestError: nothing is there, the kind is unknown, or the source makes no sense.
    """
    if kind is not None and kind not in KINDS:
        raise RequestError(f"--kind is {kind!r}; allowed is {', '.join(KINDS)}")
    if not path.exists():
        kinds = "; ".join(one.what for one in KINDS.values())
        raise RequestError(f"there is nothing at {path}; a source is {kinds}")
    try:
        chosen = KINDS[kind] if kind else next(one for one in KINDS.values() if one.looks_like(path))
        return chosen.open(path)
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise RequestError(
            f"cannot read {error.filename or path}: {error.strerror}; allow it, or name another source"
        ) from error
