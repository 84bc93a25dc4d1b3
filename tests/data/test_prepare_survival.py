"""Preparation that is killed, filled up, doubled or begun differently; what is finished is the same, byte for byte."""

import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet.data.preparation import commits
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.storage.staging import staging_folder

NUM_IMAGES, SHARD_IMAGES = 120, 6


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, some twice, some broken."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(7)
    for number in range(NUM_IMAGES):
        split = "val" if number % 8 == 0 else "train"
        path = folder / split / f"class{number % 2}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(path, quality=90)
        if number % 40 == 39:
            path.write_bytes(path.read_bytes()[:300])
    (folder / "val" / "class0" / "copy.jpg").write_bytes((folder / "train" / "class0" / "002.jpg").read_bytes())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def prepare_in_process(source: Path, destination: Path, store: str) -> None:
    """The victim: a whole preparation, with two threads."""
    prepare(source, destination, side=48, store=store, shard_images=SHARD_IMAGES, workers=2)


def kill_often(source: Path, destination: Path, store: str, num_kills: int, seed: int) -> int:
    """Prepare with kills at random moments; returns how many hit a process at work."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["alexnet.data.preparation.prepare"])
    chance = random.Random(seed)
    hits = 0
    while not destination.exists():
        victim = processes.Process(target=prepare_in_process, args=(source, destination, store))
        victim.start()
        cursor = staging_folder(destination) / "cursor.npz"
        before = cursor.stat().st_mtime_ns if cursor.exists() else 0
        # Wait until a chunk is committed, so that every life gets something done, then a random while.
        while victim.is_alive() and (not cursor.exists() or cursor.stat().st_mtime_ns == before):
            time.sleep(0.01)
            if destination.exists():
                break
        if hits < num_kills:
            time.sleep(chance.uniform(0, 0.02))
            if victim.is_alive():
                victim.kill()
                hits += 1
        victim.join()
    return hits


@pytest.mark.parametrize("store", ["jpeg", "pixels"])
def test_a_killed_preparation_is_resumed_and_ends_with_the_same_bytes(
    photographs: Path, tmp_path: Path, store: str
) -> None:
    prepare_in_process(photographs, tmp_path / "whole", store)
    assert kill_often(photographs, tmp_path / "killed", store, num_kills=3, seed=1) >= 1
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not staging_folder(tmp_path / "killed").exists()


@pytest.mark.slow
def test_many_kills_end_with_the_same_bytes(photographs: Path, tmp_path: Path) -> None:
    wanted = 10 if os.environ.get("CI") else 50
    prepare_in_process(photographs, tmp_path / "whole", "jpeg")
    hits = 0
    for attempt in range(2 * wanted):
        destination = tmp_path / f"killed{attempt}"
        hits += kill_often(photographs, destination, "jpeg", wanted - hits, seed=attempt)
        assert contents(destination) == contents(tmp_path / "whole")
        if hits >= wanted:
            break
    assert hits == wanted


class Stop(BaseException):
    """Stands in for a sudden end, inside this process."""


@pytest.mark.parametrize("store", ["jpeg", "pixels"])
def test_an_end_at_each_write_is_survived(
    photographs: Path, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename and every flush to the disk is a moment at which the machine may stop."""
    prepare(photographs, tmp_path / "whole", side=24, store=store, shard_images=50)
    moments = 0
    for name in ("replace", "rename"):
        usual: Callable[..., Any] = getattr(Path, name)

        def stopping(
            self: Path,
            target: Path,
            usual: Callable[..., Any] = usual,
            count: dict[str, int] = {"left": 0},  # noqa: B006
        ) -> Any:
            if count.get("armed") and count["left"] == 0:
                raise Stop
            count["left"] -= 1
            return usual(self, target)

        count = stopping.__defaults__[1]  # type: ignore[index]
        monkeypatch.setattr(Path, name, stopping)
        for moment in range(40):
            destination = tmp_path / f"{name}{moment}"
            count.update(armed=1, left=moment)
            try:
                prepare(photographs, destination, side=24, store=store, shard_images=50)
                break
            except Stop:
                moments += 1
            count.update(armed=0)
            assert not destination.exists()
            prepare(photographs, destination, side=24, store=store, shard_images=50)
            assert contents(destination) == contents(tmp_path / "whole")
        count.update(armed=0)
    assert moments >= 8


def test_an_interrupt_keeps_what_is_done(photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="alexnet")

    def interrupt(done: int, of: int) -> None:
        if done > NUM_IMAGES // 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="rerun the same command to resume"):
        prepare(photographs, tmp_path / "out", side=16, shard_images=10, progress=interrupt)
    data = prepare(photographs, tmp_path / "out", side=16, shard_images=10)
    assert any(line.startswith("resuming: ") for line in caplog.messages)
    assert data.description["duplicates"]["leaked_images"] == 1
    assert any(line.startswith("LEAK: 1 validation") for line in caplog.messages)


def test_a_whole_chunk_that_waits_for_the_disk_is_committed(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="alexnet")

    class SlowDisk(ThreadPoolExecutor):
        def __init__(self, threads: int, thread_name_prefix: str) -> None:
            super().__init__(threads, thread_name_prefix, lambda: time.sleep(1))

    def interrupt(done: int, of: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(commits, "ThreadPoolExecutor", SlowDisk)
    with pytest.raises(Interrupted):
        prepare(photographs, tmp_path / "out", side=16, shard_images=10, progress=interrupt)
    prepare(photographs, tmp_path / "out", side=16, shard_images=10)
    assert [line for line in caplog.messages if line.startswith("resuming: 10 of")]


@pytest.mark.parametrize("store", ["jpeg", "pixels"])
def test_an_unfinished_preparation_has_the_files_of_earlier_versions(
    photographs: Path, tmp_path: Path, store: str
) -> None:
    """Later versions resume it: these names and keys are its format, see FORMAT_VERSION in its plan."""

    def interrupt(done: int, of: int) -> None:
        if done > 25:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        prepare(photographs, tmp_path / "out", side=16, store=store, shard_images=10, progress=interrupt)
    folder = staging_folder(tmp_path / "out")
    assert folder == tmp_path / ".out.preparing"
    images = {"train-000000.tar", "train-000001.tar"} if store == "jpeg" else {"train-images.npy"}
    assert {path.name for path in folder.iterdir()} - {".train-000002.tar.partial"} == {
        "plan.json", "lock", "cursor.npz", "parts", *images
    }  # fmt: skip
    assert set(json.loads((folder / "plan.json").read_text())) == {
        "source", "kind", "source_sha256", "format_version", "side", "store", "jpeg_quality", "hold_out", "seed",
        "exif", "shard_images", "made_with", "content_sha256",
    }  # fmt: skip
    with np.load(folder / "cursor.npz") as cursor:
        assert set(cursor.files) == {"pieces", "num_images", "pixel_sums", "products"}
        assert (int(cursor["pieces"]), int(cursor["num_images"])) == (2, 20)
        assert cursor["pixel_sums"].shape == (16, 16, 3) and cursor["products"].shape == (3, 3)
    assert sorted(path.name for path in (folder / "parts").iterdir()) == ["00000000.npz", "00000001.npz"]
    with np.load(folder / "parts" / "00000001.npz") as record:
        of_shard = {"index", "shard_bytes", "shard_sha256"} if store == "jpeg" else set()
        assert set(record.files) == {"numbers", "digests", "sizes", "refused", "reasons", "deep"} | of_shard
        assert record["numbers"].tolist() == list(range(10, 20))
        earlier = {name: record[name] for name in record.files if name != "deep"}
    np.savez(folder / "parts" / "00000001.npz", **earlier)  # as before images of 16 bits were counted
    prepare(photographs, tmp_path / "out", side=16, store=store, shard_images=10)
    prepare(photographs, tmp_path / "whole", side=16, store=store, shard_images=10)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_another_command_at_the_same_place_is_refused(photographs: Path, tmp_path: Path) -> None:
    def interrupt(done: int, of: int) -> None:
        if done > of // 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        prepare(photographs, tmp_path / "out", side=16, shard_images=10, progress=interrupt)
    with pytest.raises(RequestError, match=r"started by another command \(.*side was 16 and is 24\).*--restart"):
        prepare(photographs, tmp_path / "out", side=24, shard_images=10)
    assert prepare(photographs, tmp_path / "out", side=24, restart=True).side == 24


def test_where_nothing_is_done_another_command_starts_over(photographs: Path, tmp_path: Path) -> None:
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        prepare(photographs, tmp_path / "out", side=16, store="pixels", progress=interrupt)
    prepare(photographs, tmp_path / "out", side=24, store="jpeg", workers=1)
    prepare(photographs, tmp_path / "whole", side=24, store="jpeg", workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_changed_file_is_noticed(photographs: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for place in ("train/a/1", "train/b/1", "train/b/2", "val/a/1"):
        (source / place).parent.mkdir(parents=True, exist_ok=True)
        (source / place).write_bytes((photographs / "train" / "class0" / "002.jpg").read_bytes())

    def interrupt(done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        prepare(source, tmp_path / "out", side=16, shard_images=1, progress=interrupt)
    (source / "train/a/1").write_bytes((photographs / "train" / "class0" / "004.jpg").read_bytes())
    with pytest.raises(RequestError, match="source_sha256 was"):
        prepare(source, tmp_path / "out", side=16, shard_images=1)


def test_the_second_of_two_processes_is_refused(photographs: Path, tmp_path: Path) -> None:
    refusals: list[str] = []

    def second(done: int, of: int) -> None:
        if not refusals:
            program = (
                "import sys; from alexnet.cli.main import main; "
                f"sys.exit(main(['prepare', {str(photographs)!r}, {str(tmp_path / 'out')!r}, '--side', '16']))"
            )
            run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=500)
            assert run.returncode == 2
            refusals.append(run.stderr)

    prepare(photographs, tmp_path / "out", side=16, progress=second)
    assert f"is being written by process {os.getpid()}" in refusals[0]


def limited_in_size(source: Path, destination: Path, limit_bytes: int, queue: Any) -> None:
    """Prepare where no file may grow beyond a limit: a full disk, as far as a write can tell."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        prepare(source, destination, side=48, store="pixels", shard_images=SHARD_IMAGES)
    except WorkError as error:
        queue.put(str(error))


def test_after_a_full_disk_the_same_command_resumes(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="alexnet")
    prepare_in_process(photographs, tmp_path / "whole", "pixels")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["alexnet.data.preparation.prepare"])
    queue = processes.Queue()
    victim = processes.Process(target=limited_in_size, args=(photographs, tmp_path / "out", 50 * 48 * 48 * 3, queue))
    victim.start()
    message = queue.get(timeout=500)
    victim.join()
    assert "is full; finished work is kept in" in message and "run the same command again" in message
    prepare(photographs, tmp_path / "out", side=48, store="pixels", shard_images=SHARD_IMAGES, workers=1)
    assert any(line.startswith("resuming: ") for line in caplog.messages)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_too_many_bad_files_make_no_data_set(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="alexnet")
    with pytest.raises(WorkError, match=r"3 of 121 files were refused \(2\.5%\).*--max-refused 0\.01.*--max-refused$"):
        prepare(photographs, tmp_path / "out", side=16, max_refused=0.01)
    assert not (tmp_path / "out").exists()
    with pytest.raises(WorkError, match=r"^train/class1/039\.jpg: damaged JPEG.*omit --on-bad stop"):
        prepare(photographs, tmp_path / "out", side=16, on_bad="stop", restart=True)
    # The work is done: accepting the loss only gives the folder its name.
    prepare(photographs, tmp_path / "out", side=16, restart=False)
    assert "refused 3 of 121 files" in caplog.text
