"""Files as version 0.1.0 wrote them before its formats were made explicit: what was written must stay readable.

`formats.tar.xz` holds prepared data sets in both stores, a finished run, one interrupted after step 7 with its
checkpoints, the weights that it ended with when nothing interrupted it, two baselines, features, and what every
variant's network was described as in a weights file of version 3 (`networks.json`).
"""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).with_name("formats.tar.xz")


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def golden(unpacked: Path, tmp_path: Path) -> Path:
    """A copy of the golden files; runs name the prepared data sets where the copy has them."""
    folder = tmp_path / "golden"
    shutil.copytree(unpacked, folder)
    for path in folder.glob("*/run.json"):
        metadata = json.loads(path.read_text())
        metadata["data"]["folders"] = [str(folder / name) for name in metadata["data"]["folders"]]
        path.write_text(json.dumps(metadata))
    return folder
