"""Photographs from the web: http and https, with a limit of size and a limit of time for each."""

import contextlib
import http.client
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

from alexnet.data.decode import begins_as_image
from alexnet.data.not_images import START_BYTES
from alexnet.errors import RequestError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
CREDENTIALS = re.compile(r"\A([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*|[^/?#\[]*:(?!\d*([/?#]|$)).*)@", re.DOTALL)
"""User name and password in a URL, `user:password@`; also where the password has a `/` that should be quoted."""
ALLOWED_SCHEMES = ("http", "https")
MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
DEFAULT_MAX_BYTES = 32 * 2**20
DEFAULT_TIMEOUT_S = 30.0
BLOCK_BYTES = 2**16
NAT64 = IPv6Network("64:ff9b::/96")
V4_COMPATIBLE = IPv6Network("::/96")
_LEFT_AS_IT_IS = "%/:=&?~#+!$,;'@()*[]"
"""Characters of a URL that are not quoted."""


def is_url(text: str) -> bool:
    """Whether a text begins with a scheme, such as `https://`, also one that is not allowed."""
    return SCHEME.match(text) is not None


def without_credentials(url: str) -> str:
    """A URL as messages and results may show it: with `***` for a user name and a password."""
    return CREDENTIALS.sub(r"\1***@", url)


@dataclass(frozen=True, eq=False)
class Downloads:
    """Downloads files; `close` ends those in progress, whose threads may otherwise wait for a slow server."""

    max_bytes: int = DEFAULT_MAX_BYTES
    timeout_s: float = DEFAULT_TIMEOUT_S
    """For the whole of a download, redirects included."""
    are_options: bool = True
    """Whether these limits are options of the command that runs, which messages then name."""
    _running: set["_Transfer"] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: threading.Event = field(default_factory=threading.Event)

    def get(self, url: str) -> bytes:
        """The bytes of an image.

        Redirects are followed, up to five: only to http and https, and from a server on the internet only to others on
        the internet, never to this machine or its local network. Addresses that the user gives may be local.

        Raises:
            RequestError: why there is no image: the URL, the server, the limits, or a web page in its place.
        """
        if (shown := without_credentials(url)) != url:
            raise RequestError(
                f"{shown} has a user name or a password (not shown), which alexnet does not send; download it first"
            )
        scheme = SCHEME.match(url)
        if scheme is None or scheme[1].lower() not in ALLOWED_SCHEMES:
            raise RequestError(f"{url} is not an http or https URL; allowed are these, and paths of files")
        if raw := next((char for char in url if "\udc80" <= char <= "\udcff"), ""):
            code = ord(raw) - 0xDC00
            raise RequestError(f"cannot download {url}: the URL has a byte that is not UTF-8; write it as %{code:02X}")
        transfer = _Transfer(url, self.timeout_s)
        with self._lock:
            if self._closed.is_set():
                raise RequestError(f"cannot download {url}: the downloads were ended")
            self._running.add(transfer)
        try:
            return transfer.run(self.max_bytes, self._advice("--max-download"))
        except RequestError:
            raise
        except urllib.error.HTTPError as error:
            error.close()
            raise RequestError(f"cannot download {url}: the server answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if transfer.has_expired or isinstance(reason, TimeoutError):
                raise self._timed_out(url) from error
            raise RequestError(f"cannot download {url}: {_in_words(reason)}") from error
        finally:
            transfer.end()
            with self._lock:
                self._running.discard(transfer)

    def close(self) -> None:
        """End all downloads in progress, and refuse later ones."""
        with self._lock:
            self._closed.set()
            for transfer in self._running:
                transfer.cut()

    def _timed_out(self, url: str) -> RequestError:
        advice = self._advice("--download-timeout")
        return RequestError(f"cannot download {url}: it took more than {self.timeout_s:g} s; {advice}")

    def _advice(self, option: str) -> str:
        return f"allow more with {option}, or download it first" if self.are_options else "download it first"


def _in_words(reason: object) -> str:
    """Why a download failed."""
    match reason:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({reason.verify_message})"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE"):
            return "the server does not speak https there"
        case http.client.IncompleteRead():
            return "the connection ended early"
        case http.client.RemoteDisconnected():
            return "the server ended the connection without an answer"
        case http.client.BadStatusLine() | http.client.LineTooLong() | http.client.UnknownProtocol():
            return "the server's answer is not HTTP"
        case UnicodeError():
            return "the host's name is not valid"
    return getattr(reason, "strerror", None) or " ".join(str(reason).split()) or type(reason).__name__


class _Transfer:
    """One download. A timer cuts its connections: the time limit of a socket is for each of its operations alone."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url = url
        self.has_expired = False
        self._deadline_s = time.monotonic() + timeout_s
        self._is_cut = False
        self._only_public = False  # after an answer by a server on the internet
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(timeout_s, self._expire)
        self._timer.daemon = True

    def run(self, max_bytes: int, advice: str) -> bytes:
        self._timer.start()
        # Without handlers of other schemes, such as file: and ftp:, and without one that follows redirects.
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _WatchedConnections(self.watch),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            opener.add_handler(handler)
        url = self.url
        for _ in range(MAX_REDIRECTS + 1):
            quoted = urllib.parse.quote(url, safe=_LEFT_AS_IT_IS)
            request = urllib.request.Request(quoted, headers={"User-Agent": "alexnet", "Accept": "image/*"})
            try:
                with opener.open(request, timeout=max(0.001, self._deadline_s - time.monotonic())) as answer:
                    return self._read(answer, max_bytes, advice)
            except urllib.error.HTTPError as error:
                location = error.headers.get("Location")
                if error.code not in REDIRECTS or not location:
                    raise
                error.close()
                url = self._redirected(url, location)
        raise RequestError(f"cannot download {self.url}: it redirects more than {MAX_REDIRECTS} times")

    def _redirected(self, url: str, location: str) -> str:
        """Where a redirect leads; RequestError if it must not lead there."""
        target = urllib.parse.urljoin(url, location)
        if (shown := without_credentials(target)) != target:
            raise RequestError(
                f"{self.url} redirects to {shown}, with a user name or a password (not shown), which alexnet does not "
                "send; download it first"
            )
        parts = urllib.parse.urlsplit(target)
        if parts.scheme not in ALLOWED_SCHEMES:
            raise RequestError(f"{self.url} redirects to {target}; redirects are followed to http and https only")
        is_local = _is_local(parts.hostname)
        self._only_public = self._only_public or not _is_local(urllib.parse.urlsplit(url).hostname)
        if is_local and self._only_public:
            raise self._led_inside(target)
        return target

    def _led_inside(self, target: str) -> RequestError:
        return RequestError(
            f"{self.url} redirects to {target}, which is on this machine or its local network; if you trust it, "
            "give that URL itself"
        )

    def _read(self, answer: http.client.HTTPResponse, max_bytes: int, advice: str) -> bytes:
        too_long = RequestError(f"{self.url} has more than {max_bytes:,} bytes; {advice}")
        claimed_bytes = answer.length
        if claimed_bytes is not None and claimed_bytes > max_bytes:
            raise too_long
        content = bytearray()
        while block := answer.read1(BLOCK_BYTES):
            content += block
            if len(content) > max_bytes:
                raise too_long
        if self._is_cut:
            raise TimeoutError
        if claimed_bytes is not None and len(content) < claimed_bytes:
            raise RequestError(
                f"cannot download {self.url}: the connection ended after {len(content):,} of {claimed_bytes:,} bytes"
            )
        if not content:
            raise RequestError(f"cannot download {self.url}: the server's answer is empty ({answer.status})")
        if not begins_as_image(bytes(content[:START_BYTES])):
            encoding = answer.headers.get("Content-Encoding", "").strip()
            if encoding.lower() not in ("", "identity"):
                raise RequestError(
                    f"cannot download {self.url}: the server sent it compressed ({encoding}), though not asked to; "
                    "download it first"
                )
            kind = answer.headers.get_content_type()
            if kind.startswith("text/"):
                raise RequestError(f"{self.url} is a text or a web page ({kind}); give the URL of the image itself")
        return bytes(content)

    def watch(self, connected: socket.socket, host: str, is_proxied: bool) -> None:
        """Cut this connection when the time is over, or now if it is.

        Raises:
            RequestError: a name that a redirect gave was of the internet when it was checked, and its address is not.
        """
        if not is_proxied:
            is_public = _is_public(str(connected.getpeername()[0]))
            if self._only_public and not is_public:
                raise self._led_inside(host)
            self._only_public = is_public
        with self._lock:
            self._sockets.append(connected)
        if self._is_cut:
            self.cut()

    def cut(self) -> None:
        """End the transfer, from any thread."""
        with self._lock:
            self._is_cut = True
            for one in self._sockets:
                with contextlib.suppress(OSError):  # it has ended already
                    # Not the method of an encrypted socket, whose reader would go on unencrypted.
                    socket.socket.shutdown(one, socket.SHUT_RDWR)

    def end(self) -> None:
        self._timer.cancel()

    def _expire(self) -> None:
        self.has_expired = True
        self.cut()


class _WatchedConnections(urllib.request.HTTPSHandler):
    """Opens http and https URLs, and hands every connection to `watch`."""

    http_request = urllib.request.AbstractHTTPHandler.do_request_

    def __init__(self, watch: Callable[[socket.socket, str, bool], None]) -> None:
        super().__init__()
        self._watch = watch

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(http.client.HTTPConnection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(http.client.HTTPSConnection, request)

    def _open(
        self, kind: type[http.client.HTTPConnection], request: urllib.request.Request
    ) -> http.client.HTTPResponse:
        is_proxied = request.host != urllib.parse.unquote(urllib.parse.urlsplit(request.full_url).netloc)
        return self.do_open(partial(self._connection, kind, is_proxied), request)

    def _connection(
        self, kind: type[http.client.HTTPConnection], is_proxied: bool, host: str, **options: Any
    ) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connect = connection.connect

        def connect_watched() -> None:
            try:
                connect()
            except OSError as error:
                if is_proxied and not isinstance(error, TimeoutError):
                    raise OSError(f"the proxy {host} cannot be reached: {error.strerror or error}") from error
                raise
            self._watch(connection.sock, host, is_proxied)

        connection.connect = connect_watched  # type: ignore[method-assign]
        return connection


def _is_local(host: str | None) -> bool:
    """Whether a name or an address is not one of the public internet; a name that is not known counts as public."""
    try:
        # urllib, too, connects to what a quoted name such as 127%2e0%2e0%2e1 stands for.
        found = socket.getaddrinfo(None if host is None else urllib.parse.unquote(host), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return not all(_is_public(str(address[0])) for *_, address in found)


def _is_public(address: str) -> bool:
    """Whether an IP address is one of the internet."""
    ip = ip_address(address.partition("%")[0])
    inner = _inner_v4(ip) if isinstance(ip, IPv6Address) else None
    return ip.is_global and (inner is None or inner.is_global)


def _inner_v4(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address to which gateways send what is addressed to this IPv6 address."""
    if ip in NAT64 or ip in V4_COMPATIBLE:
        return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour
