"""Pictures and pages: written in place of an older one that this program made, and of nothing else."""

from pathlib import Path

from alexnet.errors import RequestError
from alexnet.storage.atomic import created_folder, raise_if_full, unwritable, write_bytes
from alexnet.storage.read_errors import raise_unless_damage

_MARKS = (
    (b"\x89PNG\r\n\x1a\n", b"Software\0alexnet"),
    (b"<?xml", b"<dc:title>alexnet</dc:title>"),
    (b"%PDF", b"/Creator (alexnet)"),
    (b"<!DOCTYPE html>", b'<meta name="generator" content="alexnet">'),
    # Pages of earlier versions, which did not name their maker.
    (b"<!DOCTYPE html>", b"  --paper: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d5dae0;"),
)
"""How files begin, and what only ours contain, near the start or the end."""
_MARK_BYTES = 4096


def require_replaceable(path: Path) -> None:
    """Raise RequestError unless a picture or page may be written to `path`: there is nothing, or one that we made."""
    if path.is_dir():
        raise RequestError(f"{path} is a folder; name a file")
    if (path.exists() or path.is_symlink()) and not _is_own(path):
        raise RequestError(
            f"{path} exists and is not a picture or page that alexnet made; remove it or name another file"
        )


def write_picture(path: Path, content: bytes | str) -> Path:
    """Write a picture, or a page as text, atomically; an older one is replaced, see `require_replaceable`.

    Folders that do not exist yet are made.

    Returns:
        `path`.

    Raises:
        RequestError: the file cannot be created, or something else is there.
        WorkError: the disk is full.
    """
    require_replaceable(path)
    try:
        with created_folder(path.parent):
            write_bytes(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise_if_full(error, path)
        raise unwritable(path, error) from error
    return path


def _is_own(path: Path) -> bool:
    if not path.is_file():  # a pipe or a device could keep its reader waiting
        return False
    try:
        with path.open("rb") as file:
            start = file.read(_MARK_BYTES)
            file.seek(max(0, path.stat().st_size - _MARK_BYTES))
            ends = start + file.read(_MARK_BYTES)
    except OSError as error:
        raise_unless_damage(error, path)
        return False
    return any(start.startswith(magic) and mark in ends for magic, mark in _MARKS)
