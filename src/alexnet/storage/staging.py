"""A hidden folder next to its destination: long work in it survives any kill and is resumed by the same command.

The folder holds the plan of the work, a lock, a cursor file that records how much is done, and the output of the work.
When the work is complete, the folder is renamed to its destination.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from alexnet.errors import RequestError, WorkError
from alexnet.storage.atomic import (
    clear_folder,
    is_full,
    remove_locked,
    remove_partial,
    require_free,
    sync_folder,
    unwritable,
)
from alexnet.storage.lock import only_writer
from alexnet.storage.typed_files import DamagedFile, read_json, write_sealed_json

PLAN_FILE = "plan.json"
PARTS_FOLDER = "parts"
LOCK_FILE = "lock"
RESTART = "add --restart to discard the unfinished work and start over"
"""Advice where a file of unfinished work is damaged."""


class _Description(TypedDict):
    plan: dict[str, Any]


class Staging:
    """The folder of unfinished work, locked for this process; see `open_staging`.

    Attributes:
        folder: becomes the destination.
        description_path: the file that makes the folder complete.
        cursor_path: the file that says how much of the work is done.
        parts_folder: for what only the work itself needs; removed when the folder is published.
    """

    def __init__(self, folder: Path, description_file: str, cursor_file: str) -> None:
        self.folder = folder
        self.description_path = folder / description_file
        self.cursor_path = folder / cursor_file
        self.parts_folder = folder / PARTS_FOLDER

    @property
    def is_complete(self) -> bool:
        """Whether the folder only needs to be published."""
        return self.description_path.is_file()

    def publish(self, destination: Path) -> None:
        """Remove what only the work needed, and rename the folder to `destination`."""
        shutil.rmtree(self.parts_folder, ignore_errors=True)
        for path in (self.cursor_path, self.folder / PLAN_FILE):
            path.unlink(missing_ok=True)
        sync_folder(self.folder)
        if destination.exists():
            destination.rmdir()
        self.folder.rename(destination)
        # Last: a process that made a lock of its own in the folder before would find it renamed.
        (destination / LOCK_FILE).unlink()
        sync_folder(destination.absolute().parent)


def staging_folder(destination: Path) -> Path:
    """Where the work for `destination` is kept until it is complete."""
    return destination.with_name(f".{destination.name}.preparing")


@contextlib.contextmanager
def open_staging(
    destination: Path, plan: Mapping[str, Any], *, description_file: str, cursor_file: str, restart: bool
) -> Iterator[Staging]:
    """Start work on `destination`, or resume the work that an earlier call with the same plan left unfinished.

    The folder is kept when the block ends with an error, so that the same command can resume.

    Args:
        destination: the folder to make.
        plan: the settings of the work. Work that was started with another plan is not resumed.
        description_file: name of the file that makes the folder complete; it holds the plan as `plan`.
        cursor_file: name of the file that says how much of the work is done.
        restart: discard the work of an earlier call.

    Raises:
        RequestError: the destination is taken or cannot be made; another process is writing it; or the work was
            started with another plan.
        WorkError: the disk is full.
    """
    require_free(destination)
    folder = staging_folder(destination)
    try:
        with only_writer(folder / LOCK_FILE, str(destination)):
            try:
                # The process that held the lock until now may have published its folder.
                require_free(destination)
            except RequestError:
                remove_locked(folder, LOCK_FILE)
                raise
            (folder / PARTS_FOLDER).mkdir(exist_ok=True)
            if restart:
                _clear(folder)
            staging = Staging(folder, description_file, cursor_file)
            _write_or_compare_plan(staging, plan, destination)
            remove_partial(folder)
            remove_partial(staging.parts_folder)
            yield staging
    except OSError as error:
        if is_full(error):
            raise WorkError(
                f"the disk of {destination} is full; finished work is kept in {folder}: free some space and run the "
                "same command again to resume"
            ) from error
        if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
            raise unwritable(destination, error) from error
        raise


def _write_or_compare_plan(staging: Staging, plan: Mapping[str, Any], destination: Path) -> None:
    """Write the plan, or compare it with that of the unfinished work; start over where nothing is done yet."""
    path = staging.folder / PLAN_FILE
    try:
        # `publish` removes the plan before it renames the folder; the description holds a copy.
        started = (
            read_json(path, dict[str, Any], RESTART)
            if path.exists() or not staging.is_complete
            else read_json(staging.description_path, _Description, RESTART)["plan"]
        )
    except DamagedFile:
        if staging.is_complete or staging.cursor_path.exists():
            raise
        started = {}
    if started != plan and not staging.is_complete and not staging.cursor_path.exists():
        _clear(staging.folder)
        write_sealed_json(path, plan)
        return
    differences = [
        f"{name} was {_setting(started, name)} and is {_setting(plan, name)}"
        for name in sorted({*started, *plan})
        if started.get(name) != plan.get(name)
    ]
    if differences:
        raise RequestError(
            f"{destination} was started by another command ({'; '.join(differences)}); rerun that command to finish "
            "it, or add --restart to discard its work"
        )


def _setting(plan: Mapping[str, Any], name: str) -> str:
    return repr(plan[name]) if name in plan else "not given"


def _clear(folder: Path) -> None:
    """Remove everything but the lock."""
    clear_folder(folder, LOCK_FILE)
    (folder / PARTS_FOLDER).mkdir()
