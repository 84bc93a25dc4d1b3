"""The mirror of published files that the environment names."""

import os
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet.data.file_download import DownloadError
from alexnet.data.http_transfer import is_url, require_plain_url, without_credentials
from alexnet.errors import RequestError

MIRROR_VARIABLE = "ALEXNET_MIRROR"
"""The environment variable with the URL or the folder of a mirror, which has the published files side by side."""


def mirror_url() -> str:
    """The URL of the mirror, without a slash at its end; empty if there is none, or a folder.

    Raises:
        RequestError: it is neither http nor https, or has a user name or a password, or no host, or a wrong port.
    """
    mirror = os.environ.get(MIRROR_VARIABLE, "")
    if not is_url(mirror):
        return ""
    try:
        require_plain_url(mirror)
        parts = urllib.parse.urlsplit(mirror)
        if parts.port == 0:
            raise ValueError("Port out of range 0-65535")
    except RequestError as error:
        has_credentials = without_credentials(mirror) != mirror
        problem = "has a user name or a password (not shown)" if has_credentials else "is not an http or https URL"
        raise _refused(mirror, problem) from error
    except ValueError as error:
        raise _refused(mirror, f"is not a URL ({error})") from error
    if not parts.hostname:
        raise _refused(mirror, "has no host")
    return mirror.rstrip("/")


def mirror_folder(*names: str) -> Path | None:
    """The folder that is the mirror; None if there is none, or a URL.

    Args:
        names: of the files that it must have.

    Raises:
        RequestError: it is not a folder, or lacks one of them.
    """
    mirror = os.environ.get(MIRROR_VARIABLE, "")
    if not mirror or is_url(mirror):
        return None
    folder = Path(mirror)
    if not mirror.strip() or not folder.is_dir():
        problem = "is blank" if not mirror.strip() else "is a file" if folder.exists() else "does not exist"
        raise _refused(mirror, problem)
    for name in names:
        if not (folder / name).is_file():
            raise RequestError(f"{MIRROR_VARIABLE} is {mirror!r}, which has no {name}; add it or unset the variable")
    return folder


@contextmanager
def mirror_named_in_failures(mirror: str) -> Iterator[None]:
    """Say in the errors of downloads from the mirror, if there is one, that it is set."""
    try:
        yield
    except DownloadError as error:
        if not mirror:
            raise
        raise DownloadError(
            f"{error}. {MIRROR_VARIABLE} is set to {mirror!r}; unset it to fetch from the official place"
        ) from error


def _refused(mirror: str, problem: str) -> RequestError:
    return RequestError(
        f"{MIRROR_VARIABLE} is {without_credentials(mirror)!r}, which {problem}; allowed are an http or https URL, and "
        "a folder with the archives; correct or unset the variable"
    )
