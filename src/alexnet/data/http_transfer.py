"""Answers of web servers: http and https, with rules on where redirects may lead, and with a limit of time."""

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
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

from alexnet.errors import RequestError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
CREDENTIALS = re.compile(r"\A([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*|[^/?#\[]*:(?!\d*([/?#]|$)).*)@", re.DOTALL)
"""User name and password in a URL, `user:password@`; also where the password has a `/` that should be quoted."""
ALLOWED_SCHEMES = ("http", "https")
MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
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


def require_plain_url(url: str) -> None:
    """RequestError unless a URL is http or https, without a user name and a password, and text."""
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


class HttpTransfer:
    """One download. A timer cuts its connections: the time limit of a socket is for each of its operations alone.

    Args:
        url: http or https, without credentials.
        timeout_s: until the connections are cut, unless `extend` is called.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url = url
        self.shown_url = url
        """For messages: the URL, and where redirects led from there."""
        self.has_expired = False
        """Whether the time limit cut the connections."""
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self.is_cut = False
        self._has_ended = False
        self._only_public = False  # after an answer by a server on the internet
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = self._started_timer(timeout_s)

    @contextlib.contextmanager
    def open(self, headers: Mapping[str, str]) -> Iterator[http.client.HTTPResponse]:
        """The server's answer, after redirects.

        Raises:
            RequestError: a redirect that is not followed.
            urllib.error.HTTPError: the server refuses.
            OSError, http.client.HTTPException, ValueError: there is no answer; see `in_words`.
        """
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
            request = urllib.request.Request(quoted, headers={"User-Agent": "alexnet", **headers})
            try:
                answer = opener.open(request, timeout=max(0.001, self._deadline_s - time.monotonic()))
            except urllib.error.HTTPError as error:
                location = error.headers.get("Location")
                if error.code not in REDIRECTS or not location:
                    raise
                error.close()
                url = self._redirected(url, location)
                self.shown_url = f"{self.url} (redirected to {without_credentials(url).partition('?')[0]})"
                continue
            with answer:
                yield answer
            return
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
        if self.is_cut:
            self.cut()

    def cut(self) -> None:
        """End the transfer, from any thread."""
        with self._lock:
            self.is_cut = True
            for one in self._sockets:
                with contextlib.suppress(OSError):  # it has ended already
                    # Not the method of an encrypted socket, whose reader would go on unencrypted.
                    socket.socket.shutdown(one, socket.SHUT_RDWR)

    def has_timed_out(self, error: BaseException) -> bool:
        """Whether an error of `open`, or of reading the answer, is that the time is over."""
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return self.has_expired or isinstance(reason, TimeoutError)

    def extend(self) -> None:
        """Wait for the whole time limit again, from now on."""
        self._deadline_s = time.monotonic() + self._timeout_s

    def end(self) -> None:
        """Stop waiting; no method is called after this one."""
        with self._lock:
            self._has_ended = True
            self._timer.cancel()

    def _started_timer(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        return timer

    def _expire(self) -> None:
        with self._lock:
            left_s = self._deadline_s - time.monotonic()
            if self._has_ended:
                return
            if left_s > 0:
                self._timer = self._started_timer(left_s)
                return
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


def in_words(error: BaseException) -> str:
    """Why a download failed."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
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
