"""Files larger than any image, sparse or not: refused without taking their size in memory."""

import errno
import os
import resource
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.data.decode import UnreadableImage
from alexnet.data.preparation.prepare import prepare
from alexnet.data.sources.file_ranges import (
    LARGE_FILE_BYTES,
    MAX_FILE_BYTES,
    read_any_file,
    read_range,
    read_regular_file,
)
from alexnet.data.sources.zip_archive import read_zip_member
from alexnet.storage.read_errors import is_passing
from alexnet.system.prefetch import prefetch

PNG = b"\x89PNG\r\n\x1a\n"


def sparse(path: Path, start: bytes, size_bytes: int) -> Path:
    path.write_bytes(start)
    os.truncate(path, size_bytes)
    return path


def peak_bytes(work: Callable[[], object]) -> int:
    """How much a call raises the largest memory that the process has held."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


@pytest.mark.parametrize("size_bytes", [18 * 2**30, MAX_FILE_BYTES + 1])
def test_a_file_longer_than_any_image_is_refused_unread(tmp_path: Path, size_bytes: int) -> None:
    file = sparse(tmp_path / "big.png", PNG, size_bytes)

    def read() -> None:
        for reader in (read_regular_file, read_any_file):
            with pytest.raises(OSError, match=f"{size_bytes:,} bytes are more than any image needs"):
                reader(str(file))

    assert peak_bytes(read) < 2**24


def test_a_large_file_that_was_mostly_never_written_is_refused_unread(tmp_path: Path) -> None:
    file = sparse(tmp_path / "big.png", PNG, MAX_FILE_BYTES)
    if file.stat().st_blocks * 512 > MAX_FILE_BYTES / 2:
        pytest.skip("the file system has no sparse files")

    def read() -> None:
        with pytest.raises(OSError, match="of 2,147,483,648 bytes have been written"):
            read_regular_file(str(file))

    assert peak_bytes(read) < 2**24


def test_a_large_file_that_is_no_image_is_refused_by_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.data.sources.file_ranges.LARGE_FILE_BYTES", 100)
    (tmp_path / "zeros.jpg").write_bytes(bytes(101))
    with pytest.raises(UnreadableImage, match="no image of a format that is read"):
        read_regular_file(str(tmp_path / "zeros.jpg"))
    (tmp_path / "small.jpg").write_bytes(bytes(100))
    assert read_regular_file(str(tmp_path / "small.jpg")) == bytes(100)
    (tmp_path / "photo.png").write_bytes(PNG + bytes(range(256)))
    assert read_regular_file(str(tmp_path / "photo.png")) == PNG + bytes(range(256))


def test_a_large_image_is_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4800, 4800, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.bmp")
    assert (tmp_path / "noise.bmp").stat().st_size > LARGE_FILE_BYTES
    assert read_regular_file(str(tmp_path / "noise.bmp")) == (tmp_path / "noise.bmp").read_bytes()


def test_a_range_longer_than_any_image_is_refused_unread(tmp_path: Path) -> None:
    file = sparse(tmp_path / "archive.tar", b"", 18 * 2**30)
    with pytest.raises(OSError, match="more than any image needs"):
        read_range(file, 512, MAX_FILE_BYTES + 1)


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"abc" * 100_000))
    writer.start()
    assert read_any_file(str(tmp_path / "pipe")) == b"abc" * 100_000
    writer.join()


@pytest.mark.parametrize("waits_for", ["a writer", "more bytes"])
def test_a_pipe_without_an_end_does_not_keep_its_reader(waits_for: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read = prefetch(
        lambda name: read_any_file(name) if name else b"", ["", str(tmp_path / "pipe")], workers=2, ahead=2, name="x"
    )
    writer = os.open(tmp_path / "pipe", os.O_RDWR) if waits_for == "more bytes" else None
    if writer is not None:
        os.write(writer, b"abc")
    assert next(read) == b""
    time.sleep(0.05)  # while the other thread waits
    read.close()
    if writer is not None:
        os.close(writer)


def test_sockets_devices_and_folders_are_not_opened(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path, reason in ((tmp_path / "socket", "it is a socket"), ("/dev/zero", "it is a device")):
            with pytest.raises(UnreadableImage, match=reason):
                read_any_file(str(path))
        with pytest.raises(OSError) as refused:
            (tmp_path / "socket").open()
        assert not is_passing(refused.value)
        assert is_passing(OSError(errno.ENXIO, "", str(tmp_path / "gone"))) and is_passing(OSError(errno.ENXIO, ""))
    with pytest.raises(IsADirectoryError):
        read_any_file(str(tmp_path))


def test_an_archive_that_has_become_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photos.tar")
    for read in (
        lambda: read_range(tmp_path / "photos.tar", 0, 9),
        lambda: read_zip_member(tmp_path / "photos.tar", (0, 9, 9, 0)),
    ):
        with pytest.raises(OSError, match="Illegal seek"):
            read()


def test_beside_a_sparse_file_of_18_gb_the_photographs_are_prepared(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for name in ("a", "b"):
        (tmp_path / "source" / "train" / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "source" / "train" / name / f"{number}.png")
    sparse(tmp_path / "source" / "train" / "a" / "big.png", PNG, 18 * 2**30)
    data = prepare(tmp_path / "source", tmp_path / "out", side=16)
    assert len(data.splits["train"]) == 24 and data.description["num_refused"] == 1
    assert "more than any image needs" in (tmp_path / "out" / "refused.jsonl").read_text()
