"""The mirror of published files that the environment names."""

import os
from pathlib import Path

from alexnet.data.http_transfer import is_url, require_plain_url
from alexnet.errors import RequestError
from alexnet.storage.paths import as_path

MIRROR_VARIABLE = "ALEXNET_MIRROR"
"""The environment variable with the URL or the folder of a mirror, which has the published files side by side."""


def mirror_url() -> str:
    """The URL of the mirror, without a slash at its end; empty if there is none, or a folder.

    Raises:
        RequestError: it is neither http nor https, or has a user name or a password.
    """
    mirror = os.environ.get(MIRROR_VARIABLE, "")
    if not is_url(mirror):
        return ""
    require_plain_url(mirror)
    return mirror.rstrip("/")


def mirror_folder(*names: str) -> Path | None:
    """The folder that is the mirror; None if there is none, or a URL.

    Args:
        names: of the files that it must have.

    Raises:
        RequestError: it lacks one of them.
    """
    mirror = os.environ.get(MIRROR_VARIABLE, "")
    if not mirror or is_url(mirror):
        return None
    folder = as_path(mirror, MIRROR_VARIABLE)
    for name in names:
        if not (folder / name).is_file():
            raise RequestError(f"{MIRROR_VARIABLE} is {mirror}, which has no {name}; add it or unset the variable")
    return folder
