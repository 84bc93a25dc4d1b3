"""Downloads large files: resumed after any interruption, verified, and never half-written under the final name.

What was received of `NAME` is in `NAME.part`; `NAME.part.json` says of which file of the server it is the beginning.
"""

import http.client
import itertools
import logging
import os
import re
import socket
import ssl
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NotRequired, TypedDict

from alexnet.data.http_transfer import HttpTransfer, in_words, require_plain_url
from alexnet.errors import AlexNetError, RequestError, WorkError
from alexnet.storage.atomic import (
    created_folder,
    is_full,
    raise_if_full,
    require_space,
    sync_folder,
    unwritable,
    write_json,
)
from alexnet.storage.checksums import file_digest
from alexnet.storage.lock import only_writer
from alexnet.storage.typed_files import read_json
from alexnet.system.progress import ProgressBar, ShowProgress

STALL_S = 30.0
"""Without `STALL_BYTES` more in this time, a connection is ended and made again."""
STALL_BYTES = 1 << 16
PAUSES_S = (1.0, 4.0, 15.0)
"""Before each further try, after failures that may pass."""
NEW_START_BYTES = 1 << 20
"""More than ever before, which a try must bring for the pauses to begin anew."""
MAX_TRIES = 1000
"""Connections for one file, also to a server that cuts each of them after a little progress."""
BLOCK_BYTES = 1 << 18
_PART, _STATE = ".part", ".part.json"
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_CONTINUE = "rerun the same command to continue"
_ELSEWHERE = "download it elsewhere, and give it with --from FILE"
REMOVE = "remove it, or name another destination"
_UNIT_BYTES = 1 << 20

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WantedFile:
    """A file on a server, and how it is recognized."""

    url: str
    digest: str
    """Hexadecimal."""
    algorithm: str
    """Of the digest: `sha256`, `sha1` or `md5`."""
    max_bytes: int
    size_bytes: int | None = None
    """If it is known, a file of another size is refused before it is downloaded."""


class DownloadError(WorkError):
    """The server or the network failed, or the server has another file."""


class _State(TypedDict):
    """What the bytes of a `.part` file are the beginning of."""

    url: str
    validator: NotRequired[str]
    """The server's ETag or date of the file."""
    size_bytes: NotRequired[int]


class _PassingError(Exception):
    """A failure after which another try may work."""


class _AnotherFileError(Exception):
    """What the server has now is not the file of which the beginning is here."""


def download_file(wanted: WantedFile, path: Path, *, name: str, progress: ShowProgress = None) -> None:
    """Download a file, or the rest of it, and verify it. A file that is there already is verified and kept.

    A connection that is cut or stalls is made again, a few times, with growing pauses. What was received stays next to
    `path`, also after a kill, and the next call continues from there if the server has the same file. Redirects are
    followed as `Downloads.get` says.

    Args:
        name: of the file, for messages and the progress bar.

    Raises:
        RequestError: `path` holds something else; its folder cannot be written; another process downloads it; the URL
            or a redirect is not allowed.
        WorkError: the server does not have the file, or it is another one or larger than allowed; the connection
            failed too often; the disk is full. The message says whether the same command continues.
    """
    require_plain_url(wanted.url)
    try:
        with created_folder(path.parent), _only_download(path):
            if not has_wanted(path, wanted):
                with ProgressBar(f"{name}, MiB", shown=progress) as bar:
                    _Download(wanted, path, name, bar).run()
    except OSError as error:
        raise_if_full(error, path)
        raise unwritable(path, error) from error


def remove_download(path: Path) -> None:
    """Remove a downloaded file, or what was received of it."""
    for suffix in ("", _PART, _STATE):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def _only_download(path: Path) -> Iterator[None]:
    """Keep other processes from downloading the same file."""
    lock = path.with_name(f".{path.name}.lock")
    with only_writer(lock, str(path)):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def has_wanted(path: Path, wanted: WantedFile) -> bool:
    """Whether a file exists; RequestError if it is not the wanted one."""
    if not path.exists():
        return False
    require_wanted(path, wanted, file_digest(path, wanted.algorithm), REMOVE)
    _logger.info(f"{path} exists already, with the expected {wanted.algorithm}")
    return True


def require_wanted(path: Path, wanted: WantedFile, digest: str, advice: str) -> None:
    """RequestError with the advice unless a file of this digest is the wanted one."""
    if digest != wanted.digest:
        raise RequestError(
            f"{path} is another file than {wanted.url}: its {wanted.algorithm} is {digest}, expected {wanted.digest}; "
            f"{advice}"
        )


class _Download:
    def __init__(self, wanted: WantedFile, path: Path, name: str, bar: ProgressBar) -> None:
        self._wanted = wanted
        self._path = path
        self._name = name
        self._bar = bar
        self._part = path.with_name(path.name + _PART)
        self._state_path = path.with_name(path.name + _STATE)
        self._is_continued = False  # with bytes of an earlier answer
        self._shown_url = wanted.url  # and where it was redirected to

    def run(self) -> None:
        """Download, verify, and move the file to its place."""
        self._receive_all()
        if self._is_continued and self._problem():
            _logger.warning(f"{self._name}: the parts that were downloaded do not make the file; starting over")
            self._discard()
            self._receive_all()
        if problem := self._problem():
            self._discard()
            raise self._another_file(problem)
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        self._part.replace(self._path)
        self._state_path.unlink(missing_ok=True)
        sync_folder(self._path.parent)

    def _problem(self) -> str | None:
        """Why what was received is not the file."""
        digest = file_digest(self._part, self._wanted.algorithm)
        if digest == self._wanted.digest:
            return None
        return f"its {self._wanted.algorithm} is {digest}, expected {self._wanted.digest}"

    def _receive_all(self) -> None:
        """Receive the rest of the file, by as many connections as it takes."""
        failures, changes, largest = 0, 0, self._size()
        for tries in itertools.count(1):
            try:
                self._receive()
                return
            except _AnotherFileError as error:
                changes += 1
                if changes > len(PAUSES_S):
                    raise self._failed(f"{error} ({changes} attempts)") from error
                _logger.warning(f"{self._name}: {error}; starting over")
                self._discard()
            except _PassingError as error:
                received = self._size()
                failures = 0 if received - largest >= NEW_START_BYTES else failures
                largest = max(largest, received)
                if failures == len(PAUSES_S) or tries == MAX_TRIES:
                    kept = f" ({received:,} bytes are kept in {self._part})" if received else ""
                    raise DownloadError(f"cannot download {self._shown_url}: {error}{kept}; {_CONTINUE}") from error
                _logger.warning(f"{self._name}: {error}; trying again in {PAUSES_S[failures]:g} s")
                time.sleep(PAUSES_S[failures])
                failures += 1

    def _receive(self) -> None:
        """Receive the rest of the file by one connection.

        Raises:
            _PassingError: another connection may receive more.
            _AnotherFileError: the beginning that is here is of another file.
            WorkError: there is no use in trying again.
        """
        state = self._state()
        offset = self._size() if state else 0
        headers = {"Accept": "*/*"}
        if state and offset:
            self._is_continued = True
            if offset == state.get("size_bytes"):
                return
            headers["Range"] = f"bytes={offset}-"
            if validator := state.get("validator"):
                headers["If-Range"] = validator
        transfer = HttpTransfer(self._wanted.url, STALL_S)
        try:
            with self._redirects_noted(transfer), transfer.open(headers) as answer:
                self._shown_url = transfer.shown_url
                self._take(transfer, answer, offset, state)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and offset:
                if error.headers.get("Content-Range", "").strip() == f"bytes */{offset}":
                    return  # it was complete
                raise _AnotherFileError("the server's file is shorter than before") from error
            problem = f"the server answers {error.code} {error.reason}"
            if error.code in _PASSING_STATUS:
                raise _PassingError(problem) from error
            raise self._failed(problem) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, AlexNetError):
                raise
            if transfer.has_timed_out(error):
                raise _PassingError(f"too little came for {STALL_S:g} s") from error
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError | socket.gaierror | ValueError):
                raise self._failed(in_words(error)) from error
            raise _PassingError(in_words(error)) from error
        finally:
            transfer.end()

    def _take(
        self, transfer: HttpTransfer, answer: http.client.HTTPResponse, offset: int, state: _State | None
    ) -> None:
        """Write what an answer holds, and raise as `_receive`."""
        validator = _validator(answer)
        if answer.status == 206:
            total_bytes = _total_of_range(answer, offset)
            if state is None or not _may_be_the_same(state, validator, total_bytes):
                raise _AnotherFileError("the server's file has changed")
        elif answer.status == 200:
            offset, total_bytes = 0, answer.length
        else:
            raise self._failed(f"the server's answer is empty ({answer.status})")
        if total_bytes is not None and self._wanted.size_bytes is None and total_bytes > self._wanted.max_bytes:
            raise self._too_long()
        block = answer.read1(BLOCK_BYTES)
        if answer.status == 200:
            self._require_a_file(answer, block)  # before anything of an earlier answer is lost
            if self._wanted.size_bytes not in (None, total_bytes) and total_bytes is not None:
                raise self._another_file(f"it has {total_bytes:,} bytes, expected {self._wanted.size_bytes:,}")
            if self._size():
                _logger.info(f"{self._name}: the server sends it from the beginning")
            self._begin(validator, total_bytes)
        require_space(self._path, (total_bytes or 0) - offset)
        with self._local_errors():
            file = self._part.open("r+b", buffering=0)
            file.seek(offset)
        with file:
            received = self._write_rest(transfer, answer, file, block, total_bytes)
        if transfer.is_cut:
            raise _PassingError(f"too little came for {STALL_S:g} s")
        if total_bytes is not None and received < total_bytes:
            raise _PassingError(f"the connection ended after {received:,} of {total_bytes:,} bytes")
        if not received:
            raise _PassingError("the server's answer is empty")

    def _write_rest(
        self,
        transfer: HttpTransfer,
        answer: http.client.HTTPResponse,
        file: FileIO,
        block: bytes,
        total_bytes: int | None,
    ) -> int:
        """Write a block and all that follow it; returns the size of the file."""
        offset = received = extended = file.tell()
        start_s = time.monotonic()
        total = None if total_bytes is None else -(-total_bytes // _UNIT_BYTES)
        while block:
            with self._local_errors():
                left = memoryview(block)
                while left:
                    left = left[file.write(left) :]
            received += len(block)
            if received > self._wanted.max_bytes:
                self._discard()
                raise self._too_long()
            if received - extended >= STALL_BYTES:
                transfer.extend()
                extended = received
            rate = (received - offset) / 1e6 / max(1e-3, time.monotonic() - start_s)
            self._bar.update(received // _UNIT_BYTES, total, f"{rate:.1f} MB/s")
            block = answer.read1(BLOCK_BYTES)
        return received

    def _require_a_file(self, answer: http.client.HTTPResponse, start: bytes) -> None:
        """WorkError if an answer is a web page, or compressed."""
        if start.lstrip()[:1] == b"<" and answer.headers.get_content_type().startswith("text/"):
            raise DownloadError(
                f"{self._shown_url} gives a web page in place of the file, as login pages and proxies do; "
                "download it in a browser, and give it with --from FILE"
            )
        encoding = answer.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise self._failed(f"the server sends it compressed ({encoding})")

    @contextmanager
    def _redirects_noted(self, transfer: HttpTransfer) -> Iterator[None]:
        """Keep for messages where redirects led, also before an answer came."""
        try:
            yield
        finally:
            self._shown_url = transfer.shown_url

    @contextmanager
    def _local_errors(self) -> Iterator[None]:
        """Tell errors of this machine's disk from those of the network."""
        try:
            yield
        except OSError as error:
            if is_full(error):
                kept = f" ({self._size():,} bytes are kept)" if self._size() else ""
                raise WorkError(f"the disk of {self._path} is full; free some space, and {_CONTINUE}{kept}") from error
            raise unwritable(self._path, error) from error

    def _begin(self, validator: str | None, total_bytes: int | None) -> None:
        """Start over with an empty file, and note of which it is the beginning."""
        state: _State = {"url": self._wanted.url}
        if validator:
            state["validator"] = validator
        if total_bytes is not None:
            state["size_bytes"] = total_bytes
        with self._local_errors():
            self._discard()
            write_json(self._state_path, state)
            self._part.touch()
        self._is_continued = False

    def _state(self) -> _State | None:
        """What an earlier call noted of the bytes that are here; None if they are of no use."""
        try:
            state = read_json(self._state_path, _State, "")
        except WorkError:
            return None
        return state if state["url"] == self._wanted.url else None

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def _failed(self, problem: str) -> WorkError:
        """The error for what another try does not mend."""
        return DownloadError(f"cannot download {self._shown_url}: {problem}; {_ELSEWHERE}")

    def _another_file(self, problem: str) -> WorkError:
        return DownloadError(
            f"{self._shown_url} is not the expected file: {problem}. The server has another version, or something on "
            f"the way replaced it; {_ELSEWHERE}"
        )

    def _too_long(self) -> WorkError:
        most = self._wanted.max_bytes
        return DownloadError(f"{self._shown_url} has more than {most:,} bytes, which is too much; {_ELSEWHERE}")


def _may_be_the_same(state: _State, validator: str | None, total_bytes: int | None) -> bool:
    """Whether the server's file may be that of which the beginning is here."""
    pairs = ((state.get("validator"), validator), (state.get("size_bytes"), total_bytes))
    return all(before == now for before, now in pairs if before is not None and now is not None)


def _validator(answer: http.client.HTTPResponse) -> str | None:
    """What tells the server's file from its other versions, as If-Range takes it."""
    etag = answer.headers.get("ETag", "").strip()
    if etag.startswith('"'):  # not a weak one
        return str(etag)
    return answer.headers.get("Last-Modified", "").strip() or None


def _total_of_range(answer: http.client.HTTPResponse, offset: int) -> int | None:
    """The size of the file of which an answer is the rest from byte `offset` on.

    Raises:
        _AnotherFileError: the answer is another part.
    """
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if found is None or int(found[1]) != offset:
        raise _AnotherFileError("the server sent another part of the file than was requested")
    return None if found[3] == "*" else int(found[3])
