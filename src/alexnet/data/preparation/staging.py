"""A preparation under way: a hidden folder beside its destination that survives any kill and is gone on with.

Work is done in pieces. A piece counts once the cursor says so; what was written beyond the cursor is written
again, with the same bytes. The cursor moves by one rename, after everything it speaks of is on the disk.
"""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import DESCRIPTION_FILE
from alexnet.data.preparation.statistics import ColorSums
from alexnet.errors import RequestError, WorkError
from alexnet.storage.atomic import is_full, remove_partial, require_free, sync_folder, write_bytes, write_json
from alexnet.storage.lock import only_writer

PLAN_FILE = "plan.json"
CURSOR_FILE = "cursor.npz"
PARTS_FOLDER = "parts"
LOCK_FILE = "lock"


@dataclass(frozen=True, eq=False)
class Cursor:
    """How far a preparation is."""

    pieces: int
    """Pieces that are done, counted over all splits."""
    sums: ColorSums
    """Over the training images of these pieces."""


class Stage:
    """The folder of a preparation under way, locked for this process."""

    def __init__(self, folder: Path, description_file: str = DESCRIPTION_FILE, cursor_file: str = CURSOR_FILE) -> None:
        self.folder = folder
        self.description_path = folder / description_file
        self.cursor_path = folder / cursor_file

    @property
    def is_complete(self) -> bool:
        """Whether all that is left is to give the folder its name."""
        return self.description_path.is_file()

    def cursor(self, side: int) -> Cursor:
        """How far the work is; at the start for a new folder."""
        path = self.cursor_path
        if not path.is_file():
            return Cursor(0, ColorSums.none(side))
        with path.open("rb") as file, np.load(file) as arrays:
            return Cursor(int(arrays["pieces"]), ColorSums.from_arrays(arrays))

    def save_part(self, number: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep what a piece says of its images until the end."""
        write_bytes(self._part(number), _npz(arrays))

    def part(self, number: int) -> dict[str, NDArray[Any]]:
        """What `save_part` kept."""
        with self._part(number).open("rb") as file, np.load(file) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def advance(self, cursor: Cursor) -> None:
        """Count the pieces before `cursor` as done, once their files are on the disk."""
        sync_folder(self.folder / PARTS_FOLDER)
        sync_folder(self.folder)
        write_bytes(self.cursor_path, _npz({"pieces": np.array(cursor.pieces), **cursor.sums.arrays()}))

    def publish(self, destination: Path) -> None:
        """Remove what only the work needed and give the folder its name."""
        shutil.rmtree(self.folder / PARTS_FOLDER, ignore_errors=True)
        for path in (self.cursor_path, self.folder / PLAN_FILE, self.folder / LOCK_FILE):
            path.unlink(missing_ok=True)
        sync_folder(self.folder)
        if destination.exists():
            destination.rmdir()
        self.folder.rename(destination)
        sync_folder(destination.absolute().parent)

    def _part(self, number: int) -> Path:
        return self.folder / PARTS_FOLDER / f"{number:08d}.npz"


def stage_folder(destination: Path) -> Path:
    """Where the work for `destination` lies until it is done."""
    return destination.with_name(f".{destination.name}.preparing")


@contextlib.contextmanager
def opened_stage(
    destination: Path,
    plan: Mapping[str, Any],
    *,
    restart: bool,
    description_file: str = DESCRIPTION_FILE,
    cursor_file: str = CURSOR_FILE,
) -> Iterator[Stage]:
    """Begin a preparation, or go on with the one that was broken off.

    The folder stays when the block ends with an error, so that the same command can go on.

    Args:
        destination: the folder to make.
        plan: what is being prepared and how; work done to another plan is not gone on with.
        restart: throw away what an earlier preparation has done.
        description_file: what makes the folder whole; it holds the plan as `plan`.
        cursor_file: what says that something is done.

    Raises:
        RequestError: the destination is taken or cannot be made; another process is at work on it; or it was begun
            with another plan.
        WorkError: the disk is full.
    """
    require_free(destination)
    folder = stage_folder(destination)
    try:
        (folder / PARTS_FOLDER).mkdir(parents=True, exist_ok=True)
        lock_file = folder / LOCK_FILE
        with only_writer(lock_file, str(destination)):
            # While the lock was waited for, its holder may have ended and given the folder its name.
            require_free(destination)
            if not lock_file.exists():
                raise RequestError(f"another process has just finished {destination}; run the same command again")
            if restart:
                _clear(folder)
            stage = Stage(folder, description_file, cursor_file)
            _agree(stage, plan, destination)
            remove_partial(folder)
            remove_partial(folder / PARTS_FOLDER)
            yield stage
    except OSError as error:
        if is_full(error):
            raise WorkError(
                f"the disk of {destination} is full; what is done is kept in {folder}: free some space and run the "
                "same command again"
            ) from error
        if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
            raise RequestError(
                f"cannot write {destination}: {error.strerror or error}; name a folder you may write to"
            ) from error
        raise


def _agree(stage: Stage, plan: Mapping[str, Any], destination: Path) -> None:
    """Write the plan, or hold it against the one that was begun; where nothing is done yet, begin anew."""
    path = stage.folder / PLAN_FILE
    try:
        # The plan goes first when a whole folder is to get its name, and stands in its description too.
        begun: dict[str, Any] = (
            json.loads(path.read_text(encoding="utf-8"))
            if path.exists() or not stage.is_complete
            else json.loads(stage.description_path.read_text(encoding="utf-8"))["plan"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        begun = {}
    if begun != plan and not stage.is_complete and not stage.cursor_path.exists():
        _clear(stage.folder)
        write_json(path, plan)
        return
    differences = [
        f"{name} was {begun.get(name)!r} and is {plan.get(name)!r}"
        for name in sorted({*begun, *plan})
        if begun.get(name) != plan.get(name)
    ]
    if differences:
        raise RequestError(
            f"{destination} was begun by another command ({'; '.join(differences)}); run that one again to finish it, "
            "or add --restart to throw its work away"
        )


def _clear(folder: Path) -> None:
    """Remove everything but the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()
    (folder / PARTS_FOLDER).mkdir()


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()
