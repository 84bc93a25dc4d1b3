"""Reports as users ask for them: of one run or of several, with the data sets found and the file named."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.evaluation.paired import open_runs
from alexnet.model.weights import name_of
from alexnet.report.contents import data_of, image_folders
from alexnet.report.page import write_run_page
from alexnet.report.side_by_side import write_side_by_side
from alexnet.runs.folder import RunFolder
from alexnet.storage.own_pictures import require_replaceable
from alexnet.storage.paths import StrPath, StrPaths, as_path, as_paths

_logger = logging.getLogger(__name__)

_MOST_NAMES = 3


def write_report(runs: StrPaths, *, data: StrPaths | None = None, out: StrPath | None = None) -> Path:
    """Write the page of a run, or one page that shows several runs side by side: a self-contained HTML file.

    It is made from the run folders: nothing is trained or evaluated. Of a run with an index, the network computes the
    features of three images, and the whole index is read. The page says which parts are missing.

    Args:
        runs: a run folder, or several.
        data: the prepared data set to show images from, or several to be concatenated; None is what the runs were
            trained on. If that is not found, a warning says so and the page has no images.
        out: the HTML file to write; an older page is replaced. None is `report.html` in the run folder, and of several
            runs `report-NAME-NAME.html` in the working directory.

    Returns:
        The file that was written.

    Raises:
        RequestError: a folder is not a run, or named twice; `data` is not the data set of a run; `out` is not an HTML
            file, is something other than a page, or cannot be written.
        WorkError: a file of a run is damaged, or the disk is full.
    """
    folders = as_paths(runs, "the run folder")
    if not folders:
        raise RequestError("no run is named; name one or more run folders")
    opened = open_runs(folders)
    named = None if data is None else as_paths(data, "the data set")
    own_page = folders[0] / "report.html" if len(opened) == 1 else None
    path = own_page or _default_path(folders) if out is None else as_path(out, "out")
    _require_page(path)
    if own_page:
        return write_run_page(folders[0], _data(opened[0], named), path)
    if named is None:
        return write_side_by_side(opened, [_data(run, None) for run in opened], path)
    found = open_data(named)
    _require_measured(opened, found)
    return write_side_by_side(opened, [found] * len(opened), path)


def _default_path(folders: Sequence[Path]) -> Path:
    names = [name_of(folder) for folder in folders]
    others = names[_MOST_NAMES:]
    digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:6]  # other runs, other file
    rest = [f"and-{len(others)}-more-{digest}"] if others else []
    return Path("-".join(["report", *names[:_MOST_NAMES], *rest]) + ".html")


def _data(run: RunFolder, named: Sequence[Path] | None) -> PreparedData | None:
    """The data set to show images from; a warning says that that of the run is not found."""
    if named is not None:
        return open_data(named)
    folders = image_folders(run) if not run.is_imported or data_of(run) else []
    if missing := [str(folder) for folder in folders if not folder.exists()]:
        _logger.warning(
            f"cannot find the data set {' and '.join(missing)}: the report has no images; pass its folder with --data"
        )
        return None
    return open_data(folders) if folders else None


def _require_measured(runs: Sequence[RunFolder], data: PreparedData) -> None:
    """Refuse a data set that a run was not evaluated on, so that it cannot show the images of all."""
    for run in runs:
        checksums = {one["data_checksum"] for one in run.evaluations().values()}
        if checksums and data.checksum not in checksums:
            others = " and ".join(sorted(one[:12] for one in checksums))
            raise RequestError(
                f"{run.path} was not evaluated on {data.folder} (checksum {data.checksum[:12]}), but on data with "
                f"checksum {others}; name that one, or evaluate the run with `alexnet evaluate --data`"
            )


def _require_page(path: Path) -> None:
    """Refuse to replace anything but a page.

    Raises:
        RequestError: the path does not end in .html, is a folder, or a file that is not a page of this program.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"{path} does not end in .html; the report is a page: name a file that does")
    require_replaceable(path)
