"""What people name to have it classified, listed image by image: files, folders, globs, archives, URLs, lists of them.

Whatever cannot be read stands in its place in the order, with the reason. Listing refuses only objects of types
that no image has, such as numbers.
"""

import glob
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset_files import DESCRIPTION_FILE
from alexnet.data.decode import Fit, begins_as_image
from alexnet.data.download import Downloads
from alexnet.data.http_transfer import is_url, without_credentials
from alexnet.data.not_images import RAW_ENDINGS, START_BYTES, file_ending, has_image_name, not_an_image
from alexnet.data.photographs import ImageInput, as_images, square_image, square_of_file
from alexnet.data.sources.file_ranges import read_file_start
from alexnet.data.sources.listing import NOT_A_FILE, Content, Location, SkippedFiles
from alexnet.data.sources.tar_archive import (
    LEADS_OUT,
    is_header,
    member_location,
    read_member,
    read_member_start,
    tar_members,
)
from alexnet.data.sources.zip_archive import read_zip_member, read_zip_member_start, zip_members
from alexnet.errors import RequestError
from alexnet.storage.read_errors import is_passing, passing_error

STANDARD_INPUT = "-"
TAR_BLOCK_BYTES = 512
ARCHIVE_ENDINGS = frozenset(("tar", "zip", "tgz", "tbz", "tbz2", "txz", "gz", "bz2", "xz", "zst"))
"""Of files that are opened as archives; compressed tars are refused with advice."""
_UTF8_MARK = b"\xef\xbb\xbf"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image to read. There may be a million of them, so it is small."""

    name: str | int
    """Its path or URL, `archive.tar/member.jpg`, or `-`; for an image in memory its index among the inputs."""
    content: ImageInput | Callable[[], Content] | RequestError
    """The image, what reads its file or its pixels, or why nothing could be listed."""
    file: str | None = None
    """On this machine, that has it: its own, or its archive."""

    def square(self, side: int, fit: Fit) -> NDArray[np.uint8]:
        """The image as the network's data set would store it, uint8 (side, side, 3), RGB.

        Raises:
            RequestError: why it cannot be read.
            TemporaryError: the machine or the drive failed.
        """
        if isinstance(self.content, RequestError):
            raise self.content
        name = str(self.name)
        if isinstance(self.name, str) and (ending := file_ending(name)) in RAW_ENDINGS:
            raise RequestError(
                f"{name} is a camera's raw file (.{ending}), of which only a thumbnail could be read; convert it to "
                "JPEG or PNG"
            )
        try:
            if not callable(self.content):
                return square_image(self.content, side, fit)
            content = self.content()
            return square_of_file(content, name, side, fit) if isinstance(content, bytes) else np.array(content)
        except OSError as error:
            if is_passing(error):
                raise passing_error(f"cannot read {name}", error) from error
            raise RequestError(f"cannot read {name}: {error.strerror or error}") from error
        except MemoryError as error:
            raise RequestError(f"cannot read {name}: it needs more memory than this machine has free") from error


def list_images(
    images: ImageInput | Iterable[ImageInput],
    downloads: Downloads,
    standard_input: Callable[[], bytes] | None = None,
) -> Iterator[InputImage]:
    """The images that `images` stand for, in order.

    A string or a path is a file; a folder, for all images below it; a tar or a zip, for the images in it; an http or
    https URL; or a pattern such as `photos/**/*.jpg` for the files it matches, unless a file has that very name. What
    `alexnet prepare` skips as no image is passed over in folders, archives and by patterns, and counted in the log.

    Args:
        images: one image, a batch, or any number of them, see `as_images`.
        downloads: of URLs, when they are read.
        standard_input: reads what `-` stands for: the bytes of an image, or paths and URLs, one per line or separated
            by NUL bytes. None takes `-` for a file.
    """
    for index, image in enumerate(as_images(images)):
        if not isinstance(image, str | os.PathLike):
            yield InputImage(index, image)
        elif standard_input is not None and os.fspath(image) == STANDARD_INPUT:
            yield from _standard_input(standard_input(), downloads)
        elif isinstance(image, str) and is_url(image):
            yield _at_url(image, downloads)
        else:
            name = os.fspath(image)
            if name.startswith("~") and not os.path.lexists(name):
                name = os.path.expanduser(name)
            is_pattern = re.search(r"[*?\[]", name) is not None and not os.path.lexists(name)
            yield from _matches(name) if is_pattern else _named(name)


def list_named(images: ImageInput | Iterable[ImageInput], downloads: Downloads) -> list[InputImage]:
    """As `list_images`, for work that does not begin unless everything that is named can be listed.

    Raises:
        RequestError: what is named has no images, cannot be listed, or ends in damage.
    """
    found = list(list_images(images, downloads))
    for one in found:
        if isinstance(one.content, RequestError):
            raise one.content
    return found


def _standard_input(content: bytes, downloads: Downloads) -> Iterator[InputImage]:
    names = content.removeprefix(_UTF8_MARK)
    entries = names.split(b"\0") if b"\0" in names else [line.removesuffix(b"\r") for line in names.split(b"\n")]
    # A list may begin like an image: that of a folder BMW, for example.
    if begins_as_image(content[:START_BYTES]) and not os.path.lexists(entries[0]):
        yield InputImage(STANDARD_INPUT, lambda: content)
        return
    num = 0
    for entry in filter(None, entries):
        num += 1
        name = os.fsdecode(entry)
        if is_url(name):
            yield _at_url(name, downloads)
        elif glob.has_magic(name) and not os.path.lexists(name):
            reason = "No such file or directory; patterns are not expanded on standard input"
            yield _refused(name, f"cannot read {name}: {reason}")
        else:
            yield from _named(name)
    if not num:
        yield _refused(STANDARD_INPUT, "standard input is empty; expected are paths, one per line, or an image")


def _at_url(url: str, downloads: Downloads) -> InputImage:
    """An image on the web; its name goes into results and logs, and so never has a password."""
    return InputImage(without_credentials(url), partial(downloads.get, url))


def _named(path: str) -> Iterator[InputImage]:
    """The images of a file, a folder or an archive."""
    if os.path.isdir(path):
        return _below(path)
    if file_ending(path) in ARCHIVE_ENDINGS and os.path.isfile(path) and not _is_image(path):
        return _members(path)
    return iter([_file(path)])


def _file(path: str) -> InputImage:
    # A file in this folder may be named `~`, which is not the home folder then.
    return InputImage(path, os.path.join(os.curdir, path) if path.startswith("~") else path, path)


def _is_image(path: str) -> bool:
    """Whether a file that is named like an archive is an image."""
    try:
        start = read_file_start(path, START_BYTES)
    except OSError:
        return False
    # A tar begins with the name of its first member, such as BMW/1.jpg.
    return begins_as_image(start) and not is_header(start[:TAR_BLOCK_BYTES])


def _matches(pattern: str) -> Iterator[InputImage]:
    """The images of the files and folders that a pattern matches; a pattern with `**` matches files only."""
    refused: dict[str, InputImage] = {}
    found = sorted({*_matching(pattern, refused), *refused}, key=_parts)
    if "**" in pattern:
        found = [path for path in found if path in refused or not os.path.isdir(path)]
    kept = [path for path in found if os.path.isdir(path) or not _is_skipped(os.path.basename(path), path)]
    _log_skipped(len(found) - len(kept), len(found), pattern)
    if not kept:
        what = "only files that are not images" if found else "no file"
        yield _refused(pattern, f"{pattern} matches {what}; name photographs, or folders of them")
    for path in kept:
        yield from [refused[path]] if path in refused else _named(path)


def _matching(pattern: str, refused: dict[str, InputImage]) -> Iterator[str]:
    """What a pattern matches. Folders are entered as by `_walk`, not as by `glob`, which follows links without end.

    Args:
        refused: gets the folders that cannot be read, by path.
    """
    parts = pattern.split("/")
    if "**" not in parts:
        found = glob.glob(pattern)
        folder = os.path.dirname(pattern)
        if not found and not glob.has_magic(folder) and os.path.isdir(folder):
            next(_walk(folder, refused), None)  # learns whether it can be read
        yield from found
        return
    at = parts.index("**")
    before = "/".join([*parts[:at], ""])
    after = parts[at:]
    while after and after[0] == "**":
        del after[0]
    for top in sorted(glob.glob(before)) if before else [""]:
        for folder, _ in _walk(top, refused, with_hidden=False):
            yield from _matching(os.path.join(glob.escape(folder), *(after or ["*"])), refused)


def _below(folder: str) -> Iterator[InputImage]:
    """The images in a folder and in those below it, also by links, each folder once; sorted by path."""
    refused: dict[str, InputImage] = {}
    found = [os.path.join(root, name) for root, names in _walk(folder, refused) for name in names]
    start = len(os.path.join(folder, ""))
    kept = [path for path in found if not _is_skipped(path[start:], path)]
    _log_skipped(len(found) - len(kept), len(found), folder)
    if not kept and not refused:
        reason = f"the folder {folder} has no images; name photographs, or folders of them"
        if archive := next((path for path in found if file_ending(path) in ARCHIVE_ENDINGS), None):
            reason = f"the folder {folder} has no images; archives are read where they are named, such as {archive}"
        if os.path.isfile(os.path.join(folder, DESCRIPTION_FILE)):
            reason = (
                f"{folder} is a prepared data set, not a folder of photographs; `alexnet predict` and "
                "`alexnet.predict` take it alone, `alexnet features` and `alexnet neighbors` with --data instead of "
                "photographs, `write_features` as data_folder"
            )
        yield _refused(folder, reason)
    for path in sorted([*kept, *refused], key=_parts):
        yield refused.get(path) or _file(path)


def _walk(top: str, refused: dict[str, InputImage], *, with_hidden: bool = True) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, also by links, each once, with the names of their files.

    Args:
        top: empty is the folder where the process is.
        refused: gets the folders that cannot be read, by path.
        with_hidden: whether hidden folders below `top` are entered, too.
    """

    def note(error: OSError) -> None:
        if is_passing(error):
            raise passing_error(f"cannot read {error.filename}", error) from error
        path = str(error.filename)
        refused[path] = _refused(path, f"cannot read {path}: {error.strerror or error}")

    visited: set[str] = set()
    for root, folder_names, file_names in os.walk(top or os.curdir, followlinks=True, onerror=note):
        real = os.path.realpath(root)
        if real in visited:
            folder_names.clear()
            continue
        visited.add(real)
        folder_names[:] = sorted(name for name in folder_names if with_hidden or not name.startswith("."))
        yield root if top else root.removeprefix(os.curdir).removeprefix(os.sep), file_names


def _parts(path: str) -> list[str]:
    return path.split(os.sep)


def _is_skipped(name: str, path: str) -> bool:
    """Whether a file is not an image; one that cannot be read counts as an image, and is refused later.

    Args:
        name: from the folder on that was named: a hidden folder may be named.
    """
    if not os.path.isfile(path):
        return os.path.exists(path)  # a pipe or a device, which could keep its reader waiting
    try:
        start = None if has_image_name(name) else read_file_start(path, START_BYTES)
    except OSError:
        start = None
    return not_an_image(name, start) is not None


def _members(path: str) -> Iterator[InputImage]:
    """The images in an archive, in its order; where it is damaged, why."""
    archive, skipped, num = Path(path), SkippedFiles(), 0
    read: Callable[[Path, Location], bytes]
    read_start: Callable[[Path, Location, int], bytes]
    if file_ending(path) == "zip":
        members, read, read_start = zip_members(archive, skipped), read_zip_member, read_zip_member_start
    else:
        members, read, read_start = _tar_members(archive, skipped), _read_tar_member, _read_tar_member_start
    try:
        for name, location in members:
            if location is None:
                continue
            full_name = f"{path}/{name}"
            try:
                is_known = has_image_name(name) or location == NOT_A_FILE
                start = None if is_known else read_start(archive, location, START_BYTES)
            except OSError as error:
                if is_passing(error):
                    raise
                start = None
            if reason := not_an_image(name, start):
                skipped.add(name, reason)
                continue
            num += 1
            if location == NOT_A_FILE:
                yield InputImage(full_name, partial(_refuse_link, full_name), path)
            else:
                yield InputImage(full_name, partial(read, archive, location), path)
    except RequestError as error:
        num += 1
        yield InputImage(path, error)
    except OSError as error:
        if is_passing(error):
            raise passing_error(f"cannot read {path}", error) from error
        num += 1
        yield _refused(path, f"cannot read {path}: {error.strerror or error}")
    num_unsafe = skipped.reasons()[LEADS_OUT]
    _log_skipped(len(skipped) - num_unsafe, len(skipped) + num, path)
    unsafe = f"{num_unsafe:,} file{'s' * (num_unsafe > 1)} with an empty name or one such as `../a.jpg`"
    if num_unsafe:
        _logger.warning(f"skipped {unsafe} in {path}; to have them read, unpack it and name the folder")
    if not num:
        others = f" besides {unsafe}; unpack it and name the folder" if num_unsafe else ""
        yield _refused(path, f"the archive {path} has no images{others}")


def _tar_members(path: Path, skipped: SkippedFiles) -> Iterator[tuple[str, Location | None]]:
    """As `zip_members`."""
    for member in tar_members(path, skipped=skipped):
        yield member.name, None if member.is_folder else member_location(0, member)


def _read_tar_member(path: Path, location: Location) -> bytes:
    return read_member([path], location)


def _read_tar_member_start(path: Path, location: Location, size_bytes: int) -> bytes:
    return read_member_start([path], location, size_bytes)


def _refuse_link(name: str) -> NoReturn:
    raise RequestError(f"{name} is no regular file; links, pipes and devices inside an archive are not read")


def _refused(name: str, reason: str) -> InputImage:
    return InputImage(name, RequestError(reason))


def _log_skipped(num: int, num_files: int, place: str) -> None:
    if num:
        _logger.info(f"skipped {num:,} of {num_files:,} files in {place} that are not images")
