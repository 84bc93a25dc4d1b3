"""Large files from web servers that cut, stall, redirect, lie about lengths, ignore ranges, or change the file."""

import errno
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.loopback_server import (
    CONTENT,
    OTHER,
    PAGE,
    Handler,
    Server,
    cut_at,
    drip,
    plain,
    running_server,
    serve,
    stall_at,
)

from alexnet.data import file_download, http_transfer
from alexnet.data.file_download import WantedFile, download_file
from alexnet.errors import RequestError, WorkError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with running_server(monkeypatch) as server:
        yield server


def wanted(server: Server, **changes: Any) -> WantedFile:
    digest = hashlib.sha1(CONTENT).hexdigest()
    return WantedFile(**({"url": server.url, "digest": digest, "algorithm": "sha1", "max_bytes": 400_000} | changes))


def fetch(server: Server, path: Path, **changes: Any) -> None:
    download_file(wanted(server, **changes), path, name="weights.bin", progress=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "weights.bin"


def require_done(path: Path) -> None:
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["weights.bin"]


def part(path: Path) -> Path:
    return path.with_name("weights.bin.part")


def test_a_file_is_downloaded_once(server: Server, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fetch(server, path)
    require_done(path)
    fetch(server, path)
    assert server.asked == [""] and "exists already, with the expected sha1" in caplog.text
    path.write_bytes(OTHER)
    with pytest.raises(RequestError, match=r"weights.bin is another file than http.*sha1 is .*, expected .*; rem"):
        fetch(server, path)
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize("etag", ['"first"', 'W/"weak"', None])
def test_a_cut_connection_is_made_again_where_it_ended(server: Server, path: Path, etag: str | None) -> None:
    server.etag = etag
    server.answers = [cut_at(100_000), cut_at(180_000), cut_at(240_000)]
    fetch(server, path)
    require_done(path)
    assert server.asked == ["", "bytes=100000-", "bytes=180000-", "bytes=240000-"]


def test_pauses_grow_and_begin_anew_after_progress(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(file_download, "PAUSES_S", (1.0, 4.0, 15.0))
    monkeypatch.setattr(time, "sleep", paused.append)
    server.answers = [cut_at(60_000), cut_at(60_000), cut_at(70_000), cut_at(130_000), cut_at(131_000)]
    fetch(server, path)
    require_done(path)
    assert paused == [1, 4, 15, 1, 4]


def test_after_a_few_tries_one_error_says_how_to_continue(server: Server, path: Path) -> None:
    server.answers = [cut_at(30_000), cut_at(30_000), plain(b"", 503), cut_at(30_000)]
    with pytest.raises(
        WorkError,
        match=r"cannot download http.*: the connection ended after 30,000 of 300,000 bytes \(30,000 bytes are kept in "
        r".*weights.bin.part\); rerun the same command to continue$",
    ):
        fetch(server, path)
    assert not path.exists() and part(path).read_bytes() == CONTENT[:30_000]
    fetch(server, path)
    require_done(path)
    assert server.asked == ["", "bytes=30000-", "bytes=30000-", "bytes=30000-", "bytes=30000-"]


@pytest.mark.parametrize("stall", [stall_at(100_000), drip])
def test_a_server_that_stalls_is_asked_again(
    server: Server, path: Path, stall: Callable[[Handler], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_download, "STALL_S", 0.5)
    server.answers = [stall]
    fetch(server, path)
    require_done(path)
    assert len(server.asked) > 1
    server.answers = [stall] * 4
    path.unlink()
    with pytest.raises(WorkError, match=r"too little came for 0\.5 s \([\d,]+ bytes are kept .*rerun the same command"):
        fetch(server, path)


def test_a_slow_server_is_not_a_stalled_one(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_download, "STALL_BYTES", 1000)
    monkeypatch.setattr(file_download, "STALL_S", 1.5)

    def slow(handler: Handler) -> None:
        serve(handler, 1000)
        for first in range(1000, len(CONTENT), 30_000):
            time.sleep(0.2)
            handler.wfile.write(CONTENT[first : first + 30_000])

    server.answers = [slow]
    start_s = time.monotonic()
    fetch(server, path)
    assert time.monotonic() - start_s > 1.5 and server.asked == [""]
    require_done(path)


def test_a_server_that_ignores_ranges_starts_over(server: Server, path: Path) -> None:
    server.ranges = False
    server.answers = [cut_at(100_000)]
    fetch(server, path)
    require_done(path)
    assert server.asked == ["", "bytes=100000-"]
    path.unlink()
    server.answers = [cut_at(100_000)] * 9  # 100,000 bytes each time, but never more than before
    with pytest.raises(WorkError, match="ended after 100,000 of 300,000 bytes"):
        fetch(server, path)
    assert len(server.asked) == 6


def test_a_server_that_sends_now_less_and_now_more_is_given_up(server: Server, path: Path) -> None:
    server.ranges = False
    server.answers = [cut_at(end) for _ in range(100) for end in (60_000, 180_000)]
    with pytest.raises(WorkError, match=r"ended after 60,000 of 300,000 bytes \(60,000 bytes are kept .*; rerun"):
        fetch(server, path)
    assert len(server.asked) == 5  # the second brings more than ever before


def test_the_tries_are_limited_in_all(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_download, "NEW_START_BYTES", 1000)
    monkeypatch.setattr(file_download, "MAX_TRIES", 30)
    server.answers = [cut_at(end) for end in range(2000, 290_000, 2000)]
    with pytest.raises(WorkError, match=r"ended after 60,000 of 300,000 bytes \(60,000 bytes are kept .*; rerun"):
        fetch(server, path)
    assert len(server.asked) == 30
    server.answers.clear()
    fetch(server, path)
    require_done(path)


def changed_file(etag: str | None) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        serve(handler, 100_000)
        handler.state.content, handler.state.etag = CONTENT, etag

    return answer


@pytest.mark.parametrize("etag", ['"second"', None])
def test_a_file_that_changes_between_two_requests_is_downloaded_anew(
    server: Server, path: Path, etag: str | None
) -> None:
    server.content = OTHER
    server.etag = '"first"' if etag else None
    server.answers = [changed_file(etag)]
    fetch(server, path)
    require_done(path)


def serve_the_right_one(handler: Handler) -> None:
    handler.state.content = CONTENT
    serve(handler)


def test_a_shorter_or_longer_file_is_another_one(server: Server, path: Path) -> None:
    server.etag = None
    for length in (90_000, 310_000):
        server.content = (OTHER * 2)[:length]
        server.answers = [cut_at(80_000), serve_the_right_one]
        fetch(server, path)
        require_done(path)
        path.unlink()


def test_another_part_than_was_asked_for_is_not_written(server: Server, path: Path) -> None:
    wrong = plain(CONTENT[50_000:], 206, Content_Range="bytes 50000-299999/300000")
    server.answers = [cut_at(100_000), wrong]
    fetch(server, path)
    require_done(path)
    path.unlink()
    server.answers = [wrong] * 9
    with pytest.raises(
        WorkError,
        match=r"the server sent another part of the file than was requested \(4 attempts\); download it elsewhere",
    ):
        fetch(server, path)


def test_bytes_of_an_earlier_call_that_do_not_fit_are_discarded(server: Server, path: Path) -> None:
    server.answers = [cut_at(100_000), plain(b"", 404)]
    with pytest.raises(WorkError, match=r"the server answers 404 Not Found; download it elsewhere, and give it"):
        fetch(server, path)
    part(path).write_bytes(OTHER[:100_000])  # a disk that lost its power
    fetch(server, path)
    require_done(path)
    for damage in (b"", b"[]", b"{", b'{"url": 3}', json.dumps({"url": "http://other/"}).encode()):
        path.unlink(missing_ok=True)
        part(path).write_bytes(OTHER[:100_000])
        path.with_name("weights.bin.part.json").write_bytes(damage)
        fetch(server, path)
        require_done(path)


def test_a_complete_part_only_needs_to_be_verified(server: Server, path: Path) -> None:
    server.answers = [cut_at(100_000), plain(b"", 404)]
    with pytest.raises(WorkError):
        fetch(server, path)
    part(path).write_bytes(CONTENT)
    asked = len(server.asked)
    fetch(server, path)
    require_done(path)
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (plain(PAGE, Content_Type="text/html"), r"gives a web page in place of the file, .*give it with --from FILE$"),
        (plain(b"", 403), r"cannot download .*: the server answers 403 Forbidden; download it elsewhere, and give"),
        (plain(OTHER), r"is not the expected file: its sha1 is [0-9a-f]{40}, expected [0-9a-f]{40}\. The server has"),
        (plain(CONTENT[:-1]), "is not the expected file"),
        (plain(CONTENT, Content_Length=10**15), "has more than 400,000 bytes"),
        (plain(CONTENT * 2, Content_Length=None), "has more than 400,000 bytes"),
        (plain(CONTENT, Content_Length=len(CONTENT) - 1000), "is not the expected file"),
        (plain(b"", 204, Content_Length=None), r"the server's answer is empty \(204\)"),
        (plain(CONTENT, Content_Encoding="gzip"), r"the server sends it compressed \(gzip\)"),
    ],
)
def test_what_is_not_the_file_leaves_nothing(
    server: Server, path: Path, answer: Callable[[Handler], None], message: str
) -> None:
    server.answers = [answer]
    with pytest.raises(WorkError, match=message) as refused:
        fetch(server, path)
    assert "\n" not in str(refused.value) and server.url in str(refused.value)
    assert not path.parent.exists() and len(server.asked) == 1


def test_a_web_page_does_not_replace_what_was_received(server: Server, path: Path) -> None:
    server.answers = [cut_at(100_000), plain(PAGE, Content_Type="text/html")]
    with pytest.raises(WorkError, match="gives a web page"):
        fetch(server, path)
    assert part(path).stat().st_size == 100_000
    fetch(server, path)
    require_done(path)


def test_a_file_that_claims_to_be_longer_than_it_is(server: Server, path: Path) -> None:
    server.answers = [plain(CONTENT, Content_Length=350_000)]
    # The rest is asked for, and the server's file turns out to end there.
    fetch(server, path)
    require_done(path)


def test_an_empty_file_and_no_answer(server: Server, path: Path) -> None:
    server.answers = [plain(b"")] * 4
    with pytest.raises(WorkError, match="the server's answer is empty; rerun the same command to continue"):
        fetch(server, path)
    with pytest.raises(WorkError, match=r"cannot download http://127.0.0.1:9/x: Connection refused; rerun"):
        fetch(server, path, url="http://127.0.0.1:9/x")
    with pytest.raises(RequestError, match=r"has a user name or a password \(not shown\)"):
        fetch(server, path, url="http://me:secret@127.0.0.1/x")


def test_redirects_are_followed_by_the_same_rules(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = server.url.removesuffix("/weights.bin")
    fetch(server, path, url=f"{base}/to?/weights.bin")
    require_done(path)
    path.unlink()
    with pytest.raises(RequestError, match="redirects are followed to http and https only"):
        fetch(server, path, url=f"{base}/to?file:///etc/hostname")
    for target, problem in (
        ("http://127.0.0.1:9/x?key=secret", r"http://127.0.0.1:9/x\): Connection refused; rerun"),
        ("/to?http://127.0.0.1:9/x", r"http://127.0.0.1:9/x\): Connection refused; rerun"),
    ):
        with pytest.raises(WorkError, match=rf"^cannot download .* \(redirected to {problem}") as caught:
            fetch(server, path, url=f"{base}/to?{target}")
        assert str(caught.value).startswith(f"cannot download {base}/to?{target} (redirected")
    server.answers = [plain(b"", 404)]
    with pytest.raises(WorkError, match=rf"\(redirected to {base}/elsewhere\): the server answers 404"):
        fetch(server, path, url=f"{base}/to?/elsewhere")
    is_local, asked = http_transfer._is_local, []

    def as_if_the_server_were_public(host: str | None) -> bool:
        asked.append(host)
        return is_local("8.8.8.8" if len(asked) % 2 == 0 else host)

    monkeypatch.setattr(http_transfer, "_is_local", as_if_the_server_were_public)
    with pytest.raises(RequestError, match="is on this machine or its local network"):
        fetch(server, path, url=f"{base}/to?http://localhost/x")
    assert os.listdir(path.parent) == []


def test_a_full_disk_keeps_what_was_received(server: Server, path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from alexnet.data.file_download import *;"
        f"download_file(WantedFile(url={server.url!r}, digest='0', algorithm='sha1', max_bytes=400_000),"
        f"Path({str(path)!r}), name='x', progress=False)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    line = done.stderr.splitlines()[-1]
    assert re.search(
        r"the disk of .*weights.bin is full; free some space, and rerun .*\(100,000 bytes are kept\)$", line
    )
    assert part(path).read_bytes() == CONTENT[:100_000]
    fetch(server, path)
    require_done(path)


def test_too_little_space_is_said_before(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(WorkError, match="needs 0 MiB and its disk has 0 MiB free; free some space"):
        fetch(server, path)
    assert not path.exists()


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_said(
    server: Server, path: Path, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error), str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(RequestError, match=f"cannot write .*: {os.strerror(error)}; name a folder you may write to"):
        fetch(server, path)
    (path.parent.parent / "file").write_bytes(b"")
    with pytest.raises(RequestError, match=r"cannot write .*; name a folder you may write to"):
        fetch(server, path.parent.parent / "file" / "weights.bin")


def test_two_processes_do_not_download_the_same_file(server: Server, path: Path) -> None:
    lock = path.with_name(".weights.bin.lock")
    script = (
        "import time; from pathlib import Path; from alexnet.storage.lock import only_writer\n"
        f"with only_writer(Path({str(lock)!r}), 'x'):\n print('held', flush=True)\n time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(RequestError, match=r"weights\.bin is being written by process"):
            fetch(server, path)
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout:
            holder.stdout.close()
    fetch(server, path)
    require_done(path)


def test_a_killed_download_goes_on(server: Server, path: Path) -> None:
    server.answers = [stall_at(120_000)]
    script = (
        "from pathlib import Path; from alexnet.data.file_download import *;"
        f"download_file(WantedFile(url={server.url!r}, digest='0', algorithm='sha1', max_bytes=400_000),"
        f"Path({str(path)!r}), name='x', progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    while not part(path).is_file() or part(path).stat().st_size < 120_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    fetch(server, path)
    require_done(path)
    assert server.asked == ["", "bytes=120000-"]


def test_progress_is_reported(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_download, "_UNIT_BYTES", 1000)
    seen: list[tuple[int, int]] = []
    server.answers = [cut_at(100_000)]
    download_file(wanted(server), path, name="x", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (300, 300) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert any(done == 100 for done, _ in seen)
