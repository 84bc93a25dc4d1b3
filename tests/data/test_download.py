"""Photographs from web servers: slow, lying and broken ones, and redirects to where they must not lead."""

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from alexnet.data import http_transfer
from alexnet.data.download import Downloads
from alexnet.errors import RequestError

IMAGE = b"\xff\xd8\xff" + bytes(range(256)) * 8
Answer = Callable[["Handler"], None]
ANSWERS: dict[str, Answer] = {}
released = threading.Event()
"""Set at the end of a test: servers that keep clients waiting go on."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        try:
            ANSWERS[urlsplit(self.path).path](self)  # a proxy is asked for whole URLs
        except (BrokenPipeError, ConnectionResetError):
            return

    def send(self, content: bytes = b"", code: int = 200, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return


def answers(path: str) -> Callable[[Answer], Answer]:
    def register(answer: Answer) -> Answer:
        ANSWERS[path] = answer
        return answer

    return register


@answers("/image.jpg")
def _(handler: Handler) -> None:
    handler.send(IMAGE, Content_Length=len(IMAGE), Content_Type="image/jpeg")


@answers("/caf%C3%A9%20x.jpg")
def _(handler: Handler) -> None:
    handler.send(IMAGE, Content_Length=len(IMAGE), Content_Type="text/plain")  # servers say so of names they don't know


@answers("/without-length")
def _(handler: Handler) -> None:
    handler.send(IMAGE)


@answers("/chunked")
def _(handler: Handler) -> None:
    handler.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(IMAGE), IMAGE), Transfer_Encoding="chunked")


@answers("/longer-than-said")
def _(handler: Handler) -> None:
    handler.send(IMAGE * 2, Content_Length=len(IMAGE))


@answers("/shorter-than-said")
def _(handler: Handler) -> None:
    handler.send(IMAGE, Content_Length=len(IMAGE) + 100)


@answers("/claims-much")
def _(handler: Handler) -> None:
    handler.send(IMAGE, Content_Length=10**15)


@answers("/endless")
def _(handler: Handler) -> None:
    handler.send(IMAGE)
    while not released.is_set():
        handler.wfile.write(IMAGE)


@answers("/page")
def _(handler: Handler) -> None:
    handler.send(b"<html>", Content_Length=6, Content_Type="text/html; charset=utf-8")


@answers("/missing")
def _(handler: Handler) -> None:
    handler.send(b"<html>", 404, Content_Length=6, Content_Type="text/html")


@answers("/broken")
def _(handler: Handler) -> None:
    handler.wfile.write(b"\x00\x01 no http\r\n\r\n")


@answers("/empty")
def _(handler: Handler) -> None:
    handler.send(b"", 204)


@answers("/packed")
def _(handler: Handler) -> None:
    handler.send(b"\x1f\x8b" + IMAGE, Content_Length=len(IMAGE) + 2, Content_Encoding="gzip")


@answers("/no-more")
def _(handler: Handler) -> None:
    handler.send(b"fff\r\nabc", Transfer_Encoding="chunked")


@answers("/silent")
def _(handler: Handler) -> None:
    released.wait(60)


@answers("/slow-body")
def _(handler: Handler) -> None:
    handler.send(IMAGE[:3], Content_Length=len(IMAGE))
    while not released.wait(0.02):
        handler.wfile.write(b"x")


@answers("/slow-headers")
def _(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not released.wait(0.02):
        handler.wfile.write(b"x")


@answers("/loop")
def _(handler: Handler) -> None:
    handler.send(b"", 302, Location="/loop")


@answers("/to")
def _(handler: Handler) -> None:
    """Redirects to what follows the question mark."""
    handler.send(b"", 302, Location=handler.path.partition("?")[2])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    released.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        released.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "path",
    ["image.jpg", "image.jpg?a=b#c", "café x.jpg", "caf%C3%A9%20x.jpg", "without-length", "chunked", "longer-than-said",
     "to?/image.jpg", "to?/to?/to?/to?/to?/image.jpg"],
)  # fmt: skip
def test_an_image_is_downloaded(path: str, server: str) -> None:
    assert Downloads().get(f"{server}/{path}") == IMAGE


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "the server answers 404 Not Found"),
        ("page", r"is a text or a web page \(text/html\); give the URL of the image itself"),
        ("broken", "cannot download .*: the server's answer is not HTTP"),
        ("empty", r"the server's answer is empty \(204\)"),
        ("packed", r"the server sent it compressed \(gzip\), though not asked to"),
        ("no-more", "the connection ended early"),
        ("shorter-than-said", "the connection ended after 2,051 of 2,151 bytes"),
        ("claims-much", r"has more than 4,096 bytes; allow more with --max-download"),
        ("endless", r"has more than 4,096 bytes"),
        ("loop", "it redirects more than 5 times"),
        ("to?/to?/to?/to?/to?/to?/image.jpg", "it redirects more than 5 times"),
        ("to?file:///etc/hostname", "redirects to file:///etc/hostname; redirects are followed to http and https only"),
        ("to?ftp://127.0.0.1/x", "redirects are followed to http and https only"),
        ("to?http://me:secret@127.0.0.1/x", r"redirects to http://\*\*\*@127.0.0.1/x, with a user name or a password"),
        ("to?/missing", r"\(redirected to http://127.0.0.1:\d+/missing\): the server answers 404 Not Found"),
        ("to?http://127.0.0.1:9/x", r"\(redirected to http://127.0.0.1:9/x\): Connection refused"),
        ("to?/page", r"\(redirected to http://127.0.0.1:\d+/page\) is a text or a web page"),
    ],
)
def test_what_is_no_image_has_its_reason(path: str, reason: str, server: str) -> None:
    with pytest.raises(RequestError, match=reason) as refused:
        Downloads(max_bytes=4096).get(f"{server}/{path}")
    assert f"{server}/{path}" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("path", ["silent", "slow-body", "slow-headers", "to?/slow-body"])
def test_a_slow_server_ends_by_the_time_limit_of_the_whole(path: str, server: str) -> None:
    with pytest.raises(RequestError, match=r"it took more than 0\.3 s; allow more with --download-timeout"):
        Downloads(timeout_s=0.3).get(f"{server}/{path}")


@pytest.mark.parametrize("path", ["silent", "slow-body", "slow-headers"])
def test_closing_ends_downloads_in_progress(path: str, server: str) -> None:
    downloads = Downloads(timeout_s=600)
    ended: list[Exception] = []

    def get() -> None:
        try:
            downloads.get(f"{server}/{path}")
        except RequestError as error:
            ended.append(error)

    thread = threading.Thread(target=get)
    thread.start()
    while not any(one._sockets for one in tuple(downloads._running)):
        assert thread.is_alive()
    downloads.close()
    thread.join(30)
    assert not thread.is_alive() and len(ended) == 1
    with pytest.raises(RequestError, match="the downloads were ended"):
        downloads.get(f"{server}/image.jpg")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/x.jpg", "Connection refused"),
        ("http://no-such-host.invalid/x.jpg", "cannot download"),
        ("http://", "cannot download"),
        ("http://[::1/x.jpg", "cannot download"),
        ("http://127.0.0.1:port/x.jpg", "cannot download"),
        ("http://127.0.0.1:99999/x.jpg", "cannot download"),
        ("http://\udce9/\udce9.jpg", "has a byte that is not UTF-8; write it as %E9"),
        (f"http://{'x' * 70}.invalid/x.jpg", "the host's name is not valid"),
        ("file:///etc/hostname", "is not an http or https URL"),
        ("gopher://x/y", "is not an http or https URL"),
    ],
)
def test_urls_that_lead_nowhere(url: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        Downloads(timeout_s=20).get(url)


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "10.1.2.3", "192.168.1.1", "172.16.0.1",
     "100.64.0.1", "[2002:7f00:1::1]", "[2002:c0a8:101::1]", "[64:ff9b::7f00:1]", "[::7f00:1]",
     "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1",
     "127%2e0%2e0%2e1"],
)  # fmt: skip
def test_a_server_of_the_internet_cannot_redirect_into_the_local_network(
    target: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_local, asked = http_transfer._is_local, []

    def as_if_the_server_were_public(host: str | None) -> bool:
        asked.append(host)
        return is_local("8.8.8.8" if len(asked) % 2 == 0 else host)  # the target is asked for first, then the server

    monkeypatch.setattr(http_transfer, "_is_local", as_if_the_server_were_public)
    with pytest.raises(RequestError, match="is on this machine or its local network; if you trust it"):
        Downloads(timeout_s=20).get(f"{server}/to?http://{target}/x.jpg")
    assert asked == [target.strip("[]"), "127.0.0.1"]


def test_a_name_that_changes_its_address_does_not_lead_into_the_local_network(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        http_transfer, "_is_local", lambda host: False
    )  # as of a name with another address at that time
    assert Downloads(timeout_s=20).get(f"{server}/image.jpg") == IMAGE
    with pytest.raises(RequestError, match=r"redirects to 127\.0\.0\.1:\d+, which is on this machine"):
        Downloads(timeout_s=20).get(f"{server}/to?{server}/image.jpg")
    monkeypatch.setenv("http_proxy", server)  # a proxy may be local, and asks for names itself
    assert Downloads(timeout_s=20).get("http://a.example/to?http://b.example/image.jpg") == IMAGE


def test_no_server_of_the_internet_on_the_way_redirects_into_the_local_network(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = server.replace("127.0.0.1", "localhost")
    chain = f"{server}/to?{public}/to?{server}/image.jpg"
    assert Downloads(timeout_s=20).get(chain) == IMAGE  # all of these are local
    monkeypatch.setattr(http_transfer, "_is_local", lambda host: host != "localhost")
    with pytest.raises(RequestError, match="is on this machine or its local network; if you trust it"):
        Downloads(timeout_s=20).get(chain)


def test_what_counts_is_the_address_that_answered(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = iter([True])  # connected to the internet; asked for again, the name has a local address
    monkeypatch.setattr(http_transfer, "_is_public", lambda address: next(replies, False))
    with pytest.raises(RequestError, match="is on this machine or its local network; if you trust it"):
        Downloads(timeout_s=20).get(f"{server}/to?{server}/image.jpg")


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(
        RequestError, match=r"the proxy 127\.0\.0\.1:9 cannot be reached: Connection refused"
    ) as refused:
        Downloads(timeout_s=20).get("http://a.example/image.jpg")
    assert "secret" not in str(refused.value)


def test_a_server_without_https_is_said(server: str) -> None:
    with pytest.raises(RequestError, match="the server does not speak https there"):
        Downloads(timeout_s=20).get(f"{server.replace('http:', 'https:')}/image.jpg")
    untrusted = ssl.SSLCertVerificationError(1, "certificate verify failed")
    untrusted.verify_message = "self-signed certificate"
    assert http_transfer.in_words(untrusted) == "its certificate is not trusted (self-signed certificate)"


def test_addresses_of_the_internet_are_not_local() -> None:
    public = ("8.8.8.8", "2001:4860:4860::8888", "2002:808:808::1", "64:ff9b::808:808", "no-such-host.invalid")
    assert not any(map(http_transfer._is_local, public))
