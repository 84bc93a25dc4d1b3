"""Activations of several networks for the same images, in a folder per run beneath one folder."""

import itertools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from alexnet.data.concatenated import open_data
from alexnet.errors import RequestError, WorkError
from alexnet.explore.feature_reader import Dtype, Features
from alexnet.explore.feature_work import FeatureWork, FileFormat, prepare_work
from alexnet.explore.feature_writer import DESCRIPTION_FILE
from alexnet.model.weights import weights_file
from alexnet.runs.folder import RunFolder
from alexnet.storage.paths import StrPath, StrPaths, as_path, as_paths
from alexnet.system.device import Device, PrecisionChoice

_logger = logging.getLogger(__name__)


class FeatureOptions(TypedDict, total=False):
    """Settings of `write_features` that all runs share."""

    data_folder: StrPaths | None
    split: str | None
    photographs: StrPaths
    layers: Sequence[str] | str | None
    untrained: bool
    dtype: Dtype
    pca: int | StrPath | None
    file_format: FileFormat
    device: Device
    precision: PrecisionChoice


def write_features_of_runs(
    runs: StrPaths,
    destination: StrPath,
    *,
    batch_size: int | None = None,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[FeatureOptions],
) -> dict[str, Features]:
    """Write the activations of each run to its own folder in `destination`, of the same images in the same order.

    The same call resumes after a kill, and skips the runs that are finished. All networks are in memory until their
    turn.

    Args:
        runs: run folders and weights files.
        destination: the folder that holds the folders, which are named after the runs, see `names_of_runs`.
        progress: called with (images done, images in total), of all runs.
        options: see `write_features`; a folder `pca` has a folder per run too, as this function writes it.

    Returns:
        The features by the names of their folders.

    Raises:
        RequestError: as `write_features`, of any run, before work begins; the runs were trained on different data and
            no images are named; or a folder has the features of another request.
        WorkError: the runs could not read the same photographs; and as `write_features`.
        Interrupted: from the keyboard; finished work is kept.
    """
    destination = as_path(destination, "the destination")
    names = names_of_runs(as_paths(runs, "the runs"))
    if (destination / DESCRIPTION_FILE).is_file():
        raise RequestError(f"{destination} has the features of one run; name another folder for those of several")
    if not options.get("photographs") and options.get("data_folder") is None:
        _require_same_data(list(names.values()))

    def prepared(name: str) -> FeatureWork:
        one = options.copy()
        pca = one.get("pca")
        if isinstance(pca, str | os.PathLike):
            one["pca"] = as_path(pca, "the folder") / name
        return prepare_work(names[name], destination / name, may_be_done=True, **one)

    works = {name: prepared(name) for name in names}
    for work in works.values():
        work.finished()
    destination.mkdir(parents=True, exist_ok=True)
    written: dict[str, Features] = {}
    for number, (name, run) in enumerate(names.items()):
        work = works.pop(name)  # with its network, which is no longer needed after this
        if done := work.finished():
            _logger.info(f"{work.destination} is finished")
        else:
            _logger.info(f"run {number + 1} of {len(names)}: {run}")
        written[name] = done or work.write(batch_size, restart, _of_all(progress, number, len(names)))
    _require_same_images(list(written.values()))
    return written


def names_of_runs(runs: Sequence[Path]) -> dict[str, Path]:
    """The run or weights file by a name: of its folder or file, with those of folders above it where two are equal.

    Raises:
        RequestError: a run is named twice, or none is named.
    """
    if not runs:
        raise RequestError("no runs are named; name one or more run folders or weights files")
    parts: dict[Path, tuple[str, ...]] = {}
    for run in runs:
        path = Path(os.path.abspath(run))
        is_of_run = path.name == weights_file(path.parent).name
        parts[run] = (path.parent if is_of_run else path if path.is_dir() else path.with_suffix("")).parts[1:]
    for depth in itertools.count(1):
        names = {run: "-".join(one[-depth:]) or "run" for run, one in parts.items()}
        if len(parts) == len(runs) and len(set(names.values())) == len(runs):
            return {name: run for run, name in names.items()}
        if depth > max(map(len, parts.values())) or len(parts) < len(runs):
            raise RequestError(f"a run is named twice: {', '.join(map(str, runs))}; name each once")
    raise AssertionError


def _require_same_data(runs: Sequence[Path]) -> None:
    """Refuse runs of different data, and weights files, which name none."""
    checksums = {}
    for run in runs:
        if not run.is_dir():
            raise RequestError(
                f"{run} is a weights file, which names no data set; name one with --data, or name photographs"
            )
        checksums[run] = open_data(RunFolder.open(run).require_data()).checksum
    for run in runs[1:]:
        if checksums[run] != checksums[runs[0]]:
            raise RequestError(
                f"{runs[0]} and {run} were trained on different data; name the images for both with --data, or name "
                "photographs"
            )


def _require_same_images(written: Sequence[Features]) -> None:
    for one in written[1:]:
        if one.paths != written[0].paths:
            raise WorkError(
                f"{written[0].folder} and {one.folder} do not have the same images, because not all could be read for "
                "both; see refused.jsonl in both, and leave these images out"
            )


def _of_all(
    progress: Callable[[int, int], None] | None, number: int, num_runs: int
) -> Callable[[int, int], None] | None:
    """A run's progress as that of all runs."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, num_runs * total)
