"""Published AlexNet weights: where they are, how they are recognized, and whose they are."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from alexnet.data.file_download import WantedFile, download_file, has_wanted, require_wanted
from alexnet.data.http_transfer import is_url
from alexnet.data.mirror import mirror_folder, mirror_named_in_failures, mirror_url
from alexnet.errors import RequestError
from alexnet.storage.atomic import (
    created_folder,
    raise_if_full,
    require_folders_above,
    require_space,
    unwritable,
    write_chunks,
    write_json,
)
from alexnet.storage.paths import StrPath, as_path
from alexnet.storage.typed_files import DamagedFile, read_json
from alexnet.system.progress import ShowProgress

SOURCE_FILE = "SOURCE.json"
MAX_BYTES = 512 << 20
"""Of any of these files, which have 233 MiB."""
_BLOCK_BYTES = 1 << 20
_PAPER = (
    "A. Krizhevsky, I. Sutskever, G. E. Hinton: ImageNet Classification with Deep Convolutional Neural Networks. "
    "NIPS 2012"
)
_CAFFE = "Y. Jia et al.: Caffe: Convolutional Architecture for Fast Feature Embedding. ACM Multimedia 2014"


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """Weights that somebody published."""

    title: str
    url: str
    algorithm: str
    digest: str
    license: str
    citation: tuple[str, ...]
    published: str
    """The accuracy that its authors give."""

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]


PUBLISHED_WEIGHTS: dict[str, PublishedWeights] = {
    "torchvision": PublishedWeights(
        title="torchvision's AlexNet (AlexNet_Weights.IMAGENET1K_V1)",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        algorithm="sha256",
        digest="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        license="torchvision: BSD 3-Clause; its models may have other terms, which follow from those of ImageNet",
        citation=("A. Krizhevsky: One weird trick for parallelizing convolutional neural networks. 2014", _PAPER),
        published="top-1 accuracy 56.5 %, top-5 79.1 %, central crop, validation set of ILSVRC 2012",
    ),
    "caffe": PublishedWeights(
        title="Caffe's bvlc_alexnet, by Evan Shelhamer",
        url="http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
        algorithm="sha1",
        digest="9116a64c0fbe4459d18f4bb6b56d647b63920377",
        license="unrestricted use, as its authors say",
        citation=(_CAFFE, _PAPER),
        published="top-1 accuracy 57.1 %, top-5 80.2 %, central crop, validation set of ILSVRC 2012",
    ),
    "caffenet": PublishedWeights(
        title="Caffe's bvlc_reference_caffenet, by Jeff Donahue",
        url="http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
        algorithm="sha1",
        digest="4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        license="unrestricted use, as its authors say",
        citation=(_CAFFE, _PAPER),
        published="top-1 accuracy 57.4 %, top-5 80.4 %, central crop, validation set of ILSVRC 2012",
    ),
}
"""By the names that `alexnet fetch weights` takes. Digests of Caffe's files: `models/*/readme.md` of BVLC/caffe."""


def fetch_weights(
    name: str, destination: StrPath, source: str | None = None, *, progress: ShowProgress = None
) -> tuple[Path, PublishedWeights]:
    """Fetch published weights into a folder, with `SOURCE.json` that says whose they are.

    Args:
        name: a key of `PUBLISHED_WEIGHTS`.
        destination: a folder, created if it is missing; other files in it are kept.
        source: a local copy of the file, or the URL of another one; None takes it from the mirror that the environment
            variable ALEXNET_MIRROR names (a URL, or a folder), or else downloads it from where it was published.
        progress: how the download is shown.

    Returns:
        the file, and what it is.

    Raises:
        RequestError: unknown name, or the local copy is another file, or the folder has a `SOURCE.json` of another
            kind, or as `download_file` says.
        WorkError: as `download_file` says.
    """
    if name not in PUBLISHED_WEIGHTS:
        raise RequestError(f"unknown weights {name!r}; known are {', '.join(PUBLISHED_WEIGHTS)}")
    published = PUBLISHED_WEIGHTS[name]
    folder = as_path(destination, "the destination")
    path = folder / published.file_name
    require_folders_above(path)
    mirror = mirror_url() if source is None else ""
    if source is None and (place := mirror or mirror_folder(published.file_name)):
        source = f"{place}/{published.file_name}"
    url = source if source is not None and is_url(source) else published.url
    wanted = WantedFile(url=url, digest=published.digest, algorithm=published.algorithm, max_bytes=MAX_BYTES)
    _read_described(folder)  # before anything is downloaded
    if source is None or is_url(source):
        with mirror_named_in_failures(mirror):
            download_file(wanted, path, name=published.file_name, progress=progress)
    else:
        _copy(as_path(source, "the source"), path, wanted)
    _describe(path, published, source or published.url)
    return path, published


class _Described(TypedDict, total=False):
    """What of a `SOURCE.json` is read here; its other keys are kept."""

    files: dict[str, Any]


def _copy(source: Path, path: Path, wanted: WantedFile) -> None:
    """Copy a local file, if it is the wanted one."""
    if not source.is_file():
        problem = "is not a file" if source.exists() else "does not exist"
        raise RequestError(f"{source} {problem}; give a copy of {path.name}, or the URL of one")
    if has_wanted(path, wanted):
        return
    try:
        with created_folder(path.parent):
            require_space(path, source.stat().st_size)
            write_chunks(path, _verified_blocks(source, wanted))
    except OSError as error:
        raise_if_full(error, path)
        raise unwritable(path, error) from error


def _verified_blocks(source: Path, wanted: WantedFile) -> Iterator[bytes]:
    """The bytes of a file; RequestError at its end unless it is the wanted one."""
    digest, size = hashlib.new(wanted.algorithm), 0
    with source.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            if not size and re.match(rb"\s*<(!doctype|html|head|\?xml)", block, re.IGNORECASE):
                raise RequestError(f"{source} is a web page, not weights; give a copy of {wanted.url}")
            size += len(block)
            if size > wanted.max_bytes:
                raise RequestError(f"{source} has more than {wanted.max_bytes:,} bytes; give a copy of {wanted.url}")
            digest.update(block)
            yield block
    require_wanted(source, wanted, digest.hexdigest(), "give an undamaged copy of it")


def _describe(path: Path, published: PublishedWeights, obtained_from: str) -> None:
    """Say in `SOURCE.json` whose the file is, beside what it says of other files."""
    described, found = path.parent / SOURCE_FILE, _read_described(path.parent)
    entry = {
        "title": published.title,
        "url": published.url,
        "obtained_from": obtained_from,
        published.algorithm: published.digest,
        "license": published.license,
        "citation": list(published.citation),
        "published": published.published,
    }
    content = {**found, "files": {**found.get("files", {}), path.name: entry}}
    try:
        write_json(described, content)
    except OSError as error:
        raise_if_full(error, described)
        raise unwritable(described, error) from error


def _read_described(folder: Path) -> _Described:
    """What a folder's `SOURCE.json` says; RequestError if it is of another kind, which is not replaced."""
    path = folder / SOURCE_FILE
    if not path.exists():
        return {}
    try:
        return read_json(path, _Described, "rename it, or name another destination")
    except DamagedFile as error:
        raise RequestError(str(error)) from error
