"""`fetch weights`: a local copy, a mirror, the next command, and what is refused."""

import dataclasses
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alexnet.cli import fetch_command
from alexnet.cli.main import main
from alexnet.errors import RequestError, WorkError
from alexnet.exchange import published_weights
from alexnet.exchange.published_weights import PUBLISHED_WEIGHTS, fetch_weights

CONTENT = {name: name.encode() * 1000 for name in PUBLISHED_WEIGHTS}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture(autouse=True)
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with stand-ins of all files, whose digests are expected, at the published place of each."""
    (tmp_path / "web").mkdir()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "web")) as running:
        base = f"http://127.0.0.1:{running.server_port}"
        for name, one in PUBLISHED_WEIGHTS.items():
            (tmp_path / "web" / one.file_name).write_bytes(CONTENT[name])
            digest = hashlib.new(one.algorithm, CONTENT[name]).hexdigest()
            stand_in = dataclasses.replace(one, url=f"{base}/{one.file_name}", digest=digest)
            monkeypatch.setitem(published_weights.PUBLISHED_WEIGHTS, name, stand_in)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield base
        running.shutdown()
        thread.join()


def test_what_is_published() -> None:
    published = published_weights.PUBLISHED_WEIGHTS
    assert tuple(published) == fetch_command.WEIGHTS == ("torchvision", "caffe", "caffenet")
    names = ["alexnet-owt-7be5be79.pth", "bvlc_alexnet.caffemodel", "bvlc_reference_caffenet.caffemodel"]
    assert [one.file_name for one in published.values()] == names


@pytest.mark.parametrize("name", PUBLISHED_WEIGHTS)
def test_weights_are_fetched_and_the_next_command_is_named(
    name: str, tmp_path: Path, mirror: str, capsys: pytest.CaptureFixture[str]
) -> None:
    destination = tmp_path / "my weights"
    for _ in range(2):  # the second finds the file
        assert main(["fetch", "weights", name, str(destination)]) == 0
        one = published_weights.PUBLISHED_WEIGHTS[name]
        path = destination / one.file_name
        assert path.read_bytes() == CONTENT[name]
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{one.title}: {one.published}" and lines[1:3] == [
            f"source: {one.url}",
            f"license: {one.license}",
        ]
        assert lines[3:-1] == [f"cite: {text}" for text in one.citation] and len(lines) > 4
        assert lines[-1].endswith(f"next: alexnet import '{path}' --run runs/{name}")
    described = json.loads((destination / "SOURCE.json").read_text())["files"]
    assert described == {one.file_name: {
        "title": one.title, "url": one.url, "obtained_from": one.url, one.algorithm: one.digest,
        "license": one.license, "citation": list(one.citation), "published": one.published,
    }}  # fmt: skip


def test_a_destination_at_or_below_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/new"):
        with pytest.raises(RequestError, match=r"^cannot write .*caffemodel: .*/file is a file; name a destination"):
            fetch_weights("caffe", tmp_path / place)


def test_one_folder_holds_several(tmp_path: Path) -> None:
    for name in PUBLISHED_WEIGHTS:
        fetch_weights(name, tmp_path / "all")
    assert len(json.loads((tmp_path / "all" / "SOURCE.json").read_text())["files"]) == 3
    assert len(list((tmp_path / "all").iterdir())) == 4


def test_the_mirror_of_the_environment_is_asked_first(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = published_weights.PUBLISHED_WEIGHTS["caffe"]
    (tmp_path / "web" / "sub").mkdir()
    for value in (f"{mirror}/sub/", str(tmp_path / "web" / "sub")):
        monkeypatch.setenv("ALEXNET_MIRROR", value)
        with pytest.raises(
            (RequestError, WorkError), match=r"404.*ALEXNET_MIRROR is set|which has no bvlc_alexnet.caffemodel"
        ):
            fetch_weights("caffe", tmp_path / "out")
    (tmp_path / "web" / one.file_name).rename(tmp_path / "web" / "sub" / one.file_name)
    for number, value in enumerate((f"{mirror}/sub/", str(tmp_path / "web" / "sub"))):
        monkeypatch.setenv("ALEXNET_MIRROR", value)
        path, _ = fetch_weights("caffe", tmp_path / f"out {number}")
        assert path.read_bytes() == CONTENT["caffe"]


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"files": ["mine.bin"]}', '{"files": {"mine.bin": {}'])
def test_a_description_of_another_kind_is_not_replaced(tmp_path: Path, mirror: str, content: str) -> None:
    described = tmp_path / "all" / "SOURCE.json"
    described.parent.mkdir()
    described.write_text(content)
    with pytest.raises(RequestError, match=r"SOURCE.json is damaged .*; rename it, or name another destination"):
        fetch_weights("caffe", tmp_path / "all")
    assert described.read_text() == content and [*described.parent.iterdir()] == [described]
    described.write_text('{"title": "my photographs", "files": {"mine.bin": {"title": "mine"}}}')
    path, _ = fetch_weights("caffe", tmp_path / "all")
    found = json.loads(described.read_text())
    assert found["title"] == "my photographs" and list(found["files"]) == ["mine.bin", path.name]
    assert found["files"]["mine.bin"] == {"title": "mine"}


def test_a_local_copy_or_a_mirror_is_taken(tmp_path: Path, mirror: str) -> None:
    copy = tmp_path / "copy.bin"
    copy.write_bytes(CONTENT["caffe"])
    path, _ = fetch_weights("caffe", tmp_path / "a", str(copy))
    assert path.read_bytes() == CONTENT["caffe"] and copy.exists()
    assert json.loads((tmp_path / "a" / "SOURCE.json").read_text())["files"][path.name]["obtained_from"] == str(copy)
    fetch_weights("caffe", tmp_path / "a", str(copy))
    (tmp_path / "web" / "other-name").write_bytes(CONTENT["caffe"])
    path, _ = fetch_weights("caffe", tmp_path / "b", f"{mirror}/other-name")
    assert path.name == "bvlc_alexnet.caffemodel" and path.read_bytes() == CONTENT["caffe"]


def test_a_copy_is_of_the_bytes_that_were_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another program changes meanwhile: nothing is kept that was not verified."""
    source = tmp_path / "copy.bin"
    source.write_bytes(CONTENT["caffe"])
    monkeypatch.setattr(published_weights, "_BLOCK_BYTES", 1000)
    opened = Path.open

    class Changing:
        def __init__(self, file: Any) -> None:
            self._file, self._num_read = file, 0

        def __enter__(self) -> "Changing":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def read(self, size: int) -> bytes:
            self._num_read += 1
            content: bytes = self._file.read(size)
            return bytes(len(content)) if self._num_read == 3 else content

    def open_changing(self: Path, *words: Any, **named: Any) -> Any:
        file = opened(self, *words, **named)
        return Changing(file) if self == source else file

    monkeypatch.setattr(Path, "open", open_changing)
    with pytest.raises(RequestError, match=r"copy.bin is another file than http.*; give an undamaged copy of it"):
        fetch_weights("caffe", tmp_path / "a", str(source))
    assert not (tmp_path / "a").exists()


def test_other_files_are_refused_and_leave_nothing(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong.bin"
    wrong.write_bytes(b"wrong")
    with pytest.raises(
        RequestError, match=r"wrong.bin is another file than http.*its sha1 is .*, expected .*; give an und"
    ):
        fetch_weights("caffe", tmp_path / "a", str(wrong))
    with pytest.raises(
        RequestError, match=r"nothing does not exist; give a copy of bvlc_alexnet.caffemodel, or the URL"
    ):
        fetch_weights("caffe", tmp_path / "a", str(tmp_path / "nothing"))
    with pytest.raises(RequestError, match="web is not a file"):
        fetch_weights("caffe", tmp_path / "a", str(tmp_path / "web"))
    wrong.write_bytes(b"\n<!DOCTYPE html><p>Please log in")
    with pytest.raises(RequestError, match=r"wrong.bin is a web page, not weights; give a copy of http"):
        fetch_weights("caffe", tmp_path / "a" / "b", str(wrong))
    monkeypatch.setattr(published_weights, "MAX_BYTES", 10_000)
    wrong.write_bytes(bytes(10_001))
    with pytest.raises(RequestError, match=r"wrong.bin has more than 10,000 bytes; give a copy of http"):
        fetch_weights("caffe", tmp_path / "a", str(wrong))
    assert not (tmp_path / "a").exists()
    with pytest.raises(WorkError, match="is not the expected file: its sha1 is"):
        fetch_weights("caffe", tmp_path / "a", f"{mirror}/bvlc_reference_caffenet.caffemodel")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weights", "vgg", "d"], "takes one of torchvision, caffe, caffenet first; got 'vgg'"),
        (["weights", "caffe"], "`alexnet fetch weights caffe` takes one destination, and got 0"),
        (["weights", "caffe", "a", "b"], "takes one destination, and got 2"),
        (["cifar10", "a", "b"], "`alexnet fetch cifar10` takes one destination, and got 2: a b"),
        (["shapes", "a", "--from", "b"], "--from does not apply to shapes"),
        (["weights", "caffe", "a", "--from", "ftp://x/y"], "is not an http or https URL"),
    ],
)
def test_the_command_says_what_it_takes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", *words]) == 2
    assert message in capsys.readouterr().err
