"""Where pictures are written: named after the run, in place of an older picture, and of nothing else."""

from pathlib import Path
from typing import Literal

from alexnet.errors import RequestError
from alexnet.figures.figure_style import FIGURE_FORMATS, PROGRAM, FigureFormat
from alexnet.model.weights import name_of
from alexnet.storage.atomic import created_folder, raise_if_full, unwritable, write_bytes
from alexnet.storage.read_errors import raise_unless_damage

PictureFormat = FigureFormat | Literal["html"]
PICTURE_FORMATS: tuple[PictureFormat, ...] = (*FIGURE_FORMATS, "html")
_MARKS: dict[PictureFormat, tuple[bytes, bytes]] = {
    "png": (b"\x89PNG\r\n\x1a\n", f"Software\0{PROGRAM}".encode()),
    "svg": (b"<?xml", f"<dc:title>{PROGRAM}</dc:title>".encode()),
    "pdf": (b"%PDF", f"/Creator ({PROGRAM})".encode()),
    "html": (b"<!DOCTYPE html>", f'<meta name="generator" content="{PROGRAM}">'.encode()),
}
"""How the files of pictures begin, and what only ours contain, near the start or the end."""
_MARK_BYTES = 4096


def choose_picture(
    run: Path,
    what: str,
    out: Path | None,
    wanted: str | None,
    allowed: tuple[PictureFormat, ...] = FIGURE_FORMATS,
) -> tuple[Path, PictureFormat]:
    """The file of a picture and its format, before the work for it begins.

    Args:
        run: a run folder or a weights file.
        what: the picture shows; without `out` it is in the working directory: `mine-<what>.png` of `runs/mine`.
        out: the file; its ending is the format, unless that is given.
        wanted: the format; None is that of `out`, or PNG.

    Raises:
        RequestError: a format that is not allowed, or that contradicts the name of the file; or the file exists, and is
            not a picture that this program wrote.
    """
    names = ", ".join(allowed)
    if wanted is not None and wanted not in allowed:
        raise RequestError(f"--format is {wanted!r}; allowed is {names}")
    if out is None:
        format = next(one for one in allowed if one == (wanted or "png"))
        out = Path(f"{name_of(run)}-{what}.{format}")
    else:
        ending = out.suffix.lower().removeprefix(".")
        if wanted is not None and ending in _MARKS and ending != wanted:
            raise RequestError(f"--format is {wanted}, but {out} ends in .{ending}; omit one, or let them agree")
        if wanted is None and ending not in allowed:
            raise RequestError(f"{out} does not end in the name of a format; allowed is {names}, or give --format")
        format = next(one for one in allowed if one == (wanted or ending))
    require_replaceable(out)
    return out, format


def require_replaceable(path: Path) -> None:
    """Raise RequestError unless a picture may be written to `path`: there is nothing, or a picture of this program."""
    if path.is_dir():
        raise RequestError(f"{path} is a folder; name a file")
    if (path.exists() or path.is_symlink()) and not _is_own_picture(path):
        raise RequestError(f"{path} exists and is not a picture that alexnet made; remove it or name another file")


def write_picture(path: Path, content: bytes) -> None:
    """Write a picture atomically; an older one is replaced, see `require_replaceable`.

    Raises:
        RequestError: the file cannot be created, or became something else meanwhile.
        WorkError: the disk is full.
    """
    require_replaceable(path)
    try:
        with created_folder(path.parent):
            write_bytes(path, content)
    except OSError as error:
        raise_if_full(error, path)
        raise unwritable(path, error) from error


def _is_own_picture(path: Path) -> bool:
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
    return any(start.startswith(magic) and mark in ends for magic, mark in _MARKS.values())
