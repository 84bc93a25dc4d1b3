"""A web server on the loopback that cuts, stalls, redirects, lies about lengths, ignores ranges, or changes files."""

import http.server
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

from alexnet.data import file_download

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"


@dataclass
class Server:
    """What the loopback server does, and what it was asked for."""

    url: str = ""
    content: bytes = CONTENT
    files: dict[str, bytes] = field(default_factory=dict)
    """By the last part of their paths; other paths are those of `content`."""
    etag: str | None = '"first"'
    ranges: bool = True
    answers: list[Callable[["Handler"], None]] = field(default_factory=list)
    """One for each request; then the file."""
    asked: list[str] = field(default_factory=list)
    """Range headers."""
    released: threading.Event = field(default_factory=threading.Event)
    """Set at the end of a test."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def do_GET(self) -> None:
        self.close_connection = True
        if urlsplit(self.path).path == "/to":
            self.send(b"", 302, Location=self.path.partition("?")[2])
            return
        self.state.asked.append(self.headers.get("Range", ""))
        try:
            (self.state.answers.pop(0) if self.state.answers else serve)(self)
        except (BrokenPipeError, ConnectionResetError):
            return

    def send(self, content: bytes, code: int = 200, **headers: object) -> None:
        self.send_response(code)
        for name, value in ({"Content_Length": len(content)} | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return


def serve(handler: Handler, end: int | None = None, **headers: object) -> None:
    """The file, or the rest of it, as a web server does; only up to byte `end`, whatever it promised."""
    state = handler.state
    content = state.files.get(urlsplit(handler.path).path.rpartition("/")[2], state.content)
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    condition = handler.headers.get("If-Range")
    first = int(asked[1]) if asked and state.ranges and condition in (None, state.etag) else None
    if first is not None and first >= len(content):
        handler.send(b"", 416, Content_Range=f"bytes */{len(content)}")
        return
    rest = content[first or 0 : end]
    extra: dict[str, object] = {"ETag": state.etag, "Content_Length": len(content) - (first or 0)}
    if first is not None:
        extra["Content_Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
    handler.send(rest, 200 if first is None else 206, **extra | headers)


def cut_at(end: int) -> Callable[[Handler], None]:
    return lambda handler: serve(handler, end)


def stall_at(end: int) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        serve(handler, end)
        handler.state.released.wait(30)

    return answer


def drip(handler: Handler) -> None:
    serve(handler, 1000)
    while not handler.state.released.wait(0.02):
        handler.wfile.write(b"x")


def plain(content: bytes, code: int = 200, **headers: object) -> Callable[[Handler], None]:
    return lambda handler: handler.send(content, code, **headers)


@contextmanager
def running_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, and downloads without pauses between their tries."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(file_download, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(file_download, "NEW_START_BYTES", 50_000)
    monkeypatch.setattr(file_download, "BLOCK_BYTES", 4096)
    state = Server()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state})) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        state.url = f"http://127.0.0.1:{running.server_port}/weights.bin"
        yield state
        state.released.set()
        running.shutdown()
        thread.join()
