"""Photographs from the web: http and https, with a limit of size and a limit of time for each."""

import http.client
import threading
import urllib.error
from dataclasses import dataclass, field

from alexnet.data.decode import begins_as_image
from alexnet.data.http_transfer import HttpTransfer, in_words, require_plain_url
from alexnet.data.not_images import START_BYTES
from alexnet.errors import RequestError

DEFAULT_MAX_BYTES = 32 * 2**20
DEFAULT_TIMEOUT_S = 30.0
BLOCK_BYTES = 2**16


@dataclass(frozen=True, eq=False)
class Downloads:
    """Downloads files; `close` ends those in progress, whose threads may otherwise wait for a slow server."""

    max_bytes: int = DEFAULT_MAX_BYTES
    timeout_s: float = DEFAULT_TIMEOUT_S
    """For the whole of a download, redirects included."""
    are_options: bool = True
    """Whether these limits are options of the command that runs, which messages then name."""
    _running: set[HttpTransfer] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: threading.Event = field(default_factory=threading.Event)

    def get(self, url: str) -> bytes:
        """The bytes of an image.

        Redirects are followed, up to five: only to http and https, and from a server on the internet only to others on
        the internet, never to this machine or its local network. Addresses that the user gives may be local.

        Raises:
            RequestError: why there is no image: the URL, the server, the limits, or a web page in its place.
        """
        require_plain_url(url)
        with self._lock:
            if self._closed.is_set():
                raise RequestError(f"cannot download {url}: the downloads were ended")
            transfer = HttpTransfer(url, self.timeout_s)
            self._running.add(transfer)
        try:
            with transfer.open({"Accept": "image/*"}) as answer:
                return self._read(transfer, answer)
        except RequestError:
            raise
        except urllib.error.HTTPError as error:
            error.close()
            shown = f"{transfer.shown_url}: the server answers {error.code} {error.reason}"
            raise RequestError(f"cannot download {shown}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if transfer.has_timed_out(error):
                raise self._timed_out(transfer.shown_url) from error
            raise RequestError(f"cannot download {transfer.shown_url}: {in_words(error)}") from error
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

    def _read(self, transfer: HttpTransfer, answer: http.client.HTTPResponse) -> bytes:
        """The bytes of an image; RequestError if they are not one."""
        url = transfer.shown_url
        too_long = RequestError(f"{url} has more than {self.max_bytes:,} bytes; {self._advice('--max-download')}")
        claimed_bytes = answer.length
        if claimed_bytes is not None and claimed_bytes > self.max_bytes:
            raise too_long
        content = bytearray()
        while block := answer.read1(BLOCK_BYTES):
            content += block
            if len(content) > self.max_bytes:
                raise too_long
        if transfer.is_cut:
            raise TimeoutError
        if claimed_bytes is not None and len(content) < claimed_bytes:
            raise RequestError(
                f"cannot download {url}: the connection ended after {len(content):,} of {claimed_bytes:,} bytes"
            )
        if not content:
            raise RequestError(f"cannot download {url}: the server's answer is empty ({answer.status})")
        if not begins_as_image(bytes(content[:START_BYTES])):
            encoding = answer.headers.get("Content-Encoding", "").strip()
            if encoding.lower() not in ("", "identity"):
                raise RequestError(
                    f"cannot download {url}: the server sent it compressed ({encoding}), though not asked to; "
                    "download it first"
                )
            kind = answer.headers.get_content_type()
            if kind.startswith("text/"):
                raise RequestError(f"{url} is a text or a web page ({kind}); give the URL of the image itself")
        return bytes(content)

    def _timed_out(self, url: str) -> RequestError:
        advice = self._advice("--download-timeout")
        return RequestError(f"cannot download {url}: it took more than {self.timeout_s:g} s; {advice}")

    def _advice(self, option: str) -> str:
        return f"allow more with {option}, or download it first" if self.are_options else "download it first"
