"""Where pictures are written, and in which format: by default named after the run."""

from pathlib import Path
from typing import Literal

from alexnet.errors import RequestError
from alexnet.figures.figure_style import FIGURE_FORMATS, FigureFormat
from alexnet.model.weights import name_of
from alexnet.storage.own_pictures import require_replaceable

PictureFormat = FigureFormat | Literal["html"]
PICTURE_FORMATS: tuple[PictureFormat, ...] = (*FIGURE_FORMATS, "html")


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
        if wanted is not None and ending in PICTURE_FORMATS and ending != wanted:
            raise RequestError(f"--format is {wanted}, but {out} ends in .{ending}; omit one, or let them agree")
        if wanted is None and ending not in allowed:
            raise RequestError(f"{out} does not end in the name of a format; allowed is {names}, or give --format")
        format = next(one for one in allowed if one == (wanted or ending))
    require_replaceable(out)
    return out, format
